"""The benchmarks run their cases round by round, and report each."""

import itertools
import json
import re
from dataclasses import asdict
from importlib import import_module
from operator import attrgetter
from pathlib import Path

import pytest

from benchmarks.data import at_target
from benchmarks.ladder import ladder
from benchmarks.measure import RESULTS, Duration, compare, report, table
from benchmarks.memory import computed_peak
from benchmarks.page import PAGES, TABLE, with_tables
from benchmarks.picture import COMPARISONS, PICTURE, label, times_as_fast
from benchmarks.pipeline import FIRST_WORK, seconds_of_loop
from benchmarks.scale import rates
from benchmarks.scale.__main__ import MEASURED, read_rates
from benchmarks.scale.communication import bytes_sent
from benchmarks.scale.plan import CORPORA, checkpoint_bytes, plan_data, plan_training
from benchmarks.training import TASKS, operations_per_token
from tests.benchmark_cases import gives_up, works, works_with_a_setting
from tests.project import PROJECT
from tests.tiny import random_tokens, tiny_model, train_params
from toygpt.model.gpt import GPTConfig, next_token_loss
from toygpt.training.optimizer import build_optimizer


@pytest.mark.usefixtures("all_children_end")
def test_each_case_has_its_rounds_and_is_compared_with_the_first(
    tmp_path: Path,
) -> None:
    timings = compare(
        {"one": works, "other": works_with_a_setting},
        amount=100_000,
        rounds=3,
        environments={"other": {"TOYGPT_TEST": "1"}},
    )

    assert [timing.name for timing in timings] == ["one", "other"]
    assert timings[0].ratio == 1
    for timing in timings:
        assert 0 < timing.slowest <= timing.per_second <= timing.fastest
        assert timing.preparation_seconds > 0
        assert timing.peak_bytes > 1_000_000
    report("sums-tiny", "?", timings, unit="numbers", settings={}, folder=tmp_path)
    result = json.loads((tmp_path / "sums-tiny.json").read_text())
    assert result["command"].startswith("python -m benchmarks.sums")
    assert f"| other | {timings[1].per_second:,.0f} |" in table(result)


@pytest.mark.usefixtures("all_children_end")
def test_a_case_that_ends_early_ends_the_comparison() -> None:
    with pytest.raises(RuntimeError, match="gives up has ended before its time"):
        compare({"works": works, "gives up": gives_up}, amount=1, rounds=3)


def test_a_case_that_ends_early_may_be_left_out() -> None:
    cases = {"gives up": gives_up, "works": works}

    (timing,) = compare(
        cases, amount=1, rounds=3, prepare_together=True, skip_failed=True
    )

    assert (timing.name, timing.ratio) == ("works", 1)
    with pytest.raises(RuntimeError, match="gives up has ended before its time"):
        compare({"gives up": gives_up}, amount=1, rounds=3, skip_failed=True)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_each_step_of_the_ladder_changes_one_thing(device: str) -> None:
    rungs = [asdict(rung) for rung in ladder(device).values()]

    changes = [
        sum(rung[key] != below[key] for key in rung)
        for below, rung in itertools.pairwise(rungs)
    ]
    if device == "cpu":  # the last two stand side by side
        assert changes.pop() == 2
    assert set(changes) == {1}


@pytest.mark.slow
def test_the_memory_of_a_step_is_what_it_holds() -> None:
    config = GPTConfig(211, 2, 2, 16, 32, 0.0)

    few, many = computed_peak(config, 2), computed_peak(config, 64)

    num_weights = config.num_parameters
    assert few["weights"] == many["weights"] == 4 * num_weights
    # Muon remembers one number for each weight in the blocks' matrices, AdamW two.
    in_matrices = 12 * config.num_layers * config.embed_dim**2
    remembered = 4 * (in_matrices + 2 * (num_weights - in_matrices))
    # While it updates the matrices, it holds a direction for each, and works on one.
    assert remembered <= few["optimizer"] < remembered + 2 * 4 * in_matrices
    logits = 64 * config.block_size * config.vocab_size * 4
    assert many["all"] > many["weights"] + many["optimizer"] + 2 * logits


def test_the_pages_show_the_newest_results() -> None:
    pages = [(PROJECT / page).read_text(encoding="utf-8") for page in PAGES]

    assert list(map(with_tables, pages)) == pages
    shown = [
        path
        for page in pages
        for name in TABLE.findall(page)
        for path in RESULTS.glob(f"{name}.json")
    ]
    assert sorted(shown) == sorted(RESULTS.glob("*.json"))


def test_each_rate_of_the_plan_can_be_measured() -> None:
    found = rates.measure(num_tokens=200_000, num_documents=1_000)

    assert {rates.LEAKAGE, rates.KNOWN_AGAIN, rates.COMPARING} < set(found)
    assert min(found.values()) > 0


def test_the_plan_is_what_its_formulas_make_of_what_was_measured() -> None:
    found = read_rates(RESULTS)
    plans = {
        "scale-data": [row for corpus in CORPORA for row in plan_data(corpus, found)],
        "scale-training": plan_training(found, CORPORA[0]),
    }

    for name, rows in plans.items():
        written = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        assert written["rows"] == [asdict(row) for row in rows]


def test_the_formula_says_how_many_bytes_ranks_were_seen_to_send() -> None:
    result = json.loads((RESULTS / "scale-communication.json").read_text("utf-8"))
    nano = TASKS["nano"].config

    for case, row in zip(MEASURED, result["rows"], strict=True):
        strategy, ranks, precision = case
        formula = bytes_sent(strategy, nano, ranks, precision=precision, by_gloo=True)
        measured = float(row["notes"]["sent by each rank in a step"].split()[0])
        assert measured == pytest.approx(formula / 1e6, rel=0.01)


def test_weights_and_their_optimizer_have_the_bytes_of_the_formula() -> None:
    model = tiny_model()
    optimizer = build_optimizer(model, train_params(optimizer="muon"))
    next_token_loss(model(random_tokens(1, 4)), random_tokens(1, 4)).backward()

    optimizer.step()

    remembered = [value for kept in optimizer.state.values() for value in kept.values()]
    tensors = [*model.parameters(), *(value for value in remembered if value.ndim)]
    assert sum(map(attrgetter("nbytes"), tensors)) == checkpoint_bytes(model.config)


def test_the_picture_shows_the_newest_results() -> None:
    picture = (PROJECT / PICTURE).read_text(encoding="utf-8")

    shown = re.findall(r">([\d.]+ times)</text>", picture)

    assert shown == [label(times_as_fast(comparison)) for comparison in COMPARISONS]


def test_the_operations_of_a_token_are_counted_by_the_convention() -> None:
    small = GPTConfig(50257, 12, 8, 512, 768, 0.0)

    assert operations_per_token(small) == pytest.approx(0.798e9, rel=1e-3)


def test_durations_have_a_table_of_their_own(tmp_path: Path) -> None:
    rows = [Duration.of("waiting", [3.0, 1.0, 2.5], place="here")]

    report("waits", "?", rows, settings={}, folder=tmp_path)

    result = json.loads((tmp_path / "waits.json").read_text())
    assert "| waiting | 2.50 | 1.00 to 3.00 | here |" in table(result)


def test_linear_growth_is_extrapolated_to_the_whole_corpus() -> None:
    assert at_target([10_000_000, 30_000_000], [1.0, 2.0]) == pytest.approx(75.5)


@pytest.mark.parametrize("stage", FIRST_WORK)
def test_the_first_work_of_each_stage_is_found(stage: str) -> None:
    module, name = FIRST_WORK[stage]

    assert callable(attrgetter(name)(import_module(module)))


def test_the_loop_lasts_from_the_first_point_to_the_last(tmp_path: Path) -> None:
    """Results have no step, and come later."""
    run = tmp_path / ".toygpt" / "runs" / "one"
    run.mkdir(parents=True)
    points = [(4, 10.0), (8, 11.5), (None, 99.0)]
    lines = [json.dumps({"step": s, "time": t, "metrics": {}}) for s, t in points]
    (run / "metrics.jsonl").write_text("\n".join(lines))

    assert seconds_of_loop(tmp_path) == 1.5

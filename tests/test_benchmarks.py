"""The benchmarks let ways take turns, and say what came of each."""

import json
import os
from importlib import import_module
from multiprocessing import active_children
from pathlib import Path

import pytest

from benchmarks.data import at_target
from benchmarks.measure import Duration, Lap, race, report, table
from benchmarks.pipeline import FIRST_WORK, seconds_of_loop
from benchmarks.training import operations_per_token
from toygpt.model.gpt import GPTConfig


def works(lap: Lap) -> None:
    while True:
        sum(range(100_000))
        lap()


def works_with_a_setting(lap: Lap) -> None:
    assert os.environ["TOYGPT_TEST"] == "1"
    works(lap)


def gives_up(lap: Lap) -> None:
    lap()
    lap()


def test_each_way_has_its_turns_and_is_compared_with_the_first(tmp_path: Path) -> None:
    timings = race({"one": works, "other": works}, amount=100_000, turns=3)

    assert [timing.name for timing in timings] == ["one", "other"]
    assert timings[0].ratio == 1
    for timing in timings:
        assert 0 < timing.slowest <= timing.per_second <= timing.fastest
        assert timing.preparation_seconds > 0
        assert timing.peak_bytes > 1_000_000
    report("sums-tiny", "?", timings, unit="numbers", facts={"to": 1}, folder=tmp_path)
    result = json.loads((tmp_path / "sums-tiny.json").read_text())
    assert result["command"].startswith("python -m benchmarks.sums")
    assert f"| other | {timings[1].per_second:,.0f} |" in table(result)
    assert active_children() == []


def test_a_way_may_have_an_environment_of_its_own() -> None:
    ways = {"with": works_with_a_setting, "without": works}

    race(ways, amount=1, turns=1, environments={"with": {"TOYGPT_TEST": "1"}})

    assert "TOYGPT_TEST" not in os.environ
    with pytest.raises(RuntimeError, match="with has ended"):
        race(ways, amount=1, turns=1, environments={"without": {"TOYGPT_TEST": "1"}})


def test_a_way_that_ends_ends_the_race(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="gives up has ended before its time"):
        race({"works": works, "gives up": gives_up}, amount=1, turns=3)

    assert active_children() == []


def test_the_operations_of_a_token_are_counted_by_the_convention() -> None:
    small = GPTConfig(50257, 12, 8, 512, 768, 0.0)

    assert operations_per_token(small) == pytest.approx(0.798e9, rel=1e-3)


def test_durations_have_a_table_of_their_own(tmp_path: Path) -> None:
    rows = [Duration.of("waiting", [3.0, 1.0, 2.5], place="here")]

    report("waits", "?", rows, facts={}, folder=tmp_path)

    result = json.loads((tmp_path / "waits.json").read_text())
    assert "| waiting | 2.50 | 1.00 to 3.00 | here |" in table(result)


def test_what_grows_evenly_is_told_for_the_whole_corpus() -> None:
    assert at_target([10_000_000, 30_000_000], [1.0, 2.0]) == pytest.approx(75.5)


@pytest.mark.parametrize("stage", FIRST_WORK)
def test_the_first_work_of_each_stage_is_found(stage: str) -> None:
    module, name = FIRST_WORK[stage]
    found = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)

    assert callable(found)


def test_the_loop_lasts_from_the_first_point_to_the_last(tmp_path: Path) -> None:
    """Results have no step, and come later."""
    run = tmp_path / ".toygpt" / "runs" / "one"
    run.mkdir(parents=True)
    points = [(4, 10.0), (8, 11.5), (None, 99.0)]
    (run / "metrics.jsonl").write_text(
        "".join(
            json.dumps({"step": step, "time": time, "metrics": {}}) + "\n"
            for step, time in points
        )
    )

    assert seconds_of_loop(tmp_path) == 1.5

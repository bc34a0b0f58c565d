"""The benchmark for GPUs runs anywhere at tiny sizes, and outlasts parts that fail."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from benchmarks.gpu import correctness
from benchmarks.gpu.__main__ import PARTS, main
from benchmarks.gpu.parts import Outcome, Part, run_part
from benchmarks.gpu.setup import Setup
from benchmarks.gpu.sizes import sizes
from benchmarks.gpu.trials import Trials
from benchmarks.measure import Figures
from benchmarks.page import show
from tests import benchmark_cases
from tests.faults.kills import is_gone, wait_until
from tests.project import PATIENCE_SECONDS, PROJECT
from toygpt.generation import graph
from toygpt.pipeline.errors import InputError
from toygpt.training import muon
from toygpt.training.muon import FastMuon

# A machine with a GPU may lack these. filelock comes with PyTorch, but need not.
HIDES_PACKAGES = """
import sys

ABSENT = {"beartype", "datasets", "dvc", "gigatoken", "mlflow", "pydantic", "ruamel"}
ABSENT |= {"accelerate", "litgpt", "wandb"}
IMPORT_SYSTEM = ("importlib._bootstrap", "importlib._bootstrap_external")


def importer():
    frame = sys._getframe()
    while frame and frame.f_globals["__name__"] in (__name__, *IMPORT_SYSTEM):
        frame = frame.f_back
    return frame.f_globals["__name__"].partition(".")[0] if frame else ""


class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        package = name.partition(".")[0]
        if package in ABSENT:
            return None
        if package == "filelock" and importer() in ("benchmarks", "toygpt"):
            return None
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


sys.meta_path[:] = map(Hiding, sys.meta_path)
"""


def run(function: str, folder: Path, *, limit: float = PATIENCE_SECONDS) -> Outcome:
    part = Part("trial", f"tests.benchmark_cases:{function}", limit)
    setup = Setup(is_dry_run=False, text=None, tables=folder)
    return run_part(part, setup, limit=limit, log=folder / "log")


@pytest.mark.slow
def test_every_part_runs_without_a_gpu_and_without_the_pipelines_packages(
    tmp_path: Path,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDES_PACKAGES, encoding="utf-8")
    texts = PROJECT / "docs" / "decisions"
    command = [sys.executable, "-m", "benchmarks.gpu", "--dry-run"]

    done = subprocess.run(
        [*command, "--out", str(tmp_path), "--text", str(texts), "--minutes", "30"],
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{PROJECT}"},
        capture_output=True,
        text=True,
    )

    log = (tmp_path / "gpu.log").read_text(encoding="utf-8")
    assert done.returncode == 0, f"{done.stdout}\n{log}\n{done.stderr}"
    result = tmp_path / "gpu-dry-run.json"
    parts = json.loads(result.read_text(encoding="utf-8"))["parts"]
    assert list(parts) == [part.name for part in PARTS]
    assert all(part["outcome"] == "done" and part["tables"] for part in parts.values())
    assert "WRONG" not in done.stdout
    assert "differs" not in done.stdout
    assert "failed" not in result.read_text(encoding="utf-8")
    assert done.stdout.splitlines()[-1].startswith("| text | done |")
    assert all(
        f"**{table['question']}**" in show(result)
        for part in parts.values()
        for table in part["tables"]
    )


def test_a_real_run_needs_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    with pytest.raises(InputError, match="--dry-run works without"):
        sizes(Setup(is_dry_run=False, text=None, tables=tmp_path), "small")


@pytest.fixture
def dry(tmp_path: Path) -> Setup:
    """Return the setup of a dry run."""
    return Setup(is_dry_run=True, text=None, tables=tmp_path)


def test_generation_without_a_graph_is_not_called_right(
    dry: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tokens would be right as well."""

    def refuse(step: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graph, "can_capture", lambda model: True)
    monkeypatch.setattr(graph, "MIN_REPLAYS", 1)
    monkeypatch.setattr(graph, "capture", refuse)

    with pytest.raises(UserWarning, match="could not be captured"):
        correctness.measure_generation(dry)

    assert not list(dry.tables.iterdir())


@pytest.mark.parametrize("shape", [(16, 16), (16, 64), (64, 16)])
def test_muon_is_measured_as_a_gpu_updates_a_stack(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    stacks: list[int] = []
    orthogonalize = muon.orthogonalize

    def noted(matrices: torch.Tensor, **settings: Any) -> torch.Tensor:
        stacks.append(matrices.ndim)
        return orthogonalize(matrices, **settings)

    monkeypatch.setattr(muon, "orthogonalize", noted)
    monkeypatch.setattr(muon, "_together", muon._of_one_shape)
    gradients = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))

    first, second = correctness.updates(FastMuon, gradients)

    exact = correctness.exact_update(gradients)
    assert stacks[0] == 3
    assert correctness.error(first, exact[0]) < 0.05
    assert correctness.error(second, exact[1]) < 0.05
    assert correctness.error(first, exact[1]) > 1, "in the other order it is wrong"


def test_a_trial_is_resumed_as_soon_as_it_was_killed_while_other_work_is_done(
    dry: Setup,
) -> None:
    """On a GPU, each trial is a new process, and a thread waits for the first."""
    with Trials(dry) as trials:
        trials.context = get_context("spawn")
        trials.run = partial(benchmark_cases.trial)
        trials.start("killed")

        trials.start_after("killed", {"resumed": "killed", "again": "again"})
        is_other_work_done = "resumed" not in trials.processes
        killed, resumed, again = trials.wait("killed", "resumed", "again")

        assert is_other_work_done
        assert not killed
        assert trials.processes["killed"].exitcode == -signal.SIGKILL
        assert (resumed, again) == ({"found": ["checkpoint"]}, {"found": []})


def test_a_part_that_fails_is_reported_and_leaves_its_first_tables(
    tmp_path: Path,
) -> None:
    outcome = run("part_that_fails", tmp_path)

    assert outcome.outcome == "failed: ValueError: no such kernel"
    assert (tmp_path / "gpu-first.json").exists()
    assert "in part_that_fails" in (tmp_path / "log").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("function", "outcome"),
    [
        ("part_that_crashes", "failed: SIGSEGV"),
        ("part_that_exits", "failed: exit code 3"),
        ("part_that_is_missing", "failed: AttributeError: module"),
    ],
)
def test_a_part_that_ends_in_another_way_is_reported(
    function: str, outcome: str, tmp_path: Path
) -> None:
    assert run(function, tmp_path).outcome.startswith(outcome)


@pytest.mark.slow
def test_a_part_over_its_time_is_stopped_with_all_that_it_started(
    tmp_path: Path,
) -> None:
    child = tmp_path / "child"
    for limit in (2, 8, 32, 128):  # beside other load, it takes a while to start
        outcome = run("part_that_hangs", tmp_path, limit=limit)
        assert outcome.outcome == f"stopped: its {limit} s are over"
        if child.exists():
            break

    number = int(child.read_text(encoding="utf-8"))
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(number)
        wait_until(lambda: is_gone(process))  # the signal may yet have to arrive


def test_a_part_that_is_measured_again_replaces_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = iter(["stopped", "done", "done"])

    def run_part(part: Part, setup: Setup, **_: object) -> Outcome:
        if part.name == "text":
            setup.report("a", f"{part.name}?", [Figures("one", {"figure": 1})])
        return Outcome(part.name, next(outcomes), 1.0)

    monkeypatch.setattr("benchmarks.gpu.__main__.run_part", run_part)
    arguments = ["--out", str(tmp_path), "--only"]

    assert main([*arguments, "ladder", "text"]) == 1
    assert main([*arguments, "text"]) == 0

    (file,) = tmp_path.glob("gpu-*.json")
    parts = json.loads(file.read_text(encoding="utf-8"))["parts"]
    assert {name: part["outcome"] for name, part in parts.items()} == {
        "ladder": "stopped",
        "text": "done",
    }
    assert capsys.readouterr().out.rstrip().endswith("| text | done | 1.0 |")

"""Jobs of submitit, which starts them on this machine; on a Slurm: tests/cluster/."""

from collections.abc import Iterator, Sequence
from functools import partial
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from tests.data.engines.shard_functions import double, refuse
from tests.data.engines.test_engine import DOUBLED, LOG, NAMES, SHARDS, calls
from tests.project import PROJECT
from tests.tiny import runtime_params
from toygpt.data.engines import engine as engines
from toygpt.data.engines.engine import Engine, Work
from toygpt.data.engines.tasks import ShardFunction
from toygpt.pipeline.errors import InputError

pytest.importorskip("submitit", reason="no submitit: uv sync --inexact --extra slurm")

import submitit

from toygpt.data.engines import slurm_engine

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _own_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT), prepend=":")


def mapped(
    function: ShardFunction, work: Sequence[Work] = SHARDS[:2]
) -> dict[str, bytes]:
    """Return the files of shards."""
    directory = Path("results")
    directory.mkdir()
    with Engine("test", runtime_params(data_engine="slurm")) as engine:
        list(engine.map(function, work, directory, description="test"))
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture
def arrays(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[Any]]]:
    """Run jobs as processes of this machine; stop and await those that still run.

    Yields:
        The jobs of each array that was submitted until now.
    """
    arrays: list[list[Any]] = []
    submit = slurm_engine._submit

    def submitted(*args: Any) -> list[Any]:
        arrays.append(jobs := submit(*args))
        return jobs

    run = partial(slurm_engine.run, cluster="local")
    monkeypatch.setattr(engines, "run_of", lambda name: run)
    monkeypatch.setattr(slurm_engine, "_submit", submitted)
    monkeypatch.setattr(slurm_engine, "POLL_SECONDS", 0.02)
    # A file system of the network may show late what a job has written.
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 0)
    yield arrays
    for job in chain(*arrays):
        job.cancel()
        job._process.wait()


@pytest.mark.usefixtures("arrays")
def test_a_killed_job_costs_its_shard_alone() -> None:
    files = mapped(partial(double, log=LOG, killed=["1.txt"]))

    assert calls() == ["0.txt", "1.txt", "1.txt"]
    assert files == {name: DOUBLED[name] for name in NAMES[:2]}
    assert not list(Path(".toygpt/shards").glob("*/*"))


@pytest.mark.usefixtures("arrays")
def test_an_error_in_a_job_arrives_as_it_was() -> None:
    with pytest.raises(InputError, match=r"^\d\.txt is damaged: run `dvc repro`$"):
        mapped(refuse)


def test_more_shards_than_an_array_may_have_are_several_arrays(
    monkeypatch: pytest.MonkeyPatch, arrays: list[list[Any]]
) -> None:
    monkeypatch.setattr(slurm_engine, "ELEMENTS", 2)

    files = mapped(partial(double, log=LOG), SHARDS[:3])

    assert files == {name: DOUBLED[name] for name in NAMES[:3]}
    assert calls() == NAMES[:3]
    assert [len(jobs) for jobs in arrays] == [2, 1]


@pytest.mark.usefixtures("arrays")
def test_an_exception_outside_of_the_task_is_shown_and_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a node that lacks a package."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here/only_here.py").write_text("class Argument: ...")
    monkeypatch.syspath_prepend(tmp_path / "here")
    argument = import_module("only_here").Argument()
    work = [Work(name, argument, 1) for name in ("a", "b")]

    with pytest.raises(
        InputError, match=r"^[ab] failed: ModuleNotFoundError: .*'only_here' \(job \d+"
    ) as caught:
        mapped(partial(double, log=LOG), work)

    assert "\n" not in str(caught.value)


def test_a_machine_without_slurm_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")

    with pytest.raises(InputError, match=r"is slurm, but Slurm takes no jobs") as error:
        mapped(partial(double, log=LOG))

    assert "\n" not in str(error.value)

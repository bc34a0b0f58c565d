"""Work on shards: equal bytes, no shard lost or done twice, no worker left behind."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.data.engines.shard_functions import (
    Numbers,
    count_mapped,
    double,
    fail,
    fill_the_disk,
    lack_memory,
    refuse,
)
from tests.faults.kills import is_gone, wait_until
from tests.project import PROJECT
from tests.tiny import runtime_params
from toygpt.data.engines import engine as engines
from toygpt.data.engines import local_engine
from toygpt.data.engines.engine import ATTEMPTS, Engine, Work, run_with_retries
from toygpt.data.engines.slurm_arrays import note_arrays
from toygpt.data.engines.tasks import Outcomes, ShardFunction, Task, WorkerKilledError
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.lock import locked

NAMES = [f"{number}.txt" for number in range(4)]
SHARDS = [
    Work(f"shard {number}", Numbers(name, [number, number + 1]), 2)
    for number, name in enumerate(NAMES)
]
DOUBLED = dict(zip(NAMES, [b"0 2", b"2 4", b"4 6", b"6 8"], strict=True))
LOG = Path("calls")


@pytest.fixture(autouse=True)
def _own_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder; there, a worker finds the tests as well."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))


def mapped(
    function: ShardFunction, *, work: list[Work] = SHARDS, **runtime: Any
) -> tuple[list[Any], dict[str, bytes]]:
    """Return the values and the files of all shards, from an empty folder."""
    directory = Path(f"results-{len(list(Path.cwd().iterdir()))}")
    directory.mkdir()
    runtime = {"data_workers": 2} | runtime
    with Engine("test", runtime_params(**runtime)) as engine:
        values = list(engine.map(function, work, directory, description="test"))
    return values, {path.name: path.read_bytes() for path in directory.iterdir()}


def calls() -> list[str]:
    """Return the shards for which `double` was called, in the order of their names."""
    return sorted(LOG.read_text().split())


def is_nothing_kept() -> bool:
    return not list(Path(".toygpt/shards").glob("*/*"))


@pytest.mark.parametrize("workers", [1, 3, "auto"])
def test_files_are_equal_and_values_in_order_for_any_number_of_workers(
    workers: int | str,
) -> None:
    """So little work is not worth another process, unless one is asked for."""
    values, files = mapped(partial(double, log=LOG), data_workers=workers)

    assert files == DOUBLED
    assert [value["sum"] for value in values] == [2, 6, 10, 14]
    processes = {value["process"] for value in values}
    assert (processes == {os.getpid()}) == (workers != 3)
    assert is_nothing_kept()


def test_a_single_shard_is_done_here_on_every_engine() -> None:
    (value,), files = mapped(
        partial(double, log=LOG), work=SHARDS[:1], data_engine="ray"
    )

    assert value["process"] == os.getpid()
    assert files == {"0.txt": DOUBLED["0.txt"]}
    assert not Path(".toygpt").exists()


def test_a_killed_worker_costs_its_shard_alone() -> None:
    _, files = mapped(partial(double, log=LOG, killed=["1.txt", "1.txt"]))

    assert calls() == sorted([*NAMES, "1.txt", "1.txt"])
    assert files == DOUBLED


def test_a_shard_that_kills_its_workers_is_named_and_a_rerun_gives_out_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job for each shard that is there would wait in Slurm's queue for nothing."""
    function = partial(double, log=LOG, killed=["2.txt"] * ATTEMPTS)
    given: list[str] = []

    def run(tasks: Sequence[Task], workers: int) -> Outcomes:
        given.extend(task.name for task in tasks)
        return local_engine.run(tasks, workers)

    with pytest.raises(InputError, match=r"^shard 2: 3 workers .* SIGKILL") as caught:
        mapped(function)
    assert "\n" not in str(caught.value)
    assert calls() == sorted([*NAMES, "2.txt", "2.txt"])
    monkeypatch.setattr(engines, "run_of", lambda name: run)
    _, files = mapped(function)

    assert given == ["shard 2"]
    assert calls() == sorted([*NAMES, *["2.txt"] * ATTEMPTS])
    assert files == DOUBLED
    assert is_nothing_kept()


def test_after_a_worker_was_killed_half_as_many_run_at_once(tmp_path: Path) -> None:
    """It may have been memory that was lacking."""
    tasks = [Task(name, None, 0, tmp_path, 1, tmp_path, "") for name in "abcd"]
    at_once = []

    def run(tasks: Sequence[Task], workers: int | None) -> Outcomes:
        at_once.append(workers)
        yield from ((task, WorkerKilledError("SIGKILL")) for task in tasks)

    with pytest.raises(InputError, match=r"was lacking, buy more; a rerun does"):
        run_with_retries(run, tasks, 4, print, advice="buy more")

    assert at_once == [4, 2, 1]


def test_what_a_function_left_with_other_code_is_removed() -> None:
    """Also where the corpus has only one shard by now."""
    left = Path(".toygpt/shards/test/refuse/of-earlier-code/value")
    for work in (SHARDS, SHARDS[:1]):
        left.mkdir(parents=True)
        with pytest.raises(InputError):
            mapped(refuse, work=work, data_workers=1)
        assert not left.exists()


def test_a_finished_shard_is_not_done_again(tmp_path: Path) -> None:
    """As by a job that was sent off before its stage was killed."""
    shard = SHARDS[0]
    task = Task(*shard, tmp_path, 1, tmp_path, "")
    function = partial(double, log=LOG)

    for _ in range(2):
        task.run(function, lambda size: None)

    assert calls() == ["0.txt"]


@pytest.mark.parametrize(
    "damaged", ["1.txt", "value.json", "records.json", "number missing", "more"]
)
def test_a_damaged_result_is_made_again_and_no_other(damaged: str) -> None:
    function = partial(double, log=LOG)
    params = runtime_params(data_workers=1)
    Path("lost").mkdir()
    with pytest.raises(InterruptedError), Engine("test", params) as engine:
        list(engine.map(function, SHARDS, Path("lost"), description="test"))
        raise InterruptedError
    (result,) = (it.parent for it in Path(".toygpt").rglob("1.txt"))
    if damaged == "number missing":
        (result / "1.txt").unlink()
    elif damaged == "more":
        (result / "2.txt").touch()
    else:
        content = (result / damaged).read_text()
        (result / damaged).write_text(re.sub(r"\d", "9", content, count=1))

    values, files = mapped(function, data_workers=1)

    assert calls() == sorted([*NAMES, "1.txt"])
    assert files == DOUBLED
    assert [value["sum"] for value in values] == [2, 6, 10, 14]


def test_a_folder_for_workers_is_empty_and_hides_no_error() -> None:
    left = Path(".toygpt/shards/test/chunks/left")
    left.mkdir(parents=True)
    with (
        pytest.raises(InterruptedError),
        Engine("test", runtime_params()) as engine,
        engine.new_folder("chunks") as folder,
    ):
        assert list(folder.iterdir()) == []
        folder.rmdir()
        raise InterruptedError


def test_the_array_jobs_of_a_killed_stage_are_cancelled_by_the_next_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On any engine. By a command in place of Slurm's; with Slurm's: tests/cluster."""
    command = tmp_path / "bin/scancel"
    command.parent.mkdir()
    command.write_text('#!/bin/sh\necho "$@" >> cancelled\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent))
    stage = Path(".toygpt/shards/test")
    stage.mkdir(parents=True)
    note_arrays(stage, ["12", "11"])

    mapped(partial(double, log=LOG), data_workers=1)

    assert Path("cancelled").read_text() == "--quiet 11 12\n"


@pytest.mark.slow
def test_arrays_of_a_function_are_a_file_that_workers_map() -> None:
    numbers = np.arange(3)

    values, _ = mapped(partial(count_mapped, numbers=numbers))

    assert values == [{"is_mapped": True, "sum": 3}] * len(SHARDS)


def test_a_result_is_used_again_only_for_the_same_shard_function_and_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a rerun would mix two corpora, or two tokenizers."""

    def shards_done(function: ShardFunction, work: list[Work] = SHARDS) -> list[str]:
        """Return for which shards a stage that fails at its end calls the function."""
        LOG.write_text("")
        with pytest.raises(InterruptedError), Engine("test", params) as engine:
            directory = Path(f"results-{len(list(Path.cwd().iterdir()))}")
            directory.mkdir()
            list(engine.map(function, work, directory, description="test"))
            raise InterruptedError
        return calls()

    params = runtime_params(data_workers=1)
    other = Work("shard 0", Numbers("0.txt", [7]), 2)

    assert shards_done(partial(double, log=LOG)) == NAMES
    assert shards_done(partial(double, log=LOG)) == []
    assert shards_done(partial(double, log=LOG), [other, *SHARDS[1:]]) == ["0.txt"]
    assert shards_done(partial(double, log=LOG, killed=["9.txt"])) == NAMES
    monkeypatch.setattr(engines, "digest_of_code", lambda: "of another version")
    assert shards_done(partial(double, log=LOG)) == NAMES


def test_a_worker_without_memory_counts_as_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines, "ATTEMPTS", 1)

    with pytest.raises(InputError, match=r"1 workers were killed .* MemoryError"):
        mapped(lack_memory, work=SHARDS[:2])


def test_a_worker_with_other_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a node whose copy of the project is older."""
    monkeypatch.setattr(engines, "digest_of_code", lambda: "of another version")

    with pytest.raises(InputError, match=r"^shard .* has another version than"):
        mapped(partial(double, log=LOG))

    assert not LOG.exists()


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (refuse, InputError, r"^\d\.txt is damaged: run `dvc repro`$"),
        (fill_the_disk, OSError, r"No space left on device: '\d\.txt'$"),
        (fail, RuntimeError, r"^shard \d: Traceback (.|\n)*KeyError: '\d\.txt'\n$"),
    ],
    ids=["input", "disk", "fault"],
)
@pytest.mark.usefixtures("all_children_end")
def test_an_error_in_a_worker_ends_all_and_arrives_as_it_was(
    function: ShardFunction, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        mapped(function)

    assert not list(Path.cwd().rglob("value.json"))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGINT"])
def test_no_worker_outlives_its_stage(name: str) -> None:
    program = f"""
from pathlib import Path
from tests.data.engines.shard_functions import Numbers, wait_forever
from toygpt.data.engines.engine import Engine, Work
from toygpt.pipeline.params_file import load_params
runtime = load_params(Path({str(PROJECT / "params.yaml")!r})).runtime
shards = [Work(name, Numbers(name, []), 1) for name in ("a", "b")]
with Engine("test", runtime.model_copy(update=dict(data_workers=2))) as engine:
    engine.map(wait_forever, shards, Path(), description="test")
"""
    stage = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)

    def both() -> list[psutil.Process] | None:
        ids = [path.read_text() for path in Path.cwd().glob("*.pid")]
        is_started = len(ids) == 2 and all(ids)
        return [psutil.Process(int(it)) for it in ids] if is_started else None

    workers = wait_until(both)
    os.kill(stage.pid, getattr(signal, name))
    stage.wait()

    wait_until(lambda: all(map(is_gone, workers)))
    assert stage.returncode


def test_a_second_run_of_a_stage_waits_for_the_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Else the first to be done would remove what the other has made."""
    with ThreadPoolExecutor() as pool:
        with locked(Path(".toygpt/shards/test.lock")):
            second = pool.submit(mapped, partial(double, log=LOG), data_workers=1)
            wait_until(lambda: "waiting for process" in capsys.readouterr().out)
            assert not LOG.exists()
        assert second.result()[1] == DOUBLED


@pytest.mark.parametrize(("engine", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_an_engine_that_is_not_installed_is_named_with_its_extra(
    engine: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(
        sys.modules, f"toygpt.data.engines.{engine}_engine", raising=False
    )
    monkeypatch.delattr(f"toygpt.data.engines.{engine}_engine", raising=False)

    with pytest.raises(InputError, match=f"`uv sync --inexact --extra {engine}`$"):
        mapped(partial(double, log=LOG), data_engine=engine)

"""Files and directories: whole or not at all."""

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from toygpt.pipeline.files import (
    new_directory,
    new_file,
    remove_leftover,
    sha256_of,
    sweep_leftovers,
    temporary_directory,
    write_json,
    write_text,
)

PROJECT = Path(__file__).resolve().parents[2]


class DiskFullError(Exception):
    """Something goes wrong while a directory is being written."""


def contents(folder: Path) -> dict[str, str]:
    """Return everything below a folder, hidden or not."""
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file()
    }


@contextmanager
def killed_while_writing(path: Path) -> Iterator[None]:
    """Let a process be killed when its new directory is half written.

    Its parent asks only at the end how it ended: until then it is a zombie, with an id.
    """
    script = f"""if True:
        import os, signal
        from pathlib import Path
        from toygpt.pipeline.files import new_directory

        with new_directory(Path({str(path)!r})) as directory:
            (directory / "half").write_text("written")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    with subprocess.Popen([sys.executable, "-c", script], cwd=PROJECT) as process:
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None and ended.si_status == signal.SIGKILL
        yield


def test_a_digest_is_the_one_that_everyone_computes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5_000
    (tmp_path / "file").write_bytes(content)

    digest = sha256_of(tmp_path / "file")

    assert digest == hashlib.sha256(content).hexdigest()


def test_text_is_written_the_same_on_every_system(tmp_path: Path) -> None:
    """As UTF-8, with line ends as they are in the text, into folders made for it."""
    path = tmp_path / "deep" / "down" / "notes.txt"

    write_text(path, "é\r\nλ\n")

    assert path.read_bytes() == "é\r\nλ\n".encode()


def test_a_rewritten_file_leaves_nothing_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    write_text(path, "a much longer text than the next")

    write_text(path, "new")

    assert contents(tmp_path) == {"notes.txt": "new"}


def test_a_text_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    write_text(path, "old")

    with pytest.raises(UnicodeEncodeError):
        write_text(path, "a lone surrogate \ud800 has no UTF-8")

    assert contents(tmp_path) == {"notes.txt": "old"}


def test_who_reads_a_file_keeps_it_while_it_is_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    write_text(path, "old")

    with path.open(encoding="utf-8") as reader:
        write_text(path, "new")
        seen = reader.read()

    assert seen == "old"
    assert path.read_text(encoding="utf-8") == "new"


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    value = {"loss": 0.1 + 0.2, "tokens": 2**53 + 1, "name": "é", "missing": None}

    write_json(tmp_path / "metrics.json", value)

    text = (tmp_path / "metrics.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert text.endswith("}\n")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_lacks_is_refused_and_the_old_file_stays(
    tmp_path: Path, number: float
) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"loss": 1.5})

    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"loss": 2.5, "perplexity": number})

    assert json.loads(path.read_text(encoding="utf-8")) == {"loss": 1.5}
    assert list(contents(tmp_path)) == ["metrics.json"]


def test_a_new_directory_appears_when_all_of_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "data" / "tokens"

    with new_directory(path) as directory:
        write_text(directory / "tokenizer" / "vocab.json", "{}")
        there_early = path.exists()

    assert not there_early
    assert contents(tmp_path / "data") == {"tokens/tokenizer/vocab.json": "{}"}


def test_a_new_directory_holds_nothing_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    with new_directory(path) as directory:
        write_text(directory / "outdated", "old")
        write_text(directory / "kept", "old")

    with new_directory(path) as directory:
        write_text(directory / "kept", "new")
        during = contents(path)

    assert during == {"outdated": "old", "kept": "old"}
    assert contents(tmp_path) == {"tokens/kept": "new"}


@pytest.mark.parametrize("error", [DiskFullError, KeyboardInterrupt])
def test_after_an_error_the_old_directory_is_as_it_was(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "tokens"
    with new_directory(path) as directory:
        write_text(directory / "part", "old")

    with pytest.raises(error), new_directory(path) as directory:
        write_text(directory / "part", "new")
        write_text(directory / "more" / "part", "new")
        raise error

    assert contents(path) == {"part": "old"}
    assert list(tmp_path.iterdir()) == [path]


def test_after_an_error_there_is_no_directory_where_there_was_none(
    tmp_path: Path,
) -> None:
    with pytest.raises(DiskFullError), new_directory(tmp_path / "tokens") as directory:
        write_text(directory / "part", "new")
        raise DiskFullError

    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_the_old_directory(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    with new_directory(path) as directory:
        write_text(directory / "part", "old")

    with killed_while_writing(path):
        assert contents(path) == {"part": "old"}


def test_what_a_killed_process_left_is_swept_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "tokens"

    with killed_while_writing(path):
        left_behind = contents(tmp_path)
        with new_directory(path) as directory:
            write_text(directory / "part", "new")

    assert list(left_behind.values()) == ["written"]
    assert contents(tmp_path) == {"tokens/part": "new"}


def test_a_leftover_goes_although_its_number_is_that_of_a_running_process(
    tmp_path: Path,
) -> None:
    """Earlier versions named what they wrote by their process: ids are used again."""
    for number in (1, os.getppid(), os.getpid()):
        write_text(tmp_path / f".tokens.{number}.tmp" / "part", "half")
        write_text(tmp_path / f".tokens.{number}.old.tmp" / "part", "outdated")

    with new_directory(tmp_path / "tokens") as directory:
        write_text(directory / "part", "new")

    assert contents(tmp_path) == {"tokens/part": "new"}


@pytest.mark.parametrize("make", [new_file, new_directory])
def test_what_is_being_written_is_not_a_leftover(
    tmp_path: Path, make: Callable[[Path], AbstractContextManager[object]]
) -> None:
    """Two attempts at once do not remove each other's; the last to end counts."""
    with make(tmp_path / "tokens"):
        (first,) = tmp_path.iterdir()
        with make(tmp_path / "tokens"):
            assert first.exists()
            (second,) = set(tmp_path.iterdir()) - {first}

        remove_leftover(first)
        assert first.exists()
        assert not second.exists()

    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]


@pytest.mark.parametrize("make", [new_file, new_directory])
def test_a_sweep_before_it_is_locked_costs_no_attempt(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], AbstractContextManager[object]],
) -> None:
    """Between its beginning and its lock it looks like a leftover."""
    swept: list[Path] = []

    def sweep_once(descriptor: int, kind: int) -> None:
        if not swept:
            swept.extend(tmp_path.iterdir())
            sweep_leftovers(tmp_path)
        flock(descriptor, kind)

    flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", sweep_once)

    with make(tmp_path / "tokens"):
        assert not swept[0].exists()
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]


def test_a_temporary_directory_is_removed_by_its_user_or_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be opened, as another user's leftover, stays."""
    killed, another_users = (tmp_path / f".toygpt.{n}.tmp" for n in ("1", "2"))
    write_text(killed / "model", "whole")
    another_users.mkdir()

    def refuse(path: Any, *arguments: Any, **more: Any) -> int:
        if path == another_users:
            raise PermissionError(13, "Permission denied", str(path))
        return really_open(path, *arguments, **more)

    really_open = os.open
    monkeypatch.setattr(os, "open", refuse)

    with temporary_directory(tmp_path) as first:
        write_text(first / "model", "in use")
        with pytest.raises(DiskFullError), temporary_directory(tmp_path) as second:
            in_use = {first, second, another_users}
            assert set(tmp_path.iterdir()) == in_use
            assert contents(first) == {"model": "in use"}
            raise DiskFullError
    assert list(tmp_path.iterdir()) == [another_users]


def test_the_sweep_spares_what_belongs_to_others(tmp_path: Path) -> None:
    """A neighbour's unfinished directory, and hidden files of the user."""
    (tmp_path / ".splits.4711.tmp").mkdir()
    write_text(tmp_path / ".splits.4711.tmp" / "part", "a neighbour's")
    write_text(tmp_path / ".tokens-are-secret", "the user's")

    with new_directory(tmp_path / "tokens") as directory:
        write_text(directory / "part", "new")

    assert contents(tmp_path) == {
        ".splits.4711.tmp/part": "a neighbour's",
        ".tokens-are-secret": "the user's",
        "tokens/part": "new",
    }


def test_a_file_left_half_written_beside_it_is_no_obstacle(tmp_path: Path) -> None:
    """A process killed while it wrote `tokens.json` leaves such a file."""
    (tmp_path / ".tokens.json.4711.tmp").write_text("hal", encoding="utf-8")

    with new_directory(tmp_path / "tokens") as directory:
        write_text(directory / "part", "new")

    assert (tmp_path / "tokens" / "part").read_text(encoding="utf-8") == "new"

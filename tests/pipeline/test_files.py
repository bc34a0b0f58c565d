"""Files and directories: whole or not at all."""

import copy
import fcntl
import hashlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.files import files_in, write_files
from toygpt.pipeline.errors import InputError
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


def test_a_digest_is_that_of_all_that_was_written(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5_000

    with new_file(tmp_path / "file") as file:
        assert file.write(content) == len(content)
        file.write(memoryview(content))

    assert file.num_bytes == 2 * len(content)
    assert file.sha256 == hashlib.sha256(2 * content).hexdigest()
    assert file.sha256 == sha256_of(tmp_path / "file")


def test_text_is_written_the_same_on_every_system(tmp_path: Path) -> None:
    """As UTF-8, with line ends as they are in the text, into folders made for it."""
    path = tmp_path / "deep" / "down" / "notes.txt"

    write_text(path, "é\r\nλ\n")

    assert path.read_bytes() == "é\r\nλ\n".encode()


def test_a_reader_keeps_its_file_while_it_is_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    write_text(path, "a longer text than the next")

    with path.open(encoding="utf-8") as reader:
        write_text(path, "new")
        assert reader.read() == "a longer text than the next"

    assert files_in(tmp_path) == {"notes.txt": "new"}


@pytest.mark.parametrize("number", [float("nan"), -float("inf")])
def test_a_number_that_json_lacks_is_refused_and_the_old_file_stays(
    tmp_path: Path, number: float
) -> None:
    path = tmp_path / "metrics.json"
    value = {"loss": 0.1 + 0.2, "tokens": 2**53 + 1, "name": "é", "missing": None}
    write_json(path, value)

    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"loss": 2.5, "perplexity": number})

    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert text.endswith("}\n")
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_directory_appears_when_all_of_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "data" / "tokens"
    old = {"tokenizer/vocab.json": "old", "outdated": "old"}

    with new_directory(path) as directory:
        write_files(directory, old)
        assert not path.exists()
    with new_directory(path) as directory:
        write_files(directory, {"tokenizer/vocab.json": "new"})
        assert files_in(path) == old

    assert files_in(tmp_path) == {"data/tokens/tokenizer/vocab.json": "new"}


def test_all_that_is_written_is_flushed_to_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that after a power cut a name never stands for less than all of it."""
    flushed: set[int] = set()
    monkeypatch.setattr(os, "fsync", lambda file: flushed.add(os.fstat(file).st_ino))

    write_text(tmp_path / "file", "new")
    with new_directory(tmp_path / "tokens") as directory:
        write_files(directory, {"tokenizer/vocab.json": "new"})

    written = [tmp_path, *tmp_path.rglob("*")]
    assert {path.stat().st_ino for path in written} == flushed


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [{}, {"tokens/part": "old"}], ids=["new", "old"])
def test_after_an_error_all_is_as_it_was(
    tmp_path: Path, error: type[BaseException], before: dict[str, str]
) -> None:
    write_files(tmp_path, before)

    with pytest.raises(error), new_directory(tmp_path / "tokens") as directory:
        write_files(directory, {"part": "new", "more/part": "new"})
        raise error

    assert files_in(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == len(before)


def test_an_old_directory_comes_back_if_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tokens"
    write_text(path / "part", "old")

    def refuse(source: Path, target: Path) -> Path:
        if target == path and ".old." not in source.name:
            raise PermissionError
        return really_rename(source, target)

    really_rename = Path.rename
    monkeypatch.setattr(Path, "rename", refuse)

    with pytest.raises(PermissionError), new_directory(path) as directory:
        write_text(directory / "part", "new")

    assert files_in(tmp_path) == {"tokens/part": "old"}


def test_a_killed_process_leaves_the_old_directory_and_the_next_removes_its_leftover(
    tmp_path: Path,
) -> None:
    """Until its parent asks how it ended it is a zombie, with an id."""
    path = tmp_path / "tokens"
    write_text(path / "part", "old")
    child = os.fork()
    if not child:
        try:
            with new_directory(path) as directory:
                write_text(directory / "half", "written")
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)

    assert files_in(path) == {"part": "old"}
    assert sorted(files_in(tmp_path).values()) == ["old", "written"]
    with new_directory(path) as directory:
        write_text(directory / "part", "new")

    assert files_in(tmp_path) == {"tokens/part": "new"}
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.mark.parametrize("make", [new_file, new_directory])
def test_what_is_being_written_is_not_a_leftover(tmp_path: Path, make: Any) -> None:
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any
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
            raise PermissionError
        return really_open(path, *arguments, **more)

    really_open = os.open
    monkeypatch.setattr(os, "open", refuse)

    with temporary_directory(tmp_path) as first:
        write_text(first / "model", "in use")
        with pytest.raises(ZeroDivisionError), temporary_directory(tmp_path) as second:
            in_use = {first, second, another_users}
            assert set(tmp_path.iterdir()) == in_use
            assert files_in(first) == {"model": "in use"}
            raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == [another_users]


def test_leftovers_go_and_other_temporary_files_stay(tmp_path: Path) -> None:
    """Leftovers of the same name go, though a process may have their number.

    Earlier versions named what they wrote by their process: ids are used again.
    """
    stay = {
        ".splits.4711.tmp/part": "a neighbour's",
        ".tokens-are-secret": "the user's",
    }
    here = os.getpid()
    leftovers = [".tokens.1.tmp/part", f".tokens.{here}.old.tmp/part", ".tokens.47.tmp"]
    write_files(tmp_path, stay | dict.fromkeys(leftovers, "half"))

    with new_directory(tmp_path / "tokens") as directory:
        write_text(directory / "part", "new")

    assert files_in(tmp_path) == stay | {"tokens/part": "new"}


@pytest.mark.parametrize("make", [new_file, new_directory])
@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError("[Errno 28] Error writing bytes to file"),
        Exception("while serializing: No space left on device (os error 28)"),
        shutil.Error([("a", "b", "[Errno 28] No space left on device: 'a' -> 'b'")]),
    ],
    ids=["write", "pyarrow", "tokenizers and safetensors", "copytree"],
)
def test_an_error_of_any_library_names_the_file_it_could_not_write(
    tmp_path: Path, make: Any, error: Exception
) -> None:
    path = tmp_path / "output"

    with pytest.raises(OSError, match="No space left") as caught, make(path):
        raise copy.copy(error)

    assert (caught.value.errno, caught.value.filename) == (28, str(path))
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_a_new_directory_is_named_by_its_final_path(tmp_path: Path) -> None:
    """The user has never seen the temporary folder, and it is gone."""
    with (
        pytest.raises(FileNotFoundError) as caught,
        new_directory(tmp_path / "tokens") as directory,
    ):
        (directory / "missing" / "a.bin").write_bytes(b"")

    assert caught.value.filename == str(tmp_path / "tokens" / "missing" / "a.bin")


def test_other_errors_stay_the_same(tmp_path: Path) -> None:
    """Even an error in a user's input that quotes one of the system."""
    for error in (KeyError("Errno"), InputError("cannot read x (os error 2)")):
        with pytest.raises(type(error)) as caught, new_directory(tmp_path / "output"):
            raise error
        assert caught.value is error

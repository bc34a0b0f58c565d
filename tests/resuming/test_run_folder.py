"""The folder of an unfinished training: whose it is, what counts, what is trusted."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.project import PROJECT
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import DigestedFile
from toygpt.resuming import run_folder as unfinished
from toygpt.resuming.run_folder import (
    Description,
    RunFolder,
    fingerprint_inputs,
    fingerprint_of,
    list_run_folders,
    open_run_folder,
    run_folders_root,
)

DECIDING: dict[str, Any] = {"seed": 1, "train.precision": "32-true", "train.lr": 0.5}
OTHER_PRECISION = DECIDING | {"train.precision": "bf16-mixed"}
FINGERPRINT = fingerprint_of(DECIDING)

HOLD = """
import sys, time
from pathlib import Path
from toygpt.resuming.run_folder import open_run_folder

with open_run_folder(Path(sys.argv[1]), {"seed": 1}):
    print("held", flush=True)
    time.sleep(600)
"""


def description(**changes: Any) -> Description:
    values = Description(
        name="nano",
        run="20260101-000000-abcdef",
        started=1.5,
        experiment=None,
        is_temporary=False,
        params={"seed": 1},
        inputs=DECIDING,
        max_steps=10,
    )
    return replace(values, **changes)


def save(training: RunFolder, *steps: int) -> None:
    """Keep checkpoints of which nobody reads more than the digest."""
    for step in steps:
        content = b"%d" % step * 1000
        training.save(step, partial(DigestedFile.write, data=content))


def steps_of(training: RunFolder) -> list[int]:
    return [checkpoint.step for checkpoint in training.checkpoints()]


def files_of(training: RunFolder) -> list[str]:
    return sorted(path.name for path in training.folder.iterdir())


@pytest.fixture
def training(tmp_path: Path) -> Iterator[RunFolder]:
    """A training that this process holds, with nothing done."""
    with open_run_folder(tmp_path, DECIDING) as training:
        training.write_description(description())
        yield training


def test_two_checkpoints_are_kept_at_most(training: RunFolder) -> None:
    seen = []
    for step in (3, 6, 9):
        save(training, step)
        seen.append(files_of(training))

    others = ["LATEST.json", "lock", "training.json"]
    assert seen == [
        sorted([*others, "step-3.ckpt"]),
        sorted([*others, "step-3.ckpt", "step-6.ckpt"]),
        sorted([*others, "step-6.ckpt", "step-9.ckpt"]),
    ]
    assert steps_of(training) == [9, 6]


def test_a_checkpoint_of_the_same_step_replaces_the_one_there_is(
    training: RunFolder,
) -> None:
    save(training, 3, 6)
    training.save(6, lambda file: file.write(b"another"))

    assert steps_of(training) == [6, 3]
    best = training.best_checkpoint()
    assert best is not None
    assert training.path_of(best).read_bytes() == b"another"


def test_a_checkpoint_that_cannot_be_written_leaves_those_before(
    training: RunFolder,
) -> None:
    save(training, 3, 6)
    before = files_of(training)

    def fail(file: Any) -> None:
        file.write(b"half")
        raise RuntimeError("of whatever kind")

    with pytest.raises(RuntimeError, match="whatever"):
        training.save(9, fail)

    assert files_of(training) == before
    assert steps_of(training) == [6, 3]


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "truncated": lambda path: os.truncate(path, 10),
    "emptied": lambda path: os.truncate(path, 0),
    "lengthened": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "one bit": flip_a_bit,
    "deleted": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before_with_a_loud_message(
    training: RunFolder, capsys: pytest.CaptureFixture[str], damage: Any
) -> None:
    save(training, 3, 6)
    damage(training.folder / "step-6.ckpt")

    best = training.best_checkpoint()

    assert best is not None
    assert best.step == 3
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"WARNING: {training.folder / 'step-6.ckpt'} is ")
    assert second == "WARNING: going back to the checkpoint before it, step 3"


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_where_no_checkpoint_is_good_nothing_starts_over_by_itself(
    training: RunFolder, damage: Any
) -> None:
    save(training, 3, 6)
    for name in ("step-3.ckpt", "step-6.ckpt"):
        damage(training.folder / name)

    with pytest.raises(InputError, match=r"no checkpoint .* can be trusted.*--fresh"):
        training.best_checkpoint()


def test_a_damaged_checkpoint_is_not_the_one_that_is_kept_as_the_one_before(
    training: RunFolder,
) -> None:
    """Steps 3 and 6, of which 6 is damaged; the next one kept is 7."""
    save(training, 3, 6)
    flip_a_bit(training.folder / "step-6.ckpt")
    training.best_checkpoint()

    save(training, 7)

    assert steps_of(training) == [7, 3]
    assert [training.damage_of(entry) for entry in training.checkpoints()] == [None] * 2
    assert not (training.folder / "step-6.ckpt").exists()


def test_a_step_that_was_damaged_counts_again_once_it_is_written_again(
    training: RunFolder,
) -> None:
    save(training, 3, 6)
    flip_a_bit(training.folder / "step-6.ckpt")
    training.best_checkpoint()

    save(training, 6, 9)

    assert steps_of(training) == [9, 6]


def test_a_training_without_checkpoints_begins(training: RunFolder) -> None:
    assert training.best_checkpoint() is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"version": 1}',
        '{"version": 1, "checkpoints": null}',
        '{"version": 1, "checkpoints": [1]}',
        '{"version": 1, "checkpoints": [{"step": 3}]}',
        '{"version": 1, "checkpoints": [{"step": "x", "sha256": "", "bytes": 1}]}',
        '{"version": 1, "checkpoints": [{"step": 3, "sha256": "", "bytes": "many"}]}',
    ],
)
def test_a_damaged_list_of_checkpoints_is_refused_and_nothing_is_removed(
    tmp_path: Path, text: str
) -> None:
    with open_run_folder(tmp_path, DECIDING) as training:
        save(training, 3, 6)
    (training.folder / "LATEST.json").write_text(text)

    with (
        pytest.raises(InputError, match=r"LATEST\.json is damaged.*--fresh"),
        open_run_folder(tmp_path, DECIDING),
    ):
        pass

    assert {"step-3.ckpt", "step-6.ckpt"} <= set(files_of(training))


def test_a_lost_list_of_checkpoints_is_no_reason_to_start_over_in_silence(
    tmp_path: Path,
) -> None:
    with open_run_folder(tmp_path, DECIDING) as training:
        save(training, 3)
    (training.folder / "LATEST.json").unlink()

    with (
        pytest.raises(
            InputError, match=r"LATEST\.json is lost, and step-3.ckpt cannot"
        ),
        open_run_folder(tmp_path, DECIDING),
    ):
        pass
    with open_run_folder(tmp_path, DECIDING, fresh=True) as training:
        assert steps_of(training) == []


def test_a_list_names_no_file_outside_the_folder(
    tmp_path: Path, training: RunFolder
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("text")
    entry = {"file": "../../../secret", "sha256": "", "bytes": 4, "step": 3}
    (training.folder / "LATEST.json").write_text(
        json.dumps({"version": 1, "checkpoints": [entry]})
    )

    (found,) = training.checkpoints()

    assert training.path_of(found) == training.folder / "step-3.ckpt"


@pytest.mark.parametrize("name", ["LATEST.json", "training.json"])
def test_a_folder_of_a_later_toygpt_is_left_to_it(tmp_path: Path, name: str) -> None:
    with open_run_folder(tmp_path, DECIDING) as training:
        training.write_description(description())
    values = json.loads((training.folder / name).read_text())
    (training.folder / name).write_text(json.dumps(values | {"version": 2}))

    with pytest.raises(InputError, match="has version 2, this toyGPT reads 1"):
        training.describe()
        training.checkpoints()


@pytest.mark.parametrize("change", [{"started": "soon"}, {"inputs": 5}, {"more": 1}])
def test_a_damaged_description_costs_no_checkpoint(
    training: RunFolder, change: dict[str, Any]
) -> None:
    path = training.folder / "training.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(
        InputError, match=r"training\.json is damaged .* delete this file"
    ):
        training.describe()
    path.unlink()

    assert training.describe() is None


def test_a_description_comes_back_as_it_was(training: RunFolder) -> None:
    assert training.describe() == description()


def test_everything_that_decides_the_weights_is_in_the_fingerprint() -> None:
    """And neither the order in which it is told, nor the machine."""

    def inputs(**changes: Any) -> dict[str, Any]:
        values = {
            "seed": 1,
            "rate": 0.1,
            "layers": 2,
            "vocab": 9,
            "text": "aa",
        } | changes
        params = SimpleNamespace(
            seed=values["seed"],
            chosen_model=SimpleNamespace(
                model_dump=lambda: {"layers": values["layers"]}
            ),
            train=SimpleNamespace(
                model_dump=lambda: {"rate": values["rate"], "precision": "auto"}
            ),
        )
        splits = SimpleNamespace(
            vocab_size=values["vocab"],
            files={"train": SimpleNamespace(sha256=values["text"])},
        )
        return fingerprint_inputs(
            params,  # type: ignore[arg-type]
            splits,  # type: ignore[arg-type]
            precision=changes.get("precision", "32-true"),
            attention=changes.get("attention", "flash"),
        )

    fingerprints = [
        fingerprint_of(inputs(**changes))
        for changes in (
            {},
            {"seed": 2},
            {"rate": 0.2},
            {"layers": 3},
            {"vocab": 10},
            {"text": "bb"},
            {"precision": "bf16-mixed"},
            {"attention": "from_scratch"},
        )
    ]
    assert len(set(fingerprints)) == len(fingerprints)
    assert fingerprints[0] == fingerprint_of(dict(reversed(inputs().items())))


def test_changed_code_makes_another_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in unfinished.CODE:
        assert (PROJECT / "toygpt" / name).is_file()
    empty = SimpleNamespace(
        seed=1,
        chosen_model=SimpleNamespace(model_dump=dict),
        train=SimpleNamespace(model_dump=dict),
        vocab_size=1,
        files={},
    )

    def fingerprint() -> str:
        return fingerprint_of(
            fingerprint_inputs(
                empty,  # type: ignore[arg-type]
                empty,  # type: ignore[arg-type]
                precision="32-true",
                attention="flash",
            )
        )

    before = fingerprint()
    monkeypatch.setattr(unfinished, "sha256_of", lambda path: path.name)

    assert fingerprint() != before


def test_another_training_is_never_found(tmp_path: Path) -> None:
    with open_run_folder(tmp_path, DECIDING) as training:
        save(training, 3)

    with open_run_folder(tmp_path, DECIDING | {"train.lr": 0.25}) as other:
        assert other.best_checkpoint() is None
    with open_run_folder(tmp_path, DECIDING) as same:
        assert steps_of(same) == [3]


def test_a_second_trainer_is_refused_with_the_first_one_s_process_id(
    tmp_path: Path, training: RunFolder
) -> None:
    with (
        pytest.raises(InputError, match=rf"running already: process {os.getpid()} "),
        open_run_folder(tmp_path, DECIDING),
    ):
        pass

    assert training.running_process() == os.getpid()


def test_a_killed_trainer_holds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with (
            pytest.raises(InputError, match=f"process {process.pid} "),
            open_run_folder(tmp_path, {"seed": 1}),
        ):
            pass
        process.kill()
        assert process.wait() == -signal.SIGKILL

    with open_run_folder(tmp_path, {"seed": 1}) as training:
        assert training.running_process() == os.getpid()
    assert training.running_process() is None


def test_whoever_only_asks_turns_no_trainer_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`resume` and `doctor` ask for the lock themselves, for a moment."""
    with open_run_folder(tmp_path, DECIDING) as training:
        pass
    asking = (training.folder / "lock").open()
    fcntl.flock(asking, fcntl.LOCK_SH)
    refused = []
    holder_of = unfinished._holder_of

    def answer(file: Any) -> int | None:
        holder = holder_of(file)
        refused.append(holder)
        asking.close()
        return holder

    monkeypatch.setattr(unfinished, "_holder_of", answer)

    with open_run_folder(tmp_path, DECIDING):
        pass

    assert refused == [None]


def test_a_lock_that_was_removed_with_its_folder_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking it, the process before finishes and removes it."""
    lock = unfinished._lock
    removed: list[bool] = []

    def lock_late(file: Any, kind: int) -> bool:
        if not removed:
            removed.append(True)
            RunFolder(run_folders_root(tmp_path) / FINGERPRINT).remove()
        return lock(file, kind)

    monkeypatch.setattr(unfinished, "_lock", lock_late)

    with open_run_folder(tmp_path, DECIDING) as training:
        assert removed
        assert training.running_process() == os.getpid()


def test_other_processes_of_the_same_training_look_and_hold_nothing(
    tmp_path: Path, training: RunFolder
) -> None:
    save(training, 3)

    with open_run_folder(tmp_path, DECIDING, fresh=True, is_rank_zero=False) as seen:
        assert steps_of(seen) == [3]


def test_a_finished_training_leaves_nothing(
    tmp_path: Path, training: RunFolder
) -> None:
    save(training, 3, 6)

    training.remove()

    assert list(run_folders_root(tmp_path).iterdir()) == []
    assert list_run_folders(tmp_path) == []


def test_starting_over_forgets_everything(tmp_path: Path) -> None:
    with open_run_folder(tmp_path, DECIDING) as training:
        training.write_description(description())
        save(training, 3, 6)

    with open_run_folder(tmp_path, DECIDING, fresh=True) as training:
        assert training.describe() is None
        assert training.best_checkpoint() is None
        assert files_of(training) == ["LATEST.json", "lock"]


def test_starting_over_is_a_way_out_of_any_damage(tmp_path: Path) -> None:
    with open_run_folder(tmp_path, DECIDING) as training:
        save(training, 3, 6)
    for name in ("LATEST.json", "training.json", "step-6.ckpt"):
        (training.folder / name).write_text("{")

    with open_run_folder(tmp_path, DECIDING, fresh=True) as training:
        assert files_of(training) == ["LATEST.json", "lock"]


def test_what_a_killed_process_left_is_swept_when_training_goes_on(
    tmp_path: Path,
) -> None:
    """Its id may be that of a running one, or of this one: ids come round."""
    with open_run_folder(tmp_path, DECIDING) as training:
        save(training, 3, 6)
    for name in (
        f".step-7.ckpt.{os.getpid()}.tmp",
        ".LATEST.json.1.tmp",
        "step-7.ckpt",
    ):
        (training.folder / name).write_text("half")
    half_removed = run_folders_root(tmp_path) / ".0123.1.tmp"
    half_removed.mkdir()
    (half_removed / "step-3.ckpt").write_text("outdated")

    with open_run_folder(tmp_path, DECIDING) as training:
        assert files_of(training) == [
            "LATEST.json",
            "lock",
            "step-3.ckpt",
            "step-6.ckpt",
        ]
    assert [path.name for path in run_folders_root(tmp_path).iterdir()] == [FINGERPRINT]


def test_unfinished_trainings_are_listed_and_nothing_else(tmp_path: Path) -> None:
    assert list_run_folders(tmp_path) == []
    with ExitStack() as stack:
        for inputs in (DECIDING, OTHER_PRECISION):
            stack.enter_context(open_run_folder(tmp_path, inputs))
    (run_folders_root(tmp_path) / ".DS_Store").write_text("")
    (run_folders_root(tmp_path) / "notes.txt").write_text("")
    (run_folders_root(tmp_path) / ".0123.1.tmp").mkdir()

    listed = list_run_folders(tmp_path)

    expected = sorted([FINGERPRINT, fingerprint_of(OTHER_PRECISION)])
    assert [training.fingerprint for training in listed] == expected
    assert all(training.size() > 0 for training in listed)


def test_a_training_goes_on_in_another_precision_if_that_is_asked_for(
    tmp_path: Path,
) -> None:
    with open_run_folder(tmp_path, DECIDING) as training:
        training.write_description(description())
        save(training, 3, 6)

    with open_run_folder(tmp_path, OTHER_PRECISION, expected=FINGERPRINT) as adopted:
        assert steps_of(adopted) == [6, 3]
        assert adopted.running_process() == os.getpid()
    assert [entry.fingerprint for entry in list_run_folders(tmp_path)] == [
        fingerprint_of(OTHER_PRECISION)
    ]


def test_no_other_change_passes_for_the_training_that_was_asked_for(
    tmp_path: Path,
) -> None:
    with open_run_folder(tmp_path, DECIDING) as training:
        training.write_description(description())
        save(training, 3)
    changed = OTHER_PRECISION | {"train.lr": 0.25, "train.bin": "ab" * 32}

    with (
        pytest.raises(
            InputError,
            match=r"not the training that was interrupted \(nano\): "
            r"train\.bin was None and is abababababab…; "
            r"train\.lr was 0\.5 and is 0\.25$",
        ),
        open_run_folder(tmp_path, changed, expected=FINGERPRINT),
    ):
        pass

    assert steps_of(training) == [3]


def test_a_training_that_is_not_there_cannot_be_asked_for(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="there is no unfinished training 0123"),
        open_run_folder(tmp_path, DECIDING, expected="0123"),
    ):
        pass

    assert list_run_folders(tmp_path) == []


def test_a_running_training_is_not_taken_over(
    tmp_path: Path, training: RunFolder
) -> None:
    with (
        pytest.raises(InputError, match=rf"running already: process {os.getpid()} "),
        open_run_folder(tmp_path, OTHER_PRECISION, expected=FINGERPRINT),
    ):
        pass

    assert training.folder.is_dir()


def test_a_training_does_not_take_the_place_of_another(tmp_path: Path) -> None:
    for inputs in (DECIDING, OTHER_PRECISION):
        with open_run_folder(tmp_path, inputs) as training:
            training.write_description(description(inputs=inputs))
            save(training, 3)

    with (
        pytest.raises(InputError, match="with these parameters, too; resume that one"),
        open_run_folder(tmp_path, OTHER_PRECISION, expected=FINGERPRINT),
    ):
        pass

    assert len(list_run_folders(tmp_path)) == 2


def test_the_training_that_was_asked_for_goes_on_as_it_is(tmp_path: Path) -> None:
    with open_run_folder(tmp_path, DECIDING) as training:
        save(training, 3)

    with open_run_folder(tmp_path, DECIDING, expected=FINGERPRINT) as same:
        assert steps_of(same) == [3]

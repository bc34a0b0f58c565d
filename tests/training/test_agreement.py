"""What two ranks check together; each takes itself for a machine of its own."""

import json
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest
import torch

from tests.tiny import runtime_params
from tests.training.ranks import run_ranks
from tests.training.trained import trained
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.stage import errors_in_one_line
from toygpt.resuming.checkpoint_schedule import CheckpointSchedule
from toygpt.resuming.run_folder import RunFolder, open_run_folder, run_folder_of
from toygpt.resuming.signals import Interruption
from toygpt.training.agreement import check_agreement, check_shared, describe_ranks
from toygpt.training.checkpointing import Checkpointing
from toygpt.training.launch import launch
from toygpt.training.ranks import on_all_ranks

INPUTS = {"seed": 1, "train.bin": "a" * 64, "train.learning_rate": 3e-3}


def ending(act: Callable[[], Any]) -> str | None:
    """Return how an action ends this rank: its error, or None."""
    try:
        act()
    except (InputError, OSError, SystemExit) as end:
        return f"{type(end).__name__}: {end}"
    return None


def endings(folder: Path) -> dict[str, str | None]:
    """Return how each check ends this rank."""
    runtime = runtime_params(devices=2)
    fabric = launch(runtime, precision="32-true")
    rank = fabric.global_rank
    own: dict[str, str | None] = {}

    def missing() -> None:
        if rank == 1:
            raise InputError("train.bin is missing")

    def unreadable() -> None:
        if rank == 1:
            raise OSError(5, "Input/output error", "train.bin")

    own["a file is missing"] = ending(lambda: on_all_ranks(fabric, missing))
    own["a disk is broken"] = ending(lambda: on_all_ranks(fabric, unreadable))

    inputs = INPUTS | ({"train.learning_rate": 4e-3} if rank else {})
    code = INPUTS | ({"train.bin": "b" * 64, "stages/train.py": "c"} if rank else {})
    micro = runtime_params(devices=2, micro_batch_size=8 if rank else 64)
    for name, values, settings in (
        ("agreed", INPUTS, runtime),
        ("other rate", inputs, runtime),
        ("other files", code, runtime),
        ("other micro-batches", INPUTS, micro),
    ):
        own[name] = ending(partial(check_agreement, fabric, values, settings))

    # The other machine has mounted the same folder at another place.
    run_folder = run_folder_of(folder / ("mount" if rank else "shared"), INPUTS)
    elsewhere = run_folder_of(folder / f"of-{rank}", INPUTS)
    with open_run_folder(folder / "shared", INPUTS) if rank == 0 else nullcontext():
        own["shared"] = ending(lambda: check_shared(fabric, run_folder))
        with patch("toygpt.training.agreement.holder_of", lambda _: None):
            own["no locks"] = ending(lambda: check_shared(fabric, run_folder))
        own["disk full"] = ending(lambda: save(fabric, run_folder))
        own["resumed"] = str(checkpoints_in(run_folder).load(fabric))
    with open_run_folder(folder / f"of-{rank}", INPUTS):
        own["not shared"] = ending(lambda: check_shared(fabric, elsewhere))

    own["diverged"] = ending(
        lambda: trained(runtime={"devices": 2}, learning_rate=1e30)
    )

    now = time.time() + 100 * rank
    with patch("time.time", lambda: now):
        describe_ranks(fabric)
    return own


def checkpoints_in(run_folder: RunFolder) -> Checkpointing:
    return Checkpointing(run_folder, CheckpointSchedule(1, 1e9), Interruption())


def save(fabric: Any, run_folder: RunFolder) -> None:
    """Save a checkpoint, and another one on a disk that is full."""
    checkpoints = checkpoints_in(run_folder)
    full = OSError(28, "No space left on device")
    for step, fsync in ((1, os.fsync), (2, Mock(side_effect=full))):
        with patch("os.fsync", fsync if fabric.is_global_zero else os.fsync):
            checkpoints.after_step(
                fabric, step, was_validated=False, contents=lambda: {"weight": 0.5}
            )


def disagree(folder: Path) -> None:
    """Write how each check ended this rank; then end by the check of its strategy."""
    rank = os.environ["RANK"]
    runtime = runtime_params(devices=2, strategy="fsdp" if rank == "1" else "auto")
    with patch("socket.gethostname", lambda: f"node{rank}"), errors_in_one_line():
        fabric = launch(runtime, precision="32-true")
        # To make another one, NCCL would wait for the rank that does not.
        assert torch.distributed.get_pg_count() == 1, "more than the group of all ranks"
        own = endings(folder)
        (folder / f"{rank}.json").write_text(json.dumps(own))
        check_agreement(fabric, INPUTS, runtime)


@pytest.mark.slow
def test_ranks_that_do_not_fit_together_end_with_one_line_of_rank_zero(
    tmp_path: Path,
) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "mount").symlink_to(tmp_path / "shared")

    ended = run_ranks(disagree, tmp_path, ranks=2)

    zero, one = (json.loads((tmp_path / f"{n}.json").read_text()) for n in range(2))
    assert str(zero.pop("diverged")).startswith("DivergenceError: training diverged: ")
    assert one.pop("diverged") == "SystemExit: 0"
    assert zero.pop("resumed") == one.pop("resumed") == "{'weight': 0.5}"
    passed = {"agreed", "shared", "no locks"}
    assert {name for name, end in one.items() if end is None} == passed
    assert all(one[name] == "SystemExit: 0" for name in one.keys() - passed)
    refused = "InputError: on node1: rank 1 does not agree with rank 0 on node0: "
    advice = ". All machines need the same parameters, code, data and packages"
    folder = run_folder_of(tmp_path / "of-1", INPUTS).folder
    shared = run_folder_of(tmp_path / "shared", INPUTS)
    assert zero == dict.fromkeys(passed) | {
        "a file is missing": "InputError: on node1: train.bin is missing",
        "a disk is broken": (
            "OSError: [Errno 5] Input/output error: 'train.bin on node1'"
        ),
        "other rate": f"{refused}train.learning_rate is 0.004, not 0.003{advice}",
        "other files": (
            f"{refused}stages/train.py is c, not None; train.bin is bbbbbbbbbbbb…, not "
            f"aaaaaaaaaaaa…{advice}"
        ),
        "other micro-batches": (
            f"{refused}runtime.micro_batch_size is 8, not 64{advice}"
        ),
        "disk full": (
            "OSError: [Errno 28] No space left on device: "
            f"'{shared.folder / 'step-2.ckpt'}'"
        ),
        "not shared": (
            f"InputError: on node1: rank 1 does not see the files of rank 0 in {folder}"
            ": the project has to lie on a file system that all machines share"
        ),
    }
    assert ended.codes[0] == 1
    lines = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert lines == [
        f"{refused.replace('InputError', 'error')}runtime.strategy is fsdp, not auto"
        f"{advice}"
    ]
    best = shared.best_checkpoint()
    assert best is not None and best.step == 1
    unlocked, resumed, clock, described = ended.stdout.splitlines()
    assert unlocked.startswith(f"WARNING: locks in {shared.folder} do not hold")
    assert resumed == "resuming after step 1"
    assert clock.startswith("WARNING: the clock of node1 is 100 seconds ahead of that")
    assert described.startswith("2 ranks on node0, node1; to add up 32 MB over all of")

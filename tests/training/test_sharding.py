"""Weights that are split among ranks: the same bits, in checkpoints too.

All trainings on two ranks are one job, which the tests then look at. The
sizes of the network divide by two ranks and by the width of the processor's vectors:
PyTorch's fused AdamW rounds the last numbers of other tensors differently.
"""

import errno
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import pytest
import torch
from torch._dynamo.utils import counters

from tests.resuming.test_resume_training import StopAt
from tests.tiny import runtime_params, tiny_model
from tests.training.ranks import run_ranks
from tests.training.trained import Trained, trained
from toygpt.pipeline.errors import InputError
from toygpt.resuming.run_folder import list_run_folders
from toygpt.resuming.signals import Stopped
from toygpt.resuming.tensor_folder import TensorFolder
from toygpt.training import owners, sharding
from toygpt.training.launch import launch

NO_CLIPPING = {"gradient_clip_norm": 1e9}
VARIANTS: dict[str, dict[str, Any]] = {
    "muon": {"optimizer": "muon", **NO_CLIPPING},
    "adamw": {"optimizer": "adamw", **NO_CLIPPING, "dropout": 0.1},
    "bf16": {"optimizer": "muon", **NO_CLIPPING, "precision": "bf16-mixed"},
    "fused": {
        "optimizer": "muon",
        **NO_CLIPPING,
        "precision": "bf16-mixed",
        "kernels": "fused",
    },
    "clipped": {"optimizer": "muon", "gradient_clip_norm": 0.5},
}
STOPPED_AT = 5  # just after a validation, when FSDP has gathered all weights


def train_on(
    strategy: str,
    *,
    ranks: int,
    root: Path | None = None,
    stop_at: int = 0,
    is_compiled: bool = False,
    micro_batch_size: int = 4,
    **changes: Any,
) -> Trained:
    """Train ten steps of eight sequences."""
    dropout = changes.get("dropout", 0.0)
    # As in the stage: where weights are split, rank zero alone has them at the start.
    is_empty = strategy == "fsdp" and os.environ.get("RANK", "0") != "0"
    with torch.device("meta") if is_empty else nullcontext():
        model = tiny_model(vocab_size=64, embed_dim=64, dropout=dropout)
    runtime = {
        "devices": ranks,
        "micro_batch_size": micro_batch_size,
        "strategy": strategy,
        "compile": is_compiled,
    }
    logger = StopAt(stop_at, ranks)
    return trained(model, root=root, logger=logger, runtime=runtime, **changes)


def result_of(training: Trained) -> dict[str, Any]:
    """Return the weights, the losses and the first gradient norm."""
    curves = training.curves.state_dict()
    return {
        "weights": [weight.detach() for weight in training.model.parameters()],
        "loss": training.outcome.train_loss,
        "validation_loss": training.outcome.validation_loss,
        "losses": [row["train_loss"] for row in curves["train"]],
        "gradient_norm": curves["train"][0]["gradient_norm"],
    }


def stop(root: Path, *, ranks: int, strategy: str = "fsdp", at: int) -> None:
    """Train until a signal comes, to the last rank alone."""
    with pytest.raises(Stopped):
        train_on(strategy, ranks=ranks, root=root, stop_at=at, **VARIANTS["muon"])


@contextmanager
def no_room() -> Iterator[None]:
    """Make the operating system refuse to write more than a KB into a file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextmanager
def unread() -> Iterator[None]:
    """Fail where the tensors of a checkpoint are read."""
    error = OSError(errno.EIO, os.strerror(errno.EIO), "step-5/__0_0.distcp")
    with patch.object(TensorFolder, "read_into", side_effect=error):
        yield


@contextmanager
def noted_error(folder: Path) -> Iterator[None]:
    """Write the error of each rank beside a folder."""
    try:
        yield
    except (OSError, SystemExit) as error:
        name = f"{folder.name}-{os.environ['RANK']}"
        (folder.parent / name).write_text(f"{error!r}: {error}")
    torch.distributed.barrier()


def train_in_many_ways(place: Path) -> None:
    """Train on two ranks, in many ways; rank zero writes the results."""
    is_rank_zero = os.environ["RANK"] == "0"
    results: dict[str, Any] = {}

    for strategy in ("ddp", "fsdp"):
        for name, changes in VARIANTS.items():
            # The last has two micro-batches; FSDP adds up the gradients after each.
            size = 2 if (strategy, name) == ("fsdp", "clipped") else 4
            training = train_on(strategy, ranks=2, micro_batch_size=size, **changes)
            if is_rank_zero:
                results[f"{strategy} {name}"] = result_of(training)
    with patch.multiple(owners, PAYS_FROM=1, AT_ONCE=1):
        training = train_on("ddp", ranks=2, **VARIANTS["fused"])
    if is_rank_zero:
        results["ddp with owners"] = result_of(training)
    # A backend that traces, and compiles nothing, takes seconds.
    traced = partial(torch.compile, backend="aot_eager")
    counters.clear()
    with patch("torch.compile", traced):
        training = train_on("fsdp", ranks=2, is_compiled=True, **VARIANTS["muon"])
    if is_rank_zero:
        results["compiled"] = result_of(training)
        results["compiled"]["graphs"] = counters["stats"]["unique_graphs"]

    stop(place / "stopped", ranks=2, at=STOPPED_AT)
    torch.distributed.barrier()
    if is_rank_zero:
        for name in ("fsdp", "ddp", "full", "unreadable"):
            shutil.copytree(place / "stopped", place / name)
    torch.distributed.barrier()
    for strategy in ("fsdp", "ddp"):
        training = train_on(
            strategy, ranks=2, root=place / strategy, **VARIANTS["muon"]
        )
        if is_rank_zero:
            results[f"resumed {strategy}"] = result_of(training)

    with noted_error(place / "full"), nullcontext() if is_rank_zero else no_room():
        stop(place / "full", ranks=2, at=STOPPED_AT + 2)
    with noted_error(place / "unreadable"), nullcontext() if is_rank_zero else unread():
        train_on("ddp", ranks=2, root=place / "unreadable", **VARIANTS["muon"])

    stop(place / "file", ranks=2, strategy="ddp", at=STOPPED_AT)
    torch.distributed.barrier()
    if is_rank_zero:
        shutil.copytree(place / "file", place / "same file")
    torch.distributed.barrier()
    for strategy, name in (("fsdp", "file"), ("ddp", "same file")):
        training = train_on(strategy, ranks=2, root=place / name, **VARIANTS["muon"])
        if is_rank_zero:
            results[f"resumed {strategy} from a file"] = result_of(training)
    if is_rank_zero:
        torch.save(results, place / "results.pt")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the job on two ranks has left."""
    folder = tmp_path_factory.mktemp("job")
    ended = run_ranks(train_in_many_ways, folder, ranks=2)
    assert ended.codes == [0, 0], ended.stderr
    # A training that began again would come to the same end.
    assert ended.stdout.count(f"resuming after step {STOPPED_AT}\n") == 6
    return folder


@pytest.fixture(scope="module")
def results(job: Path) -> dict[str, Any]:
    """Return what the trainings of the job have reached."""
    results: dict[str, Any] = torch.load(job / "results.pt")
    return results


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    for weight, same in zip(one["weights"], other["weights"], strict=True):
        assert torch.equal(weight, same)
    assert one["losses"] == other["losses"]


@pytest.mark.slow
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "clipped"])
def test_two_ranks_that_split_the_weights_train_the_model_of_two_that_copy_them(
    results: dict[str, Any], variant: str
) -> None:
    assert_same(results[f"fsdp {variant}"], results[f"ddp {variant}"])


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_copies_of_the_weights_are_those_of_one_process(
    results: dict[str, Any], variant: str
) -> None:
    alone = result_of(train_on("auto", ranks=1, **VARIANTS[variant]))

    copies = results[f"ddp {variant}"]
    assert_same(copies, alone)
    # The ranks share the batches of the validation split, too.
    assert copies["validation_loss"] == pytest.approx(
        alone["validation_loss"], rel=1e-4
    )


@pytest.mark.slow
def test_where_gradients_are_clipped_their_norm_differs_in_the_last_digit(
    results: dict[str, Any],
) -> None:
    """It is a sum of squares, which the ranks add up shard by shard.

    Gradients, too, are added up in another order where there are several micro-batches.
    """
    split, copied = (results[f"{name} clipped"] for name in ("fsdp", "ddp"))

    assert split["loss"] == pytest.approx(copied["loss"], rel=1e-3)
    norm, same = (found["gradient_norm"] for found in (split, copied))
    assert norm == pytest.approx(same, rel=1e-6)
    weights, others = (
        torch.cat([weight.flatten() for weight in found["weights"]])
        for found in (split, copied)
    )
    assert (weights - others).norm() < 0.02 * others.norm()


@pytest.mark.slow
def test_owners_under_ddp_compute_what_each_rank_would(results: dict[str, Any]) -> None:
    assert_same(results["ddp with owners"], results["ddp fused"])


@pytest.mark.slow
def test_split_weights_can_be_compiled_block_by_block(results: dict[str, Any]) -> None:
    """Five pieces between the messages of a block, for training and for validation.

    Those of the first block serve the second.
    """
    assert results["compiled"]["graphs"] == 2 * 5
    assert_same(results["compiled"], results["fsdp muon"])


@pytest.mark.slow
@pytest.mark.parametrize("source", ["", " from a file"])  # as FSDP or DDP left it
@pytest.mark.parametrize("strategy", ["fsdp", "ddp"])
def test_a_stopped_training_resumes_with_the_same_bits_split_or_not(
    results: dict[str, Any], strategy: str, source: str
) -> None:
    assert_same(results[f"resumed {strategy}{source}"], results["fsdp muon"])


@pytest.mark.slow
def test_one_process_resumes_what_two_ranks_have_split(
    job: Path, results: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(job / "stopped", tmp_path / "stopped")

    alone = train_on("auto", ranks=1, root=tmp_path / "stopped", **VARIANTS["muon"])

    assert_same(result_of(alone), results["fsdp muon"])


@pytest.mark.slow
def test_a_disk_that_is_full_on_one_rank_ends_all_and_leaves_the_last_checkpoint(
    job: Path,
) -> None:
    error, other = ((job / f"full-{rank}").read_text() for rank in (0, 1))
    (folder,) = list_run_folders(job / "full")

    assert str(errno.EFBIG) in error
    assert "step-7" in error
    assert ".tmp" not in error
    assert other.startswith("SystemExit(0)")
    (kept,) = folder.checkpoints()
    assert kept.step == STOPPED_AT
    assert folder.damage_of(kept) is None
    names = {path.name for path in folder.folder.iterdir()}
    assert names == {"LATEST.json", "lock", "step-5"}


@pytest.mark.slow
def test_an_error_of_any_rank_that_reads_a_checkpoint_is_reported_by_rank_zero(
    job: Path,
) -> None:
    error, other = ((job / f"unreadable-{rank}").read_text() for rank in (0, 1))

    assert f"[Errno {errno.EIO}]" in error
    assert "step-5/__0_0.distcp" in error
    assert other.startswith("SystemExit(0)")


def test_a_host_with_too_little_memory_is_refused_before_the_weights_are_gathered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = psutil.virtual_memory()._replace(available=2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)

    sharding._check_host_memory(2**30)
    with pytest.raises(InputError, match=r"needs 1\.5 GiB .* 1\.0 GiB are free"):
        sharding._check_host_memory(3 * 2**29)


def test_one_device_has_nothing_to_split() -> None:
    fabric = launch(runtime_params(strategy="fsdp"), precision="32-true")

    assert not sharding.is_sharded(fabric)

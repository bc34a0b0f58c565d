"""The cluster that these tests run on, and what one machine makes of the same text."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.slurm import Slurm, missing, running_slurm
from tests.faults.small import small_project
from tests.project import Workspace

# Long enough that a job may be preempted in the middle.
TRAINING: dict[str, Any] = {
    "train.batch_size": 4,
    # Split among two ranks, each weight still fills a processor's vectors, and no norm
    # has to be added up in another order: so FSDP has the bits of one process, too.
    "tokenize.vocab_size": 288,
    "models.nano.embed_dim": 64,
    "train.gradient_clip_norm": 1e9,
    "train.max_tokens": 16 * 1200,
    "train.validate_every_tokens": 16 * 300,
    "runtime.checkpoint_every_steps": 100,
    # A machine alone sums up what the two of a cluster do.
    "runtime.micro_batch_size": 2,
}
TWO_NODES: dict[str, Any] = {
    "runtime.launcher": "srun",
    "runtime.num_nodes": 2,
    "runtime.devices": 1,
}


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """Return a Slurm of two nodes."""
    if reason := missing():
        pytest.fail(reason)  # who names this marker wants to know that all of it works
    with running_slurm() as cluster:
        yield cluster


def new_project(root: Path, changes: dict[str, Any]) -> Workspace:
    """Return a small project in which nothing has run."""
    workspace = small_project(root, TRAINING | changes)
    workspace.commit("small")
    return workspace


@pytest.fixture(scope="session")
def split(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a project that is ready to be trained; to read, not to change."""
    workspace = new_project(tmp_path_factory.mktemp("split") / "project", {})
    workspace.dvc("repro", "split")
    return workspace


@pytest.fixture(scope="session")
def alone(split: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a project whose whole pipeline one process has run; to read."""
    workspace = split.copy_to(tmp_path_factory.mktemp("alone") / "project")
    workspace.dvc("repro")
    return workspace


@pytest.fixture
def on_two_nodes(split: Workspace, slurm: Slurm, tmp_path: Path) -> Workspace:
    """Return a project that will be trained on two nodes."""
    workspace = split.copy_to(tmp_path / "project")
    workspace.set_params(TWO_NODES)
    workspace.environment |= slurm.environment
    return workspace

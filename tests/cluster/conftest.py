"""The cluster that these tests run on, and what one machine makes of the same text."""

from collections.abc import Iterator

import pytest

from tests.cluster.slurm import Slurm, missing, running_slurm


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """Return a Slurm of two nodes."""
    if reason := missing():
        pytest.skip(reason)
    with running_slurm() as cluster:
        yield cluster

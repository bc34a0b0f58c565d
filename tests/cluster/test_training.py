"""The pipeline on two nodes of a Slurm ends with the bytes of one machine.

Also if its job is preempted, or a rank or the daemon of a node is killed.
"""

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.cluster.conftest import TWO_NODES, new_project
from tests.cluster.slurm import Slurm
from tests.faults.kills import newest_step, stage_processes, wait_until
from tests.project import Workspace
from toygpt.pipeline.files import sha256_of
from toygpt.tracking.run_info import all_infos

pytestmark = pytest.mark.cluster


def results_of(root: Path) -> dict[str, str]:
    """Return the digests of what the pipeline makes of the text.

    The validation loss is none of it: its sum depends on the number of ranks, in the
    last digits.
    """
    files = [path for path in (root / "data").rglob("*") if path.is_file()]
    files += [root / "models/toygpt/model.safetensors", root / "reports/train/train.csv"]
    files += [root / "metrics/evaluate.json", *(root / "reports/samples").iterdir()]
    return {path.relative_to(root).as_posix(): sha256_of(path) for path in files}


def weights_of(workspace: Workspace) -> str:
    return sha256_of(workspace.root / "models/toygpt/model.safetensors")

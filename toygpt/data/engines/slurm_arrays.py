"""The array jobs of a stage: noted on disk, so that the next attempt cancels them.

Their jobs outlive a stage that is killed, and submitit need not be installed any more.
"""

import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

ARRAYS = "slurm-arrays"  # the file with the ids of those that were submitted


def note_arrays(stage_folder: Path, arrays: Iterable[str]) -> None:
    """Write down the ids of arrays."""
    (stage_folder / ARRAYS).write_text("\n".join(sorted(arrays)), encoding="utf-8")


def cancel_arrays(stage_folder: Path) -> None:
    """Cancel the arrays that are noted; it makes no difference if they have ended."""
    path = stage_folder / ARRAYS
    if not path.exists():
        return
    with suppress(OSError):  # as where there is no Slurm
        subprocess.run(
            ["scancel", "--quiet", *path.read_text(encoding="utf-8").split()],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    path.unlink()

"""Memory that was freed stays with the process, in large pages."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource
import sys
from toygpt.pipeline.process import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
import torch

def use_and_free() -> None:
    tensors = [torch.zeros(2_000_000) for _ in range(10)]

use_and_free()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    use_and_free()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what others do is their affair")
def test_memory_is_asked_for_once() -> None:
    """Each page that Linux hands out is a fault, whether it was ours before or not."""
    faults = {
        choice: int(
            subprocess.run(
                [sys.executable, "-c", PROGRAM, choice],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for choice in ("keep", "give back")
    }

    assert faults["give back"] > 10_000  # or there would be nothing to gain
    assert faults["keep"] < faults["give back"] / 10

"""Keep memory that was freed: the next step will want it again."""

import ctypes
import os
import sys

# Numbers of <malloc.h>.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGEST_MMAP_THRESHOLD = 32 * 2**20
LARGEST_INT = 2**31 - 1

# Transparent huge pages. PyTorch looks for this when it is imported.
ENVIRONMENT = {"THP_MEM_ALLOC_ENABLE": "1"}


def keep_freed_memory() -> None:
    """Have this process ask Linux for memory once, and in large pages.

    A step of training takes a hundred megabytes and frees them again. By default they
    go back to Linux, which clears every page of 4 kB anew before the next step. Kept,
    and taken in pages of 2 MB, they save about a sixth of a step on a processor
    (docs/performance.md). Call this before torch is imported. Elsewhere than on Linux
    with the GNU C library, nothing happens.
    """
    os.environ.update(ENVIRONMENT)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        libc.mallopt(M_TRIM_THRESHOLD, LARGEST_INT)

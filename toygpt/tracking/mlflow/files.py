"""Copy a folder's files to MLflow: a server may take seconds for each."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

# Requests at the same time, and the files of which a server gets several then.
MAX_REQUESTS = 16
MAX_SMALL_BYTES = 2**20


def copy_files(
    directory: Path, copy: Callable[[str, str | None], object], *, folder: str = ""
) -> None:
    """Copy all files of a directory, and of those in it, over what is there.

    Args:
        directory: What is copied. DVC may have made its files read-only, and so are
            their copies on a disk: MLflow replaces a file by another one.
        copy: Copies the file of a path into a folder at MLflow, or into none.
        folder: Into which all files are copied, there.
    """

    def copy_file(path: Path) -> None:
        there = PurePosixPath(folder, path.relative_to(directory).parent)
        copy(str(path), str(there) if there.parts else None)

    paths = [path for path in directory.rglob("*") if path.is_file()]
    if paths:  # MLflow asks the server for the place with the first file, and keeps it
        copy_file(paths.pop())
    small = [path for path in paths if path.stat().st_size < MAX_SMALL_BYTES]
    with ThreadPoolExecutor(MAX_REQUESTS) as pool:
        list(pool.map(copy_file, small))
    for path in set(paths) - set(small):  # Ctrl-C ends this, and no thread
        copy_file(path)

"""Folders of text files."""

from collections.abc import Mapping
from pathlib import Path

from toygpt.pipeline.files import sha256_of


def write_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Write files below a folder."""
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def files_in(folder: Path) -> dict[str, str]:
    """Return the texts of all files below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file()
    }


def digests_in(folder: Path) -> dict[str, str]:
    """Return the digests of all files below a folder."""
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in folder.rglob("*")
        if path.is_file()
    }

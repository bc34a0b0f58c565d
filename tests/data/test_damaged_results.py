"""Damaged token files stop the stage that reads them, and nothing else changes."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from stages import evaluate, split
from tests.project import Workspace
from toygpt.data.tokenizer import train_tokenizer
from toygpt.pipeline.files import sha256_of
from toygpt.pipeline.stage import run


@pytest.fixture
def results(project: Workspace, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory: a project whose stages have run."""
    project.run("chmod", "--recursive", "u+w", "data", "models")
    monkeypatch.chdir(project.root)
    return project.root


def message_of(stage: ModuleType) -> str:
    """Return the message that ends a stage."""
    with pytest.raises(SystemExit) as ended:
        run(stage.main)
    message = ended.value.code
    assert isinstance(message, str)
    assert message.startswith("error: ")
    assert len(message.splitlines()) == 1
    return message.removeprefix("error: ")


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of every result, hidden files included."""
    return {
        str(path.relative_to(folder)): sha256_of(path)
        for name in ("data", "models", "metrics", "reports")
        for path in sorted((folder / name).rglob("*"))
        if path.is_file()
    }


def flip_one_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0b1000
    file.write_bytes(content)


def swap(file: Path) -> None:
    """Give it the contents of another token file, and that one its own."""
    other = next(path for path in sorted(file.parent.glob("*.bin")) if path != file)
    aside = file.rename(file.with_suffix(".aside"))
    other.rename(file)
    aside.rename(other)


@pytest.mark.parametrize(
    ("file", "maker", "stage"),
    [
        ("data/tokens/tokens.bin", "tokenize", split),
        ("data/splits/validation.bin", "split", evaluate),
    ],
)
@pytest.mark.parametrize("damage", [flip_one_bit, swap])
def test_a_damaged_token_file_is_named_and_nothing_else_changes(
    results: Path,
    damage: Callable[[Path], None],
    file: str,
    maker: str,
    stage: ModuleType,
) -> None:
    damage(Path(file))
    before = digests(results)

    message = message_of(stage)

    assert message.startswith(str(Path(file).parent))
    assert Path(file).name in message or damage is swap
    assert message.endswith(f"run `dvc repro --force --single-item {maker}`")
    assert digests(results) == before


def test_another_tokenizer_beside_the_token_ids_is_refused(results: Path) -> None:
    """Its tokens have other lengths: the bytes of each split would be wrong."""
    path = Path("data/tokens/tokenizer/tokenizer.json")
    train_tokenizer([["something else " * 5]], vocab_size=260).save(str(path))

    message = message_of(split)

    assert message.startswith("the tokenizer in data/tokens/tokenizer is not the one")
    assert message.endswith("run `dvc repro`")

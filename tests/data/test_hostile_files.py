"""What stages do about damaged results, files that are not text, and gigantic text."""

import time
from pathlib import Path
from types import ModuleType

import pytest
from tokenizers import pre_tokenizers

from stages import download, evaluate, split
from tests.data.test_local_files import write
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


@pytest.mark.parametrize(
    ("file", "maker", "stage"),
    [
        ("data/tokens/tokens.bin", "tokenize", split),
        ("data/tokens/ends.bin", "tokenize", split),
        ("data/splits/validation.bin", "split", evaluate),
    ],
)
def test_a_damaged_token_file_is_named_and_nothing_else_changes(
    results: Path, file: str, maker: str, stage: ModuleType
) -> None:
    flip_one_bit(Path(file))
    before = digests(results)

    message = message_of(stage)

    assert message.startswith(str(Path(file).parent))
    assert Path(file).name in message
    assert message.endswith(f"run `dvc repro --force --single-item {maker}`")
    assert digests(results) == before


def test_another_tokenizer_beside_the_token_ids_is_refused(results: Path) -> None:
    """Its tokens have other lengths: the bytes of each split would be wrong."""
    path = Path("data/tokens/tokenizer/tokenizer.json")
    train_tokenizer([["something else " * 5]], vocab_size=260).save(str(path))

    message = message_of(split)

    assert message.startswith("the tokenizer in data/tokens/tokenizer is not the one")
    assert message.endswith("run `dvc repro`")


def test_a_corpus_of_binary_files_alone_leaves_the_old_documents(
    project: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.set_params({"corpus": "files"})
    monkeypatch.chdir(project.root)
    for path in Path("texts").iterdir():
        path.unlink()
    write(Path("texts"), {f"{n}/a.txt": b"\x89PNG\r\n" + bytes(99) for n in range(12)})
    before = digests(project.root)

    with pytest.raises(SystemExit) as ended:
        run(download.main)

    first, second = str(ended.value.code).splitlines()
    assert first.startswith(
        "error: the corpus 'files' holds no text (see corpora.files and `download` in "
        "params.yaml); left out: "
    )
    assert first.endswith("12 binary")
    assert second.startswith("  binary: 0/a.txt, 1/a.txt, 10/a.txt, …; if it is text")
    assert digests(project.root) == before


@pytest.mark.parametrize("char", ["a", "\0", " ", "字"])
def test_a_gigantic_word_does_not_take_days_to_learn_from(char: str) -> None:
    """Unless it is cut up, the time grows with the square of its length."""
    began = time.process_time()

    tokenizer = train_tokenizer([[char * 1_000_000, "def f():" * 9]], vocab_size=270)

    assert time.process_time() - began < 10
    assert tokenizer.decode(tokenizer.encode(char * 2_500).ids) == char * 2_500
    # Only the learning cuts words up, not the tokenizer.
    assert isinstance(tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel)

"""Files that are not text, and gigantic text: left out or named, and no stage hangs."""

import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import pre_tokenizers

from stages import download, tokenize
from tests.data.test_damaged_results import digests, message_of
from tests.data.test_local_files import not_utf8
from tests.project import Workspace
from toygpt.data.corpus import read_groups, read_texts
from toygpt.data.tokenizer import load_tokenizer, train_tokenizer
from toygpt.pipeline import paths
from toygpt.pipeline.stage import run


@pytest.fixture
def texts(project: Workspace, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the user's own files, which are the corpus."""
    limits = {"download.max_documents": None, "tokenize.vocab_size": 260}
    project.set_params({"corpus": "files"} | limits)
    monkeypatch.chdir(project.root)
    for path in Path("texts").iterdir():
        path.unlink()
    return Path("texts")


def test_rows_that_are_not_text_are_left_out_counted_and_stop_no_stage(
    texts: Path,
) -> None:
    (texts / "nul.txt").write_bytes(b"one\0two" + bytes(1000))
    (texts / "rows.jsonl").write_text(
        '{"text": "\\ud800"}\n{"text": "row\\u0000", "group": "\\udfff"}\n'
    )
    columns = {
        "text": not_utf8(b"\xed\xa0\x80", b"a", b"b"),
        "group": not_utf8(b"x", b"\xed\xa0\x80", b"\xff\0"),
    }
    pq.write_table(pa.table(columns), texts / "table.parquet")

    run(download.main)
    run(tokenize.main)

    found = [text for batch in read_texts(paths.DOCUMENTS) for text in batch]
    assert found == ["row\0", "a", "b"]
    groups = list(read_groups(paths.DOCUMENTS))
    assert groups == ["\\udfff", "\\xed\\xa0\\x80", "\\xff\0"]
    metrics = json.loads(Path("metrics/download.json").read_text(encoding="utf-8"))
    assert {key: number for key, number in metrics.items() if number} == {
        "corpus_documents": 3,
        "corpus_bytes": 6,
        "left_out_binary": 1,
        "left_out_not_utf8": 2,
    }
    ids = np.fromfile(paths.TOKENS / "tokens.bin", dtype="<u2").tolist()
    assert load_tokenizer(paths.TOKENIZER).decode(ids) == "".join(found)


def test_a_corpus_of_binary_files_alone_leaves_the_old_documents(
    project: Workspace, texts: Path
) -> None:
    for number in range(12):
        (texts / str(number)).mkdir()
        (texts / str(number) / "a.txt").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
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


@pytest.mark.parametrize(
    "table",
    [
        None,
        pa.table({"text": not_utf8(b"\xed\xa0\x80").dictionary_encode()}),
        pa.table({"text": ["a"], "group": pa.array([2**62], pa.timestamp("us"))}),
        pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"]),
    ],
    ids=["gigantic line", "half a character", "a date too late", "two columns `text`"],
)
def test_a_table_that_cannot_be_read_is_named(
    project: Workspace, texts: Path, table: pa.Table | None
) -> None:
    path = texts / ("a.parquet" if table else "a.jsonl")
    if table:
        pq.write_table(table, path)
    else:
        path.write_bytes(b"x" * 20_000_000)
    before = digests(project.root)

    message = message_of(download)

    assert str(path) in message
    assert len(message) < 300
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

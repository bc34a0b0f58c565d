"""The work of `tokenize` on shards: their tokens and their sample are the corpus's."""

from collections.abc import Iterator, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.written import document, write_documents
from tests.tiny import runtime_params
from toygpt.data import documents as documents_module
from toygpt.data import file_records, tokenizing
from toygpt.data import tokenizer as tokenizer_module
from toygpt.data.documents import DocumentsShard, open_documents
from toygpt.data.engines.engine import Engine, Work
from toygpt.data.engines.tasks import Advance
from toygpt.data.tokenizer import spread_sample, train_tokenizer
from toygpt.data.tokenizing import encode_shard, sample_texts
from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError

TEXTS = [f"{number:04} é{'.' * (number % 7)}\n" for number in range(1_000)]
NUM_BYTES = sum(len(text.encode()) for text in TEXTS)
TOKENIZER = train_tokenizer([TEXTS], vocab_size=300)


@pytest.fixture(autouse=True)
def _own_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, with a row group for each 500 bytes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(documents_module, "BYTES_PER_ROW_GROUP", 500)


def shards_of(
    texts: Sequence[str] = TEXTS, *, shard_bytes: int
) -> list[DocumentsShard]:
    """Write texts as documents; return the shards."""
    paths.DOCUMENTS.mkdir(parents=True)
    documents = (document(str(n), "group", text) for n, text in enumerate(texts))
    write_documents(documents, paths.DOCUMENTS, shard_bytes=shard_bytes)
    return open_documents(paths.DOCUMENTS)


def sampled(shards: Sequence[DocumentsShard]) -> list[str]:
    return [text for texts in sample_texts(shards) for text in texts]


def read_for_sample(
    shards: Sequence[DocumentsShard], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[str], int]:
    """Return the sample of some shards, and how many bytes were read for it."""
    read: list[int] = []
    original = tokenizing.with_progress

    def watched(texts: Iterator[list[str]], advance: Advance) -> Iterator[list[str]]:
        return original(texts, read.append)

    monkeypatch.setattr(tokenizing, "with_progress", watched)
    return sampled(shards), sum(read)


@pytest.mark.parametrize("shard_bytes", [10**9, 3_000])
def test_of_little_text_all_is_learned_from(shard_bytes: int) -> None:
    shards = shards_of(shard_bytes=shard_bytes)

    assert sum(shard.num_bytes for shard in shards) == NUM_BYTES
    assert sampled(shards) == TEXTS


def test_of_a_single_shard_all_is_read_and_an_evenly_spread_part_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokenizing, "LEARN_FROM", NUM_BYTES // 9)

    sample, num_bytes = read_for_sample(shards_of(shard_bytes=10**9), monkeypatch)

    assert num_bytes == NUM_BYTES
    of_whole = spread_sample([TEXTS], num_bytes=NUM_BYTES, take=NUM_BYTES // 9)
    assert [sample] == list(of_whole)
    assert sum(len(text.encode()) for text in sample) == pytest.approx(
        NUM_BYTES // 9, abs=20
    )
    numbers = [int(text[:4]) for text in sample]
    assert max(np.diff([0, *numbers, len(TEXTS)])) < 2 * len(TEXTS) / len(numbers)


def test_of_many_shards_each_gives_its_part_and_little_more_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shards = shards_of(shard_bytes=3_000)
    monkeypatch.setattr(tokenizing, "LEARN_FROM", NUM_BYTES // 40)

    sample, num_bytes = read_for_sample(shards, monkeypatch)

    assert num_bytes < NUM_BYTES / 2
    assert sum(len(text.encode()) for text in sample) == pytest.approx(
        NUM_BYTES // 40, rel=0.5
    )
    firsts = [0, *np.cumsum([shard.num_bytes for shard in shards]) // 10]
    of_shard = np.searchsorted(firsts, [int(text[:4]) for text in sample], "right")
    assert set(of_shard) >= set(range(1, len(shards)))


def test_of_long_documents_in_many_shards_no_more_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else each shard would give its first piece, however little is wanted of it."""
    monkeypatch.setattr(tokenizer_module, "LONGEST_PIECE", 20)
    monkeypatch.setattr(tokenizing, "LEARN_FROM", 2_000)
    texts = [f"{number:03} words of it" * 100 for number in range(100)]
    shards = shards_of(texts, shard_bytes=1_000)
    assert len(shards) == len(texts)

    sample, num_bytes = read_for_sample(shards, monkeypatch)

    assert 1_600 < sum(len(text.encode()) for text in sample) < 2_400
    assert num_bytes < 12 * 2_000


def encoded(
    shards: Sequence[DocumentsShard],
    directory: Path,
    *,
    workers: int = 1,
    vocab_size: int = 300,
) -> list[dict[str, Any]]:
    """Encode all shards into a new folder; return what each one's worker returned."""
    directory.mkdir()
    encode = partial(
        encode_shard,
        tokenizer=TOKENIZER.to_str(),
        end_of_text_id=0,
        token_type="uint16",
        vocab_size=vocab_size,
    )
    work = [Work(each.file_name, each, each.num_bytes) for each in shards]
    runtime = runtime_params(data_workers=workers)
    with Engine("tokenize", runtime) as engine:
        return list(engine.map(encode, work, directory, description="encode"))


@pytest.mark.slow
def test_the_tokens_of_all_shards_are_those_of_the_whole_for_any_number_of_workers(
    tmp_path: Path,
) -> None:
    (whole,) = encoded(shards_of(shard_bytes=10**9), tmp_path / "whole")
    paths.DOCUMENTS.rename("data/whole")
    shards = shards_of(shard_bytes=4_000)

    values = encoded(shards, tmp_path / "here")
    assert encoded(shards, tmp_path / "there", workers=2) == values

    assert len(values) == len(shards) > 2
    for key in ("tokens", "documents"):
        assert sum(value[key] for value in values) == whole[key]
    here, there = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("here", "there")
    )
    assert here == there
    digests = {
        name: record["sha256"]
        for value in values
        for name, record in value["files"].items()
    }
    assert digests == {name: sha256(data).hexdigest() for name, data in here.items()}
    joined = [here[name] for name in sorted(here) if name.startswith("tokens-")]
    assert b"".join(joined) == (tmp_path / "whole/tokens.bin").read_bytes()


def test_a_shard_that_was_exchanged_is_not_encoded(tmp_path: Path) -> None:
    first, *others = shards_of(shard_bytes=4_000)
    path = paths.DOCUMENTS / first.file_name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    with pytest.raises(InputError, match=f"^{path} is damaged: its contents are not"):
        encoded([first, *others], tmp_path / "tokens")


def test_a_shard_that_is_missing_in_a_worker_names_its_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_records, "SECONDS_UNTIL_SHOWN", 0)
    shards = shards_of(shard_bytes=4_000)
    path = paths.DOCUMENTS / shards[1].file_name
    path.unlink()

    with pytest.raises(InputError, match=f"^{path} is missing: .* download`$"):
        encoded(shards, tmp_path / "tokens")


def test_an_id_that_the_vocabulary_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^tokens\.bin would hold the token id 2\d\d"):
        encoded(shards_of(shard_bytes=10**9), tmp_path / "tokens", vocab_size=200)

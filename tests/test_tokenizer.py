"""Text to token ids and back, here and in the Hugging Face libraries."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, GPT2Tokenizer

from toygpt.data.token_files import tokenizer_digest
from toygpt.data.tokenizer import (
    END_OF_TEXT,
    bytes_of_tokens,
    encode_documents,
    end_of_text_id,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)
from toygpt.errors import InputError

TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
)

VOCAB_SIZE = 500
LIBRARY = Path(__file__).resolve().parents[1] / "toygpt"

property_test = settings(deadline=None, max_examples=100)
# Any text at all, and now and then what must not be taken for the end of a document.
any_text = st.lists(
    st.text() | st.sampled_from([END_OF_TEXT, "<|", "endoftext", "|>", "  ", "\r\n"])
).map("".join)
ordinary_text = any_text.filter(lambda text: END_OF_TEXT not in text)


def texts() -> list[str]:
    """Return some real text: our own source code."""
    return [path.read_text(encoding="utf-8") for path in sorted(LIBRARY.rglob("*.py"))]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where a tokenizer has been saved."""
    folder = tmp_path_factory.mktemp("tokens") / "tokenizer"
    save_tokenizer(train_tokenizer([texts()], vocab_size=VOCAB_SIZE), folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> Tokenizer:
    return load_tokenizer(directory)


@pytest.fixture(scope="module", params=[GPT2Tokenizer, AutoTokenizer])
def of_transformers(request: pytest.FixtureRequest, directory: Path) -> Any:
    """Return the tokenizer as users of transformers load it."""
    return request.param.from_pretrained(directory)


@property_test
@given(text=any_text)
def test_any_text_comes_back_as_it_was(tokenizer: Tokenizer, text: str) -> None:
    token_ids = tokenizer.encode(text).ids

    assert tokenizer.decode(token_ids) == text


@property_test
@given(before=st.text(), after=st.text())
def test_nobody_ends_a_document_by_writing_so(
    tokenizer: Tokenizer, before: str, after: str
) -> None:
    """Else a text could smuggle in what the model takes for a new document."""
    text = f"{before}{END_OF_TEXT}{after}"

    token_ids = tokenizer.encode(text).ids

    assert end_of_text_id(tokenizer) not in token_ids
    assert tokenizer.decode(token_ids) == text


@property_test
@given(text=any_text)
def test_the_bytes_of_the_tokens_are_the_text(tokenizer: Tokenizer, text: str) -> None:
    pieces = bytes_of_tokens(tokenizer)

    joined = b"".join(pieces[token_id] for token_id in tokenizer.encode(text).ids)

    assert joined == text.encode()


def test_each_byte_is_a_token_and_the_end_of_text_has_none(
    tokenizer: Tokenizer,
) -> None:
    pieces = bytes_of_tokens(tokenizer)

    assert {bytes([byte]) for byte in range(256)} <= set(pieces)
    assert [place for place, piece in enumerate(pieces) if not piece] == [
        end_of_text_id(tokenizer)
    ]


def test_frequent_strings_become_one_token(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode(" tokenizer").ids) < len(" tokenizer") / 2
    assert b"def" in bytes_of_tokens(tokenizer)


def test_the_vocabulary_is_as_large_as_asked(tokenizer: Tokenizer) -> None:
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    assert sorted(tokenizer.get_vocab().values()) == list(range(VOCAB_SIZE))


def test_the_smallest_vocabulary_still_writes_everything() -> None:
    """The 256 bytes and the end of text: what params.yaml allows at least."""
    tokenizer = train_tokenizer([texts()], vocab_size=257)

    token_ids = tokenizer.encode("é λ").ids

    assert tokenizer.get_vocab_size() == 257
    assert len(token_ids) == len("é λ".encode())
    assert tokenizer.decode(token_ids) == "é λ"


def test_a_text_too_short_for_the_vocabulary_gives_a_smaller_one() -> None:
    tokenizer = train_tokenizer([["ab ab"]], vocab_size=VOCAB_SIZE)

    assert 257 < tokenizer.get_vocab_size() < 262


def test_the_order_of_the_documents_does_not_matter() -> None:
    forwards = train_tokenizer([texts()], vocab_size=VOCAB_SIZE)

    backwards = train_tokenizer(
        ([text] for text in reversed(texts())), vocab_size=VOCAB_SIZE
    )

    assert backwards.to_str() == forwards.to_str()


def test_the_number_of_threads_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    many = train_tokenizer([texts()], vocab_size=VOCAB_SIZE)

    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    one = train_tokenizer([texts()], vocab_size=VOCAB_SIZE)

    assert one.to_str() == many.to_str()


def test_what_is_saved_is_what_was_learned(tmp_path: Path) -> None:
    learned = train_tokenizer([texts()], vocab_size=VOCAB_SIZE)

    save_tokenizer(learned, tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path / "tokenizer")

    for text in texts():
        assert loaded.encode(text).ids == learned.encode(text).ids


def test_saving_writes_the_four_files_and_no_other(directory: Path) -> None:
    written = sorted(path.name for path in directory.iterdir())

    assert written == sorted(TOKENIZER_FILES)
    assert written == [
        "merges.txt",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
    ]


def test_the_older_files_tell_the_same_as_the_newer(
    directory: Path, tokenizer: Tokenizer
) -> None:
    """vocab.json and merges.txt are what GPT-2's own code reads."""
    older = Tokenizer(
        models.BPE.from_file(
            str(directory / "vocab.json"), str(directory / "merges.txt")
        )
    )
    older.pre_tokenizer = tokenizer.pre_tokenizer

    for text in texts():
        assert older.encode(text).ids == tokenizer.encode(text).ids


def test_the_same_text_makes_the_same_files(tmp_path: Path) -> None:
    """Else nothing that is made with the tokenizer could be reused."""
    for name in ("first", "second"):
        learned = train_tokenizer([texts()], vocab_size=VOCAB_SIZE)
        save_tokenizer(learned, tmp_path / name)

    for file in TOKENIZER_FILES:
        first, second = tmp_path / "first" / file, tmp_path / "second" / file
        assert first.read_bytes() == second.read_bytes()


def test_transformers_sets_no_limit_to_a_document(of_transformers: Any) -> None:
    """It would complain of every long one; cutting into blocks comes later."""
    assert of_transformers.model_max_length > 10**12


@property_test
@given(text=ordinary_text)
def test_transformers_gives_the_same_ids(
    tokenizer: Tokenizer, of_transformers: Any, text: str
) -> None:
    theirs = of_transformers(text)["input_ids"]

    assert theirs == tokenizer.encode(text).ids
    assert of_transformers.decode(theirs) == text


def test_transformers_knows_how_a_document_ends(
    tokenizer: Tokenizer, of_transformers: Any
) -> None:
    assert isinstance(of_transformers, GPT2Tokenizer)
    assert of_transformers.eos_token == END_OF_TEXT
    assert of_transformers.eos_token_id == end_of_text_id(tokenizer)
    assert len(of_transformers) == tokenizer.get_vocab_size()


def test_each_document_ends_with_the_end_of_text() -> None:
    tokenizer = train_tokenizer([texts()], vocab_size=VOCAB_SIZE)
    documents = ["first", f"has {END_OF_TEXT} inside", "", "last"]

    encoded = list(encode_documents(tokenizer, [documents[:2], [], documents[2:]]))

    end = end_of_text_id(tokenizer)
    assert [ids.tolist().index(end) for ids in encoded] == [
        len(ids) - 1 for ids in encoded
    ]
    assert [tokenizer.decode(ids[:-1].tolist()) for ids in encoded] == documents
    assert all(ids.dtype == np.uint32 for ids in encoded)


def test_the_end_of_text_is_the_first_token_of_what_we_train(
    tokenizer: Tokenizer,
) -> None:
    assert end_of_text_id(tokenizer) == 0


def test_a_tokenizer_without_an_end_of_text_is_refused() -> None:
    with pytest.raises(InputError, match=r"no token <\|endoftext\|>"):
        end_of_text_id(Tokenizer(models.BPE()))


def test_the_digest_tells_tokenizers_apart(tmp_path: Path, directory: Path) -> None:
    smaller = train_tokenizer([texts()], vocab_size=VOCAB_SIZE - 1)
    save_tokenizer(smaller, tmp_path / "smaller")
    save_tokenizer(load_tokenizer(directory), tmp_path / "same")

    assert tokenizer_digest(tmp_path / "same") == tokenizer_digest(directory)
    assert tokenizer_digest(tmp_path / "smaller") != tokenizer_digest(directory)


def test_a_missing_tokenizer_names_the_stage_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_tokenizer(tmp_path)

    assert str(caught.value) == (
        f"{tmp_path / 'tokenizer.json'} is missing: run `dvc repro tokenize`"
    )


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_truncated_tokenizer_is_named(
    tmp_path: Path, directory: Path, share: float
) -> None:
    whole = (directory / "tokenizer.json").read_bytes()
    path = tmp_path / "tokenizer.json"
    path.write_bytes(whole[: int(share * len(whole))])

    with pytest.raises(InputError) as caught:
        load_tokenizer(tmp_path)

    assert str(caught.value).startswith(f"{path} is damaged: ")


@pytest.mark.parametrize("content", [b"null", b"[]", b"{}", b"plain", b"\xff\xfe\x00"])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)

    with pytest.raises(InputError) as caught:
        load_tokenizer(tmp_path)

    assert str(caught.value).startswith(f"{path} is damaged: ")


def test_a_tokenizer_whose_merges_lack_a_token_is_named(
    tmp_path: Path, directory: Path
) -> None:
    path = tmp_path / "tokenizer.json"
    values = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    values["model"]["merges"].append(["not", "there"])
    path.write_text(json.dumps(values), encoding="utf-8")

    with pytest.raises(InputError) as caught:
        load_tokenizer(tmp_path)

    assert str(caught.value).startswith(f"{path} is damaged: ")

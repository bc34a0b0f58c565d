"""Text to token ids and back, here and in the Hugging Face libraries."""

import json
from operator import neg
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from toygpt.data.manifest import tokenizer_digest
from toygpt.data.tokenizer import (
    END_OF_TEXT,
    byte_alphabet,
    bytes_of_tokens,
    decode_as_it_comes,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)
from toygpt.pipeline.errors import InputError

VOCAB_SIZE = 500
LIBRARY = Path(__file__).resolve().parents[2] / "toygpt" / "data"

property_test = settings(max_examples=100)
# Any text at all, and now and then what must not be taken for the end of a document.
any_text = st.lists(
    st.text() | st.sampled_from([END_OF_TEXT, "<|", "endoftext", "|>", "  ", "\r\n"])
).map("".join)


def texts() -> list[str]:
    """Return some real text: our own source code."""
    return [path.read_text(encoding="utf-8") for path in sorted(LIBRARY.glob("*.py"))]


def id_of(tokenizer: Tokenizer, token: str) -> int:
    return tokenizer.get_vocab()[token]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens") / "tokenizer"
    learned = train_tokenizer([texts()], vocab_size=VOCAB_SIZE)
    save_tokenizer(learned, folder, end_of_text=END_OF_TEXT)
    return folder


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> Tokenizer:
    return load_tokenizer(directory)


@property_test
@given(text=any_text)
def test_any_text_comes_back_as_it_was_and_ends_no_document(
    tokenizer: Tokenizer, text: str
) -> None:
    """Else a text could smuggle in what the model takes for a new document."""
    pieces = bytes_of_tokens(tokenizer)

    token_ids = tokenizer.encode(text).ids

    assert tokenizer.decode(token_ids) == text
    assert b"".join(pieces[token_id] for token_id in token_ids) == text.encode()
    assert id_of(tokenizer, END_OF_TEXT) not in token_ids


def test_the_vocabulary_is_as_large_as_asked(
    tokenizer: Tokenizer, bytewise: Tokenizer
) -> None:
    """The smallest that params.yaml allows, 257, still writes everything."""
    assert sorted(tokenizer.get_vocab().values()) == list(range(VOCAB_SIZE))
    assert sorted(bytewise.get_vocab().values()) == list(range(257))
    pieces = bytes_of_tokens(bytewise)
    assert set(pieces) == {b"", *(bytes([byte]) for byte in range(256))}
    assert not pieces[id_of(bytewise, END_OF_TEXT)]


def test_the_alphabet_of_bytes_is_the_one_of_gpt2() -> None:
    assert byte_alphabet() == {char: byte for byte, char in bytes_to_unicode().items()}
    assert byte_alphabet().keys() == set(pre_tokenizers.ByteLevel.alphabet())


@pytest.fixture(scope="module")
def bytewise() -> Tokenizer:
    """Return a tokenizer that has a token for each byte, and no other."""
    return train_tokenizer([[""]], vocab_size=257)


def ids_of(bytewise: Tokenizer, content: bytes) -> list[int]:
    """Return the token ids of any bytes, also of bytes that are not text."""
    pieces = bytes_of_tokens(bytewise)
    return [pieces.index(bytes([byte])) for byte in content]


@property_test
@given(
    # Parts of characters come next to each other more often than at random.
    token_ids=st.lists(
        st.integers(0, VOCAB_SIZE - 1)
        | st.sampled_from([*"é😀\ufffd".encode(), 0x80, 0xFF]).map(neg)
    )
)
def test_any_tokens_make_the_same_text_piece_by_piece(
    tokenizer: Tokenizer, token_ids: list[int]
) -> None:
    """A model that has learned little writes bytes that are not text."""
    pieces = bytes_of_tokens(tokenizer)
    token_ids = [i if i >= 0 else pieces.index(bytes([-i])) for i in token_ids]

    written = "".join(decode_as_it_comes(tokenizer, token_ids))

    assert written == tokenizer.decode(token_ids, skip_special_tokens=False)


@pytest.mark.parametrize(
    ("content", "pieces"),
    [
        (b"", []),
        (b"ab", ["a", "b"]),
        ("aé😀b".encode(), ["a", "é", "😀", "b"]),
        # Not UTF-8, which is certain as soon as it cannot become a character.
        (b"a\xffbc", ["a", "\ufffd", "b", "c"]),
        (b"\xf0\x9fa", ["\ufffda"]),
        (b"\xf0\x9f\xc3\xa9", ["\ufffd", "é"]),
        # It ends in the middle of a character.
        ("a😀".encode()[:-1], ["a", "\ufffd"]),
        # It holds the very character that stands for bytes that are not text.
        ("a\ufffdbc".encode(), ["a", "\ufffd", "b", "c"]),
        ("a\ufffd\ufffd".encode(), ["a", "\ufffd", "\ufffd"]),
    ],
)
def test_a_piece_comes_when_its_last_character_is_certain(
    bytewise: Tokenizer, content: bytes, pieces: list[str]
) -> None:
    written = list(decode_as_it_comes(bytewise, ids_of(bytewise, content)))

    assert written == pieces
    assert "".join(pieces) == content.decode(errors="replace")


def test_a_piece_does_not_wait_for_the_next_token(bytewise: Tokenizer) -> None:
    """Else a reader would see each word of a slow model one token late."""
    token_ids = iter(ids_of(bytewise, "é!?".encode()))

    assert next(decode_as_it_comes(bytewise, token_ids)) == "é"
    assert len(list(token_ids)) == 2


def test_the_same_text_makes_the_same_four_files(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in one thread, and in another order: else no result could be reused."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    learned = train_tokenizer(([t] for t in reversed(texts())), vocab_size=VOCAB_SIZE)
    again = tmp_path / "tokenizer"

    save_tokenizer(learned, again, end_of_text=END_OF_TEXT)

    files, same = (
        {path.name: path.read_bytes() for path in folder.iterdir()}
        for folder in (directory, again)
    )
    assert files == same
    assert files.keys() == {
        *("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json")
    }
    assert tokenizer_digest(directory) == tokenizer_digest(again)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "missing: run `dvc repro tokenize`"),
        *((content, "damaged: ") for content in (b"", b"{}", b"\xff\xfe\x00")),
        (..., "damaged: "),  # a merge of tokens that are not there
    ],
)
def test_a_missing_or_damaged_tokenizer_is_named(
    tmp_path: Path, tokenizer: Tokenizer, content: Any, reason: str
) -> None:
    path = tmp_path / "tokenizer.json"
    if content is ...:
        values = json.loads(tokenizer.to_str())
        values["model"]["merges"].append(["not", "there"])
        content = json.dumps(values).encode()
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(InputError) as caught:
        load_tokenizer(tmp_path)

    assert str(caught.value).startswith(f"{path} is {reason}")

"""The fast encoder gives the ids of `tokenizers`, or is not used."""

import json
from collections.abc import Callable
from pathlib import Path

import gigatoken
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as run_settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from toygpt.data import encoding as fast_encoding
from toygpt.data import tokenizer
from toygpt.data.encoding import (
    HARD_TEXTS,
    Encoder,
    encode_documents,
    encode_with_tokenizers,
    fast_encoder,
)
from toygpt.data.tokenizer import (
    END_OF_TEXT,
    cut_before_spaces,
    train_tokenizer,
    treat_markers_as_text,
)

ByteLevel = pre_tokenizers.ByteLevel
SOURCES = [
    path.read_text(encoding="utf-8")
    for path in sorted(Path(tokenizer.__file__).parent.glob("[b-e]*.py"))
]
any_text = st.lists(
    st.text() | st.sampled_from([END_OF_TEXT, "<|", " ", "  ", "\r\n", "'s", "1", "a"])
).map("".join)


PLAIN = train_tokenizer([SOURCES], vocab_size=500)


def trained() -> Tokenizer:
    copy = Tokenizer.from_str(PLAIN.to_str())
    treat_markers_as_text(copy)
    return copy


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(PLAIN, SOURCES)


def expected(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Return what `tokenizers` says, asked for one text after another."""
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def found(encoder: Encoder, texts: list[str]) -> list[list[int]]:
    return [token_ids.tolist() for token_ids in encoder.encode(texts)]


def assert_slow(encoder: Encoder, tokenizer: Tokenizer, texts: list[str]) -> None:
    assert found(encoder, texts) == expected(tokenizer, texts)
    assert not encoder.is_fast


def the_warning(capsys: pytest.CaptureFixture[str]) -> str:
    """Return why gigatoken is not used, as the user reads it."""
    (line,) = capsys.readouterr().err.splitlines()
    beginning = "encoding with tokenizers, which is slower: "
    assert line.startswith(beginning)
    return str(line.removeprefix(beginning))


def test_gigatoken_encodes_every_text_and_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []
    original = gigatoken.Tokenizer.encode

    def watched(self: gigatoken.Tokenizer, text: str) -> object:
        seen.append(text)
        return original(self, text)

    monkeypatch.setattr(gigatoken.Tokenizer, "encode", watched)

    documents = list(encode_documents(PLAIN, [SOURCES, ["last"]], end_of_text_id=7))

    texts = [*SOURCES, "last"]
    assert (seen[: len(HARD_TEXTS)], seen[-len(texts) :]) == (HARD_TEXTS, texts)
    ids = expected(PLAIN, texts)
    assert [document.tolist() for document in documents] == [[*i, 7] for i in ids]
    assert capsys.readouterr().err == ""


@run_settings(max_examples=100)
@given(text=any_text)
def test_any_text_has_the_ids_of_tokenizers(encoder: Encoder, text: str) -> None:
    assert encoder.is_fast
    assert found(encoder, [text]) == expected(PLAIN, [text])


def test_an_encoder_with_other_ids_is_found_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It lacks the last things that were learned, and differs nowhere else."""
    other = fast_encoder(train_tokenizer([SOURCES], vocab_size=490))
    monkeypatch.setattr(fast_encoding, "fast_encoder", lambda tokenizer: other)
    assert [other(text).tolist() for text in SOURCES] != expected(PLAIN, SOURCES)

    encoder = Encoder(PLAIN, SOURCES)

    assert_slow(encoder, PLAIN, SOURCES)
    assert the_warning(capsys) == "gigatoken gave other token ids in a trial"


def with_whole_tokens_first(tokenizer: Tokenizer) -> None:
    """And with a token in front of every text, as Llama's, which is left out."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, 0)]
    )
    settings = json.loads(tokenizer.to_str())
    settings["model"] |= {"ignore_merges": True, "merges": []}
    tokenizer.model = Tokenizer.from_str(json.dumps(settings)).model


def with_words(**options: bool) -> Callable[[Tokenizer], None]:
    return lambda tokenizer: setattr(tokenizer, "pre_tokenizer", ByteLevel(**options))


WORDS_ONLY = models.WordLevel({"def": 0, "?": 1}, unk_token="?")
SELF = AddedToken("self. ", normalized=False)


@pytest.mark.parametrize(
    "change",
    [
        with_words(add_prefix_space=False, use_regex=False),
        with_words(add_prefix_space=True),
        lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.Whitespace()),
        lambda t: setattr(t, "normalizer", normalizers.NFC()),
        lambda t: t.add_tokens([SELF]),
        with_whole_tokens_first,
        lambda t: setattr(t, "model", WORDS_ONLY),
    ],
    ids=range(7),
)
def test_a_tokenizer_of_another_kind_is_left_to_tokenizers(
    change: Callable[[Tokenizer], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """gigatoken takes some of these, and takes them for GPT-2's kind."""
    unusual = trained()
    change(unusual)
    texts = [*HARD_TEXTS, *SOURCES, "cafe\u0301 self. self.x"]

    encoder = Encoder(unusual, texts)

    assert_slow(encoder, unusual, texts)
    assert the_warning(capsys) == "this tokenizer is not of GPT-2's kind"


def test_a_failure_halfway_loses_no_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = gigatoken.Tokenizer.encode

    def fails(self: gigatoken.Tokenizer, text: str) -> object:
        if text == SOURCES[2]:
            raise RuntimeError("no more")
        return original(self, text)

    monkeypatch.setattr(gigatoken.Tokenizer, "encode", fails)
    encoder = Encoder(PLAIN, [])
    assert encoder.is_fast

    assert_slow(encoder, PLAIN, SOURCES)
    assert_slow(encoder, PLAIN, ["after"])
    assert the_warning(capsys) == "gigatoken failed (no more)"


def test_what_gigatoken_cannot_load_is_left_to_tokenizers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = trained()
    words.model = WORDS_ONLY
    monkeypatch.setattr(fast_encoding, "is_plain", lambda tokenizer: True)

    assert_slow(Encoder(words, []), words, ["def x"])
    assert the_warning(capsys).startswith("gigatoken failed (")


@run_settings(max_examples=100)
@given(texts=st.lists(any_text), length=st.integers(1, 20))
def test_a_text_in_pieces_has_the_same_ids(texts: list[str], length: int) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(tokenizer, "LONGEST_PIECE", length)
        pieces = [cut_before_spaces(text) for text in texts]

    ids = [[*encode_with_tokenizers(PLAIN, of_one)] for of_one in pieces]

    assert ["".join(of_one) for of_one in pieces] == texts
    assert [np.concatenate(each).tolist() for each in ids] == expected(PLAIN, texts)


def test_a_long_text_is_encoded_in_pieces_where_the_tokenizer_cuts_words(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_more = trained()
    with_more.add_tokens([AddedToken("a b", normalized=False)])
    treat_markers_as_text(with_more)
    monkeypatch.setattr(tokenizer, "LONGEST_PIECE", 9)
    assert len(cut_before_spaces(SOURCES[-1])) > 10

    assert found(encoder, SOURCES) == expected(PLAIN, SOURCES)
    ids = found(Encoder(with_more, []), ["a b " * 100])

    assert ids == expected(with_more, ["a b " * 100])
    assert with_more.token_to_id("a b") in ids[0]

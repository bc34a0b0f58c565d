"""Pretrained tokenizers, from a folder or the hub: taken as they are, or not at all."""

import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from huggingface_hub import constants
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import AutoTokenizer, GPT2Tokenizer

from stages import download, split, tokenize
from tests.data import hub_repositories
from tests.data.hub import LoopbackHub
from tests.data.hub_repositories import GPT2_WORDS, gpt2_tokenizer_files
from tests.data.test_local_files import write
from tests.project import PROJECT, TINY, Workspace
from toygpt.data.documents import read_texts
from toygpt.data.encoding import Encoder
from toygpt.data.manifest import open_tokens, read_manifest
from toygpt.data.pretrained import load_pretrained_tokenizer
from toygpt.data.shards import THE_ONLY_SHARD
from toygpt.data.tokenizer import (
    bytes_of_tokens,
    load_tokenizer,
    save_tokenizer,
    vocab_size_of,
)
from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError

GPT2_END = "<|endoftext|>"
LLAMA_BEGIN = "<|begin_of_text|>"
LLAMA_END = "<|end_of_text|>"

# GPT-2 and Llama 3 cut it in different places.
TEXT = "It'LL be 1234567 words:\n\n\n  def return_words(self)  \r\n café 漢字 👩‍👩‍👧 é"
DOCUMENTS = [
    TEXT,
    f"before{GPT2_END}after",
    f"{LLAMA_BEGIN}{LLAMA_END} {GPT2_END}",
    "  ",
    *(f"Document {number}: {TEXT}\n" * 9 for number in range(30)),
]

# What the tokenizers are trained on.
SOURCES = [*DOCUMENTS, Path(__file__).read_text(encoding="utf-8")]

any_text = st.lists(
    st.text()
    | st.sampled_from([GPT2_END, LLAMA_BEGIN, LLAMA_END, "'LL", "12345", " \n", "    "])
).map("".join)


class Made(NamedTuple):
    """A folder with a tokenizer, and how it must cut texts without a marker."""

    folder: Path
    tokenizer: Tokenizer
    end_of_text: str


ByteLevel = pre_tokenizers.ByteLevel
WHOLE_LINES = ByteLevel(add_prefix_space=False, use_regex=False)
LLAMA_WORDS = pre_tokenizers.Sequence(
    [
        # Contractions in any case, and three digits at most.
        pre_tokenizers.Split(
            Regex(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
                r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            ),
            "isolated",
        ),
        WHOLE_LINES,
    ]
)


byte_level = partial(hub_repositories.byte_level, SOURCES)


def id_of(tokenizer: Tokenizer, token: str) -> int:
    return tokenizer.get_vocab()[token]


def write_new(
    folder: Path, tokenizer: Tokenizer, end: str | None = GPT2_END, **config: Any
) -> Made:
    """Write what transformers writes nowadays."""
    folder.mkdir()
    plain = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast"} | config
    config |= {"eos_token": end} if end else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    plain.no_truncation()
    plain.no_padding()
    plain.model.dropout = None
    return Made(folder, plain, str(end))


def make_gpt2_in_two_files(folder: Path) -> Made:
    """Write the two files that GPT-2 was published with, and nothing else."""
    tokenizer = byte_level()
    folder.mkdir()
    tokenizer.model.save(str(folder))
    (folder / "vocab.json").write_text(json.dumps(tokenizer.get_vocab()))
    return Made(folder, tokenizer, GPT2_END)


def make_llama(folder: Path) -> Made:
    """Like Llama 3's: a begin of text in front, an end that is not the last token."""
    tokenizer = byte_level(LLAMA_WORDS, [LLAMA_BEGIN, LLAMA_END, "<|reserved|>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{LLAMA_BEGIN} $A",
        special_tokens=[(LLAMA_BEGIN, id_of(tokenizer, LLAMA_BEGIN))],
    )
    return write_new(folder, tokenizer, LLAMA_END, bos_token=LLAMA_BEGIN)


def make_one_that_cuts_off(folder: Path) -> Made:
    """Like those saved after a training that cut and filled up its texts."""
    tokenizer = byte_level()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64, pad_id=400, pad_token=GPT2_END)
    return write_new(
        folder, tokenizer, tokenizer_class="GPT2Tokenizer", model_max_length=4
    )


def make_one_with_added_tokens(folder: Path) -> Made:
    """Like phi-2's, which has tokens of its own for rows of spaces."""
    tokenizer = byte_level()
    tokenizer.model.dropout = 0.5  # the same text would have other ids each time
    tokenizer.add_tokens([AddedToken("    ", normalized=False), " \n"])
    return write_new(folder, tokenizer)


# Beyond what two bytes hold.
LARGE = 66_000


def make_large(folder: Path) -> Made:
    """Merged tokens have ids beyond two bytes; as in many, one below is of no token."""
    small = json.loads(byte_level(special=[]).to_str())["model"]
    by_id = sorted(small["vocab"], key=small["vocab"].__getitem__)
    unused = [f"unused{number}" for number in range(256, LARGE)]
    tokens = [*by_id[:256], *unused, *by_id[256:], GPT2_END]
    vocab = {token: place for place, token in enumerate(tokens)}
    del vocab["unused1000"]
    tokenizer = Tokenizer(models.BPE(vocab, [tuple(pair) for pair in small["merges"]]))
    tokenizer.pre_tokenizer = GPT2_WORDS
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([GPT2_END])
    return write_new(folder, tokenizer)


KINDS = {
    "GPT-2 in two files": make_gpt2_in_two_files,
    "Llama": make_llama,
    # Not every ByteLevel cuts words as GPT-2 does.
    "whole lines": lambda folder: write_new(folder, byte_level(WHOLE_LINES)),
    "cuts off and fills up": make_one_that_cuts_off,
    "added tokens": make_one_with_added_tokens,
    "large": make_large,
}


@pytest.fixture(scope="module", params=[*KINDS.values()], ids=[*KINDS])
def made(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return request.param(tmp_path_factory.mktemp("made") / "tokenizer")


@pytest.fixture(scope="module")
def loaded(made: Made) -> Tokenizer:
    return load_pretrained_tokenizer(str(made.folder))[0]


pieces_of = cache(bytes_of_tokens)
encoder_of = cache(lambda tokenizer: Encoder(tokenizer, []))  # its trial takes a while


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return a text's token ids as the pipeline finds them."""
    (token_ids,) = encoder_of(tokenizer).encode([text])
    return [int(token_id) for token_id in token_ids]


@settings(max_examples=50)
@given(text=any_text)
@example(text=f"a{GPT2_END} {LLAMA_BEGIN}{LLAMA_END}b")  # markers in a text are text
@example(text="word 1, " * 500)
def test_any_text_is_cut_as_its_makers_cut_it_and_its_bytes_add_up(
    made: Made, loaded: Tokenizer, text: str
) -> None:
    token_ids = encode(loaded, text)

    assert loaded.decode(token_ids) == text
    assert b"".join(pieces_of(loaded)[i] for i in token_ids) == text.encode()
    if "<|" not in text:
        assert made.tokenizer.encode(text, add_special_tokens=False).ids == token_ids


def test_a_saved_tokenizer_is_the_loaded_one_here_and_in_transformers(
    made: Made, loaded: Tokenizer, tmp_path: Path
) -> None:
    """`tokenizer(prompt)`, as in the model card, gives the prompt's tokens alone."""
    again, end_of_text = load_pretrained_tokenizer(str(made.folder))
    saved, twin = tmp_path / "saved", tmp_path / "twin"
    save_tokenizer(loaded, saved, end_of_text=made.end_of_text)
    save_tokenizer(again, twin, end_of_text=end_of_text)

    ours, theirs = load_tokenizer(saved), AutoTokenizer.from_pretrained(saved)

    for text in DOCUMENTS:
        ids = theirs(text, split_special_tokens=True)["input_ids"]
        assert ids == ours.encode(text).ids == encode(loaded, text)
        assert theirs.decode(ids) == text
    end_id = id_of(made.tokenizer, made.end_of_text)
    assert theirs.eos_token == theirs.bos_token == end_of_text == made.end_of_text
    assert theirs.eos_token_id == id_of(loaded, end_of_text) == end_id
    assert vocab_size_of(loaded) == vocab_size_of(made.tokenizer)
    words, gpt2_words = (
        each.pre_tokenize_str(TEXT)
        for each in (made.tokenizer.pre_tokenizer, GPT2_WORDS)
    )
    assert isinstance(theirs, GPT2Tokenizer) == (words == gpt2_words)
    assert theirs.model_max_length > 10**12
    assert (saved / "merges.txt").exists()
    assert (saved / "vocab.json").exists()
    for path in saved.iterdir():
        assert path.read_bytes() == (twin / path.name).read_bytes()


def complaint(name: object) -> str:
    with pytest.raises(InputError) as caught:
        load_pretrained_tokenizer(str(name))
    message = str(caught.value)
    assert repr(str(name)) in message
    assert "tokenize.tokenizer in params.yaml" in message
    assert "\n" not in message
    assert "http://" not in message
    return message


def lacks_a_byte(vocab: bytes) -> bytes:
    """Return a vocabulary that would lose a byte of a text, or stop the pipeline."""
    return json.dumps({k: v for k, v in json.loads(vocab).items() if k != "ÿ"}).encode()


@pytest.mark.parametrize(
    ("file", "damage", "reason"),
    [
        *(
            (file, lambda _, content=content: content, "")
            for file in ("tokenizer.json", "tokenizer_config.json", "vocab.json")
            for content in (b"", b"{", b"[]", b"\xff\xfe\x00")
        ),
        ("merges.txt", None, "there is no merges.txt"),
        ("vocab.json", None, "there is no vocab.json"),
        ("merges.txt", lambda merges: merges + b"not there\n", "out of vocabulary"),
        ("vocab.json", lacks_a_byte, "does not keep every byte"),
    ],
)
def test_a_missing_or_damaged_file_is_refused(
    tmp_path: Path, file: str, damage: Callable[[bytes], bytes] | None, reason: str
) -> None:
    make = make_llama if file.startswith("tokenizer") else make_gpt2_in_two_files
    path = make(tmp_path / "made").folder / file
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))

    assert reason in complaint(path.parent)


Replace = normalizers.Replace
WORDS_ALONE = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), GPT2_WORDS])
OF_CHARACTERS = pre_tokenizers.Metaspace()

# Each by itself makes the bytes of the tokens another text.
CHANGES: dict[str, Callable[[Tokenizer], object]] = {
    "like Llama 2's": lambda t: setattr(t, "model", byte_level(OF_CHARACTERS).model),
    "rare normalizer": lambda t: setattr(t, "normalizer", Replace("``", '"')),
    "another decoder": lambda t: setattr(t, "decoder", decoders.Fuse()),
    "letters that are bytes": lambda t: t.add_tokens(["naïve"]),
    "a space in front": lambda t: setattr(t, "pre_tokenizer", ByteLevel(True)),
    "no spaces": lambda t: setattr(t, "pre_tokenizer", WORDS_ALONE),
    "eats spaces": lambda t: t.add_tokens([AddedToken("word", lstrip=True)]),
    "a special word, like CLIP's": lambda t: t.add_special_tokens(["!"]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_tokenizer_that_changes_a_text_is_refused(
    tmp_path: Path, change: Callable[[Tokenizer], object]
) -> None:
    """Else the bytes of the tokens, and bits per byte with them, would be wrong."""
    tokenizer = byte_level()
    change(tokenizer)

    message = complaint(write_new(tmp_path / "made", tokenizer).folder)

    assert "does not keep every byte" in message


@pytest.mark.parametrize("config", [{}, {"eos_token": None}, {"pad_token": GPT2_END}])
def test_a_tokenizer_that_ends_no_text_is_refused(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    made = write_new(tmp_path / "made", byte_level(LLAMA_WORDS), None, **config)

    assert "eos_token" in complaint(made.folder)


def test_code_that_comes_with_a_tokenizer_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is the user asked whether it may be run."""
    ran = tmp_path / "ran"
    monkeypatch.setattr("builtins.input", lambda *_: str(ran.write_text("asked")))
    code = {"AutoTokenizer": ["theirs.TheirTokenizer", None]}
    config: dict[str, Any] = {"tokenizer_class": "TheirTokenizer", "auto_map": code}
    folder = write_new(tmp_path / "made", byte_level(LLAMA_WORDS), **config).folder
    (folder / "theirs.py").write_text(f"open({str(ran)!r}, 'w').close()\n")

    complaint(folder)

    assert not ran.exists()


@pytest.mark.slow
def test_the_stages_split_texts_of_more_token_ids_than_two_bytes_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_large(tmp_path / "made")
    monkeypatch.chdir(tmp_path)
    write(
        Path("texts"), {f"{number}.txt": text for number, text in enumerate(DOCUMENTS)}
    )
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    changes = {"corpus": "files", "tokenize.tokenizer": str(made.folder)}
    Workspace(tmp_path).set_params(TINY | changes)

    for stage in (download, tokenize, split):
        stage.main()

    manifest = read_manifest(paths.TOKENS, made_by="tokenize")
    end = id_of(made.tokenizer, GPT2_END)
    assert (manifest.vocab_size, manifest.end_of_text_id) == (end + 1, end)
    tokens = open_tokens(paths.TOKENS, manifest, "tokens")[:]
    assert tokens.dtype == np.uint32
    assert sum(2**16 <= token_id < end for token_id in tokens) > 100
    documents = np.split(tokens, np.flatnonzero(tokens == end) + 1)[:-1]
    texts = [text for of in read_texts(paths.DOCUMENTS, THE_ONLY_SHARD) for text in of]
    assert [made.tokenizer.decode(ids[:-1].tolist()) for ids in documents] == texts
    splits = read_manifest(paths.SPLITS, made_by="split")
    num_bytes = sum(len(text.encode()) for text in texts)
    assert sum(part.bytes for part in splits.parts.values()) == num_bytes
    metrics = json.loads((paths.METRICS / "split.json").read_text(encoding="utf-8"))
    for name in ("validation", "test"):
        assert metrics[f"{name}_fraction_asked"] == 0.2
        assert metrics[f"{name}_fraction"] == pytest.approx(0.2, rel=0.25)
        assert metrics[f"{name}_documents"] == splits.parts[name].documents
    assert metrics["groups"] == len(texts)
    assert metrics["groups_cut"] <= metrics["groups_moved"]
    assert 0 <= metrics["test_leakage"] < 1


HUB_FILES = gpt2_tokenizer_files()
GPT2 = "gpt2"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A hub with GPT-2's tokenizer, which the test may break."""
    with LoopbackHub() as hub:
        hub.add(GPT2, HUB_FILES)
        hub.talk_to(monkeypatch, tmp_path / "home")
        yield hub


def is_gpt2(loaded: tuple[Tokenizer, str]) -> bool:
    """Return whether a tokenizer cuts a text as the hub's does."""
    plain = Tokenizer.from_str(HUB_FILES["tokenizer.json"].decode())
    plain.encode_special_tokens = True
    return loaded[1] == GPT2_END and encode(loaded[0], TEXT) == plain.encode(TEXT).ids


def test_gpt2_comes_from_the_hub_and_without_a_hub_from_the_cache(
    hub: LoopbackHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    load_pretrained_tokenizer(str(make_llama(tmp_path / "made").folder))
    assert hub.requests == []  # a folder needs no hub
    commit = hub.add(GPT2, HUB_FILES)
    assert is_gpt2(load_pretrained_tokenizer(GPT2))
    num_requests = len(hub.requests)

    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert is_gpt2(load_pretrained_tokenizer(GPT2))
    assert len(hub.requests) == num_requests > 0

    hub.server_close()
    assert is_gpt2(load_pretrained_tokenizer(f"{GPT2}@{commit}"))
    assert capfd.readouterr() == ("", "")


def test_a_damaged_tokenizer_is_refused_removed_and_fetched_again(
    hub: LoopbackHub,
) -> None:
    hub.fail("flipped", "tokenizer.json", times=1)

    message = complaint(GPT2)

    assert message.startswith("tokenizer.json of the tokenizer 'gpt2' (")
    assert "was damaged" in message
    assert is_gpt2(load_pretrained_tokenizer(GPT2))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("owner/empty", "there is no vocab.json"),
        ("gpt2@next", "its repository has no such revision"),
        ("no name", "neither a folder nor the name of a repository"),
        ("tests/data/hub.py", "neither a folder nor the name of a repository"),
    ],
)
def test_a_tokenizer_that_the_hub_does_not_have_is_named_with_the_key_to_change(
    hub: LoopbackHub, name: str, reason: str
) -> None:
    hub.add("owner/empty", {"README.md": b"nothing"})

    assert reason in complaint(name)

"""Pretrained tokenizers, from a folder or the hub: taken as they are, or not at all."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from huggingface_hub import constants
from hypothesis import given, settings
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
    trainers,
)
from transformers import AutoTokenizer

from stages import download, split, tokenize
from tests.data.hub import LoopbackHub
from tests.data.hub_repositories import gpt2_tokenizer_files
from tests.project import PROJECT, TINY, Workspace
from toygpt.data.corpus import read_texts
from toygpt.data.encoding import Encoder
from toygpt.data.manifest import open_tokens, read_manifest
from toygpt.data.pretrained import load_pretrained_tokenizer
from toygpt.data.tokenizer import (
    bytes_of_tokens,
    load_tokenizer,
    save_tokenizer,
    vocab_size_of,
)
from toygpt.pipeline.errors import InputError

GPT2_END = "<|endoftext|>"
LLAMA_BEGIN = "<|begin_of_text|>"
LLAMA_END = "<|end_of_text|>"

# What Llama 3 cuts words with: contractions in any case, three digits at most.
LLAMA_WORDS = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

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

property_test = settings(max_examples=50)
any_text = st.lists(
    st.text()
    | st.sampled_from([GPT2_END, LLAMA_BEGIN, LLAMA_END, "'LL", "12345", " \n", "    "])
).map("".join)


class Made(NamedTuple):
    """A folder with a tokenizer in it, and what was put there."""

    folder: Path
    tokenizer: Tokenizer  # cuts texts as the one in the folder must, markers apart
    end_of_text: str


def gpt2_words() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def llama_words() -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(LLAMA_WORDS, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def byte_level(words: Any, special_tokens: list[str]) -> Tokenizer:
    """Train a byte-level tokenizer; its special tokens come last, as GPT-2's does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = words
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SOURCES, trainer)
    tokenizer.add_special_tokens(special_tokens)
    return tokenizer


def id_of(tokenizer: Tokenizer, token: str) -> int:
    """Return the id of a token that is there."""
    token_id = tokenizer.token_to_id(token)
    assert token_id is not None
    return int(token_id)


def write_new(folder: Path, tokenizer: Tokenizer, **config: Any) -> Path:
    """Write what transformers writes nowadays."""
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"} | config)
    )
    return folder


def write_old(folder: Path, tokenizer: Tokenizer) -> Path:
    """Write the two files that GPT-2 was published with, and nothing else."""
    folder.mkdir()
    tokenizer.model.save(str(folder))
    (folder / "vocab.json").write_text(json.dumps(tokenizer.get_vocab()))
    return folder


def make_gpt2_in_two_files(folder: Path) -> Made:
    tokenizer = byte_level(gpt2_words(), [GPT2_END])
    return Made(write_old(folder, tokenizer), tokenizer, GPT2_END)


def make_gpt2_in_one_file(folder: Path) -> Made:
    tokenizer = byte_level(gpt2_words(), [GPT2_END])
    write_new(folder, tokenizer, tokenizer_class="GPT2Tokenizer", eos_token=GPT2_END)
    return Made(folder, tokenizer, GPT2_END)


def make_llama(folder: Path) -> Made:
    """Like Llama 3's: a begin of text in front, an end that is not the last token."""
    tokenizer = byte_level(llama_words(), [LLAMA_BEGIN, LLAMA_END, "<|reserved|>"])
    begin = (LLAMA_BEGIN, id_of(tokenizer, LLAMA_BEGIN))
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{LLAMA_BEGIN} $A", special_tokens=[begin]
            ),
        ]
    )
    write_new(folder, tokenizer, bos_token=LLAMA_BEGIN, eos_token=LLAMA_END)
    return Made(folder, tokenizer, LLAMA_END)


def make_one_that_cuts_off(folder: Path) -> Made:
    """Like those saved after a training that cut and filled up its texts."""
    tokenizer = byte_level(gpt2_words(), [GPT2_END])
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(
        length=64, pad_id=id_of(tokenizer, GPT2_END), pad_token=GPT2_END
    )
    write_new(folder, tokenizer, eos_token=GPT2_END, model_max_length=4)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return Made(folder, tokenizer, GPT2_END)


def make_one_with_added_tokens(folder: Path) -> Made:
    """Like phi-2's, which has tokens of its own for rows of spaces."""
    tokenizer = byte_level(gpt2_words(), [GPT2_END])
    tokenizer.add_tokens([AddedToken("    ", normalized=False), " \n"])
    write_new(folder, tokenizer, eos_token=GPT2_END)
    return Made(folder, tokenizer, GPT2_END)


# Beyond what two bytes hold.
LARGE = 66_000


def make_large(folder: Path) -> Made:
    """Make one whose merged tokens all have ids that need more than two bytes.

    One id below them belongs to no token, as happens in large vocabularies.
    """
    small = byte_level(gpt2_words(), [])
    small_vocab = sorted(small.get_vocab().items(), key=lambda item: item[1])
    merged = [token for token, _ in small_vocab if len(token) > 1]
    vocab = {token: place for token, place in small_vocab if len(token) == 1}
    vocab |= {f"unused{number}": number for number in range(len(vocab), LARGE)}
    vocab |= {token: LARGE + number for number, token in enumerate(merged)}
    vocab[GPT2_END] = len(vocab)
    del vocab["unused1000"]
    folder.mkdir()
    small.model.save(str(folder))
    (folder / "vocab.json").write_text(json.dumps(vocab))
    tokenizer = Tokenizer(
        models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    )
    tokenizer.pre_tokenizer = gpt2_words()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([GPT2_END])
    return Made(folder, tokenizer, GPT2_END)


KINDS: dict[str, Callable[[Path], Made]] = {
    "GPT-2 in two files": make_gpt2_in_two_files,
    "GPT-2 in one file": make_gpt2_in_one_file,
    "Llama": make_llama,
    "cuts off and fills up": make_one_that_cuts_off,
    "added tokens": make_one_with_added_tokens,
    "large": make_large,
}


@pytest.fixture(scope="module", params=KINDS)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Made:
    return KINDS[request.param](tmp_path_factory.mktemp("made") / "tokenizer")


@pytest.fixture(scope="module")
def loaded(made: Made) -> Tokenizer:
    tokenizer, _ = load_pretrained_tokenizer(str(made.folder))
    return tokenizer


@pytest.fixture(scope="module")
def saved(
    made: Made, loaded: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return where the loaded tokenizer was saved, as the stage does."""
    directory = tmp_path_factory.mktemp("saved") / "tokenizer"
    save_tokenizer(loaded, directory, end_of_text=made.end_of_text)
    return directory


@pytest.fixture(scope="module")
def pieces(loaded: Tokenizer) -> list[bytes]:
    return bytes_of_tokens(loaded)


ENCODERS: dict[Tokenizer, Encoder] = {}


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return a text's token ids as the pipeline finds them."""
    if tokenizer not in ENCODERS:  # its trial takes a while
        ENCODERS[tokenizer] = Encoder(tokenizer, [])
    (token_ids,) = ENCODERS[tokenizer].encode([text])
    return [int(token_id) for token_id in token_ids]


@property_test
@given(text=any_text)
def test_any_text_comes_back_as_it_was_and_its_bytes_add_up(
    loaded: Tokenizer, pieces: list[bytes], text: str
) -> None:
    token_ids = encode(loaded, text)

    assert loaded.decode(token_ids) == text
    assert b"".join(pieces[token_id] for token_id in token_ids) == text.encode()


@property_test
@given(text=any_text.filter(lambda text: "<|" not in text))
def test_a_text_is_cut_as_its_makers_cut_it(
    made: Made, loaded: Tokenizer, text: str
) -> None:
    theirs = made.tokenizer.encode(text, add_special_tokens=False).ids

    assert encode(loaded, text) == theirs


def test_the_end_of_a_text_is_what_its_makers_say(made: Made) -> None:
    tokenizer, end_of_text = load_pretrained_tokenizer(str(made.folder))

    assert end_of_text == made.end_of_text
    assert id_of(tokenizer, end_of_text) == id_of(made.tokenizer, end_of_text)
    assert vocab_size_of(tokenizer) == vocab_size_of(made.tokenizer)


def test_a_marker_in_a_text_is_text(loaded: Tokenizer) -> None:
    text = f"a{GPT2_END} {LLAMA_BEGIN}{LLAMA_END}b"
    added = loaded.get_added_tokens_decoder().items()
    special = {token_id for token_id, token in added if token.special}

    token_ids = encode(loaded, text)

    assert special
    assert not special & set(token_ids)
    assert loaded.decode(token_ids) == text


def test_a_long_text_stays_long_and_a_short_one_short(loaded: Tokenizer) -> None:
    assert len(encode(loaded, "word 1, " * 500)) > 1000
    assert len(encode(loaded, "a")) == 1
    assert encode(loaded, "") == []


def test_a_saved_tokenizer_is_the_loaded_one_and_the_same_bytes_each_time(
    made: Made, loaded: Tokenizer, saved: Path, tmp_path: Path
) -> None:
    again, end_of_text = load_pretrained_tokenizer(str(made.folder))

    save_tokenizer(again, tmp_path / "again", end_of_text=end_of_text)

    names = ["merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json"]
    assert sorted(path.name for path in saved.iterdir()) == names
    for name in names:
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    theirs = load_tokenizer(saved)
    for text in DOCUMENTS:
        assert theirs.encode(text).ids == encode(loaded, text)


def test_transformers_reads_the_saved_tokenizer_as_the_same(
    made: Made, loaded: Tokenizer, saved: Path
) -> None:
    theirs = AutoTokenizer.from_pretrained(saved)

    for text in DOCUMENTS:
        ids = theirs(text, add_special_tokens=False, split_special_tokens=True)
        assert ids["input_ids"] == encode(loaded, text)
        assert theirs.decode(ids["input_ids"]) == text
    assert theirs.eos_token == theirs.bos_token == made.end_of_text
    assert theirs.eos_token_id == id_of(made.tokenizer, made.end_of_text)
    assert theirs.model_max_length > 10**12


def make_one_of_whole_lines(folder: Path) -> Made:
    """Not every ByteLevel cuts words as GPT-2 does."""
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = byte_level(words, [GPT2_END])
    return Made(write_new(folder, tokenizer, eos_token=GPT2_END), tokenizer, GPT2_END)


@pytest.mark.parametrize("make", [make_llama, make_one_of_whole_lines])
def test_transformers_adds_nothing_that_the_model_never_saw(
    tmp_path: Path, make: Callable[[Path], Made]
) -> None:
    """`tokenizer(prompt)`, as in the model card, gives the prompt's tokens alone."""
    loaded, end_of_text = load_pretrained_tokenizer(str(make(tmp_path / "made").folder))

    save_tokenizer(loaded, tmp_path / "saved", end_of_text=end_of_text)

    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert theirs(TEXT)["input_ids"] == encode(loaded, TEXT)


def complaint(name: object) -> str:
    """Return what the user reads when a tokenizer cannot be used."""
    with pytest.raises(InputError) as caught:
        load_pretrained_tokenizer(str(name))
    message = str(caught.value)
    assert repr(str(name)) in message
    assert "tokenize.tokenizer in params.yaml" in message
    assert "\n" not in message
    assert "http://" not in message
    return message


def test_a_folder_that_is_not_there_or_holds_nothing_is_refused(tmp_path: Path) -> None:
    assert "there is no vocab.json" in complaint(tmp_path)
    complaint(tmp_path / "nowhere")


def test_a_file_in_place_of_its_folder_is_refused(tmp_path: Path) -> None:
    complaint(make_gpt2_in_one_file(tmp_path / "made").folder / "tokenizer.json")


@pytest.mark.parametrize("missing", ["merges.txt", "vocab.json"])
def test_half_of_a_tokenizer_is_refused(tmp_path: Path, missing: str) -> None:
    folder = make_gpt2_in_two_files(tmp_path / "made").folder
    (folder / missing).unlink()

    assert f"there is no {missing}" in complaint(folder)


@pytest.mark.parametrize(
    ("make", "file"),
    [
        (make_llama, "tokenizer.json"),
        (make_llama, "tokenizer_config.json"),
        (make_gpt2_in_two_files, "vocab.json"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\x00"])
def test_a_damaged_file_is_refused(
    tmp_path: Path, make: Callable[[Path], Made], file: str, content: bytes
) -> None:
    folder = make(tmp_path / "made").folder
    (folder / file).write_bytes(content)

    complaint(folder)


def test_merges_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    folder = make_gpt2_in_two_files(tmp_path / "made").folder
    with (folder / "merges.txt").open("a") as merges:
        merges.write("not there\n")

    assert "out of vocabulary" in complaint(folder)


def test_a_vocabulary_that_lacks_a_byte_is_refused(tmp_path: Path) -> None:
    """A text that has this byte would lose it, or stop the pipeline."""
    folder = make_gpt2_in_two_files(tmp_path / "made").folder
    vocab = json.loads((folder / "vocab.json").read_text())
    del vocab["ÿ"]
    (folder / "vocab.json").write_text(json.dumps(vocab))

    assert "does not keep every byte" in complaint(folder)


ByteLevel = pre_tokenizers.ByteLevel
Replace = normalizers.Replace
WORDS_ALONE = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), gpt2_words()])
# Each by itself makes the bytes of the tokens another text.
CHANGES: dict[str, Callable[[Tokenizer], object]] = {
    "normalizer": lambda t: setattr(t, "normalizer", normalizers.NFC()),
    "rare normalizer": lambda t: setattr(t, "normalizer", Replace("``", '"')),
    "another decoder": lambda t: setattr(t, "decoder", decoders.Fuse()),
    "letters that are bytes": lambda t: t.add_tokens(["naïve"]),
    "a space in front": lambda t: setattr(t, "pre_tokenizer", ByteLevel(True)),
    "no spaces": lambda t: setattr(t, "pre_tokenizer", WORDS_ALONE),
    "eats spaces": lambda t: t.add_tokens([AddedToken("word", lstrip=True)]),
    "a special word, like CLIP's": lambda t: t.add_special_tokens(["!"]),
}


def with_word_pieces() -> Tokenizer:
    """Like BERT's."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special_tokens = ["[UNK]", GPT2_END]
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=special_tokens, show_progress=False
    )
    tokenizer.train_from_iterator(SOURCES, trainer)
    return tokenizer


def with_characters() -> Tokenizer:
    """Like Llama 2's: its tokens are made of characters, all of GPT-2's among them."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SOURCES, trainer)
    tokenizer.add_special_tokens([GPT2_END])
    return tokenizer


@pytest.mark.parametrize("kind", [*CHANGES, "word pieces", "characters"])
def test_a_tokenizer_that_changes_a_text_is_refused(tmp_path: Path, kind: str) -> None:
    """Else the bytes of the tokens, and bits per byte with them, would be wrong."""
    if kind in CHANGES:
        tokenizer = byte_level(gpt2_words(), [GPT2_END])
        CHANGES[kind](tokenizer)
    else:
        tokenizer = with_word_pieces() if kind == "word pieces" else with_characters()
    folder = write_new(tmp_path / "made", tokenizer, eos_token=GPT2_END)

    assert "does not keep every byte" in complaint(folder)


def test_a_tokenizer_that_cuts_at_random_is_taken_without_its_dropout(
    tmp_path: Path,
) -> None:
    """With dropout (BPE-dropout) the same text would have other ids each time."""
    tokenizer = byte_level(gpt2_words(), [GPT2_END])
    tokenizer.model.dropout = 0.5
    assert tokenizer.encode(TEXT * 9).ids != tokenizer.encode(TEXT * 9).ids
    folder = write_new(tmp_path / "made", tokenizer, eos_token=GPT2_END)

    loaded, _ = load_pretrained_tokenizer(str(folder))

    assert encode(loaded, TEXT * 9) == encode(loaded, TEXT * 9)


@pytest.mark.parametrize("config", [{}, {"eos_token": None}, {"pad_token": GPT2_END}])
def test_a_tokenizer_that_ends_no_text_is_refused(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    tokenizer = byte_level(llama_words(), [GPT2_END])
    folder = write_new(tmp_path / "made", tokenizer, **config)

    assert "eos_token" in complaint(folder)


def test_code_that_comes_with_a_tokenizer_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is the user asked whether it may be run."""
    questions: list[str] = []

    def answer_no(question: str = "") -> str:
        questions.append(question)
        return "n"

    monkeypatch.setattr("builtins.input", answer_no)
    folder = write_new(
        tmp_path / "made",
        byte_level(llama_words(), [GPT2_END]),
        tokenizer_class="TheirTokenizer",
        auto_map={"AutoTokenizer": ["theirs.TheirTokenizer", None]},
        eos_token=GPT2_END,
    )
    ran = tmp_path / "ran"
    (folder / "theirs.py").write_text(f"open({str(ran)!r}, 'w').close()\n")

    complaint(folder)

    assert not questions
    assert not ran.exists()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Return a folder with parameters and downloaded documents, and go there."""
    workspace = Workspace(tmp_path / "project")
    texts = workspace.root / "texts"
    texts.mkdir(parents=True)
    for number, text in enumerate(DOCUMENTS):
        (texts / f"{number}.txt").write_bytes(text.encode())
    shutil.copy(PROJECT / "params.yaml", workspace.root)
    workspace.set_params(TINY | {"corpus": "files", "corpora.files.folder": str(texts)})
    monkeypatch.chdir(workspace.root)
    download.main()
    return workspace


@pytest.mark.slow
def test_more_ids_than_two_bytes_hold_take_four(
    project: Workspace, tmp_path: Path
) -> None:
    made = make_large(tmp_path / "made")
    project.set_params({"tokenize.tokenizer": str(made.folder)})

    tokenize.main()
    split.main()

    directory = project.root / "data/tokens"
    manifest = read_manifest(directory, made_by="tokenize")
    end = id_of(made.tokenizer, GPT2_END)
    assert manifest.token_type == "uint32"
    assert manifest.vocab_size == end + 1 > LARGE
    assert manifest.end_of_text_id == end
    tokens = open_tokens(directory, manifest, "tokens")
    assert tokens.dtype == np.uint32
    assert sum(2**16 <= token_id < end for token_id in tokens) > 100
    ends = np.flatnonzero(tokens == end)
    documents = np.split(tokens, ends + 1)[:-1]
    texts = [
        text for texts in read_texts(project.root / "data/documents") for text in texts
    ]
    assert [made.tokenizer.decode(ids[:-1].tolist()) for ids in documents] == texts
    splits = read_manifest(project.root / "data/splits", made_by="split")
    num_bytes = sum(len(text.encode()) for text in texts)
    assert sum(part.bytes for part in splits.parts.values()) == num_bytes


def test_a_tokenizer_that_cannot_be_loaded_leaves_the_tokens_there_were(
    project: Workspace, tmp_path: Path
) -> None:
    tokenize.main()
    paths = [path for path in (project.root / "data").rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in paths}
    project.set_params({"tokenize.tokenizer": str(tmp_path)})

    with pytest.raises(InputError, match=r"tokenize\.tokenizer in params\.yaml"):
        tokenize.main()

    assert {path: path.read_bytes() for path in paths} == before


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
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert is_gpt2(load_pretrained_tokenizer(GPT2))
    num_requests = len(hub.requests)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert is_gpt2(load_pretrained_tokenizer(GPT2))
    assert len(hub.requests) == num_requests > 0
    assert capfd.readouterr() == ("", "")


def test_a_commit_stays_what_it_was_when_main_moves_on(hub: LoopbackHub) -> None:
    """Nor is more asked for than a tokenizer is made of: a model is large."""
    commit = hub.add(GPT2, HUB_FILES | {"model.safetensors": bytes(9999)})
    newest = hub.add(GPT2, gpt2_tokenizer_files(vocab_size=300))

    assert is_gpt2(load_pretrained_tokenizer(f"{GPT2}@{commit}"))

    asked = " ".join(request.path for request in hub.requests)
    assert newest not in asked
    assert "safetensors" not in asked


def test_a_bad_day_of_network_and_hub_changes_nothing(hub: LoopbackHub) -> None:
    faults = [
        hub.fail("rate limit", "/api/", times=1),
        hub.fail("rate limit", "resolve", times=2),
        hub.fail("unavailable", "/api/", times=1),
    ]

    assert is_gpt2(load_pretrained_tokenizer(GPT2))

    assert [fault.fired for fault in faults] == [1, 2, 1]


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
        ("owner/gated", "only those who asked for access get it"),
        ("gpt-2", "the hub has no such repository, or hides it"),
        (f"gpt2@{'0' * 40}", "its repository has no such revision"),
        ("gpt2@next", "its repository has no such revision"),
        ("no name", "neither a folder nor the name of a repository"),
        ("./no/folder", "neither a folder nor the name of a repository"),
    ],
)
def test_a_tokenizer_that_the_hub_does_not_have_is_named_with_the_key_to_change(
    hub: LoopbackHub, name: str, reason: str
) -> None:
    hub.add("owner/empty", {"README.md": b"nothing"})
    hub.add("owner/gated", HUB_FILES)
    hub.fail("gated", "owner/gated/resolve")

    assert reason in complaint(name)


def test_a_folder_is_loaded_without_a_network(hub: LoopbackHub, made: Made) -> None:
    load_pretrained_tokenizer(str(made.folder))

    assert hub.requests == []

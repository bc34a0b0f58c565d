"""Tokenizers that others trained, in a folder: taken as they are, or not at all."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
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

from stages import download, generate_samples, split, tokenize, train
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
from toygpt.model.huggingface import load_config, load_end_of_text_id
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
    """Like phi-2's, which has tokens of its own for rows of blanks."""
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


ENCODERS: dict[Tokenizer, Encoder] = {}


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return a text's token ids as the pipeline finds them."""
    if tokenizer not in ENCODERS:  # its trial takes a while
        ENCODERS[tokenizer] = Encoder(tokenizer, [])
    (token_ids,) = ENCODERS[tokenizer].encode([text])
    return [int(token_id) for token_id in token_ids]


@property_test
@given(text=any_text)
def test_any_text_comes_back_as_it_was(loaded: Tokenizer, text: str) -> None:
    assert loaded.decode(encode(loaded, text)) == text


@pytest.fixture(scope="module")
def pieces(loaded: Tokenizer) -> list[bytes]:
    return bytes_of_tokens(loaded)


@property_test
@given(text=any_text)
def test_the_bytes_of_the_tokens_are_the_text(
    loaded: Tokenizer, pieces: list[bytes], text: str
) -> None:
    joined = b"".join(pieces[token_id] for token_id in encode(loaded, text))

    assert joined == text.encode()


@property_test
@given(text=any_text.filter(lambda text: "<|" not in text))
def test_a_text_is_cut_as_its_makers_cut_it(
    made: Made, loaded: Tokenizer, text: str
) -> None:
    theirs = made.tokenizer.encode(text, add_special_tokens=False).ids

    assert encode(loaded, text) == theirs


def test_what_ends_a_text_is_what_its_makers_say(made: Made) -> None:
    tokenizer, end_of_text = load_pretrained_tokenizer(str(made.folder))

    assert end_of_text == made.end_of_text
    assert id_of(tokenizer, end_of_text) == id_of(made.tokenizer, end_of_text)
    assert vocab_size_of(tokenizer) == vocab_size_of(made.tokenizer)


def test_a_marker_in_a_text_is_text(loaded: Tokenizer) -> None:
    text = f"a{GPT2_END} {LLAMA_BEGIN}{LLAMA_END}b"
    special = {
        token_id
        for token_id, token in loaded.get_added_tokens_decoder().items()
        if token.special
    }

    token_ids = encode(loaded, text)

    assert special
    assert not special & set(token_ids)
    assert loaded.decode(token_ids) == text


def test_a_long_text_stays_long_and_a_short_one_short(loaded: Tokenizer) -> None:
    assert len(encode(loaded, "word 1, " * 500)) > 1000
    assert len(encode(loaded, "a")) == 1
    assert encode(loaded, "") == []


def test_what_is_saved_is_what_was_loaded(loaded: Tokenizer, saved: Path) -> None:
    again = load_tokenizer(saved)

    for text in DOCUMENTS:
        assert encode(again, text) == encode(loaded, text)
    assert {path.name for path in saved.iterdir()} == {
        "vocab.json",
        "merges.txt",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_loading_twice_saves_the_same_bytes(
    made: Made, saved: Path, tmp_path: Path
) -> None:
    """Else nothing that is made with the tokenizer could be reused."""
    tokenizer, end_of_text = load_pretrained_tokenizer(str(made.folder))

    save_tokenizer(tokenizer, tmp_path / "again", end_of_text=end_of_text)

    for path in saved.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_transformers_cuts_a_text_into_the_same_tokens(
    loaded: Tokenizer, saved: Path
) -> None:
    theirs = AutoTokenizer.from_pretrained(saved)

    for text in DOCUMENTS:
        ids = theirs(text, add_special_tokens=False, split_special_tokens=True)
        assert ids["input_ids"] == encode(loaded, text)
        assert theirs.decode(ids["input_ids"]) == text


def test_transformers_adds_nothing_that_the_model_never_saw(tmp_path: Path) -> None:
    """`tokenizer(prompt)`, as in the model card, gives the prompt's tokens alone."""
    made = make_llama(tmp_path / "made")
    loaded, end_of_text = load_pretrained_tokenizer(str(made.folder))

    save_tokenizer(loaded, tmp_path / "saved", end_of_text=end_of_text)

    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert theirs(TEXT)["input_ids"] == encode(loaded, TEXT)


def test_transformers_knows_how_a_text_ends(made: Made, saved: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(saved)

    assert theirs.eos_token == made.end_of_text
    assert theirs.eos_token_id == id_of(made.tokenizer, made.end_of_text)
    assert theirs.bos_token == made.end_of_text
    assert theirs.model_max_length > 10**12


def test_transformers_cuts_no_words_where_the_tokenizer_cuts_none(
    tmp_path: Path,
) -> None:
    """Not all that is ByteLevel cuts words as GPT-2 does."""
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    folder = write_new(
        tmp_path / "made", byte_level(words, [GPT2_END]), eos_token=GPT2_END
    )
    tokenizer, end_of_text = load_pretrained_tokenizer(str(folder))

    save_tokenizer(tokenizer, tmp_path / "saved", end_of_text=end_of_text)

    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert theirs(TEXT)["input_ids"] == encode(tokenizer, TEXT)


# Loads every folder, and tells of each try to reach another machine.
LOADER = """
import json, socket, sys

tries = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        tries.append(repr(arguments))
sys.addaudithook(watch)

from toygpt.data.pretrained import load_pretrained_tokenizer

ends = [load_pretrained_tokenizer(folder)[1] for folder in sys.argv[1:]]
while_loading = list(tries)
try:
    socket.create_connection(("127.0.0.1", 9))
except OSError:
    pass
print(json.dumps([ends, while_loading, len(tries)]))
"""


def test_a_folder_is_loaded_without_a_network(tmp_path: Path) -> None:
    made = [make(tmp_path / str(n)) for n, make in enumerate(KINDS.values())]

    loader = subprocess.run(
        [sys.executable, "-c", LOADER, *(str(each.folder) for each in made)],
        cwd=PROJECT,
        env=os.environ
        | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=True,
    )
    ends, while_loading, tries = json.loads(loader.stdout.splitlines()[-1])

    assert ends == [each.end_of_text for each in made]
    assert while_loading == []
    assert tries >= 1, "the watch over the network sees nothing"


def complaint(folder: Path) -> str:
    """Return what the user reads when a tokenizer cannot be used."""
    with pytest.raises(InputError) as caught:
        load_pretrained_tokenizer(str(folder))
    message = str(caught.value)
    assert repr(str(folder)) in message
    assert "tokenize.tokenizer in params.yaml" in message
    assert "\n" not in message
    return message


def test_a_folder_with_nothing_is_refused(tmp_path: Path) -> None:
    assert "vocab.json" in complaint(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    complaint(tmp_path / "nowhere")


def test_a_file_in_place_of_its_folder_is_refused(tmp_path: Path) -> None:
    complaint(make_gpt2_in_one_file(tmp_path / "made").folder / "tokenizer.json")


@pytest.mark.parametrize(
    ("file", "missing"), [("vocab.json", "merges.txt"), ("merges.txt", "vocab.json")]
)
def test_half_of_a_tokenizer_is_refused(
    tmp_path: Path, file: str, missing: str
) -> None:
    folder = make_gpt2_in_two_files(tmp_path / "made").folder
    (folder / missing).unlink()

    assert (folder / file).exists()
    assert missing in complaint(folder)


@pytest.mark.parametrize(
    ("make", "file"),
    [
        (make_llama, "tokenizer.json"),
        (make_llama, "tokenizer_config.json"),
        (make_gpt2_in_two_files, "vocab.json"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe\x00"])
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
    """The text that has this byte would lose it, or stop the pipeline."""
    folder = make_gpt2_in_two_files(tmp_path / "made").folder
    vocab = json.loads((folder / "vocab.json").read_text())
    del vocab["ÿ"]
    (folder / "vocab.json").write_text(json.dumps(vocab))

    assert "does not keep every byte" in complaint(folder)


def with_normalizer() -> Tokenizer:
    tokenizer = byte_level(llama_words(), [GPT2_END])
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def with_rare_normalizer() -> Tokenizer:
    tokenizer = byte_level(llama_words(), [GPT2_END])
    tokenizer.normalizer = normalizers.Replace("``", '"')
    return tokenizer


def without_decoder() -> Tokenizer:
    tokenizer = byte_level(gpt2_words(), [GPT2_END])
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def with_a_word_of_letters_that_are_bytes() -> Tokenizer:
    """The decoder takes its letters for bytes."""
    tokenizer = byte_level(gpt2_words(), [GPT2_END])
    tokenizer.add_tokens(["naïve"])
    return tokenizer


def with_blank_in_front() -> Tokenizer:
    words = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return byte_level(words, [GPT2_END])


def without_blanks() -> Tokenizer:
    words = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), gpt2_words()])
    return byte_level(words, [GPT2_END])


def with_token_that_eats_blanks() -> Tokenizer:
    tokenizer = byte_level(gpt2_words(), [GPT2_END])
    tokenizer.add_tokens([AddedToken("word", lstrip=True, rstrip=True)])
    return tokenizer


def with_word_that_is_special() -> Tokenizer:
    """Like CLIP's, which fills up texts with exclamation marks."""
    tokenizer = byte_level(gpt2_words(), [GPT2_END])
    tokenizer.add_special_tokens(["!"])
    return tokenizer


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


@pytest.mark.parametrize(
    "make",
    [
        with_normalizer,
        with_rare_normalizer,
        without_decoder,
        with_a_word_of_letters_that_are_bytes,
        with_word_pieces,
        with_blank_in_front,
        without_blanks,
        with_token_that_eats_blanks,
        with_word_that_is_special,
        with_characters,
    ],
)
def test_a_tokenizer_that_changes_a_text_is_refused(
    tmp_path: Path, make: Callable[[], Tokenizer]
) -> None:
    """Else the bytes of the tokens, and bits per byte with them, would be wrong."""
    folder = write_new(tmp_path / "made", make(), eos_token=GPT2_END)

    assert "does not keep every byte" in complaint(folder)


def test_a_tokenizer_that_cuts_by_chance_is_taken_without_it(tmp_path: Path) -> None:
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
    """Nor is the user asked whether it shall be: a stage has nobody to ask."""
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


def contents(project: Workspace) -> dict[Path, bytes | None]:
    """Return every file that stages wrote, and every folder."""
    return {
        path: path.read_bytes() if path.is_file() else None
        for name in ("data", "metrics")
        for path in (project.root / name).rglob("*")
    }


def test_more_ids_than_two_bytes_hold_take_four(
    project: Workspace, tmp_path: Path
) -> None:
    made = make_large(tmp_path / "made")
    project.set_params({"tokenize.tokenizer": str(made.folder)})

    tokenize.main()

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


def leave_nothing(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def damage_tokenizer(folder: Path) -> None:
    whole = (folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(whole[: len(whole) // 2])


def leave_the_vocabulary(folder: Path) -> None:
    vocab = (folder / "vocab.json").read_bytes()
    leave_nothing(folder)
    (folder / "vocab.json").write_bytes(vocab)


@pytest.mark.parametrize(
    "damage", [leave_nothing, damage_tokenizer, leave_the_vocabulary]
)
def test_a_tokenizer_that_cannot_be_loaded_leaves_what_was_there(
    project: Workspace, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    tokenize.main()
    before = contents(project)
    assert before[project.root / "data/tokens/tokens.bin"]
    made = make_llama(tmp_path / "made")
    made.tokenizer.model.save(str(made.folder))
    damage(made.folder)
    project.set_params({"tokenize.tokenizer": str(made.folder)})

    with pytest.raises(InputError, match=r"tokenize\.tokenizer in params\.yaml"):
        tokenize.main()

    assert contents(project) == before


def test_a_model_learns_with_a_tokenizer_of_others(
    project: Workspace, tmp_path: Path
) -> None:
    """From the folder of a tokenizer to text that its model wrote."""
    made = make_llama(tmp_path / "made")
    end = id_of(made.tokenizer, LLAMA_END)
    vocab_size = vocab_size_of(made.tokenizer)
    project.set_params({"tokenize.tokenizer": str(made.folder)})

    for stage in (tokenize, split, train, generate_samples):
        stage.main()

    data = project.root / "data"
    tokens = read_manifest(data / "tokens", made_by="tokenize")
    assert (tokens.vocab_size, tokens.end_of_text_id) == (vocab_size, end)
    texts = [text for texts in read_texts(data / "documents") for text in texts]
    token_ids = open_tokens(data / "tokens", tokens, "tokens")
    made.tokenizer.encode_special_tokens = True  # of markers in a text, to letters
    assert token_ids.tolist() == [
        token_id
        for text in texts
        for token_id in [
            *made.tokenizer.encode(text, add_special_tokens=False).ids,
            end,
        ]
    ]
    splits = read_manifest(data / "splits", made_by="split")
    num_bytes = sum(len(text.encode()) for text in texts)
    assert sum(part.bytes for part in splits.parts.values()) == num_bytes

    model = project.root / "models/toygpt"
    config = json.loads((model / "config.json").read_text())
    assert config["eos_token_id"] == load_end_of_text_id(model) == end
    assert load_config(model).vocab_size == vocab_size
    theirs = AutoTokenizer.from_pretrained(model)
    assert theirs.eos_token_id == end
    assert (
        theirs(TEXT, add_special_tokens=False)["input_ids"]
        == made.tokenizer.encode(TEXT, add_special_tokens=False).ids
    )
    samples = (project.root / "reports/samples/samples.jsonl").read_text()
    assert len(samples.splitlines()) == 4

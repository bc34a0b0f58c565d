"""Text to token ids and back: GPT-2's byte-level byte-pair encoding.

Radford et al., 2019, "Language Models are Unsupervised Multitask Learners", section
2.2. Frequent strings become one token; any text at all can be written, because the 256
bytes are tokens too.

>>> tokenizer = train_tokenizer([["low low low lower lowest"]], vocab_size=260)
>>> encoding = tokenizer.encode("lowest é")
>>> encoding.tokens
['low', 'e', 's', 't', 'Ġ', 'Ã', '©']
>>> encoding.ids
[258, 69, 83, 84, 221, 128, 103]
>>> tokenizer.decode(encoding.ids)
'lowest é'

A token is shown with one printable character for each byte: Ġ is a space, Ã and © are
the two bytes of é.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import write_json

END_OF_TEXT = "<|endoftext|>"
# Bytes; the time to learn from a word grows with the square of its length.
LONGEST_WORD = 1000
# Bytes; the memory to learn grows with the number of distinct words in the text.
LEARN_FROM = 100_000_000
# Characters; the memory to encode a text grows with its length.
LONGEST_PIECE = 1_000_000
# A space or newline after a visible character: GPT-2 always cuts a text there, since it
# joins a space only to the word after it, and a newline to no word at all.
SPACE_AFTER_WORD = re.compile("(?<=[!-~])[ \\n]")


def train_tokenizer(texts: Iterable[list[str]], *, vocab_size: int) -> Tokenizer:
    """Learn from the texts which strings deserve a token of their own.

    The result does not depend on the order of the texts, nor on the number of threads.
    """
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # A word of millions of characters (zeros, a genome) would take days to learn from.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.FixedLength(LONGEST_WORD)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = words
    treat_markers_as_text(tokenizer)
    return tokenizer


def spread_sample(
    texts: Iterable[list[str]], *, num_bytes: int, take: int
) -> Iterator[list[str]]:
    """Yield a part of some texts, spread evenly over all of them.

    Args:
        texts: The texts, in lists.
        num_bytes: Bytes of all these texts together, about.
        take: Bytes to yield: up to a piece more; if there are as many, all.
    """
    read = taken = 0
    for batch in texts:
        sample = []
        for piece in chain.from_iterable(map(cut_before_spaces, batch)):
            of_read = min(read, num_bytes)
            if taken * num_bytes <= of_read * take or num_bytes <= take:
                sample.append(piece)
                taken += len(piece.encode())
            read += len(piece.encode())
        yield sample


def cut_before_spaces(text: str) -> list[str]:
    """Cut a long text into pieces, only where GPT-2 cuts between words in any case.

    So the tokens of the pieces, one after the other, are the tokens of the text.
    """
    pieces = []
    first = 0
    while len(text) - first > LONGEST_PIECE:
        space = SPACE_AFTER_WORD.search(text, first + LONGEST_PIECE)
        if space is None:
            break
        pieces.append(text[first : space.start()])
        first = space.start()
    return [*pieces, text[first:]] if first else [text]


def cuts_words_as_gpt2(tokenizer: Tokenizer) -> bool:
    """Return whether a tokenizer cuts a text into words as GPT-2 does.

    Special tokens do not count: `treat_markers_as_text`.
    """
    settings = json.loads(tokenizer.to_str())
    words = settings["pre_tokenizer"] or {}
    return (
        tokenizer.encode_special_tokens
        and settings["normalizer"] is None
        and (words.get("type"), words.get("add_prefix_space")) == ("ByteLevel", False)
        and words.get("use_regex", True)
        and all(token["special"] for token in settings["added_tokens"])
    )


def save_tokenizer(tokenizer: Tokenizer, directory: Path, *, end_of_text: str) -> None:
    """Write the four files that, between them, every Hugging Face loader looks for."""
    directory.mkdir(parents=True)
    tokenizer.model.save(str(directory))
    tokenizer.save(str(directory / "tokenizer.json"))
    # GPT2Tokenizer cuts words in GPT-2's way, and ignores tokenizer.json in that.
    words = tokenizer.pre_tokenizer
    is_gpt2 = isinstance(words, pre_tokenizers.ByteLevel) and words.use_regex
    config = {
        "tokenizer_class": "GPT2Tokenizer" if is_gpt2 else "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "bos_token": end_of_text,
        "eos_token": end_of_text,
        "unk_token": end_of_text,
        # No limit: documents are cut into blocks after they were tokenized.
        "model_max_length": 10**30,
    }
    write_json(directory / "tokenizer_config.json", config)


def load_tokenizer(directory: Path) -> Tokenizer:
    """Read a tokenizer to which a literal `<|endoftext|>` in a text is plain text.

    Raises:
        InputError: It is missing or damaged.
    """
    path = directory / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run `dvc repro tokenize`") from None
    except Exception as error:  # tokenizers raises no class of its own
        raise InputError(f"{path} is damaged: {error}") from None
    treat_markers_as_text(tokenizer)
    return tokenizer


def treat_markers_as_text(tokenizer: Tokenizer) -> None:
    """Read `<|endoftext|>` in a text as letters: it cannot end a document."""
    tokenizer.encode_special_tokens = True


def decode_as_it_comes(tokenizer: Tokenizer, token_ids: Iterable[int]) -> Iterator[str]:
    """Yield the text of token ids piece by piece, each as soon as it is certain.

    A token may end in the middle of a character: its first bytes are held back until
    the rest has come. Special tokens are shown by their names.

    >>> tokenizer = train_tokenizer([["aé"]], vocab_size=257)
    >>> list(decode_as_it_comes(tokenizer, tokenizer.encode("aé").ids))
    ['a', 'é']
    """
    pieces = bytes_of_tokens(tokenizer)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token_id in token_ids:
        # `text := ...` gives the result a name, to test it and to yield it.
        piece = pieces[token_id] or str(tokenizer.id_to_token(token_id)).encode()
        if text := decoder.decode(piece):
            yield text
    if rest := decoder.decode(b"", final=True):
        yield rest


def vocab_size_of(tokenizer: Tokenizer) -> int:
    """Return how many token ids there are, unused ones included."""
    return int(max(tokenizer.get_vocab().values())) + 1


def bytes_of_tokens(tokenizer: Tokenizer) -> list[bytes]:
    """Return the bytes that each token id stands for.

    Special tokens, `<|endoftext|>` among them, stand for no bytes: no text holds them.

    >>> tokenizer = train_tokenizer([["low low"]], vocab_size=259)
    >>> bytes_of_tokens(tokenizer)[-2:]
    [b'lo', b'low']
    """
    byte_of_char = byte_alphabet()
    added = tokenizer.get_added_tokens_decoder()
    pieces = [b""] * vocab_size_of(tokenizer)
    for token, token_id in tokenizer.get_vocab().items():
        if token_id not in added:
            pieces[token_id] = bytes(byte_of_char[char] for char in token)
        elif not added[token_id].special:
            pieces[token_id] = token.encode()
    return pieces


def byte_alphabet() -> dict[str, int]:
    """Return the byte that each character of a token stands for.

    GPT-2 writes each byte as a printable character, so that vocab.json can be read:
    printable bytes as themselves, the others as the characters from 256 on
    (`bytes_to_unicode` in GPT-2's encoder.py). This is the inverse.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of_char = {chr(byte): byte for byte in printable}
    return byte_of_char | {chr(256 + place): byte for place, byte in enumerate(others)}

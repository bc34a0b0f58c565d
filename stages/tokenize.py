"""Turn the documents into token ids.

Reads:  data/documents/
Writes: data/tokens/, metrics/tokenize.json
"""

import sys
from collections.abc import Iterator

if __name__ == "tokenize":
    # Python was started in stages/, or with a file in it, and looks there first for the
    # standard library's module of this name, which most of that library needs.
    sys.exit(
        "error: stages/tokenize.py hides a module of the standard library from this "
        "command: run it in the project's folder, and a stage as "
        "`python -m stages.NAME`"
    )

from tqdm import tqdm

from toygpt.data.documents import corpus_digest, count_bytes, find_shards, read_texts
from toygpt.data.encoding import encode_documents
from toygpt.data.manifest import Part, tokenizer_digest, write_manifest
from toygpt.data.pretrained import load_pretrained_tokenizer
from toygpt.data.shards import Shard
from toygpt.data.token_files import token_type_for, write_tokens
from toygpt.data.tokenizer import (
    END_OF_TEXT,
    save_tokenizer,
    spread_sample,
    train_tokenizer,
    vocab_size_of,
)
from toygpt.pipeline import paths
from toygpt.pipeline.files import new_directory, write_json
from toygpt.pipeline.params_file import load_params
from toygpt.pipeline.stage import run


def main() -> None:
    params = load_params(paths.PARAMS)
    shards = find_shards(paths.DOCUMENTS)
    num_bytes = sum(count_bytes(paths.DOCUMENTS, shard) for shard in shards)
    if params.tokenize.tokenizer == "trained":
        end_of_text = END_OF_TEXT
        texts = texts_with_progress("learn the vocabulary", shards, num_bytes)
        tokenizer = train_tokenizer(
            spread_sample(texts, num_bytes), vocab_size=params.tokenize.vocab_size
        )
    else:
        tokenizer, end_of_text = load_pretrained_tokenizer(params.tokenize.tokenizer)
    vocab_size = vocab_size_of(tokenizer)
    end_of_text_id = tokenizer.token_to_id(end_of_text)
    assert end_of_text_id is not None, "every tokenizer knows its own tokens"
    token_type = token_type_for(vocab_size)

    with new_directory(paths.TOKENS) as directory:
        save_tokenizer(tokenizer, directory / "tokenizer", end_of_text=end_of_text)
        num_tokens = num_documents = 0
        for shard in shards:
            texts = texts_with_progress("encode", [shard], num_bytes)
            counts = write_tokens(
                encode_documents(tokenizer, texts, end_of_text_id=end_of_text_id),
                directory,
                token_type=token_type,
                shard=shard,
            )
            num_tokens += counts[0]
            num_documents += counts[1]
        write_manifest(
            directory,
            token_type=token_type,
            vocab_size=vocab_size,
            end_of_text_id=end_of_text_id,
            corpus_sha256=corpus_digest(paths.DOCUMENTS),
            tokenizer_sha256=tokenizer_digest(directory / "tokenizer"),
            parts={"tokens": Part(num_tokens, num_documents, num_bytes)},
        )

    bytes_per_token = num_bytes / num_tokens
    write_json(
        paths.METRICS / "tokenize.json",
        {
            "vocab_size": vocab_size,
            "tokens": num_tokens,
            "bytes_per_token": bytes_per_token,
        },
    )
    print(
        f"{num_tokens:,} tokens of {bytes_per_token:.2f} bytes each, from a vocabulary "
        f"of {vocab_size:,}"
    )


def texts_with_progress(
    description: str, shards: list[Shard], num_bytes: int
) -> Iterator[list[str]]:
    """Yield the texts of some shards and show how many bytes have been read."""
    with tqdm(
        desc=description, total=num_bytes, unit="B", unit_scale=True, disable=None
    ) as progress:
        for shard in shards:
            for texts in read_texts(paths.DOCUMENTS, shard):
                yield texts
                progress.update(sum(len(text.encode()) for text in texts))


if __name__ == "__main__":
    run(main)

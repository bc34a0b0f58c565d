"""Turn the documents into token ids.

Reads:  data/documents/
Writes: data/tokens/, metrics/tokenize.json
"""

import sys
from functools import partial

if __name__ == "tokenize":
    # Python was started in stages/, or with a file in it, and looks there first for the
    # standard library's module of this name, which most of that library needs.
    sys.exit(
        "error: stages/tokenize.py hides a module of the standard library from this "
        "command: run it in the project's folder, and a stage as "
        "`python -m stages.NAME`"
    )

from toygpt.data.documents import digest_of_corpus, open_documents
from toygpt.data.engines.engine import Engine, Work
from toygpt.data.file_records import FileRecord
from toygpt.data.manifest import Part, tokenizer_digest, write_manifest
from toygpt.data.pretrained import load_pretrained_tokenizer
from toygpt.data.token_files import token_type_for
from toygpt.data.tokenizer import (
    END_OF_TEXT,
    save_tokenizer,
    train_tokenizer,
    vocab_size_of,
)
from toygpt.data.tokenizing import encode_shard, sample_texts
from toygpt.pipeline import paths
from toygpt.pipeline.files import new_directory, write_json
from toygpt.pipeline.params_file import load_params
from toygpt.pipeline.stage import run


def main() -> None:
    params = load_params(paths.PARAMS)
    shards = open_documents(paths.DOCUMENTS)
    num_bytes = sum(documents.num_bytes for documents in shards)
    if params.tokenize.tokenizer == "trained":
        end_of_text = END_OF_TEXT
        tokenizer = train_tokenizer(
            sample_texts(shards), vocab_size=params.tokenize.vocab_size
        )
    else:
        tokenizer, end_of_text = load_pretrained_tokenizer(params.tokenize.tokenizer)
    vocab_size = vocab_size_of(tokenizer)
    end_of_text_id = tokenizer.token_to_id(end_of_text)
    assert end_of_text_id is not None, "every tokenizer knows its own tokens"
    token_type = token_type_for(vocab_size)
    encode = partial(
        encode_shard,
        tokenizer=tokenizer.to_str(),
        end_of_text_id=end_of_text_id,
        token_type=token_type,
        vocab_size=vocab_size,
    )

    with (
        Engine("tokenize", params.runtime) as engine,
        new_directory(paths.TOKENS) as directory,
    ):
        save_tokenizer(tokenizer, directory / "tokenizer", end_of_text=end_of_text)
        encoded = list(
            engine.map(
                encode,
                [Work(each.file_name, each, each.num_bytes) for each in shards],
                directory,
                description="encode",
            )
        )
        num_tokens = sum(shard["tokens"] for shard in encoded)
        num_documents = sum(shard["documents"] for shard in encoded)
        files = {
            name: FileRecord(**record)
            for shard in encoded
            for name, record in shard["files"].items()
        }
        write_manifest(
            directory,
            token_type=token_type,
            vocab_size=vocab_size,
            end_of_text_id=end_of_text_id,
            corpus_sha256=digest_of_corpus(shards),
            tokenizer_sha256=tokenizer_digest(directory / "tokenizer"),
            parts={"tokens": Part(num_tokens, num_documents, num_bytes)},
            files=dict(sorted(files.items())),
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


if __name__ == "__main__":
    run(main)

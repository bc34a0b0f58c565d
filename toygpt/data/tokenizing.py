"""The work of `tokenize` on a shard of documents: a sample to learn from, and encoding.

Both depend on that shard alone, and on how much text there is in all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tqdm import tqdm

from toygpt.data.documents import (
    DocumentsShard,
    check_shard,
    count_row_groups,
    read_texts,
)
from toygpt.data.encoding import encode_documents
from toygpt.data.engines.tasks import Advance
from toygpt.data.file_records import record_files
from toygpt.data.manifest import check_ids
from toygpt.data.token_files import write_tokens
from toygpt.data.tokenizer import LEARN_FROM, spread_sample, treat_markers_as_text
from toygpt.pipeline import paths

# How much is read of a corpus, as a multiple of what is taken: the more, the more
# places the sample comes from. A corpus of one shard of ordinary size is read wholly.
READ_FOR_SAMPLE = 10


def sample_texts(shards: Sequence[DocumentsShard]) -> Iterator[list[str]]:
    """Yield texts to learn the vocabulary from: the same part of each shard.

    All are yielded if there are `LEARN_FROM` bytes at most, or else about as many,
    spread evenly. Of a corpus that has more than ten times as much, only some row
    groups are read, which are spread evenly, too.
    """
    in_all = sum(documents.num_bytes for documents in shards)
    of_shard = [count_row_groups(paths.DOCUMENTS, each.shard) for each in shards]
    num_groups = sum(of_shard)
    # Rounded up.
    wanted = -(-READ_FOR_SAMPLE * LEARN_FROM * num_groups // in_all)
    num_read = min(num_groups, wanted)
    groups = [
        (documents.shard, group)
        for documents, number in zip(shards, of_shard, strict=True)
        for group in range(number)
    ]
    chosen = [groups[i * num_groups // num_read] for i in range(num_read)]
    with tqdm(
        desc="learn the vocabulary",
        total=in_all * num_read // num_groups,
        unit="B",
        unit_scale=True,
        disable=None,
    ) as progress:
        texts = chain.from_iterable(
            read_texts(
                paths.DOCUMENTS, shard, row_groups=[group for _, group in numbers]
            )
            for shard, numbers in groupby(chosen, key=itemgetter(0))
        )
        yield from spread_sample(
            with_progress(texts, progress.update),
            num_bytes=in_all * num_read // num_groups,
            take=min(in_all, LEARN_FROM),
        )


def encode_shard(
    documents: DocumentsShard,
    directory: Path,
    advance: Advance,
    *,
    tokenizer: str,
    end_of_text_id: int,
    token_type: str,
    vocab_size: int,
) -> dict[str, Any]:
    """Write the token files of a shard, and check them.

    The tokenizer is given as JSON: every worker can read that.

    Returns:
        How many tokens and documents the shard has, and the record of each file.

    Raises:
        InputError: The documents are not what `download` wrote, or the tokenizer gave
            an id that it does not have.
    """
    check_shard(paths.DOCUMENTS, documents)
    encoder = Tokenizer.from_str(tokenizer)
    treat_markers_as_text(encoder)
    texts = with_progress(read_texts(paths.DOCUMENTS, documents.shard), advance)
    num_tokens, num_documents = write_tokens(
        encode_documents(encoder, texts, end_of_text_id=end_of_text_id),
        directory,
        token_type=token_type,
        shard=documents.shard,
    )
    path = directory / documents.shard.name("tokens.bin")
    check_ids(path, token_type=token_type, vocab_size=vocab_size)
    files = record_files(directory, "*.bin")
    return {
        "tokens": num_tokens,
        "documents": num_documents,
        "files": {name: asdict(record) for name, record in files.items()},
    }


def with_progress(texts: Iterator[list[str]], advance: Advance) -> Iterator[list[str]]:
    """Yield lists of texts, and report the bytes of each after its use."""
    for batch in texts:
        yield batch
        advance(sum(len(text.encode()) for text in batch))

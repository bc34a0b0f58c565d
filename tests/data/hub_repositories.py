"""What the hub holds, in small: the same files, columns and types, but other texts."""

import io
import json
from collections.abc import Iterable, Sequence
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

WIKISOURCE = "wikimedia/wikisource"
REDPAJAMA = "togethercomputer/RedPajama-Data-1T-Sample"
ROWS = 4  # in each file
END_OF_TEXT = "<|endoftext|>"

Row = dict[str, Any]


def prose(seed: object) -> str:
    """Return some hundred words, among them names that other seeds do not have."""
    random = Random(str(seed))
    common = ["the", "river", "of", "stone", "naïve", "café", "東京", "he", "said\n\n"]
    names = ["".join(random.choices("kalomirentosvareld", k=7)) for _ in range(40)]
    return " ".join(random.choices(common + names, k=200))


def wikisource_rows(number: int, seed: int = 0) -> list[Row]:
    """Return a file's rows: a chapter of each of four works."""
    return [
        {
            "id": str(ROWS * number + work),
            "url": f"https://en.wikisource.org/wiki/{work}",
            "title": f"Work {work}" + (f"/Chapter {number}" if number else ""),
            "text": prose((seed, number, work)),
        }
        for work in range(ROWS)
    ]


# A row's `meta`, but the last file has none (https://github.com/togethercomputer/
# RedPajama-Data, branch rp_v1). Their types change within a file, as there.
META: dict[str, Row] = {
    "arxiv": {"arxiv_id": "1002.{0}", "yymm": "1002", "language": "en"},
    "book": {"short_book_title": "The {0}", "publication_date": 1500},
    "c4": {"timestamp": "2019-04-25T12:57:54Z", "url": "https://{0}.example"},
    "github": {"repo_name": "owner/{0}", "id": None, "language": [{"name": "Python"}]},
    "stackexchange": {"url": "https://stackoverflow.com/{0}", "question_score": "3"},
    "wikipedia": {"title": "Article {0}", "url": "https://en.wikipedia.org/wiki/{0}"},
}
CRAWLS = ("2019-30", "2020-05", "2021-04", "2022-05", "2023-06")


def redpajama_rows(source: str, seed: int = 0) -> list[Row]:
    """Return a file's rows; two files of GitHub are of one repository."""
    rows = []
    for place in range(ROWS):
        row: Row = {"text": prose((seed, source, place))}
        if source in META:
            number = place // 2 if source == "github" else place
            row["meta"] = {
                key: value.format(number) if isinstance(value, str) else value
                for key, value in META[source].items()
            }
        else:
            row |= {"pred_label_prob": 0.7, "source": f"{source}/line{place}"}
        rows.append(row)
    if source == "book":
        rows[-1]["meta"]["publication_date"] = "c. 1800"
    return rows


def wikisource_files(seed: int = 0) -> dict[str, bytes]:
    """Build the English part of wikimedia/wikisource: five Parquet files."""
    files = {"README.md": b"# Wikisource\n"}
    for number in range(5):
        table, sink = pa.Table.from_pylist(wikisource_rows(number, seed)), io.BytesIO()
        # Several groups of rows, as a file of hundreds of megabytes has them.
        pq.write_table(table, sink, row_group_size=2)
        files[f"20231201.en/train-{number:05}-of-00005.parquet"] = sink.getvalue()
    return files


def redpajama_files(seed: int = 0) -> dict[str, bytes]:
    """Build RedPajama's sample: eleven files of JSON lines, and a script."""
    sources = [*META, *(f"cc_{crawl}" for crawl in CRAWLS)]
    # The real one defines a dataset; `datasets` stopped running such scripts.
    script = b'raise RuntimeError("a script was run")\n'
    files = {"RedPajama-Data-1T-Sample.py": script}
    for source in sources:
        rows = redpajama_rows(source, seed)
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        files[f"{source}_sample.jsonl"] = "".join(lines).encode()
    return files


GPT2_WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False)


def byte_level(
    texts: Iterable[str],
    words: Any = GPT2_WORDS,
    special: Sequence[str] = (END_OF_TEXT,),
    num_others: int = 400,
) -> Any:
    """Train a byte-level tokenizer; its special tokens come last, as GPT-2's does.

    A tokenizer that our own code trained has them first.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = words
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=num_others,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def gpt2_tokenizer_files(*, vocab_size: int = 512) -> dict[str, bytes]:
    """Build what openai-community/gpt2 has of a tokenizer, with fewer tokens."""
    tokenizer = byte_level(map(prose, range(20)), num_others=vocab_size - 1)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}
    return {
        "config.json": json.dumps(config).encode(),
        "merges.txt": "\n".join(map(" ".join, merges)).encode(),
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps({"model_max_length": 1024}).encode(),
        "vocab.json": json.dumps(tokenizer.get_vocab()).encode(),
    }

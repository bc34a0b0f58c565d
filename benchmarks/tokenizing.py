"""How fast does text become token ids, beside what a user would pick instead?

    python -m benchmarks.tokenizing                          # 10 MB, our own vocabulary
    python -m benchmarks.tokenizing --vocabulary ~/gpt2      # GPT-2's files in a folder
    python -m benchmarks.tokenizing --stage 100 2000         # the whole stage, by size

All cases start from the same Parquet file (benchmarks/text.py describes its text). All
but that of `datasets` end with tokens.bin, as our stage does; `datasets` ends with the
Arrow file that it always writes. That all find the same ids is checked.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from benchmarks.measure import RESULTS, EndRound, Figures, Timing, compare, report
from benchmarks.text import ONE_WORD_IN, documents
from toygpt.data.documents import DOCUMENTS_FILE, count_bytes, read_texts, write_shard
from toygpt.data.encoding import encode_documents
from toygpt.data.pretrained import load_pretrained_tokenizer
from toygpt.data.shards import THE_ONLY_SHARD
from toygpt.data.token_files import TOKEN_TYPES, TokenIds, write_tokens
from toygpt.data.tokenizer import (
    END_OF_TEXT,
    bytes_of_tokens,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)
from toygpt.pipeline.files import sha256_of

PROJECT = Path(__file__).parents[1]
VOCAB_SIZE = 2048
# As the words are parted in GPT-2's vocabulary (tiktoken_ext.openai_public).
GPT2_WORDS = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
)
TextIds = Callable[[list[str]], Iterable[TokenIds]]


def stage(folder: Path, end_round: EndRound) -> None:
    """Encode as the stage does: with its check of the fast encoding each time."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    end = tokenizer.token_to_id(END_OF_TEXT)
    assert end is not None

    def once() -> None:
        write(
            folder,
            "stage",
            encode_documents(tokenizer, texts(folder), end_of_text_id=end),
        )

    in_rounds(once, end_round)


def tokenizers_alone(folder: Path, end_round: EndRound) -> None:
    """Encode with `encode_batch_fast`, a few megabytes at a time."""
    tokenizer = load_tokenizer(folder / "tokenizer")

    def ids_of(batch: list[str]) -> Iterator[TokenIds]:
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            yield np.array(encoding.ids, dtype=np.uint32)

    in_rounds(partial(encode, folder, "tokenizers", ids_of, tokenizer), end_round)


def tiktoken(folder: Path, end_round: EndRound) -> None:
    """Encode with tiktoken in one thread: on two cores, a second one made it slower."""
    from tiktoken import Encoding

    tokenizer = load_tokenizer(folder / "tokenizer")
    ranks = {
        piece: rank for rank, piece in enumerate(bytes_of_tokens(tokenizer)) if piece
    }
    encoding = Encoding(
        "same", pat_str=GPT2_WORDS, mergeable_ranks=ranks, special_tokens={}
    )

    def ids_of(batch: list[str]) -> Iterator[TokenIds]:
        for text in batch:
            yield encoding.encode_to_numpy(text, disallowed_special=())

    in_rounds(partial(encode, folder, "tiktoken", ids_of, tokenizer), end_round)


def fastokens(folder: Path, end_round: EndRound) -> None:
    """Encode with fastokens, a few megabytes at a time."""
    from fastokens import Tokenizer as FastTokenizer

    tokenizer = load_tokenizer(folder / "tokenizer")
    fast = FastTokenizer.from_json_str(tokenizer.to_str())

    def ids_of(batch: list[str]) -> Iterator[TokenIds]:
        ids, ends = fast.encode_batch_flat(batch, split_special_tokens=True)
        inner_ends = np.frombuffer(ends, dtype=np.uint64)[1:-1].astype(np.int64)
        yield from np.split(np.frombuffer(ids, dtype=np.uint32), inner_ends)

    in_rounds(partial(encode, folder, "fastokens", ids_of, tokenizer), end_round)


def datasets_map(folder: Path, end_round: EndRound, *, processes: int | None) -> None:
    """Encode with transformers' tokenizer in a batched `datasets.map`."""
    from datasets import Dataset, disable_progress_bars
    from transformers import GPT2Tokenizer

    disable_progress_bars()
    cache = folder / f"cache-{processes}"
    rows = Dataset.from_parquet(str(folder / "documents.parquet"), cache_dir=str(cache))
    tokenizer = GPT2Tokenizer.from_pretrained(folder / "tokenizer")

    def ids_of(batch: dict[str, list[str]]) -> dict[str, Any]:
        ids = tokenizer(
            batch["text"], return_attention_mask=False, split_special_tokens=True
        )
        return {"input_ids": ids["input_ids"]}

    def once() -> Any:
        return rows.map(
            ids_of,
            batched=True,
            remove_columns=rows.column_names,
            num_proc=processes,
            load_from_cache_file=False,
        )

    end = tokenizer.eos_token_id
    columns = once().with_format("numpy").iter(batch_size=100)
    found = (ids for batch in columns for ids in batch["input_ids"])
    write(
        folder,
        f"datasets-{processes}",
        (np.append(ids, end).astype("u4") for ids in found),
    )
    end_round()
    while True:
        once()
        end_round()


def in_rounds(once: Callable[[], object], end_round: EndRound) -> None:
    """Do the work once to warm up, and then once in each round."""
    while True:
        once()
        end_round()


def encode(folder: Path, name: str, ids_of: TextIds, tokenizer: Tokenizer) -> None:
    """Write the token ids of all texts, the end of text behind each."""
    end = np.array([tokenizer.token_to_id(END_OF_TEXT)], dtype=np.uint32)
    write(
        folder,
        name,
        (
            np.concatenate([ids, end])
            for batch in texts(folder)
            for ids in ids_of(batch)
        ),
    )


def texts(folder: Path) -> Iterator[list[str]]:
    """Yield the texts, in batches."""
    return read_texts(folder, THE_ONLY_SHARD)


def write(folder: Path, name: str, ids: Iterable[TokenIds]) -> None:
    """Write token ids where they can be compared with those of other cases."""
    (folder / name).mkdir(exist_ok=True)
    write_tokens(ids, folder / name, token_type="uint16")


def encode_with_each(
    folder: Path, num_bytes: int, rounds: int
) -> tuple[list[Timing], int]:
    """Encode the same text with every encoder; return the timings and the tokens."""
    cases = {
        "datasets.map, one process": partial(datasets_map, folder, processes=None),
        "datasets.map, num_proc=2": partial(datasets_map, folder, processes=2),
        "tokenizers": partial(tokenizers_alone, folder),
        "tiktoken": partial(tiktoken, folder),
        "fastokens": partial(fastokens, folder),
        "toyGPT's stage": partial(stage, folder),
    }
    timings = compare(cases, amount=num_bytes, rounds=rounds, with_children=True)
    files = sorted(folder.glob("*/tokens.bin"))
    digests = {sha256_of(file) for file in files}
    if (len(files), len(digests)) != (len(cases), 1):
        raise RuntimeError("not all cases found the same token ids")
    return timings, files[0].stat().st_size // TOKEN_TYPES["uint16"].itemsize


def time_stage(folder: Path, vocabulary: str) -> tuple[float, int]:
    """Run the whole stage; return its seconds and the most memory it took."""
    (folder / "data" / "documents").mkdir(parents=True)
    shutil.move(folder / "documents.parquet", folder / "data" / "documents")
    settings = (PROJECT / "params.yaml").read_text(encoding="utf-8")
    (folder / "params.yaml").write_text(
        settings.replace("tokenizer: trained ", f"tokenizer: {vocabulary} "),
        encoding="utf-8",
    )
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.tokenize"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError("the stage has failed")
    unit = 1 if sys.platform == "darwin" else 1024
    return time.perf_counter() - began, usage.ru_maxrss * unit


def stages_by_size(megabytes: list[int], vocabulary: str) -> list[Figures]:
    """Run the whole stage on texts of several sizes."""
    rows = []
    for size in megabytes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            num_bytes = write_text(folder, size)
            seconds, peak = time_stage(folder, vocabulary)
        notes: dict[str, float | str] = {
            "seconds": round(seconds, 1),
            "MB/s": round(num_bytes / seconds / 1e6, 1),
            "peak memory": f"{peak / 2**30:.2f} GiB",
        }
        rows.append(Figures(f"{size:,} MB", notes))
    return rows


def write_text(folder: Path, megabytes: int) -> int:
    """Write documents; return how many bytes of text they have."""
    write_shard(documents(megabytes * 1_000_000), folder / DOCUMENTS_FILE)
    return count_bytes(folder, THE_ONLY_SHARD)


def main() -> None:
    """Measure, print a table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--vocabulary", default="trained", help="or a folder, as GPT-2's"
    )
    parser.add_argument("--stage", type=int, nargs="+", help="sizes in megabytes")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    is_trained = arguments.vocabulary == "trained"
    vocabulary = "trained" if is_trained else str(Path(arguments.vocabulary).resolve())
    kind = "trained" if is_trained else "pretrained"
    text = (
        f"Python's sources; in each copy after the first, one word in {ONE_WORD_IN} "
        f"has other letters"
    )
    if arguments.stage:
        report(
            f"tokenizing-stage-{kind}",
            "How long does the stage take, and how much memory, for more text?",
            stages_by_size(arguments.stage, vocabulary),
            settings={
                "text": text,
                "vocabulary": kind,
                "from": "start to end of process",
            },
            folder=arguments.out,
        )
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        num_bytes = write_text(folder, arguments.megabytes)
        if is_trained:
            tokenizer = train_tokenizer(
                read_texts(folder, THE_ONLY_SHARD), vocab_size=VOCAB_SIZE
            )
            end_of_text = END_OF_TEXT
        else:
            tokenizer, end_of_text = load_pretrained_tokenizer(vocabulary)
        save_tokenizer(tokenizer, folder / "tokenizer", end_of_text=end_of_text)
        timings, num_tokens = encode_with_each(folder, num_bytes, arguments.rounds)
    report(
        f"tokenizing-{kind}",
        "How fast does text become token ids?",
        timings,
        unit="bytes",
        settings={
            "text": text,
            "megabytes": arguments.megabytes,
            "tokens": num_tokens,
            "vocabulary": kind,
        },
        folder=arguments.out,
    )


if __name__ == "__main__":
    main()

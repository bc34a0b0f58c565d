"""How do time and memory of the data stages grow with the corpus?

    python -m benchmarks.data                          # 30 and 120 million tokens
    python -m benchmarks.data --millions 100 400       # 16 GB of disk

For each size the real stages `download` and `split` run, each in a process of its own,
in a temporary folder. The corpus is lines of JSON, each a piece of Python's own library
of 6,000 bytes with a number, 12 to a group; the token ids are random, 4.5 bytes of text
to each. `leakage` is the part of `split` that compares the n-grams.

The last rows are what a straight line through the two largest sizes says of 1.5 billion
tokens. CPU seconds are those of all threads. Memory is what the process held at most of
its own (RssAnon, Linux): pages of mapped files, which the system takes back when it
needs them, are not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import chdir
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from ruamel.yaml import YAML

from benchmarks.measure import RESULTS, Duration, report
from toygpt.data.corpus import (
    RawDocument,
    find_standard_library,
    read_standard_library,
)
from toygpt.data.documents import digest_of_corpus, open_documents
from toygpt.data.engines.engine import Engine
from toygpt.data.file_records import record_files
from toygpt.data.inventory import Inventory
from toygpt.data.leakage import shared_ngram_fraction
from toygpt.data.manifest import (
    Part,
    read_manifest,
    tokenizer_digest,
    write_manifest,
)
from toygpt.data.token_files import TokenIds, write_tokens
from toygpt.data.tokenizer import save_tokenizer, train_tokenizer
from toygpt.pipeline import paths
from toygpt.pipeline.params_file import load_params

PROJECT = Path(__file__).resolve().parents[1]
TARGET_TOKENS = 1_500_000_000
BYTES_PER_DOCUMENT = 6_000
TOKENS_PER_DOCUMENT = 1_333
DOCUMENTS_PER_GROUP = 12
VOCAB_SIZE = 2_048
NGRAM_LENGTH = 13  # as in stages/split.py
PAUSE_SECONDS = 0.02


def the_library() -> Iterator[RawDocument]:
    """Yield the files of Python's own library."""
    return read_standard_library(find_standard_library(), Inventory())


def prepare(num_tokens: int) -> None:
    """Write the project's parameters and the corpus into the working directory."""
    yaml = YAML()
    params = yaml.load(PROJECT / "params.yaml")
    params["corpus"] = "files"
    params["split"].update(validation_fraction=0.01, test_fraction=0.01)
    yaml.dump(params, paths.PARAMS)
    library = b"\n".join(document.content for document in the_library())
    text = library.decode(errors="ignore")
    dice = random.Random(0)
    (Path("texts")).mkdir()
    with Path("texts", "all.jsonl").open("w") as file:
        for number in range(num_tokens // TOKENS_PER_DOCUMENT):
            start = dice.randrange(len(text) - BYTES_PER_DOCUMENT)
            row = {
                "text": f"{number}\n{text[start : start + BYTES_PER_DOCUMENT]}",
                "group": f"group {number // DOCUMENTS_PER_GROUP}",
            }
            file.write(json.dumps(row) + "\n")


def download() -> None:
    """Run the stage."""
    from stages import download

    download.main()


def make_tokens() -> None:
    """Write random token ids, as many documents as were downloaded."""
    num_documents = json.loads((paths.METRICS / "download.json").read_text())[
        "corpus_documents"
    ]
    numbers = np.random.default_rng(0)

    def documents() -> Iterator[TokenIds]:
        for _ in range(num_documents):
            document = numbers.integers(
                1, VOCAB_SIZE, TOKENS_PER_DOCUMENT, dtype=np.uint16
            )
            document[-1] = 0
            yield document

    paths.TOKENS.mkdir()
    library = (document.content.decode() for document in the_library())
    tokenizer = train_tokenizer(iter([list(library)]), vocab_size=VOCAB_SIZE)
    save_tokenizer(tokenizer, paths.TOKENIZER, end_of_text="<|endoftext|>")
    num_tokens, _ = write_tokens(documents(), paths.TOKENS, token_type="uint16")
    write_manifest(
        paths.TOKENS,
        token_type="uint16",
        vocab_size=VOCAB_SIZE,
        end_of_text_id=0,
        corpus_sha256=digest_of_corpus(open_documents(paths.DOCUMENTS)),
        tokenizer_sha256=tokenizer_digest(paths.TOKENIZER),
        parts={"tokens": Part(num_tokens, num_documents, bytes=0)},
        files=record_files(paths.TOKENS, "*.bin"),
    )


def split() -> None:
    """Run the stage."""
    from stages import split

    split.main()


def leakage() -> None:
    """Compare the n-grams once more, alone."""
    splits = read_manifest(paths.SPLITS, made_by="split")
    with Engine("split", load_params(paths.PARAMS).runtime) as engine:
        shared_ngram_fraction(paths.SPLITS, splits, engine, length=NGRAM_LENGTH)


def measured(work: Callable[[], None]) -> tuple[float, float, float]:
    """Do some work in another process; return its seconds, CPU seconds and bytes."""
    spawned = get_context("spawn")
    ours, theirs = spawned.Pipe()
    process = spawned.Process(target=_measure, args=(work, theirs))
    process.start()
    theirs.close()
    try:
        seconds, cpu_seconds, peak_bytes = ours.recv()
    except EOFError:
        raise SystemExit(f"{work.__name__} has failed") from None
    process.join()
    return seconds, cpu_seconds, peak_bytes


def _measure(work: Callable[[], None], connection: Connection) -> None:
    peak = 0
    is_done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not is_done.wait(PAUSE_SECONDS):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    peak = max(peak, int(line.split()[1]) * 1024)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began, cpu_began = time.perf_counter(), time.process_time()
    try:
        work()
    finally:
        is_done.set()
        watcher.join()
    connection.send(
        (time.perf_counter() - began, time.process_time() - cpu_began, peak)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=int, nargs="+", default=[30, 120])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    sizes = sorted(million * 1_000_000 for million in options.millions)

    cases = (download, split, leakage)
    found: dict[str, list[tuple[float, float, float]]] = {w.__name__: [] for w in cases}
    with TemporaryDirectory() as folder:
        for size in sizes:
            root = Path(folder) / str(size)
            root.mkdir()
            with chdir(root):
                prepare(size)
                found["download"].append(measured(download))
                shutil.rmtree("texts")
                make_tokens()
                found["split"].append(measured(split))
                found["leakage"].append(measured(leakage))
            shutil.rmtree(root)

    rows = []
    for name, results in found.items():
        for size, (seconds, cpu_seconds, peak) in zip(sizes, results, strict=True):
            rows.append(
                row(f"{name}, {size / 1e6:,.0f} M tokens", seconds, cpu_seconds, peak)
            )
        if len(sizes) > 1:
            line = [
                max(0.0, at_target(sizes[-2:], [result[i] for result in results[-2:]]))
                for i in range(3)
            ]
            rows.append(row(f"{name}, 1,500 M tokens (extrapolated)", *line))
    report(
        "data",
        "How do time and memory of the data stages grow with the corpus?",
        rows,
        settings={
            "bytes_per_document": BYTES_PER_DOCUMENT,
            "tokens_per_document": TOKENS_PER_DOCUMENT,
            "test_fraction": 0.01,
            "cores": os.cpu_count(),
        },
        folder=options.out,
    )


def row(name: str, seconds: float, cpu_seconds: float, peak: float) -> Duration:
    """Return a row of the table."""
    notes: dict[str, float | str] = {
        "CPU seconds": round(cpu_seconds, 1),
        "MiB": f"{peak / 2**20:,.0f}",
    }
    return Duration.of(name, [seconds], **notes)


def at_target(sizes: list[int], values: list[float]) -> float:
    """Return what a straight line through two points says of the target."""
    slope = (values[1] - values[0]) / (sizes[1] - sizes[0])
    return values[1] + slope * (TARGET_TOKENS - sizes[1])


if __name__ == "__main__":
    main()

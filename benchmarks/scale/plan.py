"""The formulas by which rates that were measured lead to corpora that were not.

Everything is linear in the text, or in the number of its documents, but where a formula
says otherwise. A worker is a core; the speed of disks and of the network is not in the
times: beside them stands what is read and written, for the reader's own to be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.measure import Figures
from benchmarks.scale.communication import BYTES, bytes_sent, matrix_weights
from benchmarks.scale.rates import (
    ASSIGNED,
    ASSIGNING,
    COMPARED,
    COMPARING,
    DOCUMENTS_RATIO,
    KNOWN_AGAIN,
    LEAKAGE,
    MD5,
    SHA256,
)
from benchmarks.training import TASKS
from toygpt.data.chunks import KNOWN
from toygpt.data.gathering import DIGESTS_AT_ONCE
from toygpt.model.gpt import GPTConfig

BYTES_PER_TOKEN = 4.5  # of English text, with the tokenizer of GPT-2
BYTES_PER_DOCUMENT = 6_000
SHARD_BYTES = 1e9  # download.shard_bytes
HELD_OUT_FRACTION = 1e-4  # of validation and of test: 30 million tokens of 300 billion
TOKEN_BYTES = 2  # uint16
WORKERS = 64
NAME_BYTES = 50  # of a document's id and group, compressed; assumed
# By toygpt/data/leakage.py, for each n-gram of the test: hashes, places and counts; and
# in a worker a bit, and the text of all bits while it is made.
STAGE_BYTES_PER_NGRAM = 32
WORKER_BYTES_PER_NGRAM = 1
BATCH_BYTES = 0.2 * 1e9  # training's hashes that are sorted together, and their places
HOUR = 3600.0
MEGA, GIGA, TERA = 1e6, 1e9, 1e12

# docs/performance.md, "Before the fast forms": `small` with all of them, on one H100.
TOKENS_PER_SECOND_OF_SMALL = 526_708
RANKS = [8, 64]
RANKS_OF_A_MACHINE = 8  # which share the check of the token files
# Of one core, by what benchmarks.scale calls them.
Rates = Mapping[str, float]


@dataclass(frozen=True)
class Corpus:
    """A text, by its size."""

    name: str
    num_bytes: float

    @property
    def tokens(self) -> float:
        """How many tokens it has."""
        return self.num_bytes / BYTES_PER_TOKEN

    @property
    def documents(self) -> float:
        """How many documents it has."""
        return self.num_bytes / BYTES_PER_DOCUMENT

    @property
    def shards(self) -> float:
        """How many shards it is cut into."""
        return self.num_bytes / SHARD_BYTES


CORPORA = [
    Corpus("300 B tokens", 300e9 * BYTES_PER_TOKEN),
    Corpus("15 TB", 15e12),
]


def hours(amount: float, rate: float) -> float:
    """Return how long a core works on so many bytes."""
    return amount / rate / HOUR


def plan_data(corpus: Corpus, rates: Rates) -> list[Figures]:
    """Return what each data stage takes for a corpus."""
    text, tokens = corpus.num_bytes, corpus.tokens * TOKEN_BYTES
    documents = text * rates[DOCUMENTS_RATIO]
    compared = hours(corpus.tokens, rates[LEAKAGE] * MEGA)
    assigned = hours(corpus.documents, rates[ASSIGNING] * MEGA)
    in_test = HELD_OUT_FRACTION * corpus.tokens
    parts = 1 + corpus.documents // DIGESTS_AT_ONCE
    length = KNOWN["num_bytes"].itemsize
    return [
        stage(
            f"{corpus.name}: download",
            hours(text, rates["download, MB/s"] * MEGA),
            workers=WORKERS,
            files=corpus.shards,
            # Chunks for their digests, and for the shards; these for theirs.
            read=text + 3 * documents,
            written=2 * documents,  # chunks go when the shards are there
        ),
        stage(
            f"{corpus.name}: download, comparing digests",
            hours(corpus.documents, rates[COMPARING] * MEGA),
            # All lengths, with the digests of a part; after these, where texts end.
            memory=corpus.documents
            * max(rates[KNOWN_AGAIN], length + (rates[COMPARED] - length) / parts),
            read=corpus.documents * KNOWN.itemsize * (parts + 1),
        ),
        stage(
            f"{corpus.name}: tokenize",
            hours(text, rates["tokenize, MB/s"] * MEGA),
            workers=WORKERS,
            files=2 * corpus.shards,
            read=2 * documents,  # once for the digest
            written=tokens,
        ),
        stage(
            f"{corpus.name}: split, copying",
            hours(text, rates["split, MB/s"] * MEGA) - compared - assigned,
            workers=WORKERS,
            files=3 * corpus.shards,
            # Digests; ids and groups twice. Of tokens a digest, a copy, and of the
            # copies the largest id.
            read=documents + 2 * NAME_BYTES * corpus.documents + 3 * tokens,
            written=tokens,
        ),
        stage(
            f"{corpus.name}: split, assigning",
            assigned,
            memory=corpus.documents * rates[ASSIGNED],
        ),
        stage(
            f"{corpus.name}: split, comparing n-grams",
            compared,
            workers=WORKERS,
            memory=STAGE_BYTES_PER_NGRAM * in_test,
            memory_of_worker=BATCH_BYTES + WORKER_BYTES_PER_NGRAM * in_test,
            read=2 * tokens,  # once for the digest
        ),
        stage(
            f"{corpus.name}: DVC's digests of all three",
            hours(documents + 2 * tokens, rates[MD5] * GIGA),
            read=documents + 2 * tokens,
        ),
    ]


def stage(
    name: str,
    work: float,
    *,
    workers: int = 1,
    memory: float = 0,
    memory_of_worker: float = 0,
    files: float = 0,
    read: float = 0,
    written: float = 0,
) -> Figures:
    """Return the row of a stage, or of a part of one.

    Args:
        name: Of the corpus and the stage.
        work: Hours of one core.
        workers: How many share it.
        memory: Bytes that grow with the corpus, in the process of the stage.
        memory_of_worker: The same, in each worker.
        files: Their number, of those that are written.
        read: Bytes that all processes read together.
        written: Bytes that they write.
    """
    return Figures(
        name,
        {
            "hours of one core": f"{work:,.1f}",
            "workers": workers,
            "hours": f"{work / workers:,.1f}",
            "memory": f"{memory / GIGA:,.1f} GB",
            "of each worker": f"{memory_of_worker / GIGA:,.1f} GB",
            "files": f"{files:,.0f}",
            "read": f"{read / TERA:,.1f} TB",
            "written": f"{written / TERA:,.1f} TB",
        },
    )


def plan_training(rates: Rates, corpus: Corpus) -> list[Figures]:
    """Return what training takes for each size, strategy and number of ranks."""
    rows = []
    for model in ("small", "large"):
        config = TASKS[model].config
        for strategy in ("ddp", "fsdp"):
            for ranks in RANKS:
                rows.append(training(model, config, strategy, ranks, rates, corpus))
    return rows


def training(
    model: str,
    config: GPTConfig,
    strategy: str,
    ranks: int,
    rates: Rates,
    corpus: Corpus,
) -> Figures:
    """Return the row of a training."""
    held = held_bytes(strategy, config, ranks)
    sent = bytes_sent(strategy, config, ranks, precision="bf16-mixed")
    kept = checkpoint_bytes(config)
    checked = corpus.tokens * TOKEN_BYTES / RANKS_OF_A_MACHINE / (rates[SHA256] * GIGA)
    days = ""
    if model == "small":
        days = f"{corpus.tokens / TOKENS_PER_SECOND_OF_SMALL / ranks / HOUR / 24:,.1f}"
    return Figures(
        f"{model}, {strategy}, {ranks} ranks",
        {
            "weights": f"{config.num_parameters / 1e6:,.0f} M",
            "sent by each rank in a step": f"{sent / GIGA:,.2f} GB",
            "kept by each rank": f"{held / GIGA:,.2f} GB",
            "a checkpoint": f"{kept / GIGA:,.1f} GB",
            "minutes to check the text": f"{checked / 60:,.1f}",
            "days on H100s, at the speed of one": days,
        },
    )


def checkpoint_bytes(config: GPTConfig) -> int:
    """Return the size of the weights, and of what the optimizers remember of them.

    Muon remembers one number for each of its weights, AdamW two.
    """
    others = config.num_parameters - matrix_weights(config)
    return BYTES * (config.num_parameters + matrix_weights(config) + 2 * others)


def held_bytes(strategy: str, config: GPTConfig, ranks: int) -> float:
    """Return what a rank keeps from step to step: those, and the gradients."""
    held = checkpoint_bytes(config) + BYTES * config.num_parameters
    return held / (ranks if strategy == "fsdp" else 1)

"""A corpus of many shards gives the weights and the metrics of one file."""

import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.project import UNTRACKED, Workspace
from toygpt.pipeline.files import sha256_of

pytestmark = pytest.mark.slow

SHARD_BYTES = 150_000


def contents(root: Path, name: str) -> bytes:
    """Return what the shards of a file hold, one after another: `splits/train`."""
    files = sorted((root / "data").glob(f"{name}*.bin"))
    return b"".join(path.read_bytes() for path in files)


def test_many_shards_end_in_the_weights_and_metrics_of_one(
    built: Workspace, project: Workspace
) -> None:
    """Some shards have no text of a split, and one document is larger than a shard."""
    project.set_params({"download.shard_bytes": SHARD_BYTES} | UNTRACKED)
    project.run("rm", "-r", "data", "models", ".toygpt")

    # One process is quicker than five.
    stages = ("download", "tokenize", "split", "train", "evaluate")
    runs = "".join(f"from stages import {it}; run({it}.main)\n" for it in stages)
    program = f"from toygpt.pipeline.stage import run\n{runs}"
    project.run(sys.executable, "-c", program)

    documents = sorted((project.root / "data/documents").glob("*.parquet"))
    assert len(documents) > 4
    texts = pq.read_table(documents).column("text").to_pylist()
    assert max(len(text.encode()) for text in texts) > SHARD_BYTES
    names = {path.name for path in (project.root / "data/splits").iterdir()}
    assert {f"test-{number:05}.bin" for number in range(len(documents))} < names
    sizes = [path.stat().st_size for path in (project.root / "data/splits").iterdir()]
    assert 0 in sizes
    for name in ("tokens/tokens", "splits/train", "splits/validation", "splits/test"):
        assert contents(project.root, name) == contents(built.root, name)
    for name in (
        *(f"metrics/{it}.json" for it in ("download", "tokenize", "split")),
        *("metrics/train.json", "metrics/evaluate.json"),
        "data/splits/test_documents.jsonl",
        "models/toygpt/model.safetensors",
    ):
        assert sha256_of(project.root / name) == sha256_of(built.root / name), name

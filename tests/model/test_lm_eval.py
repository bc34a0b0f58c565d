"""lm-eval reads the model directory, and measures the same bits per byte."""

import json
import os
import re
import shlex
import subprocess
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from tests.model.saved import save
from tests.project import PROJECT
from tests.tiny import BLOCK_SIZE
from toygpt.evaluation.test_loss import evaluate

TASK = "benchmarks/lm_eval/bits_per_byte.yaml"
README = (PROJECT / "README.md").read_text(encoding="utf-8")

# An environment with a PyTorch of its own: gigabytes, the first time.
pytestmark = pytest.mark.lm_eval


def test_lm_eval_measures_the_same_bits_per_byte(tmp_path: Path) -> None:
    model, directory, _, tokenizer = save(tmp_path, text=README, vocab_size=300)
    # Whole blocks: lm-eval gives the rest of a text more context than `evaluate` does.
    ids = tokenizer.encode(README.encode("ascii", "ignore").decode()).ids
    ids = ids[: 100 * BLOCK_SIZE]
    text = tokenizer.decode(ids)
    (tmp_path / "text.md").write_text(text, encoding="utf-8")
    ours = evaluate(
        model, np.array(ids), batch_size=64, overlap_fraction=0, end_of_text_id=0
    )

    theirs = bits_per_byte_of_lm_eval(directory, tmp_path / "text.md")

    assert len(ids) == 100 * BLOCK_SIZE
    assert theirs == pytest.approx(ours.bits_per_byte(len(text)), rel=1e-5)


def bits_per_byte_of_lm_eval(model: Path, text: Path) -> float:
    """Run the README's command on another model and text, offline but for packages."""
    scratch = text.parent / "lm-eval"
    task = (PROJECT / TASK).read_text(encoding="utf-8")
    scratch.mkdir()
    (scratch / Path(TASK).name).write_text(task.replace("README.md", str(text)))
    (line,) = re.findall(r"^uvx (?:.*\\\n)*.*", README, re.MULTILINE)
    line = line.replace("\\\n", "").replace("models/toygpt", str(model))
    command = shlex.split(line.replace(str(Path(TASK).parent), str(scratch)))
    # The versions installed here: they are in uv's cache already.
    same = [f"--with={name}=={version(name)}" for name in ("torch", "transformers")]
    done = subprocess.run(
        ["uvx", *same, *command[1:], "--output_path", str(scratch / "results")],
        env=os.environ | {"HF_HOME": str(scratch / "hub"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    if "Failed to fetch" in done.stderr:
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr
    (results,) = (scratch / "results").rglob("results_*.json")
    values = json.loads(results.read_text(encoding="utf-8"))["results"]
    return float(values["bits_per_byte"]["bits_per_byte,none"])

"""Where each stage leaves its results, and what outlives an experiment.

Inputs and outputs are relative to the working directory: DVC runs an experiment in a
copy of the project, and there it must find the copy's files. What has to survive that
copy (the trackers' records) lives under `main_root()`.
"""

import os
from pathlib import Path

PARAMS = Path("params.yaml")
LOCK = Path("dvc.lock")
TEXTS = Path("texts")  # for the user's own files

DOCUMENTS = Path("data/documents")
TOKENS = Path("data/tokens")
TOKENIZER = TOKENS / "tokenizer"
SPLITS = Path("data/splits")
MODEL = Path("models/toygpt")
ONNX = Path("models/onnx")  # of `python . export onnx`
TRAIN_REPORT = Path("reports/train")
EVALUATION = Path("reports/evaluate")
SAMPLES = Path("reports/samples")
METRICS = Path("metrics")

# In the main workspace.
TEMPORARY = Path(".toygpt/tmp")
SHARD_RESULTS = Path(".toygpt/shards")  # until all shards of a stage are done


def main_root() -> Path:
    """Return the project folder that the user works in, as an absolute path.

    `dvc exp run --temp` and the queue run a stage in a folder that is deleted
    afterwards; DVC names the project it belongs to in DVC_ROOT. Without DVC it is the
    nearest folder above that holds a dvc.yaml.
    """
    if root := os.environ.get("DVC_ROOT"):
        return Path(root).resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file():
            return folder
    return here

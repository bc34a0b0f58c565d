"""Write the results of the default pipeline to docs/results.json; README quotes them.

Run after `dvc repro`, as `python -m experiments.record_results`.
"""

import json
from pathlib import Path

from toygpt.data.manifest import read_manifest
from toygpt.model.device import device_for, device_name
from toygpt.pipeline import paths
from toygpt.pipeline.files import write_json

# Which of `generate-samples.prompts` the README shows, counted from zero.
README_SAMPLE = 1


def main() -> None:
    """Gather the metrics of all stages, and the sample that the README shows."""
    splits = read_manifest(paths.SPLITS, made_by="split")
    samples = (paths.SAMPLES / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    stages = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(paths.METRICS.glob("*.json"))
    }
    write_json(
        Path("docs/results.json"),
        {
            "device": device_name(device_for("auto")),
            "corpus_sha256": splits.corpus_sha256,
            **stages,
            "sample": json.loads(samples[README_SAMPLE]),
        },
    )


if __name__ == "__main__":
    main()

"""When two test results may be compared."""

import json
from pathlib import Path
from typing import Any

import pytest

from toygpt.pipeline.revision import Revision
from toygpt.reporting.lock import Lock
from toygpt.reporting.verdict import give_verdict

TEST = {"bytes": 8, "sha256": "a"}
MANIFEST = {
    "files": {"test-00000.bin": TEST, "test-00001.bin": TEST, "train-00000.bin": {}},
    "tokenizer_sha256": "b",
}


def project(root: Path, manifest: Any) -> Revision:
    """Return a workspace with a test result, and the manifest of its splits."""
    metrics = dict.fromkeys(
        ["test_bits_per_byte", "test_bits_per_byte_standard_error"], 1.5
    )
    texts = {"metrics/evaluate.json": json.dumps(metrics)}
    if manifest is not None:
        texts["data/splits/manifest.json"] = json.dumps(manifest)
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(text)
    return Revision(root)


def lock(splits: str | None, overlap: float) -> Lock:
    """Return a dvc.lock in which `evaluate` has read these splits."""
    deps = [{"path": "data/splits", "md5": splits}] if splits else []
    params = {"params.yaml": {"evaluate": {"overlap_fraction": overlap}}}
    return Lock(
        {"evaluate": {"deps": deps, "params": params}}, measured=frozenset({"evaluate"})
    )


@pytest.mark.parametrize(
    ("splits", "overlap", "manifest", "word"),
    [
        ("s", 0.5, None, "equal"),
        ("s", 0.6, MANIFEST, "not comparable"),
        ("t", 0.5, None, "not comparable"),
        # Other training data may leave the test split as it was.
        ("t", 0.5, MANIFEST, "equal"),
        ("t", 0.5, {**MANIFEST, "tokenizer_sha256": "c"}, "not comparable"),
        ("t", 0.5, {**MANIFEST, "files": {}}, "not comparable"),
        ("t", 0.5, {**MANIFEST, "files": {"test.bin": TEST}}, "not comparable"),
        ("t", 0.5, [], "not comparable"),
        (None, 0.5, None, "not comparable"),
    ],
)
def test_results_are_compared_on_the_same_text_and_in_the_same_way_alone(
    tmp_path: Path, splits: str | None, overlap: float, manifest: Any, word: str
) -> None:
    before = project(tmp_path / "before", MANIFEST)
    now = project(tmp_path / "now", manifest)

    verdict = give_verdict(before, now, lock("s", 0.5), lock(splits, overlap))

    assert verdict.word == word


def test_the_code_of_evaluate_is_compared_and_its_splits_are_those_it_read(
    tmp_path: Path,
) -> None:
    now = project(tmp_path / "now", MANIFEST)
    locks = [lock("s", 0.5), lock("s", 0.5)]
    locks[1].stages["evaluate"]["deps"].append(
        {"path": "stages/evaluate.py", "md5": "e"}
    )
    # Another stage has read other splits.
    train = {"deps": [{"path": "data/splits", "md5": "t"}]}
    both = Lock({**locks[1].stages, "train": train}, measured=locks[1].measured)

    same = give_verdict(now, now, locks[0], locks[0])
    other = give_verdict(now, now, locks[0], both)

    assert (same.is_same_code, other.is_same_code) == (True, False)
    assert (other.is_same_test, both.splits) == (True, "s")

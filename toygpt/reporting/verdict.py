"""The verdict: whether a model predicts the test split better than its baseline."""

import json
import math
from dataclasses import dataclass, replace
from typing import Literal

from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.revision import Revision
from toygpt.reporting.lock import Lock

EVALUATION = paths.METRICS / "evaluate.json"
# What `evaluate` measures is decided there.
CODE_OF_EVALUATE = ("stages/evaluate.py", "toygpt/evaluation")
# A difference of fewer standard errors than this may be noise.
NUM_STANDARD_ERRORS = 2


@dataclass(frozen=True)
class Result:
    """How well a model predicts the test split."""

    bits_per_byte: float
    standard_error: float


@dataclass(frozen=True)
class Verdict:
    """Two results on the test split, and what their difference means.

    Attributes:
        before: The baseline's result.
        now: The experiment's result.
        is_same_test: Whether both were measured on the same text in the same way.
        is_same_code: Whether the code that measured was the same.
        paired_error: The standard error of the difference, if both models were
            evaluated again for it.
    """

    before: Result
    now: Result
    is_same_test: bool
    is_same_code: bool
    paired_error: float | None = None

    @property
    def word(self) -> Literal["better", "worse", "equal", "not comparable"]:
        """The verdict in a word."""
        if not self.is_same_test:
            return "not comparable"
        if self.difference == 0:
            return "equal"
        return "better" if self.difference < 0 else "worse"

    @property
    def difference(self) -> float:
        """The change of the bits per byte: below zero, the experiment is better."""
        return self.now.bits_per_byte - self.before.bits_per_byte

    @property
    def noise(self) -> float:
        """The difference that another test split of this kind may make.

        Without a paired error it is that of two independent results: an upper bound,
        since two models find the same documents hard.
        """
        errors = (self.before.standard_error, self.now.standard_error)
        error = math.hypot(*errors) if self.paired_error is None else self.paired_error
        return NUM_STANDARD_ERRORS * error

    @property
    def is_beyond_noise(self) -> bool:
        """Whether the verdict would hardly be another one with another test split."""
        return abs(self.difference) > self.noise


def give_verdict(
    before: Revision,
    now: Revision,
    before_lock: Lock,
    now_lock: Lock,
    *,
    is_paired: bool = False,
) -> Verdict:
    """Compare the test results of two revisions.

    Args:
        before: The baseline.
        now: The experiment.
        before_lock: dvc.lock of the baseline.
        now_lock: dvc.lock of the experiment.
        is_paired: Whether to evaluate both models again, for the noise of the
            difference.

    Raises:
        InputError: A revision has no test result, or that of another model.
    """
    verdict = Verdict(
        before=_result(before, before_lock),
        now=_result(now, now_lock),
        is_same_test=_is_same_test(before, now, before_lock, now_lock),
        is_same_code=all(
            before_lock.evaluate_deps.get(path) == now_lock.evaluate_deps.get(path)
            for path in CODE_OF_EVALUATE
        ),
    )
    if not is_paired or not verdict.is_same_test:
        return verdict
    from toygpt.reporting.paired import evaluate_both

    bits_per_byte, error = evaluate_both(
        before, now, overlap_fraction=now_lock.overlap_fraction
    )
    return replace(
        verdict,
        before=replace(verdict.before, bits_per_byte=bits_per_byte[0]),
        now=replace(verdict.now, bits_per_byte=bits_per_byte[1]),
        is_same_code=True,
        paired_error=error,
    )


def _result(revision: Revision, lock: Lock) -> Result:
    try:
        metrics = json.loads(revision.read(EVALUATION))
        result = Result(
            bits_per_byte=float(metrics["test_bits_per_byte"]),
            standard_error=float(metrics["test_bits_per_byte_standard_error"]),
        )
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        raise InputError(
            f"{revision} has no test result in {EVALUATION}: run `dvc repro evaluate` "
            f"there"
        ) from None
    if "evaluate" not in lock.measured:
        raise InputError(
            f"{EVALUATION} of {revision} was not measured on {paths.MODEL}, according "
            f"to {paths.LOCK}: run `dvc repro --single-item evaluate` there"
        )
    return result


def _is_same_test(
    before: Revision, now: Revision, before_lock: Lock, now_lock: Lock
) -> bool:
    """Return whether two revisions were measured on the same text in the same way."""
    if before_lock.overlap_fraction != now_lock.overlap_fraction:
        return False
    if before_lock.splits == now_lock.splits:
        return before_lock.splits is not None
    # Other training data may leave the test split as it was.
    digest = _test_digest(now)
    return digest is not None and digest == _test_digest(before)


def _test_digest(revision: Revision) -> str | None:
    """Return the digest of the test split, None if its manifest is not to be had."""
    try:
        manifest = json.loads(revision.read(paths.SPLITS / "manifest.json"))
        # One for each shard of the corpus.
        files = [
            it for name, it in manifest["files"].items() if name.startswith("test")
        ]
        return f"{files} {manifest['tokenizer_sha256']}" if files else None
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None

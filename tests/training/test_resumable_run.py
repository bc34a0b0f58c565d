"""Whether a training starts over. tests/resuming/ has what it resumes from."""

import pytest

from toygpt.training.resumable_run import is_fresh


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"TOYGPT_FRESH": "1"}, True),
        ({"TOYGPT_FRESH": "1", "SLURM_RESTART_COUNT": "0"}, True),
        ({"TOYGPT_FRESH": "1", "SLURM_RESTART_COUNT": "1"}, False),
    ],
)
def test_a_job_that_was_requeued_does_not_start_over(
    environment: dict[str, str], expected: bool
) -> None:
    assert is_fresh(environment) is expected

"""The doctor names what keeps a tracker from being synced."""

import shutil
from pathlib import Path

import pytest

from tests.project import PROJECT
from toygpt.doctor.finding import Finding
from toygpt.doctor.trackers import check_trackers


def test_a_variable_that_wandb_would_refuse_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    monkeypatch.setenv("WANDB_MODE", "onlin")

    *_, finding = check_trackers(tmp_path)

    assert isinstance(finding, Finding)
    assert finding.problem.startswith("WANDB_MODE: got 'onlin'; W&B takes online, ")
    assert finding.command == "unset WANDB_MODE"

"""What the doctor says of a machine."""

from pathlib import Path

import pytest

from tests.project import copy_project
from toygpt.doctor import machine
from toygpt.doctor.finding import Finding


@pytest.mark.parametrize("is_shared", [False, True])
def test_on_a_full_disk_a_shared_cache_keeps_the_results_of_other_clones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_shared: bool
) -> None:
    project = copy_project(tmp_path / "project")
    project.enter(monkeypatch)
    if is_shared:
        project.dvc("cache", "dir", "--local", str(tmp_path / "cache"))
    monkeypatch.setattr(machine, "LEAST_FREE_BYTES", 10**18)

    lines = list(machine.check_machine(project.root))

    (finding,) = [line for line in lines if isinstance(line, Finding)]
    assert finding.problem.endswith("of the disk is free")
    command = "dvc gc --all-commits --all-experiments"
    others = " --projects FOLDER_OF_EACH_OTHER_CLONE" if is_shared else ""
    assert finding.command == command + others


def test_on_a_full_disk_without_git_the_command_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = copy_project(tmp_path / "project")
    project.run("rm", "-r", ".git")
    monkeypatch.setattr(machine, "LEAST_FREE_BYTES", 10**18)

    lines = list(machine.check_machine(project.root))

    (finding,) = [line for line in lines if isinstance(line, Finding)]
    assert finding.command == "dvc gc --all-commits --all-experiments"

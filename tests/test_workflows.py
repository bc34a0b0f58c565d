"""The workflows of GitHub Actions are valid and safe, and their commands exist."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.cli.test_commands import check
from tests.project import PROJECT

WORKFLOWS = sorted((PROJECT / ".github/workflows").glob("*.yml"))
LINTERS = {
    "check-jsonschema": ["--builtin-schema", "vendor.github-workflows"],
    "zizmor": ["--offline", "--quiet"],
}


def complaints(linter: str, path: Path) -> str:
    """Return what a linter has against a workflow; an empty text if nothing."""
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    if (program := shutil.which(linter, path=here)) is None:
        pytest.skip(f"there is no {linter} here: `uv sync` installs it")
    command = [program, *LINTERS[linter], str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stdout + done.stderr) if done.returncode else ""


@pytest.mark.parametrize("linter", LINTERS)
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_valid_and_safe(path: Path, linter: str) -> None:
    assert not complaints(linter, path)


@pytest.mark.parametrize(
    ("linter", "right", "wrong", "named"),
    [
        ("check-jsonschema", "timeout-minutes:", "timeout-minute:", "timeout-minute"),
        ("zizmor", r"\$OVERRIDES;", "${{ inputs.overrides }};", "template-injection"),
        ("zizmor", r"@[0-9a-f]{40}", "@v7", "unpinned-uses"),
        ("zizmor", "persist-credentials: false", "lfs: true", "artipacked"),
        ("zizmor", r":\n +contents: read", ": write-all", "excessive-permissions"),
    ],
)
def test_a_mistake_in_a_workflow_is_noticed(
    tmp_path: Path, linter: str, right: str, wrong: str, named: str
) -> None:
    text = (PROJECT / ".github/workflows/train.yml").read_text(encoding="utf-8")
    copy = tmp_path / ".github/workflows/train.yml"
    copy.parent.mkdir(parents=True)
    copy.write_text(re.sub(right, wrong, text))
    assert copy.read_text() != text

    assert named in complaints(linter, copy)


@pytest.mark.slow
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_command_of_a_workflow_exists(path: Path) -> None:
    jobs = YAML(typ="safe").load(path)["jobs"].values()
    scripts = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    lines = [line.strip() for script in scripts for line in script.splitlines()]
    commands = [line for line in lines if line.startswith(("uv ", ".ci/", "git "))]

    assert commands
    for command in commands:
        words = shlex.split(re.split(r" > | \| ", command)[0], comments=True)
        if words[0].startswith(".ci/"):
            assert os.access(PROJECT / words[0], os.X_OK)
        else:
            check(*(word for word in words if "[@]" not in word))

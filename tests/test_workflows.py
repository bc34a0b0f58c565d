"""The workflows of GitHub Actions are valid and safe, and their commands exist."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.cli.test_commands import check
from tests.project import PROJECT, UNTRACKED, Workspace

WORKFLOWS = sorted((PROJECT / ".github/workflows").glob("*.yml"))
LINTERS = {
    "check-jsonschema": ["--builtin-schema", "vendor.github-workflows"],
    "zizmor": ["--offline", "--quiet"],
}


def complaints(linter: str, path: Path) -> str:
    """Return what a linter has against a workflow; an empty text if nothing."""
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    if (program := shutil.which(linter, path=here)) is None:
        assert "CI" not in os.environ, f"there is no {linter}"  # as on GitHub
        pytest.skip(f"there is no {linter} here: `uv sync` installs it")
    command = [program, *LINTERS[linter], str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    output = f"exit code {done.returncode}: {done.stdout}{done.stderr}"
    return output if done.returncode else ""


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


def test_another_label_of_a_pull_request_ends_no_training() -> None:
    """A group of the workflow is entered, and ends who is in it, before any `if`."""
    workflow = YAML(typ="safe").load(PROJECT / ".github/workflows/train.yml")

    assert "concurrency" not in workflow
    assert "github.run_id" in workflow["jobs"]["train"]["concurrency"]["group"]


def steps_of(path: Path) -> Iterator[dict[str, str]]:
    """Yield the steps of a workflow that run a script."""
    for job in YAML(typ="safe").load(path)["jobs"].values():
        yield from (step for step in job["steps"] if "run" in step)


@pytest.mark.slow
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_command_of_a_workflow_exists(path: Path) -> None:
    scripts = [step["run"].splitlines() for step in steps_of(path)]
    lines = [line.strip() for script in scripts for line in script]
    commands = [line for line in lines if line.startswith(("uv ", ".ci/", "git "))]

    assert commands
    for command in commands:
        words = shlex.split(re.split(r" > | \| ", command)[0], comments=True)
        if words[0].startswith(".ci/"):
            assert os.access(PROJECT / words[0], os.X_OK)
        else:
            check(*(word for word in words if "[@]" not in word))


def test_the_scripts_of_a_training_pull_the_baseline_and_write_a_report(
    built: Workspace, tmp_path: Path
) -> None:
    """As GitHub runs them, but for uv, which is there already."""
    remote = str(tmp_path / "remote")
    origin = built.copy_to(tmp_path / "origin")
    origin.set_params(UNTRACKED)
    origin.commit("untracked")
    origin.dvc("remote", "add", "--local", "--default", "storage", remote)
    # One result was never pushed, as after an evaluation without samples.
    origin.dvc("push", "evaluate", "--with-deps")
    clone = Workspace(tmp_path / "clone")
    origin.run("git", "clone", "--quiet", ".", str(clone.root))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/uv").write_text('#!/bin/sh\nshift\nexec "$@"\n')
    (tmp_path / "bin/uv").chmod(0o755)
    clone.commit("the merge of a pull request")
    commit = clone.run("git", "rev-parse", "HEAD").stdout.strip()
    clone.environment |= {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{clone.environment['PATH']}",
        "BASELINE": "HEAD^1",
        "DVC_REMOTE": remote,
        "OVERRIDES": "generate-samples.max_new_tokens=3 generate-samples.prompts=[a]",
        "GITHUB_SHA": commit,
        "GITHUB_RUN_NUMBER": "7",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
    }

    scripts = {step["name"]: step["run"] for step in steps_of(WORKFLOWS[-1])}
    outputs = {
        name: clone.run("bash", "-e", "-c", scripts[name]).stdout
        for name in ("Baseline", "Experiment", "Report")
    }
    ran = re.findall("Running stage '(.*)'", outputs["Baseline"])
    assert ran == ["generate-samples"], "the rest of the baseline is pulled"

    page = (clone.root / "report/report.md").read_text(encoding="utf-8")
    assert page.startswith("# toyGPT: the workspace against `baseline` (")
    assert "**Equal: " in page
    assert "| `generate-samples.max_new_tokens` | 4 | 3 | -1 (-25.0%) |" in page
    assert (clone.root / "report/report.png").is_file()
    comment = (clone.root / "report/comment.md").read_text(encoding="utf-8")
    picture = "![Training and validation loss](report.png)"
    assert comment == page.replace(picture, 'The picture is in the artifact "report".')
    assert (tmp_path / "summary.md").read_text(encoding="utf-8") == comment
    names = clone.dvc("exp", "list", "--name-only").stdout.split()
    assert names == ["actions-7"]

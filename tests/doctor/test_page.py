"""The page of the doctor: what a healthy project reads, and how a finding is shown."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.doctor.conftest import Visit
from tests.project import Workspace
from tests.tiny import ABSENT_ACCELERATOR
from toygpt.doctor import page
from toygpt.doctor.finding import Finding
from toygpt.pipeline.measurements import remove_measurements


def test_a_healthy_project_has_no_finding(
    project: Workspace, visit: Callable[..., Visit], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one whose last two stages have not run yet, and that is being edited."""
    monkeypatch.chdir(project.root)
    remove_measurements()
    for path in project.root.glob("metrics/[eg]*.json"):
        path.unlink()
    with (project.root / "README.md").open("a") as file:
        file.write("an edit")
    project.set_params({"train.learning_rate": 0.5})
    (project.root / "toygpt/generation/samples.py").write_text("# rewritten\n")
    project.run("git", "stash")
    project.run("git", "stash", "apply")

    result = visit()

    assert result.code == 0, result.page
    assert result.page.endswith("\nAll is well.\n")
    for words in ("cores", "of memory", "of the disk", "torch", "on branch main"):
        assert words in result.text
    assert (
        "not built yet: reports/evaluate, metrics/evaluate.json, reports/samples, "
        "metrics/generate-samples.json; to build: `dvc repro`"
    ) in result.text
    assert all(len(line) < 100 for line in result.page.splitlines()[1:])


def test_a_fresh_clone_is_well(
    project: Workspace, visit: Callable[..., Visit], tmp_path: Path
) -> None:
    project.run("git", "clone", "--quiet", ".", str(tmp_path / "clone"))

    result = visit(root=tmp_path / "clone")

    assert result.code == 0, result.page
    assert "not built yet; to build: `dvc repro`" in result.text


def test_a_check_that_fails_is_a_finding(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    (project.root / "dvc.yaml").write_text("stages: [")

    assert visit(fix=True).command("could not be examined") == "dvc status"


@pytest.mark.parametrize("is_safe", [True, False])
def test_only_a_fix_that_succeeds_takes_its_finding_away(
    visit: Callable[..., Visit], monkeypatch: pytest.MonkeyPatch, is_safe: bool
) -> None:
    findings = [Finding("it hurts", "sleep", lambda: fix()), Finding("it itches", "x")]

    def fix() -> None:
        if not is_safe:
            raise OSError("no")
        findings.pop(0)

    def check(root: Path) -> Iterator[Finding]:
        yield from list(findings)

    monkeypatch.setattr(page, "CHECKS", [("body", check, "")])
    assert "2 findings; `python . doctor --fix` fixes 1 of them." in visit().page

    result = visit(fix=True)

    assert result.command("it itches") == "x"
    if is_safe:
        assert "fixed: it hurts" in result.page
        assert "1 finding; each has its command below it." in result.page
    else:
        assert result.command("it hurts") == "sleep"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"runtime.accelerator": ABSENT_ACCELERATOR},
            f"the accelerator '{ABSENT_ACCELERATOR}' is not available here, only",
        ),
        ({"train.learning_rate": -1.0}, "train.learning_rate: got -1.0"),
        (
            {"corpora.files.folder": "~/texts"},
            "DVC does not expand the `~` of corpora.files.folder, and would look for "
            f"a folder of that name: write {Path.home() / 'texts'}",
        ),
    ],
    ids=str,
)
def test_parameters_that_cannot_be_used_are_findings(
    project: Workspace,
    visit: Callable[..., Visit],
    changes: dict[str, object],
    problem: str,
) -> None:
    project.set_params(changes)

    assert visit().command(problem) == "${EDITOR:-vi} params.yaml"


def test_a_server_open_to_everyone_is_a_finding(
    visit: Callable[..., Visit], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HOST", "0.0.0.0")
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "*")

    result = visit()

    assert result.command("MLFLOW_HOST=0.0.0.0") == "unset MLFLOW_HOST"
    result.text_of("MLFLOW_SERVER_ALLOWED_HOSTS=*")

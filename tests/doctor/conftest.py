"""Projects for the doctor, and visits to it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.project import UNTRACKED, Workspace
from toygpt.doctor.page import doctor


class Visit:
    """The page of the doctor, and its exit code."""

    def __init__(self, code: int, page: str) -> None:
        self.code = code
        self.page = page
        self.text = " ".join(page.split())  # without the breaks of its lines

    def command(self, problem: str) -> str:
        """Return the command below a finding."""
        return self.text_of(problem).splitlines()[-1].strip()

    def text_of(self, problem: str) -> str:
        """Return a finding with its command, as it is printed."""
        for part in self.page.split("\n  !!  ")[1:]:
            lines = part.splitlines()
            command = next(n for n, line in enumerate(lines) if line[:8] == " " * 8)
            if problem in " ".join(" ".join(lines[:command]).split()):
                return "\n".join(lines[: command + 1])
        raise AssertionError(f"no finding {problem!r}:\n{self.page}")


@pytest.fixture(scope="module")
def untracked(built: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a copy of the built project in which no tracker has logged anything."""
    workspace = built.copy_to(tmp_path_factory.mktemp("untracked") / "project")
    workspace.run("rm", "-rf", "mlflow.db", "mlartifacts", "wandb", ".toygpt")
    workspace.set_params(UNTRACKED)
    workspace.commit("untracked")
    return workspace


@pytest.fixture
def project(
    untracked: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Workspace:
    """Return a copy of that project, to damage it."""
    copy = untracked.copy_to(tmp_path / "project")
    for name, value in copy.environment.items():
        if name.startswith(("DVC_SITE_CACHE_DIR", "PATH", "GIT_")):
            monkeypatch.setenv(name, value)
    return copy


@pytest.fixture
def visit(
    project: Workspace, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Visit]:
    """Return how to call the doctor."""

    def visit(*, fix: bool = False, root: Path = project.root) -> Visit:
        capsys.readouterr()
        code = doctor(root, fix=fix)
        page = capsys.readouterr().out
        assert ("!!" in page) == bool(code)
        return Visit(code, page)

    return visit

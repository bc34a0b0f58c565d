"""What every test shares: one thread, checked shapes, no settings from outside."""

import os
import signal
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

# Before anything of toygpt is imported: calls of the network are checked against their
# annotations, the tensor shapes among them.
install_import_hook(
    ["toygpt.model", "toygpt.generation", "toygpt.data.batches"], "beartype.beartype"
)

import torch  # noqa: E402

from tests.project import SETTINGS_FROM_OUTSIDE, Workspace, tiny_project  # noqa: E402

# A shell starts what runs in the background without ears for Ctrl-C, and whatever that
# starts would inherit it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# On small models threads cost more than they bring, here and in what is started here.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# How long an example takes is not what is tested: other work may slow it down.
settings.register_profile(
    "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("patient")

# The files of minutes: begun last, they would leave all cores but one idle.
LONGEST_FIRST = ["pipeline", "hub_tokenizer", "pipeline_resume", "train_faults"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; otherwise the order stays as it is."""

    def rank(item: pytest.Item) -> int:
        name = item.path.stem.removeprefix("test_")
        return LONGEST_FIRST.index(name) if name in LONGEST_FIRST else 99

    items.sort(key=rank)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a surrounding `dvc repro`, tracker or hub from leaking into a test."""
    for variable in os.environ:
        if variable.startswith(SETTINGS_FROM_OUTSIDE):
            monkeypatch.delenv(variable)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder in which temporary files are made."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a tiny project after its `dvc repro`, for all tests to read, not change.

    The first process of the test session that needs it builds it for the others.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    root = folder / "built" / "project"
    with FileLock(folder / "built.lock"):
        if not (folder / "built" / "is-done").exists():
            workspace = tiny_project(root)
            workspace.dvc("repro")
            workspace.commit("built")
            (folder / "built" / "is-done").touch()
    return Workspace(root)


@pytest.fixture
def project(built: Workspace, tmp_path: Path) -> Workspace:
    """Return a copy of that project, for one test to change."""
    return built.copy_to(tmp_path / "project")

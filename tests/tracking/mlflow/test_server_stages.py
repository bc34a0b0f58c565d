"""Real stages log to a team's MLflow server, also where DVC's queue runs them."""

import sys

import pytest

from tests.project import Workspace
from tests.tracking.mlflow.server import Server, audit_at
from toygpt.tracking.record import Record
from toygpt.tracking.run_info import all_infos

HAS_FOLLOWERS = True  # see conftest.py

pytestmark = pytest.mark.slow


@pytest.fixture
def at_server(project: Workspace, server: Server) -> Workspace:
    """Return the built project, whose user has a server from now on."""
    project.set_params({"tracking.wandb": "disabled"})
    project.environment["MLFLOW_TRACKING_URI"] = server.address
    return project


@pytest.mark.parametrize("place", ["in the queue", "in a temporary folder"])
def test_an_experiment_logs_to_the_server(
    at_server: Workspace, server: Server, place: str
) -> None:
    """DVC trains in another folder; in the queue, not even the user's process does.

    To a database, also in the workspace: tests/test_experiments.py.
    """
    at_server.commit("no W&B")
    at_server.environment["MLFLOW_EXPERIMENT_NAME"] = f"team, {place}"
    train = ("exp", "run", "train", "-n", "mine", "-S", "train.learning_rate=3e-3")
    if place == "in the queue":
        at_server.dvc(*train, "--queue")
        try:
            at_server.dvc("exp", "run", "--run-all")
        finally:
            at_server.dvc("queue", "stop", "--kill", check=False)
    else:
        at_server.dvc(*train, "--temp")

    _, record = (Record(folder) for folder, _ in all_infos(at_server.root))
    assert record.info.name == "mine"
    assert audit_at(server, record) == []
    ((destination, has),) = record.info.synced.items()
    assert destination == f"mlflow:{server.address}"
    assert has.directories == ["model"]
    assert f"team, {place}" in server.experiment_names().values()


def test_an_address_of_another_kind_ends_training_before_it_begins(
    at_server: Workspace,
) -> None:
    at_server.environment["MLFLOW_TRACKING_URI"] = "ftp://example.com"
    before = {path: path.stat().st_mtime_ns for path in at_server.root.rglob("*")}

    done = at_server.run(sys.executable, "-m", "stages.train", check=False)

    assert done.returncode == 1
    (error,) = done.stderr.splitlines()
    assert error.startswith("error: the variable MLFLOW_TRACKING_URI: got 'ftp://exa")
    after = {path: path.stat().st_mtime_ns for path in at_server.root.rglob("*")}
    assert {path for path in before | after if before.get(path) != after.get(path)} <= {
        at_server.root / ".toygpt"
    }

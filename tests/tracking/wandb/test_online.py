"""What W&B's server gets, as far as a stand-in shows it, and what its faults cost."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.files import write_files
from tests.project import PROJECT
from tests.tracking.trackers import (
    MODEL_FILES,
    RUN_ID,
    WEIGHTS,
    Warned,
    end_wandb,
    log,
    record_in,
    run_in,
    tracked_by,
    wandb_command,
)
from tests.tracking.wandb.server import KEY, WandbServer, wandb_server
from toygpt.tracking import sync
from toygpt.tracking.sync import bring_up_to_date
from toygpt.tracking.wandb import tracker as wandb_tracker

ONLINE = tracked_by(wandb="online", entity="team", group="a group")


@pytest.fixture
def server(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        yield server


def train(root: Path, **changes: object) -> None:
    write_files(root.with_name("model"), MODEL_FILES)
    tracking = ONLINE.model_copy(update=changes)
    with run_in(root, tracking, params={"corpus": "python", "model": "nano"}) as run:
        log(run.record, 1, 4)
        run.remember_weights(WEIGHTS)
        run.log_directory(root.with_name("model"), name="model")


@pytest.mark.slow
def test_the_server_gets_one_run_with_its_curves_and_its_model(
    root: Path, server: WandbServer
) -> None:
    train(root)
    record = record_in(root)
    log(record, 4, 6)
    record.append({"test_loss": 1.5}, step=None)
    bring_up_to_date(ONLINE, root)

    assert server.unknown == set()
    assert server.runs.keys() == {RUN_ID}
    run = server.runs[RUN_ID]
    sent = {name: run.get(name) for name in ("entity", "project", "groupName")}
    assert sent == {"entity": "team", "project": "toy", "groupName": "a group"}
    assert run["displayName"] == "nano-python"
    assert [point["step"] for point in server.history(RUN_ID)] == [1, 2, 3, 4, 5]
    assert server.summary(RUN_ID)["test_loss"] == 1.5
    assert server.exit_codes == {RUN_ID: 0}
    (artifact,) = server.artifacts
    assert artifact["is_committed"]
    assert artifact["artifactCollectionName"] == "toygpt-python-nano"
    assert WEIGHTS in artifact["metadata"]
    aliases = {alias["alias"] for alias in artifact["aliases"]}
    assert aliases == {"latest", "nano-python"}
    assert set(MODEL_FILES) <= server.uploads.keys()
    assert record_in(root).unsynced(["wandb"]) == []


@pytest.mark.slow
@pytest.mark.parametrize("exists", [True, False])
def test_a_model_is_linked_to_the_registry_that_params_name(
    root: Path, server: WandbServer, warned: Warned, exists: bool
) -> None:
    """A registry that refuses it costs the link, and nothing else."""
    if exists:
        server.registries.add("wandb-registry-models")

    train(root, wandb_registry="models")

    target = ("wandb-registry-models", "toygpt-python-nano")
    links = [(it["projectName"], it["artifactPortfolioName"]) for it in server.links]
    warnings = warned()
    assert links == ([target] if exists else [])
    assert len(warnings) == (0 if exists else 1)
    assert all("did not link the model to" in warning for warning in warnings)
    assert record_in(root).info.synced["wandb"].directories == ["model"]
    assert server.unknown == set()


@pytest.mark.slow
def test_wandb_sync_sends_an_offline_run_and_then_what_came_after_it(
    root: Path, server: WandbServer
) -> None:
    offline = ONLINE.model_copy(update={"wandb": "offline"})
    train(root, wandb="offline")
    record = record_in(root)

    for results in ({"test_loss": 1.5}, {"test_accuracy": 0.25}):
        record.append(results, step=None)
        bring_up_to_date(offline, root)
        end_wandb()
        assert "Syncing 1 run(s)" in wandb_command(root, "sync", "--yes")

        assert [point["step"] for point in server.history(RUN_ID)] == [1, 2, 3]
        assert server.summary(RUN_ID).items() >= {"loss": 1 / 3, **results}.items()
        assert server.exit_codes == {RUN_ID: 0}
    assert "No runs to sync" in wandb_command(root, "sync", "--yes")
    assert [it["is_committed"] for it in server.artifacts] == [True]
    assert server.unknown == set()


TRIAL = """
import sys
from pathlib import Path
from tests.tracking.trackers import run_in, tracked_by
from toygpt.tracking.settings import with_environment

tracking = with_environment(tracked_by("wandb"))
with run_in(Path.cwd(), tracking, params={"rate": sys.argv[1]}) as run:
    run.log_metrics({"loss": 3.0}, step=5)
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_trial_of_a_sweep_is_the_run_that_its_agent_began(
    root: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """The agent is W&B's own; the sweep's server, a stand-in."""
    server.sweep_command = [sys.executable, "-c", TRIAL, "${args_no_hyphens}"]
    arguments = {"rate": {"value": 0.1}}
    trial = {"type": "run", "run_id": "trial7", "program": "-", "args": arguments}
    server.trials = [trial]
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.setenv("WANDB_MODE", mode)
    wandb_command(root, "agent", "--count", "1", "team/theirs/sweep3")
    monkeypatch.delenv("WANDB_MODE")
    record = record_in(root)
    record.append({"test_loss": 1.5}, step=None)

    bring_up_to_date(ONLINE.model_copy(update={"wandb": mode}), root)
    if mode == "offline":
        assert server.runs == {}
        wandb_command(root, "sync", "--yes")

    assert server.unknown == set()
    assert server.runs.keys() == {"trial7"}
    run = server.runs["trial7"]
    assert (run["sweep"], run["project"]) == ("sweep3", "theirs")
    assert server.history("trial7") == [{"loss": 3, "step": 5}]
    assert server.summary("trial7")["test_loss"] == 1.5
    assert record_in(root).unsynced(["wandb"]) == []


HTML = "<html>Please log in</html>"
FAULTS = {
    "wrong key": (401, "application/json", '{"errors": [{"message": "no"}]}'),
    "broken": (500, "text/plain", "Internal Server Error"),
    "another page": (200, "text/html", HTML),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", [*FAULTS, "slow", "down"])
def test_a_server_that_fails_costs_one_warning_and_gets_everything_later(
    root: Path,
    server: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
    warned: Warned,
    fault: str,
) -> None:
    server.fault = FAULTS.get(fault)
    server.delay_seconds = 5.0 if fault == "slow" else 0.0
    if fault == "down":
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")

    with monkeypatch.context() as patched:

        def give_up_once_it_fired(_: float) -> None:
            if fault == "down" or server.num_requests:
                patched.setattr(sync, "PATIENCE_WITH_FAILURE_SECONDS", 0.0)

        patched.setattr(sync, "sleep", give_up_once_it_fired)
        patched.setattr(wandb_tracker, "SECONDS_TO_OPEN", 0.5)
        train(root)
    (warning,) = warned()
    assert fault == "down" or server.num_requests, "the fault fired"
    assert server.runs == {}
    server.fault, server.delay_seconds = None, 0.0
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    bring_up_to_date(ONLINE, root)

    assert warning.startswith("warning: wandb cannot be synced: ")
    assert KEY not in warning
    assert [point["step"] for point in server.history(RUN_ID)] == [1, 2, 3]
    assert server.exit_codes == {RUN_ID: 0}
    assert len(list(root.glob("wandb/run-*"))) == 1
    assert not [path for path in root.rglob("*") if KEY.encode() in _bytes(path)]


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""

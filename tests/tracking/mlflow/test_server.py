"""A team's MLflow server gets what the database of a project would."""

from pathlib import Path
from typing import Any

import pytest

from stages import evaluate, generate_samples
from tests.faults.audit import in_mlflow
from tests.files import files_in, write_files
from tests.project import Workspace
from tests.tracking.mlflow.server import Proxy, Server, audit_at
from tests.tracking.trackers import (
    MODEL_FILES,
    log,
    log_everything,
    log_model_of,
    new_record,
    record_in,
    run_in,
    tracked_by,
)
from toygpt.tracking import sync
from toygpt.tracking.backfill import Outcome, track
from toygpt.tracking.mlflow.client import mlflow_client, model_from_mlflow
from toygpt.tracking.mlflow.registry import register, run_of_name
from toygpt.tracking.record import Record, new_run_id
from toygpt.tracking.run_info import all_infos
from toygpt.tracking.settings import with_environment
from toygpt.tracking.sync import bring_up_to_date

pytestmark = pytest.mark.slow

LOCAL = tracked_by("mlflow")
# Of sync.py, before conftest.py makes them longer.
PATIENCE_WHILE_TRAINING_SECONDS = sync.PATIENCE_WHILE_TRAINING_SECONDS
PATIENCE_AT_END_SECONDS = sync.PATIENCE_AT_END_SECONDS


def run_of(server: Server, record: Record) -> Any:
    client = server.client()
    return client.get_run(record.info.synced[f"mlflow:{server.address}"].id)


def test_a_server_gets_everything_and_the_project_no_file_of_mlflow(
    root: Path, server: Server, run_id: str, capfd: pytest.CaptureFixture[str]
) -> None:
    tracking = tracked_by("mlflow", mlflow=server.address)

    log_everything(root, "mlflow", run_id=run_id, mlflow=server.address)

    record = record_in(root, run_id)
    run = run_of(server, record)
    assert audit_at(server, record) == []
    assert record.unsynced([f"mlflow:{server.address}"]) == []
    assert run.data.params["train.learning_rate"] == "0.001"
    assert run.data.tags["mlflow.source.git.commit"] == "c0ffee"
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    assert [path.name for path in root.iterdir()] == [".toygpt"]
    client, (output,) = server.client(), run.outputs.model_outputs
    client.create_registered_model(run_id)
    model_id = output.model_id
    client.create_model_version(run_id, f"models:/{model_id}", model_id=model_id)
    for address in (f"runs:/{run.info.run_id}/model", f"models:/{run_id}/1"):
        with model_from_mlflow(address, tracking=tracking, root=root) as directory:
            assert (directory / "deep/file").read_text() == MODEL_FILES["deep/file"]
    assert capfd.readouterr() == ("", "")


def test_the_stages_after_the_training_log_to_the_server_as_well(
    project: Workspace, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.set_params({"tracking.wandb": "disabled"})
    project.environment["MLFLOW_TRACKING_URI"] = server.address
    project.enter(monkeypatch)
    ((folder, info),) = all_infos(project.root)
    destination = f"mlflow:{server.address}"
    Record(folder).update(trackers=[destination])

    evaluate.main()
    generate_samples.main()

    record = Record(folder)
    assert audit_at(server, record) == []
    has = record.info.synced[destination]
    assert has.directories == ["evaluation", "samples"]
    assert run_of(server, record).info.run_name == info.name


def test_the_environment_comes_before_the_parameters(
    root: Path, server: Server, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty variables count as unset."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    with run_in(root, with_environment(LOCAL), run_id=run_id):
        pass
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", f"of {run_id}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{server.address}/")
    with run_in(
        root,
        with_environment(LOCAL),
        run_id=run_id,
        metadata={"mlflow.runName": "mine"},
    ):
        pass

    record = record_in(root, run_id)
    run = run_of(server, record)
    assert record.info.trackers == ["mlflow", f"mlflow:{server.address}"]
    assert list(record.info.synced) == record.info.trackers
    assert run.info.run_name == "mine"
    experiment = run_of(server, record).info.experiment_id
    assert server.experiment_names()[experiment] == f"of {run_id}"


def test_a_new_server_gets_old_runs_when_that_is_asked_for(
    root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, muted, new = (new_run_id() for _ in range(3))
    tracking = tracked_by("mlflow", mlflow=server.address)
    for run_id, trackers in ((old, LOCAL), (muted, tracked_by())):
        with run_in(root, trackers, run_id=run_id, name=run_id) as run:
            log(run.record, 1, 4)

    with run_in(root, tracking, run_id=new, name=new):
        pass
    assert bring_up_to_date(tracking, root) == []
    assert not in_mlflow(server.folder).keys() & {old, muted}
    (root / "dvc.yaml").touch()
    assert track(root, tracking) == Outcome(sorted([old, muted], reverse=True), {})

    for folder, _ in all_infos(root):
        assert audit_at(server, Record(folder)) == []
    assert len(in_mlflow(root)) == 1, "nothing else was logged here"


def test_a_run_is_found_though_its_experiment_has_another_name_now(
    root: Path, server: Server, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its id, or by its tag if the id was never noted."""
    tracking = tracked_by("mlflow", mlflow=server.address)
    for name, is_noted in (("first", True), ("second", True), ("third", False)):
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", f"{name} of {run_id}")
        if not is_noted:
            record_in(root, run_id).note_synced({})
        with run_in(root, tracking, run_id=run_id) as run:
            run.log_metrics({"loss": 1.0}, step=len(run.record.points) + 1)

    assert audit_at(server, record_in(root, run_id)) == []
    names = server.experiment_names().values()
    assert [name for name in names if run_id in name] == [f"first of {run_id}"]


def test_what_a_server_lost_is_logged_again_when_that_is_asked_for(
    root: Path, server: Server, run_id: str
) -> None:
    tracking = tracked_by("mlflow", mlflow=server.address)
    with run_in(root, tracking, run_id=run_id, name=run_id) as run:
        log(run.record, 1, 4)
    lost = run_of(server, record_in(root, run_id)).info.run_id
    server.client().set_tag(lost, "toygpt.run", "none")

    assert track(root, tracking).synced == []
    assert track(root, tracking, is_rebuilding=True).synced == [run_id]
    assert audit_at(server, record_in(root, run_id)) == []
    assert track(root, tracking, is_rebuilding=True).synced == []


def test_a_server_that_takes_five_seconds_for_an_answer_is_synced_in_time(
    root: Path, server: Server, proxy: Proxy, run_id: str
) -> None:
    """A time limit must leave room for the requests that come one after another."""
    tracking = tracked_by("mlflow", mlflow=proxy.address)
    files = {f"{number}.txt": "text" for number in range(9)}
    files |= {"large": "x" * 2**21, "deep/file": "text"}
    write_files(root / "model", files)
    proxy.num_naps = 20
    for num_points in (3, 6):
        with run_in(root, tracking, run_id=run_id, params={"seed": 7}) as run:
            log(run.record, num_points - 2, num_points + 1)
            run.log_directory(root / "model", name="model")
        opened = proxy.requests.index("/api/2.0/mlflow/runs/log-batch") + 1
        assert 5 * opened <= PATIENCE_WHILE_TRAINING_SECONDS
        assert 5 * proxy.num_rounds <= PATIENCE_AT_END_SECONDS
        assert len(proxy.requests) > proxy.num_rounds
        proxy.num_rounds = 0

    record = record_in(root, run_id)
    mlflow_id = record.info.synced[f"mlflow:{proxy.address}"].id
    (copy,) = server.folder.rglob(f"{mlflow_id}/artifacts/model")
    assert files_in(copy) == files


def test_the_registry_of_a_server_works_as_well(root: Path, server: Server) -> None:
    tracking = tracked_by("mlflow", mlflow=server.address)
    for name, loss in (("worse", 2.5), ("better", 2.25)):
        metadata = {"test.bin.sha256": "5b" * 32}
        record = new_record(root, new_run_id(), name=name, metadata=metadata)
        log_model_of(root, record, tracking, {"test_loss": loss})
        with mlflow_client(tracking, root) as client:
            run = run_of_name(client, "toy", record.info.id)
            lines = register(client, run, "team", alias="champion", metric="test_loss")

    assert lines[-1] == (
        "models:/team@champion is version 2: test_loss 2.25, and 2.5 of version 1"
    )
    with model_from_mlflow(
        "models:/team@champion", tracking=tracking, root=root
    ) as directory:
        assert files_in(directory).items() >= MODEL_FILES.items()

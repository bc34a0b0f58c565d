"""A run has one model that MLflow loads, serves and compares."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import mlflow
import pytest
import torch
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND
from ruamel.yaml import YAML

from tests.files import files_in, write_files
from tests.project import PATIENCE_SECONDS, Workspace
from tests.project import mlflow_runs as pipeline_runs
from tests.tracking.service import StageWithin
from tests.tracking.trackers import (
    MODEL_FILES,
    Warned,
    files_of,
    logged_models,
    mlflow_client,
    mlflow_files,
    mlflow_runs,
    record_in,
    run_in,
    tracked_by,
)
from toygpt.cli import main
from toygpt.generation.samples import continue_prompts
from toygpt.model.loading import load_model_and_tokenizer
from toygpt.pipeline.files import sha256_of
from toygpt.tracking.mlflow.client import model_from_mlflow
from toygpt.tracking.sync import bring_up_to_date, sync, syncing

TRACKING = tracked_by("mlflow")


def train(root: Path) -> Path:
    """Log a training that ends with a model, and return the model's directory."""
    directory = root.with_name("model")
    write_files(directory, MODEL_FILES)
    with run_in(root, TRACKING, metadata={"test.bin.sha256": "c0" * 32}) as run:
        run.log_metrics({"validation_loss": 2.0}, step=5)
        run.log_directory(directory, name="model")
    return directory


def sync_again(root: Path, directory: Path) -> None:
    """Sync the run once more, after a stage that has written its model again."""
    with syncing(record_in(root).folder) as record:
        stage = StageWithin(record, {"model": directory})
        sync(record, TRACKING, root, stage=stage)


def test_the_files_of_a_model_are_copied_once_and_described(root: Path) -> None:
    train(root)

    (run,), (model,) = mlflow_runs(root), logged_models(root)
    (output,) = run.outputs.model_outputs
    assert output.model_id == model.model_id
    assert (model.name, model.status, model.params) == ("model", "READY", {"seed": "7"})
    files = files_of(model)
    assert files.items() >= MODEL_FILES.items()
    assert set(files) - set(MODEL_FILES) == {
        "MLmodel",
        "components/tokenizer/deep/file",
        "components/tokenizer/tokenizer_config.json",
        "conda.yaml",
        "input_example.json",
        "python_env.yaml",
        "requirements.txt",
        "serving_input_example.json",
    }
    assert [line.split("==")[0] for line in files["requirements.txt"].split()] == [
        "mlflow",
        "transformers",
        "torch",
    ]
    assert record_in(root).info.synced["mlflow"].directories == ["model"]


def test_the_run_ends_when_the_training_does(root: Path) -> None:
    train(root)

    (run,) = mlflow_runs(root)
    assert run.info.end_time == int(1000 * (record_in(root).info.ended or 0))
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize(
    "step", ["log_outputs", "log_model_artifact", "finalize_logged_model"]
)
def test_a_model_that_was_half_logged_is_completed(
    root: Path, monkeypatch: pytest.MonkeyPatch, warned: Warned, step: str
) -> None:
    faults = [OSError("no power")]

    def fail_once(*arguments: Any, **options: Any) -> Any:
        if faults:
            raise faults.pop()
        return original(*arguments, **options)

    original = getattr(mlflow.MlflowClient, step)
    monkeypatch.setattr(mlflow.MlflowClient, step, fail_once)

    train(root)

    assert not faults, "the fault fired"
    assert "no power" in "".join(warned())
    (run,), (model,) = mlflow_runs(root), logged_models(root)
    assert model.status == "READY"
    assert files_of(model).items() >= MODEL_FILES.items()
    assert len(run.outputs.model_outputs) == 1


def test_a_second_sync_makes_no_second_model(root: Path) -> None:
    directory = train(root)
    (before,) = logged_models(root)

    sync_again(root, directory)

    (after,) = logged_models(root)
    assert after.model_id == before.model_id
    assert after.last_updated_timestamp == before.last_updated_timestamp


def test_a_model_that_the_user_deleted_is_not_logged_again(root: Path) -> None:
    directory = train(root)
    (model,) = logged_models(root)
    mlflow_client(root).delete_logged_model(model.model_id)

    sync_again(root, directory)

    assert logged_models(root) == []
    assert record_in(root).info.synced["mlflow"].directories == ["model"]


PLAIN_FILES = {f"model/{name}": text for name, text in MODEL_FILES.items()}


def test_a_model_that_an_earlier_toygpt_logged_as_a_folder_is_not_logged_again(
    root: Path,
) -> None:
    with run_in(root, TRACKING):
        pass
    (run,) = mlflow_runs(root)
    directory = root.with_name("model")
    write_files(directory, MODEL_FILES)
    first = directory / "config.json"
    mlflow_client(root).log_artifact(run.info.run_id, str(first), "model")

    sync_again(root, directory)

    assert logged_models(root) == []
    assert mlflow_files(root, run) == PLAIN_FILES, "whole, though half was there"
    assert record_in(root).info.synced["mlflow"].directories == ["model"]


def test_a_server_without_logged_models_gets_the_model_as_a_folder(
    root: Path, monkeypatch: pytest.MonkeyPatch, warned: Warned
) -> None:
    """As MLflow 2 answers."""

    def search(*_: Any, **__: Any) -> None:
        raise mlflow.MlflowException("404", error_code=ENDPOINT_NOT_FOUND)

    monkeypatch.setattr(mlflow.MlflowClient, "search_logged_models", search)
    train(root)

    assert mlflow_files(root, *mlflow_runs(root)) == PLAIN_FILES
    assert warned() == []
    assert record_in(root).info.synced["mlflow"].directories == ["model"]


def test_a_model_is_fetched_from_where_the_project_was_moved_to(root: Path) -> None:
    train(root)
    (run,) = mlflow_runs(root)
    moved = root.rename(root.with_name("moved"))

    with model_from_mlflow(
        f"runs:/{run.info.run_id}/model", tracking=TRACKING, root=moved
    ) as directory:
        assert files_in(directory).items() >= MODEL_FILES.items()


def test_results_on_the_test_split_are_shown_beside_the_model(root: Path) -> None:
    train(root)
    with record_in(root).locked():
        record_in(root).append({"test_loss": 2.5, "xz_bits_per_byte": 2.0}, step=None)
    bring_up_to_date(TRACKING, root)
    with record_in(root).locked():
        record_in(root).append({"test_loss": 2.25}, step=None)
    bring_up_to_date(TRACKING, root)

    (model,), (run,) = logged_models(root), mlflow_runs(root)
    linked = [(it.key, it.value, it.dataset_name) for it in model.metrics]
    assert sorted(linked) == [
        ("test_loss", 2.25, "None-test"),
        ("test_loss", 2.5, "None-test"),
    ]
    assert {it.dataset_digest for it in model.metrics} == {("c0" * 32)[:36]}
    history = mlflow_client(root).get_metric_history(run.info.run_id, "test_loss")
    assert [metric.value for metric in history] == [2.5, 2.25], "each once"


def greedy(project: Workspace, prompt: str) -> str:
    """Return a prompt and its most likely continuation, as MLflow returns it."""
    model, tokenizer, end_of_text_id = load_model_and_tokenizer(
        project.root / "models" / "toygpt", torch.device("cpu")
    )
    [sample] = continue_prompts(
        model, tokenizer, [prompt], max_new_tokens=8, end_of_text_id=end_of_text_id
    )
    return (prompt + sample.continuation).strip()


@pytest.fixture
def address(project: Workspace) -> str:
    """Return the address of the tiny project's model, which its commands find."""
    project.environment["MLFLOW_TRACKING_URI"] = "sqlite:///mlflow.db"
    return f"runs:/{pipeline_runs(project)[0].info.run_id}/model"


@pytest.mark.filterwarnings("ignore")  # of the libraries that a user loads it with
def test_mlflow_registers_and_loads_the_model(
    project: Workspace,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In a process that has no toygpt: the next test."""
    project.enter(monkeypatch)
    mlflow.set_tracking_uri(None)  # of an earlier test: the variable counts
    prompts, settings = ["def", "class A:"], {"max_new_tokens": 8}

    mlflow.register_model(address, "by-hand")
    served = mlflow.pyfunc.load_model("models:/by-hand/1")
    pipeline = mlflow.transformers.load_model(address)
    texts = served.predict(prompts, params=settings)
    texts += [it[0]["generated_text"].strip() for it in pipeline(prompts, **settings)]
    [long] = served.predict(["def " * 99], params=settings)

    expected = [greedy(project, prompt) for prompt in prompts]
    assert texts == expected * 2
    assert long.startswith("def def"), "a prompt longer than the context is cut"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    for name in (address, "models:/by-hand/1"):
        capsys.readouterr()
        words = ["generate", "--prompt", "def", "--max-new-tokens", "8"]
        assert main([*words, "--model", name], program="python .") == 0
        assert capsys.readouterr().out.strip() == expected[0]
    (model,) = (project.root / "mlartifacts" / "toygpt" / "models").iterdir()
    weights = [
        sha256_of(folder / "model.safetensors")
        for folder in (model / "artifacts", project.root / "models" / "toygpt")
    ]
    assert weights[0] == weights[1]


def test_mlflow_serves_the_text_that_the_model_writes(
    project: Workspace, address: str
) -> None:
    """Where toygpt cannot be imported."""
    write_files(project.root, {"toygpt/__init__.py": "raise ImportError"})
    project.environment["PYTHONPATH"] = str(project.root)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["mlflow", "models", "serve", "--model-uri", address, "--port", str(port)]
    server = subprocess.Popen(
        [*command, "--env-manager", "local", "--host", "127.0.0.1"],
        **project.here,
        start_new_session=True,
    )
    try:
        request = Request(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps({"inputs": ["def"], "params": {"max_new_tokens": 8}}).encode(),
            {"Content-Type": "application/json"},
        )
        answer = wait_for_answer(request, server)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()

    del project.environment["MLFLOW_TRACKING_URI"]
    assert answer == {"predictions": [greedy(project, "def")]}


def wait_for_answer(request: Request, server: subprocess.Popen[bytes]) -> Any:
    """Return what a server answers, once it is there."""
    while True:
        try:
            with urlopen(request, timeout=PATIENCE_SECONDS) as answer:
                return json.load(answer)
        except URLError as error:
            assert not isinstance(error, HTTPError), error.read()
            assert server.poll() is None, "the server has ended"
            time.sleep(0.2)


def test_what_describes_the_model_is_what_mlflow_itself_would_write(
    project: Workspace, tmp_path: Path
) -> None:
    from huggingface_hub import ModelCard
    from transformers import pipeline

    directory = project.root / "models" / "toygpt"
    (ours,) = project.root.glob("mlartifacts/toygpt/models/*/artifacts/MLmodel")
    theirs = tmp_path / "theirs"
    mlflow.transformers.save_model(
        pipeline("text-generation", model=str(directory)),
        theirs,
        model_card=ModelCard.load(directory / "README.md"),
        pip_requirements=["mlflow"],
    )

    found = [
        YAML(typ="safe").load(path)["flavors"]["transformers"]
        for path in (ours, theirs / "MLmodel")
    ]
    for flavor in found:
        del flavor["model_binary"], flavor["source_model_name"]  # places
    assert found[0] == found[1]

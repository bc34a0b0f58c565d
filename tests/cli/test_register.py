"""`toygpt register`: a gate for models, by exit codes and one line each."""

from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import assert_refused
from tests.conftest import Toygpt
from tests.ports import free_port
from tests.project import Workspace, mlflow_runs


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ((), "there is no mlflow.db in "),
        (("--if-better", "test_loss"), "--if-better METRIC needs --alias ALIAS"),
        (("one", "two"), "two"),
        (("--name",), "--name"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_mistake_is_refused(
    toygpt: Toygpt, options: tuple[str, ...], named: str
) -> None:
    assert_refused(toygpt("register", *options), named)


@pytest.mark.parametrize(
    "command", [("register", "name"), ("generate", "--model", "models:/toy/1")]
)
def test_a_server_is_asked_for_models_even_if_no_run_is_logged_to_mlflow(
    toygpt: Toygpt,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
) -> None:
    params = (folder / "params.yaml").read_text()
    muted = params.replace("  mlflow: true", "  mlflow: false")
    assert muted != params
    (folder / "params.yaml").write_text(muted)
    address = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)

    assert_refused(toygpt(*command), f"MLflow at {address}: ")


@pytest.fixture
def run(project: Workspace, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the run of the tiny project, which is the working directory."""
    monkeypatch.chdir(project.root)
    (found,) = mlflow_runs(project)
    return found


def test_the_model_of_the_workspace_is_registered_and_writes(
    toygpt: Toygpt, run: Any
) -> None:
    name = run.info.run_name
    options = ("--alias", "champion", "--if-better", "test_bits_per_byte")

    output = toygpt("register", *options)

    value = f"{run.data.metrics['test_bits_per_byte']:g}"
    assert output == (
        0,
        f"toygpt version 1 is the model of {name}\n"
        f"models:/toygpt@champion is version 1: test_bits_per_byte {value}\n",
        "",
    )
    prompt = ("--prompt", "def", "--max-new-tokens", 8)
    written = toygpt("generate", "--model", "models:/toygpt@champion", *prompt)
    assert written == toygpt("generate", *prompt)
    unknown = toygpt("generate", "--model", "models:/toygpt@unknown", *prompt)
    assert (unknown.code, unknown.out) == (2, "")
    assert unknown.err.count("\n") == 1
    assert "unknown" in unknown.err

    again = toygpt("register", name, *options)
    assert again.out.startswith(f"toygpt version 1 was already the model of {name}\n")


def test_a_model_that_may_not_have_the_alias_ends_the_command_with_1(
    toygpt: Toygpt, run: Any, project: Workspace
) -> None:
    toygpt("register", "--alias", "champion")
    worse = log_once_more(project, run)

    output = toygpt(
        "register", worse, "--alias", "champion", "--if-better", "test_loss"
    )

    assert (output.code, output.out) == (1, "")
    assert output.err.startswith("error: version 2 is not champion: test_loss ")
    assert output.err.endswith(" of version 1\n")
    assert output.err.count("\n") == 1


def log_once_more(project: Workspace, run: Any) -> str:
    """Log a run with the same model and a larger loss, and return its name."""
    from toygpt.pipeline.params_file import load_params
    from toygpt.tracking.run import training_run

    tracking = load_params(project.root / "params.yaml").tracking
    test = next(
        it for it in run.inputs.dataset_inputs if it.dataset.name == "python-test"
    )
    with training_run(
        "another",
        "worse",
        run.data.params,
        {"test.bin.sha256": {tag.key: tag.value for tag in test.tags}["sha256"]},
        tracking=tracking.without(["wandb"]),
        root=project.root,
    ) as tracked:
        tracked.log_metrics({"test_loss": run.data.metrics["test_loss"] + 1})
        tracked.log_directory(project.root / "models" / "toygpt", name="model")
    return "worse"

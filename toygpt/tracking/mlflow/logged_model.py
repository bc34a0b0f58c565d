"""The model of a run, as MLflow loads, serves and registers it.

MLflow's own way, `mlflow.transformers.log_model`, reads all weights into memory and
writes them again. Here the files of the model directory are copied as they are, and
the few files are added by which MLflow knows that transformers loads them.
"""

import json
import shutil
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from toygpt.pipeline.files import temporary_directory
from toygpt.tracking.mlflow.files import copy_files

NAME = "model"  # of every logged model: `runs:/RUN_ID/model`
TASK = "text-generation"
# What a server needs to load the model, in the versions that are here.
PACKAGES = ("mlflow", "transformers", "torch")
CONFIG = "config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
# All other files of a model directory belong to its tokenizer.
NOT_OF_TOKENIZER = shutil.ignore_patterns(
    CONFIG, "generation_config.json", "*.safetensors", "*.md", "LICENSE"
)
# Of a prompt that leaves no room in the context, the end is kept.
SETTINGS = {"handle_long_generation": "hole"}


def is_checkpoint(directory: Path) -> bool:
    """Return whether transformers can load a model and its tokenizer from a folder."""
    return all((directory / name).is_file() for name in (CONFIG, TOKENIZER_CONFIG))


def log_model(
    client: Any,
    run_id: str,
    directory: Path,
    *,
    params: Mapping[str, Any],
    scratch: Path,
) -> bool:
    """Make a model directory the logged model of a run, unless the run has one.

    A process that was killed may have left one half logged: then it is completed.

    Args:
        client: MLflow's.
        run_id: MLflow's id of the run.
        directory: A checkpoint of transformers, with its tokenizer.
        params: Of the run; MLflow shows them beside the model, too.
        scratch: A folder for temporary files.

    Returns:
        Whether the server keeps logged models: MLflow 2 does not.
    """
    from mlflow import MlflowException
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    run = client.get_run(run_id)
    try:
        model = _search(client, run)
    except MlflowException as error:
        if error.error_code != "ENDPOINT_NOT_FOUND":
            raise
        return False
    if is_whole(model) or was_deleted(run, model):
        return True
    if model is None:
        model = client.create_logged_model(
            run.info.experiment_id,
            name=NAME,
            source_run_id=run_id,
            params={key: str(value) for key, value in params.items()},
        )
    if not _outputs(run):
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    with temporary_directory(scratch) as folder:
        description = folder / NAME
        prompts = params.get("generate-samples.prompts") or ["The"]
        _describe(directory, description, model.model_id, run_id, prompt=prompts[0])
        for files in (directory, description):
            copy_files(files, partial(client.log_model_artifact, model.model_id))
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return True


def find_model(client: Any, run: Any) -> Any:
    """Return the logged model of a run, whole or not; None if it has none."""
    return _search(client, run) if _outputs(run) else None


def _search(client: Any, run: Any) -> Any:
    """Return it, even if a process was killed before the run named it."""
    found = client.search_logged_models(
        [run.info.experiment_id],
        filter_string=f"source_run_id = '{run.info.run_id}' AND name = '{NAME}'",
    )
    return found[0] if found else None


def is_whole(model: Any) -> bool:
    """Return whether all files of a logged model have arrived."""
    return model is not None and model.status == "READY"


def was_deleted(run: Any, model: Any) -> bool:
    """Return whether a run had a logged model that the user deleted."""
    return model is None and bool(_outputs(run))


def _outputs(run: Any) -> list[Any]:
    """Return the logged models that a run made, those deleted included."""
    return run.outputs.model_outputs if run.outputs else []


def link_results(client: Any, run: Any, model: Any) -> None:
    """Show the results on the test split beside the logged model, with that dataset."""
    from mlflow.entities import Metric

    linked = {metric.key: metric.value for metric in latest_metrics(model).values()}
    test = next(
        (
            it.dataset
            for it in run.inputs.dataset_inputs
            if any(tag.value == "test" for tag in it.tags)
        ),
        None,
    )
    metrics = []
    for name, value in run.data.metrics.items():
        if name.startswith("test_") and linked.get(name) != value:
            # With the same time, MLflow does not take it for another point of the run.
            last = client.get_metric_history(run.info.run_id, name)[-1]
            metrics.append(
                Metric(
                    name,
                    value,
                    last.timestamp,
                    last.step,
                    model_id=model.model_id,
                    dataset_name=test and test.name,
                    dataset_digest=test and test.digest,
                    run_id=run.info.run_id,
                )
            )
    if metrics:
        client.log_batch(run.info.run_id, metrics=metrics)


def latest_metrics(model: Any) -> dict[str, Any]:
    """Return the metrics of a logged model by name, the latest of each."""
    metrics = sorted(model.metrics or [], key=lambda metric: int(metric.timestamp))
    return {metric.key: metric for metric in metrics}


def _describe(
    directory: Path, description: Path, model_id: str, run_id: str, *, prompt: str
) -> None:
    """Write what MLflow must know to load a model directory into another folder.

    The settings of "transformers" are those that `mlflow.transformers.save_model`
    writes; the model itself is not in a folder of its own, but beside them.
    """
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    config, tokenizer = (
        json.loads((directory / name).read_text(encoding="utf-8"))
        for name in (CONFIG, TOKENIZER_CONFIG)
    )
    max_new_tokens = config["n_positions"] // 2
    text = Schema([ColSpec("string")])
    model = Model(run_id=run_id, model_id=model_id)
    model.add_flavor(
        "transformers",
        transformers_version=version("transformers"),
        code=None,
        task=TASK,
        instance_type="TextGenerationPipeline",
        torch_dtype=f"torch.{config['dtype']}",
        pipeline_model_type=config["architectures"][0],
        source_model_name="toygpt",
        model_binary=".",
        components=["tokenizer"],
        tokenizer_type=tokenizer["tokenizer_class"],
    )
    pyfunc.save_model(
        description,
        loader_module="mlflow.transformers",
        mlflow_model=model,
        signature=ModelSignature(
            inputs=text,
            outputs=text,
            params=ParamSchema([ParamSpec("max_new_tokens", "long", max_new_tokens)]),
        ),
        input_example=(prompt, {"max_new_tokens": max_new_tokens}),
        # Without the build's name: no index has torch 2.15.0+cpu under it.
        pip_requirements=[f"{it}=={version(it).partition('+')[0]}" for it in PACKAGES],
        model_config=SETTINGS,
    )
    model.model_size_bytes = sum(path.stat().st_size for path in directory.iterdir())
    model.save(str(description / "MLmodel"))
    shutil.copytree(
        directory, description / "components" / "tokenizer", ignore=NOT_OF_TOKENIZER
    )

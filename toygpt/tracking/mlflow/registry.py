"""MLflow's registry: the versions of a model, and an alias for the best of them."""

import json
import re
from typing import Any

from toygpt.pipeline.errors import InputError
from toygpt.tracking.mlflow.experiments import all_experiments
from toygpt.tracking.mlflow.logged_model import find_model, is_whole, latest_metrics
from toygpt.tracking.mlflow.runs import RECORD_TAG
from toygpt.tracking.mlflow.summary import NOTE, WEIGHTS_TAG

NOT_FOUND = "RESOURCE_DOES_NOT_EXIST"
VERSIONS_TAG = "mlflow.modelVersions"


class NotBetterError(Exception):
    """The model may not have the alias; the message says why."""


def run_of_weights(client: Any, project: str, weights_sha256: str) -> Any:
    """Return the latest run that trained these weights, of any experiment.

    Runs of the project's experiment come first: the name of that experiment may come
    from the environment, and so may differ from the one that the run has.

    Raises:
        InputError: MLflow has no such run.
    """
    experiments = {
        name: experiment.experiment_id
        for name, experiment in all_experiments(client).items()
    }
    found = client.search_runs(
        list(experiments.values()), f"tags.`{WEIGHTS_TAG}` = '{weights_sha256}'"
    )
    if not found:
        raise InputError(
            "MLflow has no run of the model in this project: `python . track` logs it; "
            "or name another run"
        )
    home = experiments.get(project)
    return min(found, key=lambda run: run.info.experiment_id != home)


def run_of_name(client: Any, project: str, name: str) -> Any:
    """Return the run of a name, of MLflow's id or of our record's id.

    Raises:
        InputError: The project has no such run, or several.
    """
    experiment_id = _experiment_id(client, project)
    if re.fullmatch("[0-9a-f]{32}", name):
        run = client.get_run(name)
        if run.info.experiment_id != experiment_id:
            other = client.get_experiment(run.info.experiment_id).name
            raise InputError(
                f"the run {name} is of MLflow's experiment {other}, not of {project}: "
                f"set MLFLOW_EXPERIMENT_NAME, or tracking.project in params.yaml"
            )
        if run.info.lifecycle_stage == "deleted":
            raise InputError(f"the run {name} was deleted in MLflow")
        return run
    quote = '"' if "'" in name else "'"
    for key in ("attributes.run_name", f"tags.`{RECORD_TAG}`"):
        found = client.search_runs([experiment_id], f"{key} = {quote}{name}{quote}")
        if len(found) > 1:
            ids = ", ".join(run.info.run_id for run in found)
            raise InputError(f"{len(found)} runs are called {name}; name an id: {ids}")
        if found:
            return found[0]
    raise InputError(
        f"MLflow's experiment {project} has no run {name}: MLFLOW_EXPERIMENT_NAME, or "
        f"tracking.project in params.yaml, names another experiment"
    )


def _experiment_id(client: Any, project: str) -> str:
    experiment = client.get_experiment_by_name(project)
    if experiment is None:
        raise InputError(f"MLflow has no experiment {project}: no run was logged to it")
    return str(experiment.experiment_id)


def register(
    client: Any, run: Any, name: str, *, alias: str | None, metric: str | None
) -> list[str]:
    """Make the model of a run a version of a registered model, unless it is one.

    Args:
        client: MLflow's.
        run: Its model is registered.
        name: Of the registered model, which is created if there is none.
        alias: The version gets it, and the version that had it loses it.
        metric: On the test split. Only a model that is better by it gets the alias.

    Returns:
        What was done, in lines.

    Raises:
        InputError: The run has no model or no such metric, or MLflow refuses a name.
        NotBetterError: The model is not better than the one that has the alias, or was
            evaluated on another test split. In the latter case nothing is registered.
    """
    from mlflow.utils.validation import (
        _validate_model_alias_name,
        _validate_model_alias_name_reserved,
    )

    model = find_model(client, run)
    if not is_whole(model):
        raise InputError(
            f"the run {run.info.run_name} has no model that MLflow can load: it did "
            f"not finish, its model was deleted, or an earlier toyGPT logged it"
        )
    champion = None
    if alias is not None:
        _validate_model_alias_name(alias)
        _validate_model_alias_name_reserved(alias)
        champion = _version_with_alias(client, name, alias)
    comparison, is_better = "", True
    if metric is not None:
        comparison, is_better = _compare(client, model, champion, metric)

    version, is_new = _version_of(client, run, model, name)
    lines = [
        f"{name} version {version.version} {'is' if is_new else 'was already'} the "
        f"model of {run.info.run_name}"
    ]
    if alias is None:
        return lines
    if not is_better:
        raise NotBetterError(f"version {version.version} is not {alias}{comparison}")
    client.set_registered_model_alias(name, alias, version.version)
    lines.append(f"models:/{name}@{alias} is version {version.version}{comparison}")
    return lines


def _version_with_alias(client: Any, name: str, alias: str) -> Any:
    """Return the version of a registered model that has an alias, if there is one."""
    from mlflow.exceptions import MlflowException

    try:
        aliases = client.get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code != NOT_FOUND:
            raise
        return None
    return client.get_model_version(name, aliases[alias]) if alias in aliases else None


def _version_of(client: Any, run: Any, model: Any, name: str) -> tuple[Any, bool]:
    """Return the version that a logged model is, and whether it was just created."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    quote = '"' if "'" in name else "'"
    for version in client.search_model_versions(f"name = {quote}{name}{quote}"):
        if version.source == model.model_uri:
            return version, False
    version = client.create_model_version(
        name,
        model.model_uri,
        run_id=run.info.run_id,
        description=run.data.tags.get(NOTE),
        model_id=model.model_id,
    )
    # By this, the model's page in MLflow shows its versions.
    versions = json.loads(model.tags.get(VERSIONS_TAG, "[]"))
    versions.append({"name": name, "version": version.version})
    client.set_logged_model_tags(model.model_id, {VERSIONS_TAG: json.dumps(versions)})
    return version, True


def _compare(client: Any, model: Any, champion: Any, metric: str) -> tuple[str, bool]:
    """Return two models' values of a metric, and whether the first one is better.

    Raises:
        InputError: A model has no such metric.
        NotBetterError: The values are of two test splits, or of unknown ones.
    """
    new = _metric_of(model, metric, "the model")
    if champion is None or champion.source == model.model_uri:
        return f": {metric} {new.value:g}", True
    holder = f"version {champion.version}"
    model_id = re.fullmatch("models:/(m-[0-9a-f]+)", champion.source)
    if model_id is None:
        raise InputError(f"{holder} is not the model of a run: it has no metrics")
    old = _metric_of(client.get_logged_model(model_id[1]), metric, holder)
    if new.dataset_digest is None or new.dataset_digest != old.dataset_digest:
        raise NotBetterError(
            f"{metric} of two test splits cannot be compared: "
            f"{new.dataset_digest or 'unknown'}, and {old.dataset_digest or 'unknown'} "
            f"of {holder}"
        )
    is_higher = new.value > old.value
    is_lower = new.value < old.value
    is_better = is_higher if "accuracy" in metric else is_lower
    return f": {metric} {new.value:g}, and {old.value:g} of {holder}", is_better


def _metric_of(model: Any, metric: str, owner: str) -> Any:
    metrics = latest_metrics(model)
    if metric not in metrics:
        there = ", ".join(sorted(metrics)) or "none: it was not evaluated"
        raise InputError(f"{owner} has no metric {metric}, only: {there}")
    return metrics[metric]

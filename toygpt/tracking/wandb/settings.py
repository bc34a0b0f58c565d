"""The settings of a run in W&B: its environment variables come before params.yaml."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from toygpt.pipeline.errors import InputError
from toygpt.pipeline.params import TrackingParams
from toygpt.pipeline.warning import warn
from toygpt.tracking.run_info import all_infos

# The last two are earlier names, which W&B still takes.
MODES = {
    "online": "online",
    "offline": "offline",
    "disabled": "disabled",
    "run": "online",
    "dryrun": "offline",
}
# Settings of a run, and the variables before them.
VARIABLES = {
    "entity": "WANDB_ENTITY",
    "project": "WANDB_PROJECT",
    "name": "WANDB_NAME",
    "group": "WANDB_RUN_GROUP",
    "job_type": "WANDB_JOB_TYPE",
    "notes": "WANDB_NOTES",
    "tags": "WANDB_TAGS",  # separated by commas
    "folder": "WANDB_DIR",
    "run_id": "WANDB_RUN_ID",
    "sweep_id": "WANDB_SWEEP_ID",
}
PREFIX = "wandb."  # of settings among the metadata of a run
OF_ONE_TRAINING = ("run_id", "sweep_id")
# What W&B accepts, and how to say it.
URL_PART = (r"[^/\\#?%:\r\n]{1,128}", "up to 128 characters, without / \\ # ? % :")
ID = (r"[^\s/\\#?%:;,']{1,128}", "up to 128 characters, without / \\ # ? % : ; , '")
ACCEPTED = {
    "entity": URL_PART,
    "project": URL_PART,
    "tags": (r"\s*([^,]{1,64}(,|$))*", "tags of up to 64 characters, between commas"),
    "run_id": ID,
    "sweep_id": ID,
}


def with_wandb_environment(tracking: TrackingParams) -> TrackingParams:
    """Return the parameters with W&B's mode as the environment has it.

    Raises:
        InputError: W&B would not accept one of its variables, and is not disabled.
    """
    mode = os.environ.get("WANDB_MODE") or tracking.wandb
    if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "on", "true", "yes"):
        mode = "disabled"
    if mode not in MODES:
        raise _refused("WANDB_MODE", mode, "online, offline or disabled")
    tracking = tracking.model_copy(update={"wandb": MODES[mode]})
    settings_from_environment(tracking)
    return tracking


def settings_from_environment(tracking: TrackingParams) -> dict[str, str]:
    """Return the settings whose variables are set, and not empty; none if disabled.

    Raises:
        InputError: W&B would not accept one.
    """
    if tracking.wandb == "disabled":
        return {}
    settings = {
        name: value
        for name, variable in VARIABLES.items()
        if (value := os.environ.get(variable))
    }
    for name, (pattern, meaning) in ACCEPTED.items():
        if name in settings and not re.fullmatch(pattern, settings[name]):
            raise _refused(VARIABLES[name], settings[name], meaning)
    if folder := settings.get("folder"):
        try:
            settings["folder"] = str(Path(folder).expanduser())
        except RuntimeError:
            accepted = "a folder, or ~ with the name of a user"
            raise _refused(VARIABLES["folder"], folder, accepted) from None
    return settings


def settings_of_run(tracking: TrackingParams, root: Path) -> dict[str, str]:
    """Return the settings of any run that begins here, for its record to keep.

    Stages that run later, in another shell, must continue the run where it is.

    Args:
        tracking: What params.yaml says.
        root: The project that the user works in.
    """
    from_params = {
        name: getattr(tracking, name)
        for name in ("entity", "group", "job_type", "notes")
    }
    settings = {name: value for name, value in from_params.items() if value}
    settings |= settings_from_environment(tracking)
    if "folder" in settings:
        folder = root / settings["folder"]
        if folder.is_relative_to(root):  # the project may be moved
            folder = folder.relative_to(root)
        settings["folder"] = str(folder)
    of_training = ("name", *OF_ONE_TRAINING)
    return {name: settings[name] for name in settings if name not in of_training}


def settings_of_training(tracking: TrackingParams, root: Path) -> dict[str, str]:
    """Return the settings of the run of a training that begins now.

    An agent of a sweep has chosen the run's id already. It is given once: a second
    training in the same shell has a run of its own, though with the same name.
    The caller is alone until it has written the record.
    """
    settings = settings_from_environment(tracking)
    run_id = settings.get("run_id")
    for _, info in all_infos(root) if run_id else []:
        if kept_settings(info.metadata).get("run_id") == run_id:
            warn(
                f"WANDB_RUN_ID={run_id} is the run of {info.name}: this training has "
                f"another run in wandb"
            )
            for setting in OF_ONE_TRAINING:
                settings.pop(setting, None)
            break
    return {**settings, **settings_of_run(tracking, root)}


def to_metadata(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the settings as metadata of the run's record: so MLflow shows them too."""
    return {f"{PREFIX}{name}": value for name, value in settings.items()}


def kept_settings(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the settings among the metadata of a record."""
    return {
        key.removeprefix(PREFIX): value
        for key, value in metadata.items()
        if key.startswith(PREFIX)
    }


def _refused(variable: str, value: str, accepted: str) -> InputError:
    return InputError(
        f"{variable}: got {value!r}; W&B takes {accepted}. Change the environment "
        f"variable, or unset it"
    )

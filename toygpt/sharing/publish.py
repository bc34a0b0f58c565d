"""Publish a model on the Hugging Face hub, in one commit."""

import json
import logging
import sys
import warnings
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from toygpt.data.hub_client import explain, hub_client
from toygpt.pipeline.errors import InputError
from toygpt.sharing.card import finished_card
from toygpt.sharing.trained_model import TrainedModel

SETTINGS = "https://huggingface.co/settings/tokens"
# What the hub's refusal of an upload means, by the status of its answer.
REFUSALS = {
    401: f"the hub does not accept the token: run `hf auth login` with one of "
    f"{SETTINGS}",
    403: f"the token may not write there: it needs write access ({SETTINGS}), and its "
    f"owner the right to publish under that name",
}


def check_repository_name(name: str) -> None:
    """Raise an error unless the hub allows a repository of this name.

    Raises:
        InputError: It is not `NAME/REPO`, or has characters that are not allowed.
    """
    utils = _utils()
    try:
        utils.validate_repo_id(name)
        is_valid = name.count("/") == 1
    except utils.HFValidationError:
        is_valid = False
    if not is_valid:
        raise InputError(
            f"the hub has no repository of the name {name!r}: it takes NAME/REPO, your "
            f"name or your organisation's and the model's, of letters, digits, `-`, "
            f"`_` and `.`"
        )


def files_to_publish(
    root: Path, model: TrainedModel, repository: str
) -> dict[str, Path | bytes]:
    """Return each file of the published model: where it is, or its content.

    Args:
        root: The project's folder, with its licence.
        model: The model.
        repository: The model's name on the hub, for its card.
    """
    card = finished_card(
        (model.directory / "README.md").read_text(encoding="utf-8"),
        repository,
        model.params,
        test_results=model.test_results,
        sample=model.sample,
    )
    files: dict[str, Path | bytes] = {path.name: path for path in model.files}
    return files | {"README.md": card.encode(), "LICENSE": root / "LICENSE"}


def publish(
    repository: str, files: Mapping[str, Path | bytes], *, is_private: bool
) -> str:
    """Upload the files in one commit, and return its address.

    The hub's client finds the token (HF_TOKEN, or `hf auth login`). A missing
    repository is created; without the commit it stays empty. Files of other names that
    a repository has stay there.

    Raises:
        InputError: There is no token, the hub refuses, or it cannot be reached.
    """
    hub = hub_client()
    if hub.get_token() is None:
        raise InputError(
            f"there is no token of the hub: run `hf auth login`, or set HF_TOKEN to "
            f"one with write access ({SETTINGS})"
        )
    if not sys.stderr.isatty():
        _utils().disable_progress_bars()
    # What it logs of a connection is in its errors, too.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    api = hub.HfApi()
    try:
        operations = [
            hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
            for name, content in files.items()
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            api.create_repo(repository, private=is_private or None, exist_ok=True)
            if is_private and not api.model_info(repository).private:
                raise InputError(
                    f"{repository} exists and is public: make it private in its "
                    f"settings on the hub, or publish without --private"
                )
            commit = api.create_commit(
                repository, operations, commit_message="Publish the model"
            )
    except InputError:
        raise
    except Exception as error:  # of many kinds, and some are only in its causes
        raise InputError(f"cannot publish {repository}: {_reason(error)}") from None
    return str(commit.commit_url)


def _utils() -> Any:
    hub_client()  # its settings count when it is imported
    return import_module("huggingface_hub.utils")


def _reason(error: Any) -> str:
    """Return in one line why the hub's client gave up."""
    if type(error).__name__ == "OfflineModeIsEnabled":
        return "HF_HUB_OFFLINE forbids to ask the hub"
    if isinstance(error, json.JSONDecodeError):
        return "what answers there is not a hub (HF_ENDPOINT)"
    if type(error) is ValueError:  # the hub does not understand the card
        return " ".join(str(error).split())
    status: Any = getattr(getattr(error, "response", None), "status_code", None)
    return REFUSALS.get(status) or explain(error).reason

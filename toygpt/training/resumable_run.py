"""Open the run of a training: the folder of its checkpoints, and its record."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toygpt.data.manifest import Manifest
from toygpt.model.device import device_for, device_name
from toygpt.pipeline import paths
from toygpt.pipeline.measurements import remove_measurements
from toygpt.pipeline.params import Params
from toygpt.resuming.description import Description
from toygpt.resuming.run_folder import open_run_folder
from toygpt.tracking.environment import describe_environment, run_name
from toygpt.tracking.record import new_run_id
from toygpt.tracking.run import Run, training_run
from toygpt.tracking.settings import with_environment
from toygpt.training.plan import num_steps


@contextmanager
def open_run(params: Params, splits: Manifest, inputs: dict[str, Any]) -> Iterator[Run]:
    """Yield the run of a training, new or as it was interrupted.

    The folder of its checkpoints is locked, and removed when the block ends without an
    error.

    Args:
        params: All parameters.
        splits: Describes the token files.
        inputs: Inputs of the fingerprint.

    Raises:
        InputError: Another process trains this, or it cannot be resumed; or a variable
            of the environment names no tracker, or what a tracker would not accept.
    """
    root = paths.main_root()
    tracking = with_environment(params.tracking)
    with open_run_folder(
        root,
        inputs,
        expected=os.environ.get("TOYGPT_RESUME"),
        fresh=is_fresh(os.environ),
    ) as run_folder:
        remove_measurements()
        before = run_folder.describe()
        description = Description(
            name=run_name(params.model, params.corpus),
            run=before.run if before else new_run_id(),
            started=before.started if before else time.time(),
            experiment=os.environ.get("DVC_EXP_NAME"),
            is_temporary=Path.cwd() != root,
            max_steps=num_steps(params.train, params.chosen_model.block_size),
            params=params.model_dump(by_alias=True),
            inputs=inputs,
        )
        run_folder.write_description(description)
        metadata = {
            **describe_environment(device_name(device_for(params.runtime.accelerator))),
            "corpus.sha256": splits.corpus_sha256,
            **{f"{name}.bin.sha256": splits.digest_of(name) for name in splits.parts},
            "fingerprint": run_folder.fingerprint,
        }
        with training_run(
            description.run,
            description.name,
            params.in_use(),
            metadata,
            tracking=tracking,
            root=root,
        ) as tracked:
            yield tracked
        run_folder.remove()


def is_fresh(environment: Mapping[str, str]) -> bool:
    """Return whether the training starts over, as `python . train --fresh` asks for.

    A job that was requeued repeats the command: then the training resumes.
    """
    is_requeued = environment.get("SLURM_RESTART_COUNT", "0") != "0"
    return bool(environment.get("TOYGPT_FRESH")) and not is_requeued

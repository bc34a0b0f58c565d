"""Train the chosen model on the training split.

However it is interrupted, the same command continues from the last checkpoint.

Reads:  data/splits/, data/tokens/tokenizer/
Writes: models/toygpt/, reports/train/, metrics/train.json
"""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from toygpt.data.manifest import Manifest, check_tokenizer, open_tokens, read_manifest
from toygpt.model.card import model_card
from toygpt.model.device import device_for, device_name
from toygpt.model.gpt import GPT, GPTConfig
from toygpt.model.huggingface import save_model, weights_digest
from toygpt.pipeline import paths
from toygpt.pipeline.files import new_directory, write_json, write_text
from toygpt.pipeline.measurements import remove_measurements
from toygpt.pipeline.params import Params
from toygpt.pipeline.params_file import load_params
from toygpt.pipeline.stage import run
from toygpt.resuming.checkpoint_schedule import CheckpointSchedule
from toygpt.resuming.description import Description
from toygpt.resuming.fingerprint import fingerprint_inputs
from toygpt.resuming.run_folder import RunFolder, open_run_folder
from toygpt.resuming.signals import Interruption
from toygpt.tracking.environment import describe_environment, run_name
from toygpt.tracking.record import new_run_id
from toygpt.tracking.run import Run, training_run
from toygpt.training.checkpointing import Checkpointing
from toygpt.training.launch import launch
from toygpt.training.loop import Outcome, train
from toygpt.training.plan import num_steps
from toygpt.training.precision import resolve_attention, resolve_precision
from toygpt.training.ranks import on_rank_zero
from toygpt.training.report import Curves


def main() -> None:
    params = load_params(paths.PARAMS)
    accelerator = params.runtime.accelerator
    device_for(accelerator)  # without that device, nothing is begun
    splits = read_manifest(paths.SPLITS, made_by="split")
    check_tokenizer(splits, paths.TOKENIZER)
    precision = resolve_precision(params.train.precision, accelerator)
    attention = resolve_attention(
        params.train.attention, precision=precision, accelerator=accelerator
    )
    inputs = fingerprint_inputs(
        params,
        vocab_size=splits.vocab_size,
        split_digests={name: record.sha256 for name, record in splits.files.items()},
        precision=precision,
        attention=attention,
    )

    fabric = launch(params.runtime, precision=precision)
    # From here on there is a process for each device. Rank zero alone has a run.
    with Interruption() as interruption, ExitStack() as stack:
        opened = on_rank_zero(
            fabric, lambda: stack.enter_context(open_run(params, splits, inputs))
        )
        run_folder, tracked = opened or (None, None)
        torch.manual_seed(params.seed)
        config = GPTConfig(
            vocab_size=splits.vocab_size,
            dropout=params.train.dropout,
            **params.chosen_model.model_dump(),
        )
        if tracked is not None:
            print(f"{params.model}: {config.num_parameters:,} parameters")
        model, curves = GPT(config, attention=attention), Curves(tracked)
        schedule = CheckpointSchedule(
            params.runtime.checkpoint_every_steps,
            params.runtime.checkpoint_every_minutes,
        )
        outcome = train(
            fabric,
            model,
            open_tokens(paths.SPLITS, splits, "train"),
            open_tokens(paths.SPLITS, splits, "validation"),
            params=params.train,
            runtime=params.runtime,
            seed=params.seed,
            curves=curves,
            checkpoints=Checkpointing(run_folder, schedule, interruption),
        )
        if tracked is not None:
            write_results(params, splits, model, curves, outcome, tracked)
    if fabric.is_global_zero:
        print(
            f"{outcome.tokens:,} tokens; loss {outcome.train_loss:.3f} on what was "
            f"learned from, {outcome.validation_loss:.3f} on the validation split"
        )


@contextmanager
def open_run(
    params: Params, splits: Manifest, inputs: dict[str, Any]
) -> Iterator[tuple[RunFolder, Run]]:
    """Hold the folder of the training, and log it; remove the folder at its end."""
    root = paths.main_root()
    with open_run_folder(
        root,
        inputs,
        expected=os.environ.get("TOYGPT_RESUME"),
        fresh=bool(os.environ.get("TOYGPT_FRESH")),
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
            **{f"{name}.sha256": file.sha256 for name, file in splits.files.items()},
            "fingerprint": run_folder.fingerprint,
        }
        with training_run(
            description.run,
            description.name,
            params.in_use(),
            metadata,
            tracking=params.tracking,
            root=root,
        ) as tracked:
            yield run_folder, tracked
        run_folder.remove()


def write_results(
    params: Params,
    splits: Manifest,
    model: GPT,
    curves: Curves,
    outcome: Outcome,
    tracked: Run,
) -> None:
    """Write the model, its report and its metrics, and log them."""
    metrics = {
        "parameters": model.num_parameters,
        "steps": outcome.steps,
        "tokens_seen": outcome.tokens,
        "train_loss": outcome.train_loss,
        "validation_loss": outcome.validation_loss,
    }
    with new_directory(paths.MODEL) as directory:
        save_model(
            model,
            directory,
            end_of_text_id=splits.end_of_text_id,
            tokenizer_directory=paths.TOKENIZER,
        )
        write_text(directory / "README.md", model_card(params, splits, metrics))
    with new_directory(paths.TRAIN_REPORT) as directory:
        curves.write(directory)
    write_json(paths.METRICS / "train.json", metrics)

    tracked.log_metrics({name: metrics[name] for name in ("parameters", "steps")})
    tracked.log_directory(paths.MODEL, name="model")
    tracked.remember_weights(weights_digest(paths.MODEL))


if __name__ == "__main__":
    run(main)

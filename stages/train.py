"""Train the chosen model on the training split.

What ends it, be it power, costs minutes: the same command goes on where it stopped.

Reads:  data/splits/, data/tokens/tokenizer/
Writes: models/toygpt/, reports/train/, metrics/train.json
"""

import os
import time
from pathlib import Path

import torch

from toygpt.data.manifest import Manifest, check_tokenizer, open_tokens, read_manifest
from toygpt.model.card import model_card
from toygpt.model.device import device_for, device_name
from toygpt.model.gpt import GPT, GPTConfig
from toygpt.model.huggingface import save_model, weights_digest
from toygpt.pipeline import paths
from toygpt.pipeline.files import new_directory, write_json, write_text
from toygpt.pipeline.measurements import remove_measurements
from toygpt.pipeline.params import Params, load_params
from toygpt.pipeline.stage import run
from toygpt.resuming.run_folder import (
    Description,
    RunFolder,
    fingerprint_inputs,
    open_run_folder,
)
from toygpt.resuming.signals import Interruption
from toygpt.tracking.environment import describe_environment, run_name
from toygpt.tracking.record import new_run_id
from toygpt.tracking.run import Run, training_run
from toygpt.training.checkpoints import Checkpoints
from toygpt.training.report import Curves
from toygpt.training.trainer import (
    Outcome,
    is_rank_zero,
    num_steps,
    resolve_attention,
    resolve_precision,
    train,
)


def main() -> None:
    params = load_params(paths.PARAMS)
    accelerator = params.runtime.accelerator
    device = device_for(accelerator)  # without one, nothing is begun
    splits = read_manifest(paths.SPLITS, made_by="split")
    check_tokenizer(splits, paths.TOKENIZER)
    precision = resolve_precision(params.train.precision, accelerator)
    attention = resolve_attention(
        params.train.attention, precision=precision, accelerator=accelerator
    )

    with open_run_folder(
        paths.main_root(),
        fingerprint_inputs(params, splits, precision=precision, attention=attention),
        expected=os.environ.get("TOYGPT_RESUME"),
        fresh=bool(os.environ.get("TOYGPT_FRESH")),
        is_rank_zero=is_rank_zero(),
    ) as unfinished:
        if is_rank_zero():
            remove_measurements()
        description = describe(unfinished, params)
        with (
            Interruption() as interruption,
            training_run(
                description.run,
                description.name,
                params.in_use(),
                describe_environment(device_name(device))
                | digests_of(splits)
                | {"fingerprint": unfinished.fingerprint},
                tracking=params.tracking,
                root=paths.main_root(),
                is_rank_zero=is_rank_zero(),
            ) as tracked,
        ):
            outcome = train_model(
                params, splits, unfinished, interruption, tracked, attention=attention
            )
        if is_rank_zero():
            unfinished.remove()
            print(
                f"{outcome.tokens:,} tokens; loss {outcome.train_loss:.3f} on what was "
                f"learned from, {outcome.validation_loss:.3f} on the validation split"
            )


def describe(unfinished: RunFolder, params: Params) -> Description:
    """Say what is trained, for whoever may have to go on with it."""
    before = unfinished.describe()
    description = Description(
        name=run_name(params.model, params.corpus),
        run=before.run if before else new_run_id(),
        started=before.started if before else time.time(),
        experiment=os.environ.get("DVC_EXP_NAME"),
        is_temporary=Path.cwd() != paths.main_root(),
        max_steps=num_steps(params.train, params.chosen_model.block_size),
        params=params.model_dump(by_alias=True),
        inputs=unfinished.inputs,
    )
    if is_rank_zero():
        unfinished.write_description(description)
    return description


def digests_of(splits: Manifest) -> dict[str, str]:
    """Return the digests by which the text is known again."""
    files = {f"{name}.sha256": record.sha256 for name, record in splits.files.items()}
    return {"corpus.sha256": splits.corpus_sha256, **files}


def train_model(
    params: Params,
    splits: Manifest,
    unfinished: RunFolder,
    interruption: Interruption,
    tracked: Run,
    *,
    attention: str,
) -> Outcome:
    """Train the model, and write it with its report and its metrics."""
    torch.manual_seed(params.seed)
    model = GPT(
        GPTConfig(
            vocab_size=splits.vocab_size,
            dropout=params.train.dropout,
            **params.chosen_model.model_dump(),
        ),
        attention=attention,
    )
    if is_rank_zero():
        print(f"{params.model}: {model.num_parameters:,} parameters")
    checkpoint = unfinished.best_checkpoint()
    if checkpoint is not None and is_rank_zero():
        print(f"going on after step {checkpoint.step:,}")
    curves = Curves(tracked)
    outcome = train(
        model,
        open_tokens(paths.SPLITS, splits, "train"),
        open_tokens(paths.SPLITS, splits, "validation"),
        params=params.train,
        runtime=params.runtime,
        seed=params.seed,
        curves=curves,
        checkpoints=Checkpoints(unfinished, params.runtime, interruption),
        resume_from=unfinished.path_of(checkpoint) if checkpoint else None,
    )
    if not is_rank_zero():
        return outcome

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
    return outcome


if __name__ == "__main__":
    run(main)

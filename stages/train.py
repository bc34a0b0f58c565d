"""Train the chosen model on the training split.

However it is interrupted, the same command continues from the last checkpoint.

Reads:  data/splits/, data/tokens/tokenizer/
Writes: models/toygpt/, reports/train/, metrics/train.json
"""

from contextlib import ExitStack
from typing import Any

from toygpt.pipeline.stage import errors_in_one_line, run
from toygpt.training.launcher import hand_over

if __name__ == "__main__":  # before the imports that take seconds
    with errors_in_one_line():
        hand_over("stages.train")

import torch

from toygpt.data.manifest import Manifest, check_tokenizer, open_tokens, read_manifest
from toygpt.data.token_files import count_tokens
from toygpt.model.card import model_card
from toygpt.model.device import device_for
from toygpt.model.gpt import GPT, GPTConfig
from toygpt.model.huggingface import save_model, weights_digest
from toygpt.pipeline import paths
from toygpt.pipeline.files import new_directory, write_json, write_text
from toygpt.pipeline.params import Params
from toygpt.pipeline.params_file import load_params
from toygpt.resuming.checkpoint_schedule import CheckpointSchedule
from toygpt.resuming.fingerprint import fingerprint_inputs
from toygpt.resuming.run_folder import run_folder_of
from toygpt.resuming.signals import Interruption
from toygpt.tracking.run import Run
from toygpt.training.agreement import check_agreement, check_shared, describe_ranks
from toygpt.training.checkpointing import Checkpointing
from toygpt.training.launch import launch
from toygpt.training.loop import Outcome, train
from toygpt.training.precision import (
    resolve_attention,
    resolve_kernels,
    resolve_precision,
)
from toygpt.training.ranks import explain_lost_ranks, on_all_ranks, on_rank_zero
from toygpt.training.report import Curves
from toygpt.training.resumable_run import open_run
from toygpt.training.sharding import device_to_build_on


def main() -> None:
    params = load_params(paths.PARAMS)
    accelerator = params.runtime.accelerator
    device_for(accelerator)  # without that device, nothing is begun
    precision = resolve_precision(params.train.precision, accelerator)
    attention = resolve_attention(
        params.train.attention, precision=precision, accelerator=accelerator
    )
    kernels = resolve_kernels(
        params.train.kernels, precision=precision, accelerator=accelerator
    )
    fabric = launch(params.runtime, precision=precision)
    # From here on there is a process for each device. Rank zero alone has a run.

    def read_inputs() -> tuple[Manifest, dict[str, Any]]:
        # The ranks of each machine check its files together.
        share = (fabric.local_rank, fabric.world_size // params.runtime.num_nodes)
        splits = read_manifest(paths.SPLITS, made_by="split", share=share)
        check_tokenizer(splits, paths.TOKENIZER)
        return splits, fingerprint_inputs(
            params,
            vocab_size=splits.vocab_size,
            split_digests={
                f"{name}.bin": splits.digest_of(name) for name in splits.parts
            },
            precision=precision,
            attention=attention,
            kernels=kernels,
        )

    splits, inputs = on_all_ranks(fabric, read_inputs)
    check_agreement(fabric, inputs, params.runtime)
    with Interruption() as interruption, ExitStack() as stack:
        tracked = on_rank_zero(
            fabric, lambda: stack.enter_context(open_run(params, splits, inputs))
        )
        stack.enter_context(explain_lost_ranks(fabric))
        run_folder = run_folder_of(paths.main_root(), inputs)
        check_shared(fabric, run_folder)
        describe_ranks(fabric)
        torch.manual_seed(params.seed)
        config = GPTConfig(
            vocab_size=splits.vocab_size,
            dropout=params.train.dropout,
            **params.chosen_model.model_dump(),
        )
        if tracked is not None:
            print(f"{params.model}: {config.num_parameters:,} parameters")
        with device_to_build_on(fabric):
            model = GPT(config, attention=attention)
        curves = Curves(tracked)
        train_tokens = open_tokens(paths.SPLITS, splits, "train")

        def start_at_frequencies() -> None:
            counts = count_tokens(train_tokens, splits.vocab_size)
            model.start_at_frequencies(torch.from_numpy(counts))

        on_rank_zero(fabric, start_at_frequencies)  # the others get its weights
        schedule = CheckpointSchedule(
            params.runtime.checkpoint_every_steps,
            params.runtime.checkpoint_every_minutes,
        )
        outcome = train(
            fabric,
            model,
            train_tokens,
            open_tokens(paths.SPLITS, splits, "validation"),
            params=params.train,
            runtime=params.runtime,
            seed=params.seed,
            curves=curves,
            kernels=kernels,
            checkpoints=Checkpointing(run_folder, schedule, interruption),
        )
        if tracked is not None:
            write_results(params, splits, model, curves, outcome, tracked)
    if fabric.is_global_zero:
        print(
            f"{outcome.tokens:,} tokens; loss {outcome.train_loss:.3f} on what was "
            f"learned from, {outcome.validation_loss:.3f} on the validation split"
        )


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

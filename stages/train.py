"""Train the chosen model on the training split.

Reads:  data/splits/, data/tokens/tokenizer/
Writes: models/toygpt/, reports/train/, metrics/train.json
"""

import torch

from stages import run
from toygpt import paths
from toygpt.data.token_files import check_tokenizer, open_tokens, read_manifest
from toygpt.files import new_directory, write_json, write_text
from toygpt.model.directory import save_model, weights_digest
from toygpt.model.gpt import GPT, GPTConfig
from toygpt.model_card import model_card
from toygpt.params import flatten, load_params
from toygpt.training.curves import Curves
from toygpt.training.surroundings import describe_surroundings, run_name
from toygpt.training.tracking import new_run
from toygpt.training.trainer import is_first_process, train


def main() -> None:
    params = load_params(paths.PARAMS)
    splits = read_manifest(paths.SPLITS, made_by="split")
    check_tokenizer(splits, paths.TOKENIZER)
    train_tokens = open_tokens(paths.SPLITS, splits, "train")
    validation_tokens = open_tokens(paths.SPLITS, splits, "validation")

    torch.manual_seed(params.seed)
    model = GPT(
        GPTConfig(
            vocab_size=splits.vocab_size,
            dropout=params.train.dropout,
            **params.chosen_model.model_dump(),
        ),
        attention=params.train.attention,
    )
    if is_first_process():
        print(f"{params.model}: {model.num_parameters:,} parameters")

    with new_run(
        run_name(params.model, params.corpus),
        dict(flatten(params.model_dump(by_alias=True))),
        describe_surroundings(params.runtime.accelerator)
        | {
            "corpus.sha256": splits.corpus_sha256,
            **{
                f"{name}.sha256": record.sha256 for name, record in splits.files.items()
            },
        },
        tracking=params.tracking if is_first_process() else params.tracking.muted(),
        root=paths.main_root(),
    ) as tracked:
        curves = Curves(tracked)
        outcome = train(
            model,
            train_tokens,
            validation_tokens,
            params=params.train,
            runtime=params.runtime,
            seed=params.seed,
            curves=curves,
        )
        if not is_first_process():
            return
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

        weights = weights_digest(paths.MODEL)
        tracked.log_facts({"weights.sha256": weights})
        tracked.log_metrics({name: metrics[name] for name in ("parameters", "steps")})
        tracked.log_directory(paths.MODEL, name="model")
        tracked.remember(weights)
    print(
        f"{outcome.tokens:,} tokens; loss {outcome.train_loss:.3f} on what was learned "
        f"from, {outcome.validation_loss:.3f} on the validation split"
    )


if __name__ == "__main__":
    run(main)

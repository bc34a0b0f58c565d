"""How fast is text generated, beside `generate` of transformers?

    python -m benchmarks.generation                  # nano, on what this machine has
    python -m benchmarks.generation --model small --rounds 5

Greedy, with a cache of keys and values, in 32 bits: both read the very same checkpoint,
of random weights. That their texts are equal, token for token, is checked first. toyGPT
keeps its memory as in its stages, transformers as it comes. To compare with a given
number of threads, set OMP_NUM_THREADS.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.measure import RESULTS, Case, EndRound, compare, report
from benchmarks.training import TASKS
from toygpt.generation.fastest import generate_batch
from toygpt.generation.packed import pack
from toygpt.model.device import device_for
from toygpt.model.gpt import GPT, GPTConfig
from toygpt.model.huggingface import load_model, save_model
from toygpt.pipeline.process import ENVIRONMENT, keep_freed_memory

NEVER = -1  # no token has this id, so that no sequence ends


@dataclass(frozen=True)
class Task:
    """The checkpoint and the prompts of every case."""

    directory: Path  # of the checkpoint
    prompts: list[list[int]]
    max_new_tokens: int


def write_checkpoint(config: GPTConfig, directory: Path) -> None:
    """Write a model that repeats no token forever, as an untrained one would."""
    torch.manual_seed(0)
    model = GPT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    with tempfile.TemporaryDirectory() as name:
        tokenizer = Path(name)  # only its configuration: no text is encoded
        config_path = tokenizer / "tokenizer_config.json"
        config_path.write_text('{"eos_token": "<|endoftext|>"}', encoding="utf-8")
        save_model(model, directory, end_of_text_id=0, tokenizer_directory=tokenizer)


def toygpt_writer(
    task: Task, *, is_packed: bool = True
) -> Callable[[], list[list[int]]]:
    """Return a function that continues all prompts with toyGPT."""
    model = load_model(task.directory).to(device_for("auto"))
    model = pack(model) if is_packed else model

    def write() -> list[list[int]]:
        texts: list[list[int]] = [[] for _ in task.prompts]
        for new_ids in generate_batch(
            model,
            task.prompts,
            max_new_tokens=task.max_new_tokens,
            end_of_text_id=NEVER,
        ):
            for number, token_id in new_ids.items():
                texts[number].append(token_id)
        return texts

    return write


def transformers_writer(task: Task) -> Callable[[], list[list[int]]]:
    """Return a function that continues all prompts with transformers, padded left."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device = device_for("auto")
    model = AutoModelForCausalLM.from_pretrained(task.directory).to(device).eval()
    longest = max(map(len, task.prompts))
    gaps = [longest - len(prompt) for prompt in task.prompts]
    prompt_ids = torch.tensor(
        [[0] * gap + prompt for gap, prompt in zip(gaps, task.prompts, strict=True)],
        device=device,
    )
    is_text = torch.tensor(
        [[0] * gap + [1] * (longest - gap) for gap in gaps], device=device
    )

    @torch.inference_mode()
    def write() -> list[list[int]]:
        output = model.generate(
            prompt_ids,
            attention_mask=is_text,
            max_new_tokens=task.max_new_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        return [list(text) for text in output[:, longest:].tolist()]

    return write


def toygpt(task: Task, end_round: EndRound, *, is_packed: bool) -> None:
    """Generate as the stage generate-samples does, or without packed matrices."""
    keep_freed_memory()  # in this case alone: the others run as they come
    repeatedly(partial(toygpt_writer, is_packed=is_packed), task, end_round)


def repeatedly(
    writer: Callable[[Task], Callable[[], list[list[int]]]],
    task: Task,
    end_round: EndRound,
) -> None:
    """Continue the same prompts in every round."""
    write = writer(task)
    write()
    while True:
        end_round()
        write()


def check_equal(task: Task) -> None:
    """Compare the texts of both.

    Raises:
        RuntimeError: The texts differ, so that there is nothing to measure.
    """
    ours, theirs = toygpt_writer(task)(), transformers_writer(task)()
    if ours != theirs:
        differ = sum(a != b for a, b in zip(ours, theirs, strict=True))
        raise RuntimeError(f"{differ} of {len(ours)} texts differ")


def main() -> None:
    """Measure, print the tables, write them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=TASKS, default="nano")
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()

    config = TASKS[options.model].config
    generator = torch.Generator().manual_seed(1)
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(config, Path(folder))
        for num_sequences in options.sequences:
            shape = (num_sequences, options.prompt_tokens)
            prompts = torch.randint(config.vocab_size, shape, generator=generator)
            task = Task(Path(folder), prompts.tolist(), options.new_tokens)
            check_equal(task)
            cases: dict[str, Case] = {
                "transformers generate": partial(repeatedly, transformers_writer, task),
                "toyGPT, matrices not packed": partial(toygpt, task, is_packed=False),
                "toyGPT": partial(toygpt, task, is_packed=True),
            }
            report(
                f"generation-{options.model}-{num_sequences}-{device_for('auto').type}",
                f"How fast does {options.model} generate, {num_sequences} at once?",
                compare(
                    cases,
                    amount=num_sequences * options.new_tokens,
                    rounds=options.rounds,
                    environments={
                        name: ENVIRONMENT for name in cases if "toyGPT" in name
                    },
                ),
                unit="new tokens",
                settings={
                    "sequences_at_once": num_sequences,
                    "prompt_tokens": options.prompt_tokens,
                    "new_tokens": options.new_tokens,
                    "precision": "32-true",
                    "texts": "equal, token for token",
                    "parameters": GPT(config).num_parameters,
                    **config.__dict__,
                },
                folder=options.out,
            )


if __name__ == "__main__":
    main()

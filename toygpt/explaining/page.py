"""The page: what a model does with a prompt, and with what it writes after it.

No token sees a later one: one reading of prompt and continuation shows each token as
it was when it was the last.
"""

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from toygpt.explaining import findings
from toygpt.explaining.length import room_on_page
from toygpt.explaining.trace import trace
from toygpt.generation import kv_cache, sampling
from toygpt.model import attention, gpt
from toygpt.model.gpt import GPT
from toygpt.model.loading import LoadedModel
from toygpt.pages.html import to_html
from toygpt.pages.labels import characters_of, label_of, pieces_of
from toygpt.pipeline.errors import InputError

CONTENT = Path(__file__).with_name("explain.html")
# To remove each head takes a reading per head: the most multiplications for that.
MOST_WORK = 10**12
NUM_GUESSES, NUM_CANDIDATES = 3, 40

# The code of each step: a function, and the start of the line that does it.
CODE: dict[str, tuple[Callable[..., Any], str]] = {
    "embed": (GPT.read, "x = self.token_embedding("),
    "positions": (gpt.sinusoidal_positions, "angle = position"),
    "block": (gpt.Block.forward, "x = x + "),
    "scores": (attention.attention_scores, "scores = "),
    "attention": (attention.attention_from_scratch, "weights = "),
    "feed_forward": (gpt.FeedForward.forward, "return "),
    "logits": (GPT.forward, "return "),
    "next": (sampling.next_token_probabilities, "probabilities = logits.softmax("),
    "loss": (gpt.next_token_loss, "return "),
}


def explain(
    loaded: LoadedModel,
    prompt: str,
    *,
    max_new_tokens: int,
    digest: str,
    may_cut: bool = False,
) -> str:
    """Return the page on a prompt and its greedy continuation, as far as there is room.

    Args:
        loaded: A model in 32 bits, on the processor.
        prompt: The text to continue.
        max_new_tokens: Where the continuation stops if the model does not end it.
        digest: The digest of the weights.
        may_cut: Of a prompt that is too long, explain the end.

    Raises:
        InputError: The prompt is too long for a page.
    """
    model, tokenizer, end_of_text_id = loaded
    config = model.config
    room = room_on_page(config.block_size, config.num_layers * config.num_heads)
    all_ids = tokenizer.encode(prompt, add_special_tokens=False).ids
    prompt_ids = all_ids[-max(1, room - max_new_tokens) :] if may_cut else all_ids
    if len(prompt_ids) > room:
        raise InputError(
            f"the prompt has {len(prompt_ids)} tokens, but a page has room for {room}"
        )
    token_ids = prompt_ids + kv_cache.generate(
        model,
        prompt_ids,
        max_new_tokens=min(max_new_tokens, room - len(prompt_ids)),
        end_of_text_id=end_of_text_id,
    )
    shown = what_to_show(model, token_ids, num_given=len(prompt_ids))
    pieces = pieces_of(tokenizer)
    lists = [shown["candidates"], *shown["guesses"]]
    named = set(token_ids).union(*(ids for found in lists for ids in found["ids"]))
    shown |= {
        "groups": list(characters_of([pieces[token_id] for token_id in token_ids])),
        "labels": {token_id: label_of(pieces[token_id]) for token_id in sorted(named)},
        "model": vars(config),
        "parameters": model.num_parameters,
        "digest": digest[:12],
        "left_out": len(all_ids) - len(prompt_ids),
        "code": {step: excerpt(*where) for step, where in CODE.items()},
    }
    return to_html(CONTENT, shown)


@torch.inference_mode()
def what_to_show(model: GPT, token_ids: list[int], *, num_given: int) -> dict[str, Any]:
    """Return the numbers of a page, as plain values.

    Args:
        model: The network.
        token_ids: The prompt and its continuation.
        num_given: How many of the tokens are the prompt.
    """
    traced, time = trace(model, token_ids), len(token_ids)
    logits, heads = traced.logits, traced.shares.flatten(end_dim=1)
    candidates = logits.topk(min(NUM_CANDIDATES, logits.shape[-1]))
    favourites = candidates.indices[:, 0].tolist()
    came = logits[range(time - 1), token_ids[1:]]
    shown = {
        "tokens": token_ids,
        "given": num_given,
        # Three numbers of each vector stand for all.
        "additions": short(traced.additions[..., :3]),
        # In thousandths, of the tokens up to the one that looks.
        "shares": [
            [row[:seen] for seen, row in enumerate(head, start=1)]
            for head in (1000 * heads).round().int().tolist()
        ],
        # Of the prompt alone: what a small model writes soon repeats itself.
        "habits": [
            findings.habit(head[:num_given, :num_given], token_ids[:num_given])
            for head in heads
        ],
        "fired": (traced.hidden > 0).sum(dim=-1).tolist(),
        "guesses": [
            guesses(after, token_ids, favourites, part + 1 == len(traced.additions))
            for part, after in enumerate(findings.logits_after_each_part(model, traced))
        ],
        "candidates": listed(candidates),
        "others": [histogram(row) for row in logits],
        "bits": short((logits[:-1].logsumexp(dim=-1) - came) / math.log(2)),
        "ranks": ranks(logits[:-1], token_ids[1:]),
    }
    if len(heads) * time * model.num_parameters <= MOST_WORK:
        without = findings.probabilities_without_each_head(model, traced, favourites)
        shown["without"] = short(without.flatten(end_dim=1))
    return shown


def guesses(
    logits: Float[Tensor, "time vocab"], own: list[int], final: list[int], is_last: bool
) -> dict[str, Any]:
    """Return what the page shows of the guesses after a part.

    Until the last part a vector is hardly more than the token's own, and guesses that
    token: what it would guess in its place says more.
    """
    places, others = range(len(own)), logits.clone()
    if not is_last:
        others[places, own] = -torch.inf
    return {
        **listed(others.softmax(dim=-1).topk(NUM_GUESSES)),
        "itself": short(logits.softmax(dim=-1)[places, own]),
        "ranks": ranks(logits, final),
    }


def ranks(scores: Float[Tensor, "time vocab"], token_ids: list[int]) -> list[int]:
    """Return the place of one token per position among all: 1 is the most likely."""
    own = scores[range(len(token_ids)), token_ids, None]
    return ((scores > own).sum(dim=-1) + 1).tolist()


def histogram(logits: Float[Tensor, "vocab"]) -> list[list[float]]:
    """Return how many tokens, without the candidates, have about which logit.

    The most likely come first.
    """
    rest = logits.sort(descending=True).values[NUM_CANDIDATES:]
    centres, counts = (rest * 4).round().unique(return_counts=True)
    return torch.stack([centres / 4, counts], dim=-1).flip(0).tolist()


def short(values: Tensor) -> Any:
    """Return lists of numbers that are short to write."""
    return values.double().round(decimals=4).tolist()


def listed(top: torch.return_types.topk) -> dict[str, Any]:
    return {"ids": top.indices.tolist(), "values": short(top.values)}


def excerpt(function: Callable[..., Any], start: str) -> dict[str, Any]:
    """Return the code of a function, and the number of the line that starts so."""
    lines, first = inspect.getsourcelines(function)
    margin = len(lines[0]) - len(lines[0].lstrip())
    [marked] = [n for n, line in enumerate(lines) if line.lstrip().startswith(start)]
    return {
        "name": function.__qualname__,
        # Not the path of the file: it may hold the name of a user.
        "file": f"{function.__module__.replace('.', '/')}.py",
        "first": first,
        "marked": marked,
        "lines": [line[margin:].rstrip() for line in lines],
    }

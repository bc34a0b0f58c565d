"""Whether the model recites: how far it continues a text as it is written there."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from toygpt.data.token_files import TokenIds
from toygpt.generation.fastest import generate_batch
from toygpt.generation.samples import PROMPTS_AT_ONCE
from toygpt.model.gpt import GPT

# Tokens of a prompt, and of its continuation, at most.
PROMPT_TOKENS = 32
# A prompt and its continuation of fewer tokens together are left out.
MIN_TOKENS = 8
# Tokens of the training split that prompts come from and that are searched.
MAX_SEARCHED_TOKENS = 50_000_000
# Places in the training split that are compared together.
PLACES_AT_ONCE = 2**20


@dataclass
class Passage:
    """A prompt from a text, how the text continues, and how the model continues it."""

    prompt: list[int]
    original: list[int]
    written: list[int]

    @property
    def num_reproduced(self) -> int:
        """How many tokens the model wrote as in the text, before the first other one."""
        pairs = zip(self.written, self.original, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def continued_passages(
    model: GPT, tokens: TokenIds, *, num_prompts: int, end_of_text_id: int
) -> list[Passage]:
    """Let the model continue passages of a text with the most likely tokens.

    The passages are evenly spaced. Each lies in one document: where a document ends in
    it, the next one is taken from its beginning. The first half is the prompt.

    Args:
        model: A model in evaluation mode, as `pack` returns it.
        tokens: The token ids of the text.
        num_prompts: How many passages; fewer if the text has not so many.
        end_of_text_id: The token id that ends a document.
    """
    size = 2 * min(PROMPT_TOKENS, model.config.block_size // 2)
    starts = set()
    for place in np.linspace(0, max(0, len(tokens) - size), num_prompts).astype(int):
        ends = np.flatnonzero(tokens[place : place + size] == end_of_text_id)
        starts.add(int(place + ends[0] + 1 if len(ends) else place))
    found = []
    for start in sorted(starts):
        passage = tokens[start : start + size].tolist()
        if end_of_text_id in passage:
            passage = passage[: passage.index(end_of_text_id)]
        if len(passage) >= MIN_TOKENS:
            half = len(passage) // 2
            found.append(Passage(passage[:half], passage[half:], []))
    for first in range(0, len(found), PROMPTS_AT_ONCE):
        batch = found[first : first + PROMPTS_AT_ONCE]
        for step in generate_batch(
            model,
            [passage.prompt for passage in batch],
            max_new_tokens=size // 2,
            end_of_text_id=end_of_text_id,
        ):
            for number, token_id in step.items():
                if len(batch[number].written) < len(batch[number].original):
                    batch[number].written.append(token_id)
    return found


def longest_spans(texts: Sequence[list[int]], train: TokenIds) -> list[slice]:
    """Return the longest span of each text that the training split holds, too.

    All spans of the texts make a tree, each node one token longer than the one above.
    From each place of the training split one goes down the tree as far as its tokens
    lead: memory grows with the texts alone, and short spans end most ways at once.
    """
    children: dict[tuple[int, int], int] = {}  # by node and token; the root is node 0
    paths = []
    for text in texts:
        for start in range(len(text)):
            path = [0]
            for token in text[start:]:
                key = (path[-1], token)
                path.append(children.setdefault(key, len(children) + 1))
            paths.append(path)
    ...

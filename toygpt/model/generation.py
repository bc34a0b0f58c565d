"""Write text: ask for the next token, append it, ask again."""

from collections.abc import Iterator

import torch

from toygpt.model.gpt import GPT


@torch.inference_mode()
def generate(
    model: GPT, prompt_ids: list[int], *, max_new_tokens: int, end_of_text_id: int
) -> Iterator[int]:
    """Yield the most likely next token, again and again, until the text ends.

    The model looks back over `block_size` tokens; of a longer text it sees the end.

    Raises:
        ValueError: An empty prompt: there is nothing to continue.
    """
    if not prompt_ids:
        raise ValueError("the prompt is empty: there is nothing to continue")
    device = model.token_embedding.weight.device
    token_ids = list(prompt_ids)
    for _ in range(max_new_tokens):
        window = token_ids[-model.config.block_size :]
        logits = model(torch.tensor([window], device=device))
        next_id = int(logits[0, -1].argmax())
        if next_id == end_of_text_id:
            return
        yield next_id
        token_ids.append(next_id)

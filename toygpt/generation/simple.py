"""Generate text: predict the next token, append it, repeat.

The first rung of a ladder. Here the model reads the whole text again for each new
token. Each rung above gives the same tokens in less time:

1. `simple.py`: read everything again for each token;
2. `kv_cache.py`: keep each token's keys and values, and read only the newest token;
3. `engine.py`: many sequences at once;
4. `packed.py`: matrices in the order in which a processor reads them fastest;
   `graph.py`, in its place on a GPU: each step recorded once, and replayed.
"""

import torch

from toygpt.generation.sampling import Sampling, choose_tokens
from toygpt.model.gpt import GPT


@torch.inference_mode()  # no gradients: nothing is learned here
def generate(
    model: GPT,
    prompt_ids: list[int],
    *,
    max_new_tokens: int,
    end_of_text_id: int,
    sampling: Sampling | None = None,
) -> list[int]:
    """Return the tokens with which the model continues a prompt.

    The model sees a window of at most `block_size` tokens. When the window is full, its
    older half is dropped. Dropping one token at a time would do here; the next rung
    shows why it is half of them.

    Args:
        model: A model in evaluation mode, as `load_model` returns it.
        prompt_ids: The tokens to continue, at least one.
        max_new_tokens: Where to stop if the model does not.
        end_of_text_id: The token by which the model ends a text; it is not returned.
        sampling: How to choose tokens at random; None takes the most likely one.

    An untrained model repeats itself, or babbles:

    >>> from toygpt.model.gpt import GPTConfig
    >>> seed = torch.manual_seed(1)
    >>> config = GPTConfig(
    ...     vocab_size=50, num_layers=2, num_heads=2, block_size=8, embed_dim=16,
    ...     dropout=0.0,
    ... )
    >>> model = GPT(config).eval()
    >>> generate(model, [1, 2, 3], max_new_tokens=5, end_of_text_id=0)
    [46, 46, 46, 46, 46]
    >>> babble = Sampling(temperature=2.0, seed=2)
    >>> generate(model, [1, 2, 3], max_new_tokens=5, end_of_text_id=0, sampling=babble)
    [41, 34, 7, 12, 14]
    """
    block_size = model.config.block_size
    generator = (sampling or Sampling()).generator(
        device=model.device
    )  # random numbers
    window = prompt_ids[-block_size:]  # the tokens that the model sees
    new_ids: list[int] = []
    while len(new_ids) < max_new_tokens:
        logits = model(torch.tensor([window], device=model.device))[:, -1]
        # A token for each sequence of the batch: here there is one.
        [next_id] = choose_tokens(logits, sampling, [generator])
        if next_id == end_of_text_id:
            break
        new_ids.append(next_id)
        window = [*window, next_id]
        if len(window) > block_size:
            window = window[-(block_size // 2) :]
    return new_ids

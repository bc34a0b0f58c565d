"""A model with a tokenizer, for pages on it."""

from typing import Any

from tests.tiny import lively_model
from toygpt.data.tokenizer import train_tokenizer
from toygpt.model.loading import LoadedModel

# None of it may run, end the page or vanish in it. The first two are tokens.
HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    "a\u202eb",
    "\0\u2028",
    "ï😀",
]
VOCAB_SIZE = 272


def loaded_model(**changes: Any) -> LoadedModel:
    """Return an untrained model and a tokenizer of English and of hostile markup."""
    text = "The road was so naive that it smiled. Once upon a time"
    tokenizer = train_tokenizer([[text]], vocab_size=VOCAB_SIZE - 2)
    tokenizer.add_tokens(HOSTILE[:2])
    return LoadedModel(lively_model(vocab_size=VOCAB_SIZE, **changes), tokenizer, 0)

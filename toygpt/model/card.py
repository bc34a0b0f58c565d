"""The model card: a model's parameters, data and metrics, and how to load it.

It is a result of the training and says only what decided the training, so that the same
training writes the same card. What is added when the model leaves the project is in
toygpt/sharing/card.py.
"""

from collections.abc import Mapping

from toygpt.data.manifest import Manifest
from toygpt.pipeline.params import Params

# How the card's code finds the model, until it has a name on the hub.
FIND_MODEL = """\
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

# Run this in the project, or in the folder that holds this file.
folder = "models/toygpt" if Path("models/toygpt").is_dir() else "."
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)"""
TEST_RESULTS = "What the test split says is in `metrics/evaluate.json`."

# Read by the hub (https://huggingface.co/docs/hub/model-cards) and by people.
TEMPLATE = """\
---
library_name: transformers
pipeline_tag: text-generation
tags: [toygpt, ctrl, causal-lm]
---

# toyGPT `{model}`

A GPT with {num_parameters:,} parameters, trained on the corpus `{corpus}`.
It is a CTRL checkpoint: transformers loads it without further code.

```python
{find_model}
prompt = tokenizer.bos_token  # where every text begins; or a text to continue
inputs = tokenizer(prompt, return_tensors="pt")
token_ids = model.generate(**inputs, do_sample=True)[0]
print(tokenizer.decode(token_ids, skip_special_tokens=True))
```

It looks back over {block_size:,} tokens: prompt and continuation together are at most
that long. To keep the end of a longer prompt, with room to write:
`tokenizer(prompt, truncation=True, max_length={half_block}, return_tensors="pt")`.

## Parameters

{model_table}

## Data

{data_table}

Digest of the corpus: `{corpus_sha256}`; of the tokenizer: `{tokenizer_sha256}`.

## Training

{train_table}

## Metrics

Losses are in nats per token. {test_results}

{metrics_table}
"""


def model_card(
    params: Params, splits: Manifest, metrics: Mapping[str, float | int]
) -> str:
    """Return the README.md of a model directory."""
    size = params.chosen_model
    return TEMPLATE.format(
        model=params.model,
        corpus=params.corpus,
        find_model=FIND_MODEL,
        test_results=TEST_RESULTS,
        num_parameters=int(metrics["parameters"]),
        block_size=size.block_size,
        half_block=size.block_size // 2,
        corpus_sha256=splits.corpus_sha256,
        tokenizer_sha256=splits.tokenizer_sha256,
        model_table=table(
            ("parameter", "value"),
            [("vocab_size", splits.vocab_size), *size.model_dump().items()],
        ),
        data_table=table(
            ("split", "tokens", "documents", "bytes"),
            [
                (name, f"{part.tokens:,}", f"{part.documents:,}", f"{part.bytes:,}")
                for name, part in splits.parts.items()
            ],
        ),
        train_table=table(
            ("parameter", "value"),
            [("seed", params.seed), *params.train.model_dump().items()],
        ),
        metrics_table=table(
            ("metric", "value"),
            [
                (name, f"{value:,}" if isinstance(value, int) else f"{value:.4f}")
                for name, value in metrics.items()
            ],
        ),
    )


def table(header: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    """Return a table in Markdown."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)

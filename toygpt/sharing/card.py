"""The card of a published model: training's, with licences and test results.

What is added here must not decide whether `train` runs again: a licence may change, and
a model is evaluated after its training.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from toygpt.data.hub_client import hub_client
from toygpt.model.card import FIND_MODEL, TEST_RESULTS, table
from toygpt.pipeline.params import DataTerms, HubCorpus, Params, StandardLibrary

CODE_LICENSE = "mit"  # the file LICENSE, which is published with the model

FIND_ON_HUB = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

name = "{repository}"
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForCausalLM.from_pretrained(name)"""

# The metrics of `evaluate` that the hub shows, with its names for them.
METRICS = {
    "test_bits_per_byte": ("bits_per_byte", "Bits per byte"),
    "test_loss": ("loss", "Loss (nats per token)"),
    "test_perplexity": ("perplexity", "Perplexity (per token)"),
    "test_accuracy": ("accuracy", "Accuracy (of the next token)"),
}

SAMPLE = """
## A sample

Greedy, after {prompt_tokens:,} tokens of prompt:

{text}
"""

LICENCES = """
## Licences

{licence_table}

The code that trained the model is under the licence in the file `LICENSE`
(`{code_license}`), which adds no terms for the weights. The licences of the texts are
named as their publishers name them.
"""


class Source(NamedTuple):
    """A text that a model was trained on."""

    name: str  # in `corpora` or `hub`, and in `publish`
    description: str
    repository: str | None  # on the hub
    terms: DataTerms | None  # None if `publish` does not name it


def sources_of(params: Params) -> list[Source]:
    """Return the texts of the chosen corpus."""
    match params.chosen_corpus:
        case HubCorpus(datasets=names):
            repositories = {name: params.hub[name].repository for name in names}
            return [
                Source(
                    name,
                    f"[{repository}](https://huggingface.co/datasets/{repository})",
                    repository,
                    params.publish.get(name),
                )
                for name, repository in repositories.items()
            ]
        case StandardLibrary():
            description = "Python's standard library"
        case _:
            description = "the publisher's own files"
    terms = params.publish.get(params.corpus)
    return [Source(params.corpus, description, None, terms)]


def finished_card(
    card: str,
    repository: str,
    params: Params,
    *,
    test_results: Mapping[str, float],
    sample: Mapping[str, Any] | None,
) -> str:
    """Return training's card with all that a reader on the hub needs.

    Args:
        card: README.md of the model directory.
        repository: The model's name on the hub.
        params: The parameters of the data.
        test_results: What `evaluate` wrote; empty if it did not run.
        sample: The first of the samples, if there are any.
    """
    sources = sources_of(params)
    finished = hub_client().ModelCard(card)
    for name, value in _metadata(sources).items():
        finished.data[name] = value
    if test_results:
        finished.data.model_name = repository.partition("/")[2]
        finished.data.eval_results = _eval_results(test_results, params, sources)
    finished.text = _finished_text(finished.text, repository, test_results) + (
        _sample_section(sample) + _licences_section(sources)
    )
    return str(finished)


def _metadata(sources: Sequence[Source]) -> dict[str, Any]:
    """Return what the hub reads at the head of the card, but for the results."""
    licenses = [CODE_LICENSE]
    for source in sources:
        known = source.terms.licenses if source.terms else []
        licenses += [name for name in known or ["unknown"] if name not in licenses]
    values: dict[str, Any] = {"license": CODE_LICENSE}
    if len(licenses) > 1:
        values = {
            "license": "other",  # the hub's word for any that it does not list
            "license_name": "-and-".join(licenses),
            "license_link": "LICENSE",
        }
    values["language"] = list(
        dict.fromkeys(
            language
            for source in sources
            if source.terms
            for language in source.terms.languages
        )
    )
    values["datasets"] = [s.repository for s in sources if s.repository is not None]
    return {name: value for name, value in values.items() if value}


def _eval_results(
    test_results: Mapping[str, float], params: Params, sources: Sequence[Source]
) -> list[Any]:
    on_hub = [source.repository for source in sources if source.repository is not None]
    return [
        hub_client().EvalResult(
            task_type="text-generation",
            task_name="Text generation",
            dataset_type=on_hub[0] if len(on_hub) == 1 else params.corpus,
            dataset_name=f"{params.corpus} (test split of toyGPT)",
            dataset_split="test",
            metric_type=metric_type,
            metric_name=metric_name,
            metric_value=test_results[metric],
        )
        for metric, (metric_type, metric_name) in METRICS.items()
        if metric in test_results
    ]


def _finished_text(
    text: str, repository: str, test_results: Mapping[str, float]
) -> str:
    rows: list[tuple[object, ...]] = [
        (name, f"{value:.4f}") for name, value in test_results.items()
    ]
    on_test_split = f"On the test split:\n\n{table(('metric', 'value'), rows)}\n\n" + (
        "In training, and on the validation split:"
    )
    text = text.replace(FIND_MODEL, FIND_ON_HUB.format(repository=repository))
    return text.replace(
        TEST_RESULTS, on_test_split if rows else "It was not evaluated on a test split."
    )


def _sample_section(sample: Mapping[str, Any] | None) -> str:
    if sample is None:
        return ""
    # Indented: nothing that the model writes can end such a block.
    text = textwrap.indent(sample["prompt"] + sample["continuation"], "    ")
    return SAMPLE.format(prompt_tokens=sample["prompt_tokens"], text=text)


def _licences_section(sources: Sequence[Source]) -> str:
    rows: list[tuple[object, ...]] = [
        (
            source.description,
            ", ".join(source.terms.licenses if source.terms else []) or "not known",
            ", ".join(source.terms.languages if source.terms else []) or "not known",
        )
        for source in sources
    ]
    licence_table = table(("trained on", "licence", "language"), rows)
    return LICENCES.format(licence_table=licence_table, code_license=CODE_LICENSE)

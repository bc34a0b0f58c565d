"""The card of a published model: the hub can read it, and it claims what is so."""

import json
import re
import tomllib
from typing import Any

import pytest
from huggingface_hub import ModelCard, metadata_eval_result
from huggingface_hub.repocard_data import model_index_to_eval_results

from tests.project import PROJECT
from toygpt.data.manifest import Manifest, Part
from toygpt.model.card import FIND_MODEL, TEST_RESULTS, model_card
from toygpt.pipeline.params import Params
from toygpt.pipeline.params_file import load_params
from toygpt.sharing.card import CODE_LICENSE, METRICS, finished_card

PARAMS = PROJECT / "params.yaml"
RESULTS = {
    "test_loss": 2.954,
    "test_perplexity": 19.19,
    "test_bits_per_byte": 1.3166,
    "test_bits_per_byte_standard_error": 0.0426,
    "test_accuracy": 0.407,
    "bigram_bits_per_byte": 1.9743,
    "xz_bits_per_byte": 1.6028,
}
SAMPLE = {
    "prompt": "def f():\n",
    "continuation": "    ```\n\n# x\n---\n",
    "prompt_tokens": 7,
}


def training_card(params: Params) -> str:
    """Return the card of a model that was trained with these parameters."""
    splits = Manifest(
        version=1,
        token_type="uint16",
        vocab_size=4_321,
        end_of_text_id=0,
        corpus_sha256="c0" * 32,
        tokenizer_sha256="70" * 32,
        parts={"train": Part(tokens=1_234, documents=8, bytes=7_654)},
        files={},
    )
    return model_card(params, splits, {"parameters": 123, "train_loss": 3.1})


def finish(
    *,
    results: dict[str, float] = RESULTS,
    sample: dict[str, Any] | None = None,
    **overrides: Any,
) -> Any:
    """Return the finished card, as the hub's own library reads it."""
    params = load_params(PARAMS, overrides)
    text = finished_card(
        training_card(params),
        "ada/toy",
        params,
        test_results=results,
        sample=sample,
    )
    return ModelCard(text)


def test_the_licence_of_the_code_is_the_one_of_the_project() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))

    assert project["project"]["license"].lower() == CODE_LICENSE
    assert (PROJECT / "LICENSE").read_text().startswith(f"{CODE_LICENSE.upper()} ")


@pytest.mark.parametrize(
    ("corpus", "name", "languages", "datasets"),
    [
        ("python", "mit-and-psf-2.0", ["code", "en"], None),
        ("files", "mit-and-unknown", None, None),
        (
            "wikisource",
            "mit-and-cc-by-sa-3.0-and-gfdl",
            ["en"],
            ["wikimedia/wikisource"],
        ),
        (
            "seed",
            "mit-and-cc-by-sa-3.0-and-gfdl-and-unknown",
            ["en", "code"],
            ["wikimedia/wikisource", "togethercomputer/RedPajama-Data-1T-Sample"],
        ),
    ],
)
def test_the_card_names_licences_languages_and_datasets(
    corpus: str, name: str, languages: list[str] | None, datasets: list[str] | None
) -> None:
    """Of code and data; what is not known is called so."""
    card = finish(corpus=corpus)

    assert card.data.license == "other"
    assert card.data.to_dict()["license_name"] == name
    assert card.data.to_dict()["license_link"] == "LICENSE"
    assert card.data.language == languages
    assert card.data.datasets == datasets
    assert card.data.base_model is None
    assert card.data.tags == ["toygpt", "ctrl", "causal-lm"]
    assert ("not known" in card.text) == ("unknown" in name)
    for dataset in datasets or []:
        assert f"(https://huggingface.co/datasets/{dataset})" in card.text


def test_the_user_says_which_licence_a_text_has() -> None:
    said: dict[str, Any] = {
        "publish.files.licenses": ["mit"],
        "publish.files.languages": ["de"],
    }

    card = finish(corpus="files", **said)
    without_entry = finish(corpus="files", publish={})

    assert card.data.license == "mit"
    assert card.data.language == ["de"]
    assert without_entry.data.to_dict()["license_name"] == "mit-and-unknown"


def test_the_hub_finds_the_test_results() -> None:
    """As its library reads them, and as it would have written them."""
    card = finish(corpus="wikisource")

    name, results = model_index_to_eval_results(card.data.to_dict()["model-index"])

    assert name == "toy"
    by_type: dict[str, Any] = {result.metric_type: result for result in results}
    assert {kind: result.metric_value for kind, result in by_type.items()} == {
        METRICS[metric][0]: RESULTS[metric] for metric in METRICS
    }
    result = by_type["bits_per_byte"]
    assert result.dataset_type == "wikimedia/wikisource"
    assert result.dataset_name.startswith("wikisource ")
    theirs: Any = metadata_eval_result(
        model_pretty_name="toy",
        task_pretty_name=result.task_name,
        task_id=result.task_type,
        metrics_pretty_name=result.metric_name,
        metrics_id=result.metric_type,
        metrics_value=result.metric_value,
        dataset_pretty_name=result.dataset_name,
        dataset_id=result.dataset_type,
        dataset_split="test",
    )["model-index"][0]
    (ours,) = card.data.to_dict()["model-index"]
    assert theirs["name"] == ours["name"]
    (of_theirs,), (of_ours,) = theirs["results"], ours["results"]
    assert of_theirs["dataset"] == of_ours["dataset"]
    assert of_theirs["task"] == of_ours["task"]
    assert of_theirs["metrics"][0].items() <= {"verified": False}.items() | (
        of_ours["metrics"][0].items()
    )


def test_people_find_every_result_and_the_baselines() -> None:
    text = finish().text

    for metric, value in RESULTS.items():
        assert f"| {metric} | {value:.4f} |" in text
    assert "| train_loss | 3.1000 |" in text
    assert "metrics/evaluate.json" not in text


def test_a_model_that_was_not_evaluated_claims_no_result() -> None:
    card = finish(results={})

    assert "model-index" not in card.data.to_dict()
    assert "It was not evaluated on a test split." in card.text
    assert "test_" not in json.dumps(card.data.to_dict())


def test_a_sample_cannot_end_its_block() -> None:
    text = finish(sample=SAMPLE).text

    section = text.partition("## A sample\n")[2].partition("\n## Licences")[0]
    assert "    def f():\n        ```\n\n    # x\n    ---" in section
    assert "## A sample" not in finish().text


def test_the_code_of_the_card_asks_the_hub_from_any_place() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", finish().text, re.DOTALL)

    compile(code, "the card", "exec")
    assert 'name = "ada/toy"\n' in code
    assert "models/toygpt" not in code


def test_training_writes_the_sentences_that_are_replaced() -> None:
    card = training_card(load_params(PARAMS))

    assert card.count(FIND_MODEL) == card.count(TEST_RESULTS) == 1

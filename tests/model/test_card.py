"""The model card: its numbers are the model's, and its code runs."""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.model.saved import save
from tests.project import PROJECT
from toygpt.data.manifest import Manifest, Part
from toygpt.model.card import model_card
from toygpt.pipeline.params import Params
from toygpt.pipeline.params_file import load_params

METRICS = {"parameters": 123_703_633, "train_loss": 3.14159}


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params(PROJECT / "params.yaml")


@pytest.fixture(scope="module")
def card(params: Params) -> str:
    splits = Manifest(
        version=1,
        token_type="uint16",
        vocab_size=4_321,
        end_of_text_id=0,
        corpus_sha256="c0" * 32,
        tokenizer_sha256="70" * 32,
        parts={
            "train": Part(tokens=1_234_567, documents=890, bytes=7_654_321),
            "test": Part(tokens=1_002, documents=12, bytes=5_006),
        },
        files={},
    )
    return model_card(params, splits, METRICS)


def rows_of(card: str, title: str) -> dict[str, list[str]]:
    """Return a section's table: the first cell of each row, and the others."""
    section = card.partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in cells}) == 1, "a row is longer than another"
    assert set(cells[1]) == {"---"}
    return {name: values for name, *values in cells[2:]}


def test_the_card_names_the_model_and_its_data(card: str, params: Params) -> None:
    """The hub reads its head."""
    _, head, body = card.split("---\n", 2)
    values: dict[str, Any] = YAML(typ="safe").load(head)
    assert values["library_name"] == "transformers"
    assert values["pipeline_tag"] == "text-generation"
    assert body.lstrip().startswith(f"# toyGPT `{params.model}`")
    block_size = params.chosen_model.block_size
    for words in (
        "123,703,633 parameters",
        f"trained on the corpus `{params.corpus}`",
        f"looks back over {block_size} tokens",
        f"truncation=True, max_length={block_size // 2},",
        "c0" * 32,
        "70" * 32,
    ):
        assert words in body


def test_the_card_has_every_parameter_split_and_metric(
    card: str, params: Params
) -> None:
    assert rows_of(card, "Parameters") == {
        "vocab_size": ["4321"],
        **{
            name: [str(value)]
            for name, value in params.chosen_model.model_dump().items()
        },
    }
    assert rows_of(card, "Data") == {
        "train": ["1,234,567", "890", "7,654,321"],
        "test": ["1,002", "12", "5,006"],
    }
    assert rows_of(card, "Metrics") == {
        "parameters": ["123,703,633"],
        "train_loss": ["3.1416"],
    }
    training = rows_of(card, "Training")
    assert training["seed"] == [str(params.seed)]
    for name, value in params.train.model_dump().items():
        assert training[name] == [str(value)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("block_size", "place"), [(8, "."), (40, "models/toygpt"), (128, ".")]
)
def test_the_code_of_the_card_runs_where_its_reader_is(
    card: str,
    block_size: int,
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the project, and in a folder that was downloaded; for a block of any size."""
    model = save(tmp_path, block_size=block_size, end_of_text_id=-1).directory
    (tmp_path / "models").mkdir()
    directory = model.rename(tmp_path / "models" / "toygpt")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    monkeypatch.chdir(directory if place == "." else tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    names: dict[str, Any] = {}
    exec(compile(code, "the model card", "exec"), names)

    written, tokenizer = names["token_ids"], names["tokenizer"]
    assert len(written) == block_size
    text = tokenizer.decode(written[1:], skip_special_tokens=True)
    assert text in capsys.readouterr().out

"""The schema of params.yaml: which values are allowed, and what is derived of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from tests.project import PROJECT
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.params import LocalFiles, ModelParams, flatten
from toygpt.pipeline.params_file import load_params

PARAMS = PROJECT / "params.yaml"
TINY = {"num_layers": 1, "num_heads": 1, "block_size": 8, "embed_dim": 8}


def read_params() -> dict[str, Any]:
    values: dict[str, Any] = YAML(typ="safe").load(PARAMS.read_text(encoding="utf-8"))
    return values


def write_params(folder: Path, changes: Mapping[str, str]) -> Path:
    """Write the project's params.yaml, some of its values replaced by YAML source."""
    values = read_params()
    for number, key in enumerate(changes):
        *sections, name = key.split(".")
        section = values
        for inner in sections:
            section = section[inner]
        section[name] = f"<{number}>"
    text = json.dumps(values)
    for number, source in enumerate(changes.values()):
        text = text.replace(f'"<{number}>"', source)
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def message_about(path: Path) -> str:
    """Return the message about a params.yaml that cannot be used."""
    with pytest.raises(InputError) as caught:
        load_params(path)
    return str(caught.value)


def test_the_project_can_use_its_own_params_file() -> None:
    params = load_params(PARAMS)

    assert params.chosen_model is params.models[params.model]
    assert params.chosen_corpus is params.corpora[params.corpus]


@pytest.mark.parametrize(
    ("corpus", "datasets"),
    [
        ("python", set()),
        ("redpajama", {"redpajama"}),
        ("seed", {"wikisource", "redpajama"}),
    ],
)
def test_parameters_in_use_are_those_of_the_chosen_entries(
    corpus: str, datasets: set[str]
) -> None:
    params = load_params(PARAMS, {"corpus": corpus, "model": "small"})

    in_use = params.in_use()

    every = dict(flatten(params.model_dump(by_alias=True)))
    assert in_use.items() <= every.items()
    entries = {tuple(key.split(".")[:2]) for key in every.keys() - in_use.keys()}
    assert entries == (
        {("corpora", name) for name in params.corpora.keys() - {corpus}}
        | {("hub", name) for name in params.hub.keys() - datasets}
        | {("models", name) for name in params.models.keys() - {"small"}}
    )


@pytest.mark.parametrize(
    ("size", "num_parameters"),
    [("small", 123_703_633), ("medium", 253_055_057), ("large", 1_311_579_217)],
)
def test_the_menu_holds_the_published_sizes(size: str, num_parameters: int) -> None:
    """Counted with GPT-2's vocabulary of 50,257 tokens."""
    model = load_params(PARAMS).models[size]

    depth, width, vocab_size = model.num_layers, model.embed_dim, 50_257
    blocks = depth * (12 * width**2 + 13 * width)

    assert blocks + vocab_size * (width + 1) + 2 * width == num_parameters


def test_every_number_says_what_it_counts() -> None:
    """A line with a comment explains its key, here and in later entries of a menu."""
    keys = {
        key.rpartition(".")[2]
        for key, value in flatten(read_params())
        if isinstance(value, int | float)
    }
    lines = PARAMS.read_text(encoding="utf-8").splitlines()

    explained = {line.partition(":")[0].strip() for line in lines if "#" in line}

    assert keys <= explained


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("texts", "texts"),
        ("~/my texts", "/home/me/my texts"),
        ("~", "/home/me"),
        ("./~/texts", "~/texts"),
        ("a~", "a~"),
    ],
)
def test_a_tilde_stands_for_the_home_directory(
    monkeypatch: pytest.MonkeyPatch, folder: str, expected: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")

    path = LocalFiles(source="local_files", folder=folder).path()

    assert path == Path(expected)


def test_the_home_directory_of_an_unknown_user_is_named() -> None:
    files = LocalFiles(source="local_files", folder="~no such user/texts")

    with pytest.raises(InputError, match=r"got '~no such user/texts'"):
        files.path()


@pytest.mark.parametrize(
    ("key", "source"),
    [
        # The kinds of bounds and types, each once.
        ("seed", "4294967296"),
        ("seed", "1.5"),
        ("seed", "true"),
        ("seed", "'1337'"),
        ("corpus", "1"),
        ("download.max_documents", "0"),
        ("tokenize.vocab_size", "256"),
        ("split.validation_fraction", "0"),
        ("split.test_fraction", "1.0"),
        ("split.key", "18446744073709551616"),
        ("train.batch_size", "16.0"),
        ("train.batch_size", ""),
        ("train.optimizer", "sgd"),
        ("train.learning_rate", "-1e-3"),
        ("train.learning_rate", ".nan"),
        ("train.learning_rate", ".inf"),
        ("train.warmup_tokens", "-1"),
        ("train.weight_decay", "-0.1"),
        ("train.dropout", "1.0"),
        ("generate-samples.prompts", "[]"),
        ("runtime.devices", "'2'"),
        ("runtime.compile", "'yes'"),
        ("tracking.project", "a/b"),
        ("tracking.tags", "[]"),
    ],
)
def test_a_value_out_of_bounds_is_refused_under_its_key(
    tmp_path: Path, key: str, source: str
) -> None:
    path = write_params(tmp_path, {key: source})

    message = message_about(path)

    first, *lines = message.splitlines()
    assert first == f"in {path}:"
    assert lines
    for line in lines:
        assert line.startswith(f"  {key}: got "), line


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"generate-samples.prompts": "['a', '']"},
            "generate-samples.prompts.1: got '",
        ),
        ({"tracking.tags": "{owner: 7}"}, "tracking.tags.owner: got 7; "),
        # An odd embed_dim has no place for as many sines as cosines.
        (
            {"models.tiny": json.dumps(TINY | {"embed_dim": 7})},
            "models.tiny.embed_dim: got 7; ",
        ),
        (
            {"models.tiny": json.dumps(TINY | {"block_size": 1})},
            "models.tiny.block_size: got 1; ",
        ),
        # Also in an entry of the menu that is not the chosen one.
        (
            {"models.odd": json.dumps(TINY | {"num_heads": 3})},
            "models.odd: embed_dim must be divisible by num_heads, got 8 and 3",
        ),
        (
            {"split.validation_fraction": "0.5", "split.test_fraction": "0.5"},
            "split: validation_fraction + test_fraction must be below 1",
        ),
        (
            {"train.validation_tokens": "127"},
            "train.validation_tokens must fill at least one block of "
            "models.nano.block_size tokens, got 127 and 128",
        ),
        (
            {"train.warmup_tokens": "1000", "train.max_tokens": "1000"},
            "train: warmup_tokens must be below max_tokens, got 1000 and 1000",
        ),
        ({"hub.wikisource.revision": "main"}, "hub.wikisource.revision: got 'main'; "),
        ({"hub.wikisource.repository": "a"}, "hub.wikisource.repository: got 'a'; "),
        ({"hub.wikisource.files": "[]"}, "hub.wikisource.files: got []; "),
        (
            {"hub.redpajama.files": "[/a.jsonl]"},
            "hub.redpajama.files.0: got '/a.jsonl'; ",
        ),
        (
            {"hub.redpajama.exclude": "[books_sample.jsonl]"},
            "hub.redpajama: exclude names 'books_sample.jsonl', which is not among "
            "files; did you mean 'book_sample.jsonl'?",
        ),
        (
            {"hub.redpajama.exclude": "[zzz]"},
            "hub.redpajama: exclude names 'zzz', which is not among files",
        ),
        (
            {
                "hub.wikisource.files": "[a.jsonl.gz, b.parquet]",
                "hub.wikisource.exclude": "[b.parquet, a.jsonl.gz]",
            },
            "hub.wikisource: exclude leaves none of files to read",
        ),
        ({"corpora.seed.datasets": "[]"}, "corpora.seed.datasets: got []; "),
        (
            {"corpus": "seed", "corpora.seed.datasets": "[wikisource, wikipedia]"},
            "corpora.seed.datasets must name entries of hub (wikisource, redpajama), "
            "got 'wikipedia'",
        ),
    ],
    ids=str,
)
def test_values_that_do_not_fit_together_are_refused(
    tmp_path: Path, changes: dict[str, str], line: str
) -> None:
    message = message_about(write_params(tmp_path, changes))

    (found,) = message.splitlines()[1:]
    assert found.startswith(f"  {line}")


@pytest.mark.parametrize(
    ("choice", "mistyped", "meant"),
    [("corpus", "pyton", "python"), ("model", "nanoo", "nano")],
)
def test_a_choice_that_is_not_on_the_menu_is_shown_the_menu(
    tmp_path: Path, choice: str, mistyped: str, meant: str
) -> None:
    path = write_params(
        tmp_path,
        {"corpora": "{python: {source: standard_library}}", choice: mistyped},
    )

    message = message_about(path)

    assert f"{choice} must be one of {meant}" in message
    assert f"got {mistyped!r}; did you mean {meant!r}?" in message


def test_a_stage_cannot_change_the_parameters() -> None:
    params = load_params(PARAMS)

    with pytest.raises(ValidationError, match="frozen"):
        params.train.batch_size = 1


def test_flattening_writes_keys_as_dvc_does() -> None:
    values = {
        "seed": 1,
        "models": {"nano": {"num_layers": 2}},
        "generate-samples": {"prompts": ["a", "b"]},
        "tracking": {"tags": {}},
    }

    assert dict(flatten(values)) == {
        "seed": 1,
        "models.nano.num_layers": 2,
        "generate-samples.prompts": ["a", "b"],
        "tracking.tags": {},
    }


def test_overrides_may_add_an_entry_to_a_menu_and_choose_it() -> None:
    params = load_params(
        PARAMS, {"model": "mine"} | {f"models.mine.{key}": TINY[key] for key in TINY}
    )

    assert params.chosen_model == ModelParams(**TINY)

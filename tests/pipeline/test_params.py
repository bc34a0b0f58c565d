"""The schema of params.yaml: which values are allowed, and what is derived of them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.project import PROJECT
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.params import LocalFiles, ModelParams, flatten
from toygpt.pipeline.params_file import load_params, read_yaml

PARAMS = PROJECT / "params.yaml"
TINY = {"num_layers": 1, "num_heads": 1, "block_size": 8, "embed_dim": 8}


def complaints(changes: Mapping[str, Any]) -> list[str]:
    """Return the lines about the project's parameters, some of them changed."""
    with pytest.raises(InputError) as caught:
        load_params(PARAMS, changes)
    first, *lines = str(caught.value).splitlines()
    assert first == f"in {PARAMS} with these options:"
    return [line.strip() for line in lines]


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
        | {("publish", name) for name in params.publish}
    )


def test_every_number_says_what_it_counts() -> None:
    """A line with a comment explains its key, here and in later entries of a menu."""
    keys = {
        key.rpartition(".")[2]
        for key, value in flatten(read_yaml(PARAMS))
        if isinstance(value, int | float)
    }
    lines = PARAMS.read_text(encoding="utf-8").splitlines()

    explained = {line.partition(":")[0].strip() for line in lines if "#" in line}

    assert keys <= explained


@pytest.mark.parametrize(
    ("folder", "expected"),
    [("~/a b", "/me/a b"), ("~", "/me"), ("./~/a", "~/a"), ("a~", "a~")],
)
def test_a_tilde_stands_for_the_home_directory(
    monkeypatch: pytest.MonkeyPatch, folder: str, expected: str
) -> None:
    monkeypatch.setenv("HOME", "/me")

    assert LocalFiles(source="local_files", folder=folder).path() == Path(expected)


def test_the_home_directory_of_an_unknown_user_is_named() -> None:
    files = LocalFiles(source="local_files", folder="~no such user/texts")

    with pytest.raises(InputError, match=r"got '~no such user/texts'"):
        files.path()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        # The kinds of bounds and types, each once.
        ("seed", 2**32),
        ("seed", 1.5),
        ("seed", True),
        ("seed", "1337"),
        ("corpus", 1),
        ("download.max_documents", 0),
        ("download.shard_bytes", 0),
        ("tokenize.vocab_size", 256),
        ("split.validation_fraction", 0),
        ("split.test_fraction", 1.0),
        ("split.key", 2**64),
        ("train.batch_size", 16.0),
        ("train.batch_size", None),
        ("train.optimizer", "sgd"),
        ("train.learning_rate", -1e-3),
        ("train.learning_rate", math.nan),
        ("train.learning_rate", math.inf),
        ("train.warmup_tokens", -1),
        ("train.weight_decay", -0.1),
        ("train.dropout", 1.0),
        ("generate-samples.prompts", []),
        ("runtime.devices", "2"),
        ("runtime.compile", "yes"),
        ("runtime.data_engine", "dask"),
        ("runtime.data_workers", 0),
        ("tracking.mlflow", 1),
        ("tracking.project", "a/b"),
        ("tracking.tags", []),
        ("tracking.entity", "a/b"),
        ("tracking.notes", 7),
        ("tracking.wandb_registry", "a:b"),
        ("hub.wikisource.revision", "main"),
        ("hub.wikisource.repository", "a"),
        ("hub.wikisource.files", []),
        ("corpora.seed.datasets", []),
    ],
)
def test_a_value_out_of_bounds_is_refused_under_its_key(key: str, value: Any) -> None:
    lines = complaints({key: value})

    assert lines
    assert all(line.startswith(f"{key}: got {value!r}; ") for line in lines)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"runtime.launcher": "srun"},
            "runtime: devices must be the number of devices on each machine where "
            "launcher is srun, got auto",
        ),
        ({"generate-samples.prompts": ["a", ""]}, "generate-samples.prompts.1: got ''"),
        ({"tracking.tags": {"owner": 7}}, "tracking.tags.owner: got 7; "),
        (
            {"tracking.mlflow": "ftp://example.com"},
            "tracking.mlflow: got 'ftp://example.com'; allowed is the address of an",
        ),
        (
            {"tracking.mlflow": "https://someone:planted@example.com:x"},
            "tracking.mlflow: got an address with a user, a password or options; name ",
        ),
        # An odd embed_dim has no place for as many sines as cosines.
        ({"models.a": TINY | {"embed_dim": 7}}, "models.a.embed_dim: got 7; "),
        ({"models.a": TINY | {"block_size": 1}}, "models.a.block_size: got 1; "),
        # Also in an entry of the menu that is not the chosen one.
        (
            {"models.a": TINY | {"num_heads": 3}},
            "models.a: embed_dim must be divisible by num_heads, got 8 and 3",
        ),
        (
            {"split.validation_fraction": 0.5, "split.test_fraction": 0.5},
            "split: validation_fraction + test_fraction must be below 1",
        ),
        (
            {"train.validation_tokens": 127},
            "train.validation_tokens must fill at least one block of "
            "models.nano.block_size tokens, got 127 and 128",
        ),
        (
            {"train.warmup_tokens": 1000, "train.max_tokens": 1000},
            "train: warmup_tokens must be below max_tokens, got 1000 and 1000",
        ),
        ({"hub.redpajama.files": ["/a.jsonl"]}, "hub.redpajama.files.0: got '/a.js"),
        (
            {"hub.redpajama.exclude": ["books_sample.jsonl"]},
            "hub.redpajama: exclude names 'books_sample.jsonl', which is not among "
            "files; did you mean 'book_sample.jsonl'?",
        ),
        (
            {"hub.redpajama.exclude": ["zzz"]},
            "hub.redpajama: exclude names 'zzz', which is not among files",
        ),
        (
            {
                "hub.wikisource.files": ["a.jsonl.gz", "b.parquet"],
                "hub.wikisource.exclude": ["b.parquet", "a.jsonl.gz"],
            },
            "hub.wikisource: exclude leaves none of files to read",
        ),
        (
            {"corpus": "seed", "corpora.seed.datasets": ["wikisource", "wikipedia"]},
            "corpora.seed.datasets must name entries of hub (wikisource, redpajama), "
            "got 'wikipedia'",
        ),
        (
            {"corpus": "pyton"},
            "corpus must be one of python, files, wikisource, redpajama, seed, got "
            "'pyton'; did you mean 'python'?",
        ),
        (
            {"model": "zzz"},
            "model must be one of nano, small, medium, large, got 'zzz'",
        ),
    ],
    ids=str,
)
def test_values_that_do_not_fit_together_are_refused(
    changes: dict[str, Any], line: str
) -> None:
    (found,) = complaints(changes)

    assert found.startswith(line)


def test_overrides_may_add_an_entry_to_a_menu_and_choose_it() -> None:
    params = load_params(
        PARAMS, {"model": "mine"} | {f"models.mine.{key}": TINY[key] for key in TINY}
    )

    assert params.chosen_model == ModelParams(**TINY)

"""The settings: what params.yaml may say, and what is said about a mistake in it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from toygpt.errors import InputError
from toygpt.params import LocalFiles, ModelParams, flatten, load_params

PARAMS = Path(__file__).resolve().parents[1] / "params.yaml"


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


def complaint(path: Path) -> str:
    """Return what the user reads when params.yaml cannot be used."""
    with pytest.raises(InputError) as caught:
        load_params(path)
    return str(caught.value)


def test_the_project_can_use_its_own_params_file() -> None:
    params = load_params(PARAMS)

    assert params.chosen_model is params.models[params.model]
    assert params.chosen_corpus is params.corpora[params.corpus]


@pytest.mark.parametrize(
    ("size", "num_parameters"),
    [("small", 123_703_633), ("medium", 253_055_057), ("large", 1_311_579_217)],
)
def test_the_menu_holds_the_published_sizes(size: str, num_parameters: int) -> None:
    """Counted with GPT-2's vocabulary of 50,257 tokens."""
    model = load_params(PARAMS).models[size]

    depth, width, vocab_size = model.num_layers, model.embed_dim, 50_257
    counted = (
        depth * (12 * width**2 + 13 * width)
        + vocab_size * width
        + vocab_size
        + 2 * width
    )

    assert counted == num_parameters


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


def test_a_choice_picks_from_its_menu(tmp_path: Path) -> None:
    path = write_params(
        tmp_path,
        {
            "corpora.mine": "{source: local_files, folder: my texts}",
            "models.tiny": (
                "{num_layers: 1, num_heads: 2, block_size: 16, embed_dim: 8}"
            ),
            "corpus": "mine",
            "model": "tiny",
        },
    )

    params = load_params(path)

    assert params.chosen_corpus == LocalFiles(source="local_files", folder="my texts")
    assert params.chosen_model == ModelParams(
        num_layers=1, num_heads=2, block_size=16, embed_dim=8
    )


@pytest.mark.parametrize(
    ("source", "value"),
    [("1e-3", 0.001), ("3e-4", 0.0003), ("1E-3", 0.001), ("1", 1.0), ("0.002", 0.002)],
)
def test_a_number_may_be_written_as_scientists_do(
    tmp_path: Path, source: str, value: float
) -> None:
    """To YAML 1.1, and so to PyYAML, `1e-3` is a string."""
    path = write_params(tmp_path, {"train.learning_rate": source})

    params = load_params(path)

    assert params.train.learning_rate == value


def test_a_count_may_be_empty_where_there_need_be_no_limit(tmp_path: Path) -> None:
    path = write_params(tmp_path, {"download.max_documents": ""})

    params = load_params(path)

    assert params.download.max_documents is None


@pytest.mark.parametrize(
    ("key", "source"),
    [
        ("seed", "-1"),
        ("seed", "4294967296"),
        ("seed", "1.5"),
        ("seed", "true"),
        ("seed", "'1337'"),
        ("seed", ""),
        ("corpus", "1"),
        ("model", "[nano]"),
        ("download.max_documents", "0"),
        ("download.max_documents", "all"),
        ("tokenize.vocab_size", "256"),
        ("tokenize.vocab_size", "4294967296"),
        ("tokenize.vocab_size", "4096.0"),
        ("split.validation_fraction", "0"),
        ("split.validation_fraction", "1.0"),
        ("split.test_fraction", "-0.1"),
        ("split.test_fraction", "8%"),
        ("split.key", "-1"),
        ("split.key", "18446744073709551616"),
        ("train.max_tokens", "0"),
        ("train.batch_size", "0"),
        ("train.batch_size", "16.0"),
        ("train.batch_size", "'16'"),
        ("train.batch_size", "[16]"),
        ("train.optimizer", "sgd"),
        ("train.muon_learning_rate", "0"),
        ("train.learning_rate", "-1e-3"),
        ("train.learning_rate", "'1e-3'"),
        ("train.learning_rate", ".nan"),
        ("train.learning_rate", ".inf"),
        ("train.warmup_tokens", "-1"),
        ("train.weight_decay", "-0.1"),
        ("train.gradient_clip_norm", "0.0"),
        ("train.dropout", "1.0"),
        ("train.dropout", "-0.1"),
        ("train.attention", "Flash"),
        ("train.precision", "16"),
        ("train.validation_tokens", ""),
        ("evaluate.overlap_fraction", "1.0"),
        ("generate-samples.prompts", "[]"),
        ("generate-samples.prompts", "one"),
        ("runtime.accelerator", "1"),
        ("runtime.devices", "0"),
        ("runtime.devices", "'2'"),
        ("runtime.devices", "all"),
        ("runtime.num_nodes", "0"),
        ("runtime.compile", "'yes'"),
        ("tracking.mlflow", "yes"),
        ("tracking.wandb", "true"),
        ("tracking.project", "''"),
        ("tracking.tags", "[]"),
    ],
)
def test_a_bad_value_is_refused_under_its_key(
    tmp_path: Path, key: str, source: str
) -> None:
    path = write_params(tmp_path, {key: source})

    message = complaint(path)

    assert message.startswith(f"in {path}:")
    for line in message.splitlines()[1:]:
        assert line.startswith(f"  {key}: got "), line


@pytest.mark.parametrize(
    ("key", "source", "got"),
    [
        ("generate-samples.prompts.1", "['a', '']", "''"),
        ("tracking.tags.owner", "{owner: 7}", "7"),
    ],
)
def test_a_bad_value_inside_a_list_or_mapping_is_found(
    tmp_path: Path, key: str, source: str, got: str
) -> None:
    path = write_params(tmp_path, {key.rpartition(".")[0]: source})

    message = complaint(path)

    assert f"\n  {key}: got {got};" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_layers", 0),
        ("num_heads", 0),
        ("block_size", 1),
        ("embed_dim", 0),
        ("embed_dim", 7),
    ],
)
def test_a_model_of_impossible_size_is_refused(
    tmp_path: Path, name: str, value: int
) -> None:
    """An odd embed_dim has no place for as many sines as cosines."""
    sizes = {"num_layers": 1, "num_heads": 1, "block_size": 8, "embed_dim": 8}
    path = write_params(tmp_path, {"models.tiny": json.dumps(sizes | {name: value})})

    message = complaint(path)

    assert f"\n  models.tiny.{name}: got {value};" in message


def test_heads_that_cannot_share_the_channels_are_refused(tmp_path: Path) -> None:
    """Also in an entry of the menu that is not the chosen one."""
    path = write_params(
        tmp_path,
        {"models.odd": "{num_layers: 1, num_heads: 3, block_size: 8, embed_dim: 8}"},
    )

    message = complaint(path)

    assert "models.odd: embed_dim must be divisible by num_heads, got 8 and 3" in (
        message
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
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
    ],
)
def test_values_that_contradict_each_other_are_refused(
    tmp_path: Path, changes: dict[str, str], reason: str
) -> None:
    path = write_params(tmp_path, changes)

    message = complaint(path)

    assert reason in message


@pytest.mark.parametrize(
    "source", ["{source: internet, folder: texts}", "{folder: texts}"]
)
def test_a_corpus_of_unknown_source_is_told_the_known_ones(
    tmp_path: Path, source: str
) -> None:
    path = write_params(tmp_path, {"corpora.mine": source})

    message = complaint(path)

    assert "corpora.mine" in message
    assert "source" in message
    assert "standard_library" in message
    assert "local_files" in message


@pytest.mark.parametrize("name", ["mine", "local_files"])
def test_a_corpus_of_files_needs_their_folder(tmp_path: Path, name: str) -> None:
    """Whatever the entry of the menu is called, the message names it."""
    path = write_params(tmp_path, {f"corpora.{name}": "{source: local_files}"})

    message = complaint(path)

    assert f"\n  corpora.{name}.folder: missing" in message


def test_the_running_pythons_library_has_no_folder(tmp_path: Path) -> None:
    path = write_params(
        tmp_path, {"corpora.mine": "{source: standard_library, folder: texts}"}
    )

    message = complaint(path)

    assert "corpora.mine.folder: unknown key" in message


@pytest.mark.parametrize(
    ("choice", "mistyped", "meant"),
    [("corpus", "myne", "mine"), ("model", "tinny", "tiny")],
)
def test_a_choice_that_is_not_on_the_menu_is_shown_the_menu(
    tmp_path: Path, choice: str, mistyped: str, meant: str
) -> None:
    path = write_params(
        tmp_path,
        {
            "corpora": "{mine: {source: standard_library}}",
            "models": (
                "{tiny: {num_layers: 1, num_heads: 1, block_size: 8, embed_dim: 8}}"
            ),
            "corpus": "mine",
            "model": "tiny",
            choice: mistyped,
        },
    )

    message = complaint(path)

    assert f"{choice} must be one of {meant}, got {mistyped!r}" in message
    assert f"did you mean {meant!r}?" in message


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("train.learning_rat", "learning_rate"),
        ("train.batchsize", "batch_size"),
        ("modle", "model"),
        ("generate_samples", "generate-samples"),
        ("runtime.device", "devices"),
    ],
)
def test_an_unknown_key_is_refused_with_the_likely_one(
    tmp_path: Path, key: str, suggestion: str
) -> None:
    path = write_params(tmp_path, {key: "1"})

    message = complaint(path)

    assert f"\n  {key}: unknown key; did you mean {suggestion!r}?" in message


def test_an_unknown_key_like_no_other_is_refused_without_a_guess(
    tmp_path: Path,
) -> None:
    path = write_params(tmp_path, {"train.zzzzz": "1"})

    message = complaint(path)

    assert message.endswith("\n  train.zzzzz: unknown key")


def test_a_key_in_the_wrong_section_is_not_suggested_in_its_own_place(
    tmp_path: Path,
) -> None:
    path = write_params(tmp_path, {"train.max_documents": "1"})

    message = complaint(path)

    assert "train.max_documents: unknown key" in message
    assert "did you mean 'max_documents'?" not in message


@pytest.mark.parametrize("key", ["seed", "train", "train.batch_size", "tracking.tags"])
def test_nothing_has_a_value_that_params_does_not_say(tmp_path: Path, key: str) -> None:
    values = read_params()
    *sections, name = key.split(".")
    section = values
    for inner in sections:
        section = section[inner]
    del section[name]
    path = tmp_path / "params.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")

    message = complaint(path)

    assert message == f"in {path}:\n  {key}: missing"


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    path = write_params(
        tmp_path,
        {
            "seed": "-1",
            "train.batch_size": "'16'",
            "train.optimiser": "muon",
            "models.tiny": "{num_layers: 1, num_heads: 3, block_size: 8, embed_dim: 8}",
            "tracking.wandb": "off",
        },
    )

    message = complaint(path)

    keys = [line.split(":")[0].strip() for line in message.splitlines()[1:]]
    assert sorted(keys) == [
        "models.tiny",
        "seed",
        "tracking.wandb",
        "train.batch_size",
        "train.optimiser",
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"seed: [1337",
        b"\tseed: 1",
        b"seed: 1\nseed: 2",
        b"seed: 1\n---\nseed: 2",
        b"seed: !!python/name:os.system",
        b"seed: \xff\xfe",
        b"seed: \x00",
        b"seed: 2026-02-30",
    ],
)
def test_a_file_that_is_not_yaml_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)

    message = complaint(path)

    assert message.startswith(f"{path} is not valid YAML: ")


@pytest.mark.parametrize("content", ["", "[]", "seed", "# nothing but a comment"])
def test_a_file_without_any_keys_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(content, encoding="utf-8")

    message = complaint(path)

    assert str(path) in message
    assert "\n  : " not in message, "a reason without a key to look for"


def test_a_missing_file_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    message = complaint(Path("params.yaml"))

    assert message.startswith(f"params.yaml not found in {tmp_path}")


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

    flat = dict(flatten(values))

    assert flat == {
        "seed": 1,
        "models.nano.num_layers": 2,
        "generate-samples.prompts": ["a", "b"],
        "tracking.tags": {},
    }

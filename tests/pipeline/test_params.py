"""The settings: what params.yaml may say, and what is said about a mistake in it."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from toygpt.pipeline.errors import InputError
from toygpt.pipeline.params import LocalFiles, ModelParams, flatten
from toygpt.pipeline.params_file import load_params, read_yaml

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"


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


def test_an_override_takes_the_place_of_the_files_value() -> None:
    before = PARAMS.read_bytes()
    overrides = {
        "seed": 7,
        "train.learning_rate": 0.5,
        "models.nano.num_layers": 9,
        "generate-samples.prompts": ["a", "b"],
        "tracking.tags.mood": "good",
        "download.max_documents": None,
    }
    given = dict(overrides)

    params = load_params(PARAMS, overrides)

    assert params.seed == 7
    assert params.train.learning_rate == 0.5
    assert params.models["nano"].num_layers == 9
    assert params.generate_samples.prompts == ["a", "b"]
    assert params.tracking.tags == {"mood": "good"}
    changed = {"seed", "train", "models", "generate_samples", "tracking"}
    assert params.model_dump(exclude=changed) == load_params(PARAMS).model_dump(
        exclude=changed
    )
    assert overrides == given
    assert PARAMS.read_bytes() == before


def test_overrides_may_add_an_entry_to_a_menu_and_choose_it() -> None:
    size = {"num_layers": 1, "num_heads": 2, "block_size": 16, "embed_dim": 8}

    params = load_params(
        PARAMS,
        {"model": "mine"} | {f"models.mine.{key}": size[key] for key in size},
    )

    assert params.chosen_model == ModelParams(**size)


def test_an_override_may_mend_the_file(tmp_path: Path) -> None:
    path = write_params(tmp_path, {"train.batch_size": "many"})

    assert load_params(path, {"train.batch_size": 4}).train.batch_size == 4


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"train.batch_size": 0}, "\n  train.batch_size: got 0; "),
        ({"train.batch_size": "4"}, "\n  train.batch_size: got '4'; "),
        ({"train.batchsize": 4}, "train.batchsize: unknown key; did you mean 'batch"),
        ({"trian.batch_size": 4}, "\n  trian: unknown key; did you mean 'train'?"),
        ({"train": 4}, "\n  train: got 4; "),
        ({"model": "nanoo"}, "got 'nanoo'; did you mean 'nano'?"),
        ({"models.mine.num_layers": 1}, "\n  models.mine.num_heads: missing"),
        ({"train.warmup_tokens": 10**9}, "warmup_tokens must be below max_tokens"),
        ({"seed.deep": 1}, "seed.deep: 'seed' in "),
        ({"seed.very.deep": 1}, "seed.very.deep: 'seed' in "),
        ({"generate-samples.prompts.0": "a"}, ".prompts.0: 'prompts' in "),
    ],
    ids=str,
)
def test_an_override_is_checked_like_the_file(
    overrides: dict[str, object], reason: str
) -> None:
    with pytest.raises(InputError) as caught:
        load_params(PARAMS, overrides)

    assert reason in str(caught.value)
    assert str(PARAMS) in str(caught.value)


VALUES = {
    "train": {"learning_rate": 1e-3, "max_tokens": 500, "optimizer": "adamw"},
    "download": {"max_bytes": None},
    "tracking": {"mlflow": True, "tags": {}},
    "generate-samples": {"prompts": ['a\n"b"\\c/d', "1e-3", "é"]},
}


@pytest.mark.parametrize("indent", [None, 2, "\t"])
@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_a_file_of_parameters_may_be_json(
    tmp_path: Path, indent: int | str | None, ensure_ascii: bool
) -> None:
    path = tmp_path / "config.json"
    text = json.dumps(VALUES, indent=indent, ensure_ascii=ensure_ascii)
    path.write_text(text, encoding="utf-8")

    assert read_yaml(path) == VALUES


def test_json_may_write_a_character_as_two_halves(tmp_path: Path) -> None:
    """As `json.dumps` writes those beyond the first 65,536, unless told otherwise."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"prompts": ["😀"]}), encoding="utf-8")

    assert read_yaml(path) == {"prompts": ["😀"]}


def test_a_file_of_parameters_may_be_yaml_as_dvc_reads_it(tmp_path: Path) -> None:
    """YAML 1.2, in which `on` is a word, and `010` ten."""
    path = tmp_path / "config.yaml"
    path.write_text(
        "a: 1e-3\nb: 500_000\nc: on\nd: 010\ne:\nf: {g: [1, x y]}\nh: |\n  i\n  j\n",
        encoding="utf-8",
    )

    values = read_yaml(path)

    assert values == {
        "a": 0.001,
        "b": 500_000,
        "c": "on",
        "d": 10,
        "e": None,
        "f": {"g": [1, "x y"]},
        "h": "i\nj\n",
    }


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"seed": 1', "is not valid YAML"),
        ("seed: 1\nseed: 2", "is not valid YAML"),
        ("seed: 2026-02-30", "is not valid YAML"),
        ('["seed"]', "must hold sections of parameters, got ['seed']"),
        ("seed", "must hold sections of parameters, got 'seed'"),
        ("", "must hold sections of parameters, got None"),
    ],
)
def test_a_file_that_holds_no_sections_is_named(
    tmp_path: Path, content: str, reason: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content, encoding="utf-8")

    with pytest.raises(InputError, match=re.escape(f"{path} {reason}")):
        read_yaml(path)


def test_a_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"seed": 1', encoding="utf-8")

    with pytest.raises(InputError, match=re.escape(f"{path} is not valid JSON: ")):
        read_yaml(path)


def test_a_folder_is_no_file_of_parameters(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(f"cannot read {tmp_path}: ")):
        read_yaml(tmp_path)


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


@pytest.mark.parametrize(
    ("key", "source", "expected"),
    [
        ("hub.wikisource.revision", "main", "hub.wikisource.revision: got 'main'; "),
        (
            "hub.wikisource.revision",
            "'79631FC94f3f387b109bb09a36ed14c742ce7f38'",
            "hub.wikisource.revision: got '79631FC",
        ),
        (
            "hub.wikisource.repository",
            "wikisource",
            "hub.wikisource.repository: got 'wikisource'; ",
        ),
        ("hub.wikisource.files", "[]", "hub.wikisource.files: got []; "),
        ("hub.redpajama.files", "[a.xml]", "hub.redpajama.files.0: got 'a.xml'; "),
        ("hub.redpajama.files", "[/a.jsonl]", "hub.redpajama.files.0: got '/a.jsonl'"),
        (
            "hub.redpajama.exclude",
            "[books_sample.jsonl]",
            "hub.redpajama: exclude names 'books_sample.jsonl', which is not among "
            "files; did you mean 'book_sample.jsonl'?",
        ),
        (
            "hub.redpajama.exclude",
            "[zzz]",
            "hub.redpajama: exclude names 'zzz', which is not among files",
        ),
        (
            "hub.mine",
            "{repository: o/n, revision: '0123456789012345678901234567890123456789', "
            "files: [a.jsonl.gz, b.parquet], exclude: [b.parquet, a.jsonl.gz], "
            "text: text, group: [], group_until: null}",
            "hub.mine: exclude leaves none of files to read",
        ),
        ("hub.wikisource.text", "''", "hub.wikisource.text: got ''; "),
        ("hub.wikisource.group", "title", "hub.wikisource.group: got 'title'; "),
        (
            "hub.wikisource.excludes",
            "[]",
            "hub.wikisource.excludes: unknown key; did you mean 'exclude'?",
        ),
        (
            "corpora.seed.dataset",
            "[]",
            "corpora.seed.dataset: unknown key; did you mean 'datasets'?",
        ),
        ("corpora.seed.datasets", "[]", "corpora.seed.datasets: got []; "),
    ],
)
def test_a_dataset_of_the_hub_that_cannot_be_is_refused(
    tmp_path: Path, key: str, source: str, expected: str
) -> None:
    path = write_params(tmp_path, {key: source})

    message = complaint(path)

    (line,) = message.splitlines()[1:]
    assert line.startswith(f"  {expected}")


def test_a_corpus_is_of_datasets_that_are_there(tmp_path: Path) -> None:
    path = write_params(
        tmp_path, {"corpus": "seed", "corpora.seed.datasets": "[wikisource, wikipedia]"}
    )

    message = complaint(path)

    assert message == (
        f"in {path}:\n  corpora.seed.datasets must be of those in hub "
        "(wikisource, redpajama), got 'wikipedia'"
    )

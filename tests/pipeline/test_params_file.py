"""Reading params.yaml: its language, overrides, and messages about mistakes."""

import json
import re
from pathlib import Path

import pytest

from tests.pipeline.test_params import (
    PARAMS,
    message_about,
    read_params,
    write_params,
)
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.params_file import load_params, read_yaml

CORPUS_SOURCES = "must be one of standard_library, local_files, hub"


def test_a_file_is_yaml_as_dvc_reads_it(tmp_path: Path) -> None:
    """YAML 1.2, where `1e-3` is a number, `on` a word, and `010` ten."""
    path = tmp_path / "config.yaml"
    path.write_text(
        "a: 1e-3\nb: 500_000\nc: on\nd: 010\ne:\nf: {g: [1, x y]}\nh: |\n  i\n  j\n"
        "i: &same {k: 1}\nj: *same\n",
        encoding="utf-8",
    )

    assert read_yaml(path) == {
        "a": 0.001,
        "b": 500_000,
        "c": "on",
        "d": 10,
        "e": None,
        "f": {"g": [1, "x y"]},
        "h": "i\nj\n",
        "i": {"k": 1},
        "j": {"k": 1},
    }


@pytest.mark.parametrize("indent", [None, "\t"])
@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_a_file_may_be_json(
    tmp_path: Path, indent: str | None, ensure_ascii: bool
) -> None:
    """Also one in which a character is written as two halves."""
    values = {
        "train": {"learning_rate": 1e-3, "optimizer": "adamw"},
        "download": {"max_bytes": None},
        "generate-samples": {"prompts": ['a\n"b"\\c/d', "1e-3", "é", "😀"]},
    }
    path = tmp_path / "config.json"
    text = json.dumps(values, indent=indent, ensure_ascii=ensure_ascii)
    path.write_text(text, encoding="utf-8")

    assert read_yaml(path) == values


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"seed: [1337", "not valid YAML: line 1: "),
        (b"seed: 1\n\tmodel: nano", "not valid YAML: line 2: found character '\\t'"),
        (
            b"train:\n  a: 1\n  b: 2\n  a: 3",
            "not valid YAML: line 4: found duplicate key",
        ),
        (
            b"seed: 1\n---\nseed: 2",
            "not valid YAML: line 2: but found another document",
        ),
        (b"a: *b", "not valid YAML: line 1: found undefined alias 'b'"),
        (
            b"a: !!python/name:os.system",
            "not valid YAML: line 1: could not determine a",
        ),
        (b"a: !!bool maybe", "not valid YAML: 'maybe'"),
        (b"a: &a [b]\n? [*a]\n: c", "not valid YAML: unhashable type"),
        (b"seed: \xff\xfe", "not valid YAML: 'utf-8' codec can't decode byte 0xff"),
        (b"seed: \x00", "not valid YAML: unacceptable character #x0000"),
        (b"seed: 2026-02-30", "not valid YAML: day is out of range"),
        (b"['seed']", "must hold sections of parameters, got ['seed']"),
        (b"# a comment", "must hold sections of parameters, got None"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_file_that_holds_no_sections_is_named(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)

    message = message_about(path)

    assert message.startswith((f"{path} is {reason}", f"{path} {reason}"))
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("content", ['{"seed": 1', "[" * 100_000], ids=len)
def test_a_file_that_is_not_json_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content, encoding="utf-8")

    with pytest.raises(InputError, match=re.escape(f"{path} is not valid JSON: ")):
        read_yaml(path)


def test_a_folder_or_a_missing_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(InputError, match=re.escape(f"cannot read {tmp_path}: ")):
        read_yaml(tmp_path)
    assert message_about(Path("params.yaml")).startswith(
        f"params.yaml not found in {tmp_path}: "
    )


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


def test_an_override_may_correct_the_file(tmp_path: Path) -> None:
    path = write_params(tmp_path, {"train.batch_size": "many"})

    assert load_params(path, {"train.batch_size": 4}).train.batch_size == 4


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"train.batch_size": "4"}, "\n  train.batch_size: got '4'; "),
        ({"train": 4}, "\n  train: got 4; "),
        ({"models.mine.num_layers": 1}, "\n  models.mine.num_heads: missing"),
        ({"train.warmup_tokens": 10**9}, "warmup_tokens must be below max_tokens"),
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


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("train.learning_rat", "unknown key; did you mean 'learning_rate'?"),
        ("trian", "unknown key; did you mean 'train'?"),
        ("generate_samples", "unknown key; did you mean 'generate-samples'?"),
        ("hub.wikisource.excludes", "unknown key; did you mean 'exclude'?"),
        ("corpora.seed.dataset", "unknown key; did you mean 'datasets'?"),
        ("corpora.python.folder", "unknown key"),
        ("models.nano.num_head", "unknown key; did you mean 'num_heads'?"),
        ("split.vocab_size", "unknown key; it belongs to tokenize"),
        ("train.zzzzz", "unknown key"),
    ],
)
def test_an_unknown_key_is_refused_with_the_likely_one(
    tmp_path: Path, key: str, reason: str
) -> None:
    message = message_about(write_params(tmp_path, {key: "1"}))

    assert message.splitlines()[1:] == [f"  {key}: {reason}"]


@pytest.mark.parametrize("key", ["seed", "train", "train.batch_size", "tracking.tags"])
def test_no_value_comes_from_elsewhere_than_params(tmp_path: Path, key: str) -> None:
    values = read_params()
    *sections, name = key.split(".")
    section = values
    for inner in sections:
        section = section[inner]
    del section[name]
    path = tmp_path / "params.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")

    assert message_about(path) == f"in {path}:\n  {key}: missing"


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("{source: internet, folder: texts}", f"corpora.mine.source: {CORPUS_SOURCES}"),
        ("{folder: texts}", f"corpora.mine.source: {CORPUS_SOURCES}"),
        ("{source: local_files}", "corpora.mine.folder: missing"),
    ],
)
def test_a_mistake_in_a_menu_is_named_by_its_entry(
    tmp_path: Path, source: str, line: str
) -> None:
    message = message_about(write_params(tmp_path, {"corpora.mine": source}))

    assert message.splitlines()[1:] == [f"  {line}"]


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
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

    keys = [line.split(":")[0].strip() for line in message_about(path).splitlines()[1:]]

    assert sorted(keys) == [
        "models.tiny",
        "seed",
        "tracking.wandb",
        "train.batch_size",
        "train.optimiser",
    ]

"""Reading params.yaml: its language, overrides, and messages about mistakes."""

import json
import re
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest

from tests.pipeline.test_params import PARAMS, TINY, complaints
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.params import flatten
from toygpt.pipeline.params_file import load_params, read_yaml

CORPUS_SOURCES = (
    "corpora.mine.source: must be one of standard_library, local_files, hub"
)


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


@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_a_file_may_be_json(tmp_path: Path, ensure_ascii: bool) -> None:
    """Also one with tabs, in which a character is written as two halves."""
    values = {"a": {"b": 1e-3, "c": None, "d": ['a\n"b"\\c/d', "1e-3", "é", "😀"]}}
    path = tmp_path / "config.json"
    text = json.dumps(values, indent="\t", ensure_ascii=ensure_ascii)
    path.write_text(text, encoding="utf-8")

    assert read_yaml(path) == values


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"seed: [1337", "is not valid YAML: line 1: "),
        (b"seed: 1\n\tmodel: nano", "is not valid YAML: line 2: found character '\\t'"),
        (b"a:\n  b: 1\n  b: 2", "is not valid YAML: line 3: found duplicate key"),
        (b"a: 1\n---\na: 2", "is not valid YAML: line 2: but found another document"),
        (b"a: *b", "is not valid YAML: line 1: found undefined alias 'b'"),
        (b"a: !!python/name:os.system", "is not valid YAML: line 1: could not determ"),
        (b"a: !!bool maybe", "is not valid YAML: 'maybe'"),
        (b"a: &a [b]\n? [*a]\n: c", "is not valid YAML: unhashable type"),
        (b"seed: \xff\xfe", "is not valid YAML: 'utf-8' codec can't decode byte 0xff"),
        (b"seed: \x00", "is not valid YAML: unacceptable character #x0000"),
        (b"seed: 2026-02-30", "is not valid YAML: day is out of range"),
        (b'{"seed": 1', "is not valid JSON: Expecting ',' delimiter: line 1"),
        (b"[" * 100_000, "is not valid JSON: maximum recursion"),
        (b"['seed']", "must hold sections of parameters, got ['seed']"),
        (b"# a comment", "must hold sections of parameters, got None"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_file_that_holds_no_sections_is_named(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / ("params.json" if "JSON" in reason else "params.yaml")
    path.write_bytes(content)

    with pytest.raises(InputError, match="^" + re.escape(f"{path} {reason}")) as caught:
        load_params(path)

    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_or_a_missing_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(InputError, match=re.escape(f"cannot read {tmp_path}: Is a di")):
        read_yaml(tmp_path)
    message = f"params.yaml not found in {tmp_path}: "
    with pytest.raises(InputError, match=re.escape(message)):
        load_params(Path("params.yaml"))


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

    old, new = (
        dict(flatten(values))
        for values in (read_yaml(PARAMS), params.model_dump(by_alias=True))
    )
    del old["tracking.tags"]  # empty
    assert new == old | overrides
    assert overrides == given
    assert PARAMS.read_bytes() == before


@pytest.mark.parametrize("key", ["seed.very.deep", "generate-samples.prompts.0"])
def test_an_override_inside_a_value_is_refused(key: str) -> None:
    with pytest.raises(
        InputError, match=rf"^{key}: '\w+' in {PARAMS} is not a section"
    ):
        load_params(PARAMS, {key: "a"})


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("train", 4, "train: got 4; "),
        ("models.mine", {}, "models.mine.num_layers: missing"),
        ("train.learning_rat", 1, "unknown key; did you mean 'learning_rate'?"),
        ("trian", 1, "unknown key; did you mean 'train'?"),
        ("generate_samples", 1, "unknown key; did you mean 'generate-samples'?"),
        ("hub.wikisource.excludes", 1, "unknown key; did you mean 'exclude'?"),
        ("corpora.seed.dataset", 1, "unknown key; did you mean 'datasets'?"),
        ("corpora.python.folder", 1, "unknown key"),
        ("models.nano.num_head", 1, "unknown key; did you mean 'num_heads'?"),
        ("split.vocab_size", 1, "unknown key; it belongs to tokenize"),
        ("train.zzzzz", 1, "unknown key"),
        ("corpora.mine", {"source": "web", "folder": "texts"}, CORPUS_SOURCES),
        ("corpora.mine", {"folder": "texts"}, CORPUS_SOURCES),
        ("corpora.mine", {"source": "local_files"}, "corpora.mine.folder: missing"),
    ],
)
def test_a_mistake_is_named_by_its_key_with_the_likely_one(
    key: str, value: object, line: str
) -> None:
    first, *_ = complaints({key: value})

    if line.startswith("unknown"):
        assert first == f"{key}: {line}"
    else:
        assert first.startswith(line)


@pytest.mark.parametrize("key", ["seed", "train", "train.batch_size", "tracking.tags"])
def test_no_value_comes_from_elsewhere_than_params(tmp_path: Path, key: str) -> None:
    values = read_yaml(PARAMS)
    *sections, name = key.split(".")
    value = reduce(getitem, sections, values).pop(name)
    path = tmp_path / "params.json"
    path.write_text(json.dumps(values))

    with pytest.raises(InputError) as caught:
        load_params(path)

    assert str(caught.value) == f"in {path}:\n  {key}: missing"
    assert load_params(path, {key: value}) == load_params(PARAMS)


def test_all_mistakes_are_reported_at_once() -> None:
    wrong = {
        "models.tiny": TINY | {"num_heads": 3},
        "seed": -1,
        "tracking.wandb": "off",
        "train.batch_size": "16",
        "train.optimiser": "muon",
    }

    assert sorted(line.split(":")[0] for line in complaints(wrong)) == list(wrong)

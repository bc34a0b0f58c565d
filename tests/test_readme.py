"""The documents say what is so."""

import json
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.project import PROJECT
from tests.tree import TREE, tree
from toygpt.model.gpt import GPTConfig
from toygpt.pipeline.params import flatten
from toygpt.pipeline.params_file import load_params, read_yaml

README = (PROJECT / "README.md").read_text(encoding="utf-8")
DVC_YAML = YAML(typ="safe").load(PROJECT / "dvc.yaml")
PARAMS = PROJECT / "params.yaml"
KEYS = dict(flatten(read_yaml(PARAMS))).keys()
OVERRIDE = re.compile(r"-S '?([\w.-]+)=(\[[^']*\]|[^\s`;)]*[^\s`;):.,])")
# What the default pipeline gave, with the machine it ran on.
RESULTS = json.loads((PROJECT / "docs/results.json").read_text(encoding="utf-8"))
WITH_OVERRIDES = [PROJECT / "README.md", *(PROJECT / "experiments").glob("*.sh")]
PAGES = sorted(
    path.relative_to(PROJECT)
    for folder in (".", "docs", "docs/decisions", "tests", "tests/faults")
    for path in (PROJECT / folder).glob("*.md")
)


@pytest.mark.parametrize("path", WITH_OVERRIDES, ids=lambda path: path.stem)
def test_the_overrides_of_every_command_are_valid(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    commands = [dict(OVERRIDE.findall(line)) for line in text.splitlines()]

    assert any(commands)
    for overrides in filter(None, commands):
        assert overrides.keys() <= KEYS
        # A grid tries each of the values; a list is one.
        values = [v.split(",") if v[0] != "[" else [v] for v in overrides.values()]
        for number in range(max(map(len, values))):
            chosen = (YAML(typ="safe").load(v[number % len(v)]) for v in values)
            load_params(PARAMS, dict(zip(overrides, chosen, strict=True)))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = (PROJECT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (PROJECT / page.parent / target).exists(), target


def test_the_table_of_stages_is_that_of_the_pipeline() -> None:
    rows = re.findall(
        r"^\| \[(.+?)\]\((.+?)\) \| (.+?) \| (.+?) \|", README, re.MULTILINE
    )

    assert [name for name, *_ in rows] == list(DVC_YAML["stages"])
    for name, script, reads, writes in rows:
        stage = DVC_YAML["stages"][name]
        data = {dep for dep in stage["deps"] if dep.startswith(("data/", "models/"))}
        outs = set(stage.get("outs", [])) or set(stage["metrics"][0])
        module = script.removesuffix(".py").replace("/", ".")
        assert stage["cmd"] == f"python -m {module}"
        assert {path.strip("/") for path in re.findall(r"`(.+?)`", reads)} == data
        assert {path.strip("/") for path in re.findall(r"`(.+?)`", writes)} == outs


def test_the_tree_is_that_of_the_files() -> None:
    """One line a file: the summary of its docstring."""
    (block,) = TREE.findall(README)

    if block != tree():
        pytest.fail(f"renew it with `python -m tests.tree`; it should be:\n{tree()}")


def test_the_numbers_are_those_of_the_default_pipeline() -> None:
    evaluate = RESULTS["evaluate"]

    assert f"**{evaluate['test_bits_per_byte']:.2f} bits per byte**" in README
    assert f"`nano` has {RESULTS['train']['parameters']:,} parameters" in README
    assert f"needs {evaluate['bigram_bits_per_byte']:.2f}," in README
    assert f"`xz -9e` {evaluate['xz_bits_per_byte']:.2f}." in README
    assert RESULTS["sample"]["continuation"].strip("\n") in README


def test_the_table_of_sizes_is_that_of_the_models() -> None:
    params = load_params(PARAMS)
    rows = re.findall(
        r"^\| `(\w+)`[^|]*\| (\d+) \S (\d+) \| (\d+) \| (\d+) \| ([\d,]+) \|",
        README,
        re.MULTILINE,
    )

    assert [name for name, *_ in rows] == list(params.models)
    for name, *numbers, parameters in rows:
        size = params.models[name]
        layers, heads, block, channels = map(int, numbers)
        assert (layers, heads) == (size.num_layers, size.num_heads)
        assert (block, channels) == (size.block_size, size.embed_dim)
        config = GPTConfig(vocab_size=50_257, dropout=0.0, **size.model_dump())
        assert f"{config.num_parameters:,}" == parameters

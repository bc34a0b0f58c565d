"""`toygpt train`: options and files of parameters become a DVC experiment."""

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import assert_refused
from tests.conftest import Toygpt
from tests.project import UNTRACKED, Workspace
from toygpt.pipeline.params import flatten
from toygpt.pipeline.params_file import read_yaml
from toygpt.tracking.run_info import all_infos

# They mean something to YAML, to DVC's grammar, or to both.
PROMPTS = ['def f(self):\n    """\n', "it\\'s", "[1, 2], {a: b}, c=d", "道 Straße 😀"]
CONFIG = """
train:
  learning_rate: 1e-1             # --lr overrides it
  muon_learning_rate: 1e-2
  max_tokens: 5_12
download: {max_bytes: null, max_documents: 41}
models: {nano: {embed_dim: 12}}
tracking: {mlflow: false, tags: {mood: "good, isn't it?"}}
generate-samples: {prompts: PROMPTS}
"""


@pytest.mark.slow
def test_options_and_a_file_make_one_experiment_with_its_parameters_and_nothing_else(
    built: Workspace, tmp_path: Path
) -> None:
    """Without an evaluation: tests/cli/test_report.py has an experiment with one."""
    workspace = built.copy_to(tmp_path / "project")
    (tmp_path / "home/texts").mkdir(parents=True)
    workspace.environment["HOME"] = str(tmp_path / "home")
    prompts = json.dumps(PROMPTS, ensure_ascii=False)
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.replace("PROMPTS", prompts), encoding="utf-8")

    output = workspace.run(
        *("python", ".", "train", "--config", str(config), "--name", "by-hand"),
        "--no-evaluate",
        *("--model", "nano", "--batch", "2", "--lr", "3e-3", "--wnb", "false"),
        *("-S", "train.warmup_tokens=6_4", "--set", "split.key=5"),
        *("-S", "corpora.files.folder=~/texts"),
    ).stdout

    stages = re.findall(r"Running stage '(.+)'", output)
    assert stages == ["download", "tokenize", "split", "train"]
    before, after = (
        dict(flatten(read_yaml(root / "params.yaml")))
        for root in (built.root, workspace.root)
    )
    del before["tracking.tags"]  # empty
    assert after == before | {
        "train.learning_rate": 0.003,
        "train.muon_learning_rate": 0.01,
        "train.max_tokens": 512,
        "train.batch_size": 2,
        "train.warmup_tokens": 64,
        "split.key": 5,
        "corpora.files.folder": str(tmp_path / "home/texts"),
        "download.max_bytes": None,
        "download.max_documents": 41,
        "models.nano.embed_dim": 12,
        **UNTRACKED,
        "tracking.tags.mood": "good, isn't it?",
        "generate-samples.prompts": PROMPTS,
    }
    assert workspace.dvc("exp", "list", "--name-only").stdout.split() == ["by-hand"]
    (run,) = [info for _, info in all_infos(workspace.root) if info.name == "by-hand"]
    assert run.status == "FINISHED"
    assert run.params["models.nano.embed_dim"] == 12
    assert run.tags == {"mood": "good, isn't it?"}


def test_the_exit_code_is_that_of_dvc_from_any_folder(
    toygpt: Toygpt, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "dvc.py").write_text("raise SystemExit(7)")
    (folder / "notes").mkdir()
    monkeypatch.chdir(folder / "notes")

    assert toygpt("train") == (7, "", "")


@pytest.mark.parametrize(
    ("options", "command", "fresh"),
    [
        ([], "exp run", None),
        (["--no-evaluate"], "exp run train", None),
        (["--fresh", "-n", "mine"], "exp run --name mine", "1"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_the_other_options_reach_dvc_and_its_stages(
    toygpt: Toygpt, options: list[str], command: str, fresh: str | None
) -> None:
    assert toygpt("train", *options) == (0, f"{command.split()} None {fresh}\n", "")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--lr", "abc"], ["--lr", "'abc'"]),
        (["--lr", "-1"], ["train.learning_rate: got -1.0"]),
        (["--batch", "1.5"], ["--batch", "'1.5'"]),
        (["--precision", "bf17"], ["train.precision: got 'bf17'", "bf16-mixed"]),
        (["--model", "nanoo"], ["'nanoo'", "did you mean 'nano'?"]),
        (["--wnb", "maybe"], ["--wnb", "'maybe'", "offline", "online", "disabled"]),
        (["-S", "seed"], ["-S takes KEY=VALUE, got 'seed'"]),
        (["-S", "=1"], ["-S takes KEY=VALUE, got '=1'"]),
        (["-S", "seed=[1"], ["-S seed=[1: "]),
        (["-S", "seed=2026-02-30"], ["-S seed=2026-02-30: "]),
        (["-S", "train.learning_rate=1e-3,2e-3"], ["got '1e-3,2e-3'"]),
        (["--config", "nowhere.yaml"], ["cannot read nowhere.yaml: No such file"]),
        ("train: [", ["config.yaml is not valid YAML"]),
        ("train: {lr: 1e-3}", ["train.lr: unknown key"]),
        ("train: &one\n  a: *one\n", ["train.a.a"]),
        ('{"train": {"learning_rate": -1}}', ["train.learning_rate: got -1"]),
    ],
)
def test_a_mistake_in_an_option_or_a_file_stops_before_anything_changes(
    toygpt: Toygpt, folder: Path, options: list[str] | str, named: list[str]
) -> None:
    before = (folder / "params.yaml").read_bytes()
    if isinstance(options, str):
        (folder / "config.yaml").write_text(options)
        options = ["--config", "config.yaml"]

    assert_refused(toygpt("train", *options), *named)
    assert (folder / "params.yaml").read_bytes() == before


def test_a_variable_that_wandb_would_refuse_stops_before_anything_changes(
    toygpt: Toygpt, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert folder.is_dir()
    monkeypatch.setenv("WANDB_MODE", "onlin")

    assert_refused(
        toygpt("train"), "WANDB_MODE: got 'onlin'", "online, offline or disabled"
    )

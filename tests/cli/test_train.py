"""`toygpt train`: options and files of parameters become a DVC experiment."""

import json
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.cli.command import Output, Toygpt, assert_refused
from tests.project import Workspace, mlflow_runs
from toygpt.cli import main
from toygpt.pipeline.params import flatten

# Prompts that mean something to YAML, to DVC's grammar, or to both.
AWKWARD_PROMPTS = [
    'def read(self, size=-1):\n    """\n',
    "it's",
    "it\\'s",
    "C:\\new\\table",
    "$x and $y",
    "[1, 2], {a: b}, c=d",
    "# no comment",
    " spaces ",
    "null",
    "1e-3",
    "道 Straße 😀",
]
CONFIG = """
train:
  learning_rate: 1e-1             # --lr overrides it
  muon_learning_rate: 1e-2
  max_tokens: 5_12
download: {max_bytes: null, max_documents: 41}
models: {nano: {embed_dim: 12}}
tracking: {tags: {mood: "good, isn't it?"}}
generate-samples:
  prompts: PROMPTS
"""


@pytest.fixture(scope="module")
def trained(
    built: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Workspace, Output]:
    """Train as a user does, with options and a file."""
    workspace = built.copy_to(tmp_path_factory.mktemp("trained") / "project")
    home = workspace.root.parent / "home"
    (home / "texts").mkdir(parents=True)
    workspace.environment["HOME"] = str(home)
    config = home / "config.yaml"
    prompts = json.dumps(AWKWARD_PROMPTS, ensure_ascii=False)
    config.write_text(CONFIG.replace("PROMPTS", prompts), encoding="utf-8")
    done = workspace.run(
        *("python", ".", "train", "--config", str(config), "--name", "by-hand"),
        *("--model", "nano", "--batch", "2", "--lr", "3e-3", "--wd", "0.05"),
        *("--precision", "32-true", "--wnb", "false"),
        *("-S", "train.warmup_tokens=6_4", "--set", "split.key=5"),
        *("-S", "corpora.files.folder=~/texts"),
    )
    return workspace, Output(done.returncode, done.stdout, done.stderr)


@pytest.mark.slow
def test_options_and_file_end_up_in_params_and_nothing_else(
    trained: tuple[Workspace, Output],
) -> None:
    workspace, _ = trained
    committed = workspace.run("git", "show", "HEAD:params.yaml").stdout

    before = dict(flatten(YAML(typ="safe").load(committed)))
    after = dict(flatten(YAML(typ="safe").load(workspace.root / "params.yaml")))

    del before["tracking.tags"]  # empty
    assert after == before | {
        "train.learning_rate": 0.003,
        "train.muon_learning_rate": 0.01,
        "train.max_tokens": 512,
        "train.batch_size": 2,
        "train.weight_decay": 0.05,
        "train.precision": "32-true",
        "train.warmup_tokens": 64,
        "split.key": 5,
        "corpora.files.folder": str(workspace.root.parent / "home" / "texts"),
        "download.max_bytes": None,
        "download.max_documents": 41,
        "models.nano.embed_dim": 12,
        "tracking.wandb": "disabled",
        "tracking.tags.mood": "good, isn't it?",
        "generate-samples.prompts": AWKWARD_PROMPTS,
    }


@pytest.mark.slow
def test_training_is_an_experiment_with_an_evaluation_and_one_run_of_its_name(
    trained: tuple[Workspace, Output],
) -> None:
    workspace, output = trained

    experiments = workspace.dvc("exp", "list", "--name-only").stdout.split()
    (run,) = [r for r in mlflow_runs(workspace) if r.info.run_name == "by-hand"]

    assert output.code == 0
    assert re.findall(r"Running stage '(.+)'", output.out) == [
        *("download", "tokenize", "split"),
        *("train", "evaluate", "generate-samples"),
    ]
    assert experiments == ["by-hand"]
    assert run.info.status == "FINISHED"
    assert "test_bits_per_byte" in run.data.metrics
    assert run.data.params["train.learning_rate"] == "0.003"
    assert run.data.params["train.batch_size"] == "2"
    assert run.data.params["models.nano.embed_dim"] == "12"
    assert run.data.tags["mood"] == "good, isn't it?"


@pytest.mark.slow
def test_a_stage_that_fails_fails_the_command_from_any_folder(
    project: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """There are no documents in texts/."""
    for name, value in project.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(project.root / "docs")

    code = main(["train", "-S", "corpus=files"])

    assert code not in (0, 2)
    assert "failed to reproduce 'download'" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "command", "fresh"),
    [
        ([], "exp run", None),
        (["--no-evaluate"], "exp run train", None),
        (["--fresh", "-n", "mine"], "exp run --name mine", "1"),
    ],
)
@pytest.mark.usefixtures("fake_dvc")
def test_the_other_options_reach_dvc_and_its_stages(
    capfd: pytest.CaptureFixture[str],
    options: list[str],
    command: str,
    fresh: str | None,
) -> None:
    assert main(["train", *options]) == 0

    assert capfd.readouterr().out == f"{command.split()} None {fresh}\n"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--frobnicate"], ["--frobnicate"]),
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
        (["-S", "seed.deep=1"], ["seed.deep: 'seed' in ", "is not a section"]),
        (["-S", "train.learning_rate=1e-3,2e-3"], ["got '1e-3,2e-3'"]),
        (["--config", "nowhere.yaml"], ["cannot read nowhere.yaml: No such file"]),
        (["--config", "."], ["cannot read .: "]),
        ("train: [", ["config.yaml is not valid YAML"]),
        ("", ["config.yaml must hold sections"]),
        ("train: {lr: 1e-3}", ["train.lr: unknown key"]),
        ("training: {batch_size: 1}", ["training: unknown key"]),
        ("train: 5", ["train: got 5"]),
        ("train: &one\n  a: *one\n", ["train.a.a"]),
        ('{"train": {"learning_rate": -1}}', ["train.learning_rate: got -1"]),
    ],
)
def test_a_mistake_in_an_option_or_a_file_stops_before_anything_changes(
    toygpt: Toygpt, no_dvc: Path, options: list[str] | str, named: list[str]
) -> None:
    if isinstance(options, str):
        (no_dvc / "config.yaml").write_text(options)
        options = ["--config", "config.yaml"]

    assert_refused(toygpt("train", *options), *named)

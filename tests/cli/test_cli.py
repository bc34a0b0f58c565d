"""The command line: what a user types, and what comes of it."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from tokenizers import Tokenizer
from torch.nn import functional as F

from tests.project import PATIENCE_SECONDS, PROJECT, Workspace, tiny_project
from tests.tiny import ABSENT_ACCELERATOR, lively_model, tiny_model
from toygpt.cli import build_parser, main, overrides_of
from toygpt.cli.dvc import to_hydra
from toygpt.data.tokenizer import (
    END_OF_TEXT,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)
from toygpt.generation.packed import pack
from toygpt.generation.samples import continue_prompts
from toygpt.model.gpt import GPT
from toygpt.model.huggingface import load_model, save_model
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.params import flatten
from toygpt.resuming.choose import choose, interrupted_trainings
from toygpt.resuming.run_folder import Description, open_run_folder

VOCAB_SIZE = 270
# The tokenizer knows English alone: of the rest, each byte is a token.
BY_HEART = "The road — Straße, 道 — was so naïve that it smiled: 😀."

COMMANDS = {
    "python .": [sys.executable, "."],
    "python -m toygpt": [sys.executable, "-m", "toygpt"],
    "toygpt": [str(Path(sys.executable).with_name("toygpt"))],
}

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
  learning_rate: 1e-1             # an option goes before it
  muon_learning_rate: 1e-2
  max_tokens: 5_12
download: {max_bytes: null, max_documents: 41}
models: {nano: {embed_dim: 12}}
tracking: {tags: {mood: "good, isn't it?"}}
generate-samples:
  prompts: PROMPTS
"""


class Said(NamedTuple):
    """How a command ended, and what the user read."""

    code: int
    out: str
    err: str


Toygpt = Callable[..., Said]


@pytest.fixture
def toygpt(capsys: pytest.CaptureFixture[str]) -> Toygpt:
    """Return a function that runs a command in this process."""

    def run(*arguments: object) -> Said:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as ended:  # argparse knows no other way
            assert isinstance(ended.code, int)
            code = ended.code
        return Said(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Callable[[GPT], Path]:
    """Return a function that writes a model to a directory of its own."""
    english = "The road was so naive that it smiled. Once upon a time"
    tokenizer = train_tokenizer([[english]], vocab_size=VOCAB_SIZE)
    tokenizer_directory = tmp_path_factory.mktemp("made") / "tokenizer"
    save_tokenizer(tokenizer, tokenizer_directory, end_of_text=END_OF_TEXT)

    def save_it(model: GPT) -> Path:
        directory = tmp_path_factory.mktemp("model")
        save_model(
            model,
            directory,
            end_of_text_id=0,
            tokenizer_directory=tokenizer_directory,
        )
        return directory

    return save_it


@pytest.fixture(scope="module")
def endless(save: Callable[[GPT], Path]) -> Path:
    """Return a model that writes nonsense, and never ends."""
    model = lively_model(vocab_size=VOCAB_SIZE)
    with torch.no_grad():
        model.to_logits.bias[0] = -1e9
    return save(model)


@pytest.fixture(scope="module")
def by_heart(save: Callable[[GPT], Path], endless: Path) -> Path:
    """Return a model that has learned one text by heart, and where it ends."""
    ids = load_tokenizer(endless).encode(BY_HEART).ids
    model = tiny_model(vocab_size=VOCAB_SIZE, block_size=128)
    # With a prompt and without one: every token is at a place of its own.
    tokens = torch.tensor([[0, *ids, 0], [*ids, 0, 0]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(100):
        logits = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.mT, tokens[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return save(model.eval())


@pytest.fixture
def project(tmp_path: Path, by_heart: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in the folder of a project that has a model."""
    root = tmp_path / "project"
    root.mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(PROJECT / name, root)
    shutil.copytree(by_heart, root / "models" / "toygpt")
    monkeypatch.chdir(root)
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Said]:
    """Train as a user does, with options and a file."""
    workspace = tiny_project(tmp_path_factory.mktemp("trained") / "project")
    config = workspace.root.parent / "config.yaml"
    prompts = json.dumps(AWKWARD_PROMPTS, ensure_ascii=False)
    config.write_text(CONFIG.replace("PROMPTS", prompts), encoding="utf-8")
    home = workspace.root.parent / "home"
    (home / "texts").mkdir(parents=True)
    workspace.environment["HOME"] = str(home)
    done = workspace.run(
        *("python", ".", "train", "--config", str(config), "--name", "by-hand"),
        *("--model", "nano", "--batch", "2", "--lr", "3e-3", "--wd", "0.05"),
        *("--precision", "32-true", "--wnb", "false"),
        *("-S", "train.warmup_tokens=6_4", "--set", "split.key=5"),
        *("-S", "corpora.files.folder=~/texts"),
    )
    return workspace, Said(done.returncode, done.stdout, done.stderr)


def greedy_text(directory: Path, prompt: str, *, max_new_tokens: int) -> str:
    """Return the prompt as the stage generate-samples continues it."""
    [sample] = continue_prompts(
        pack(load_model(directory)),
        load_tokenizer(directory),
        [prompt],
        max_new_tokens=max_new_tokens,
        end_of_text_id=0,
    )
    return prompt + sample.continuation


def assert_refused(said: Said, *named: str) -> None:
    """Check that a mistake is told in one message, which names what was got."""
    assert said.code == 2
    assert said.out == ""
    assert said.err.count("error: ") == 1
    assert said.err.startswith(("error: ", "usage: "))
    for text in named:
        assert text in said.err


@pytest.mark.parametrize("prompt", ["The", "Once upon", "\n", "<|endoftext|>", "道é"])
def test_the_text_is_that_of_the_samples(
    toygpt: Toygpt, endless: Path, prompt: str
) -> None:
    """Also where it is longer than the model's 16 tokens."""
    said = toygpt(
        *("generate", "--model", endless, "--prompt", prompt),
        *("--max-new-tokens", 40),
    )

    assert said == (0, greedy_text(endless, prompt, max_new_tokens=40) + "\n", "")


def test_without_any_option_the_projects_model_begins_a_text(
    toygpt: Toygpt, project: Path
) -> None:
    assert toygpt("generate") == (0, f"{BY_HEART}\n", "")


@pytest.mark.usefixtures("project")
def test_it_ends_where_the_model_ends_the_text(toygpt: Toygpt) -> None:
    said = toygpt("generate", "--prompt", "The road —", "--max-new-tokens", 10_000)

    assert said == (0, f"{BY_HEART}\n", "")


def test_a_subfolder_of_the_project_is_as_good(
    toygpt: Toygpt, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "notes" / "old").mkdir(parents=True)
    monkeypatch.chdir(project / "notes" / "old")

    assert toygpt("generate").out == f"{BY_HEART}\n"


def test_a_model_is_sought_from_where_the_user_is(
    toygpt: Toygpt, project: Path, endless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(endless, project / "notes" / "mine")
    monkeypatch.chdir(project / "notes")

    said = toygpt(
        "generate", "--model", "mine", "--prompt", "The", "--max-new-tokens", 5
    )

    assert said.out == greedy_text(endless, "The", max_new_tokens=5) + "\n"


@pytest.mark.parametrize("number", [1, 7])
def test_no_more_tokens_come_than_were_wanted(
    toygpt: Toygpt, endless: Path, number: int
) -> None:
    common = ("generate", "--model", endless, "--prompt", "The", "--max-new-tokens")

    shorter, longer = (toygpt(*common, number + more).out[:-1] for more in (0, 1))

    assert shorter == greedy_text(endless, "The", max_new_tokens=number)
    assert longer != shorter


@pytest.mark.usefixtures("project")
def test_characters_come_whole_and_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_tokenizer(Path("models/toygpt"))
    token_ids = tokenizer.encode(BY_HEART).ids
    assert "\N{REPLACEMENT CHARACTER}" in "".join(parts(tokenizer, token_ids))
    pieces = Pieces()
    monkeypatch.setattr(sys, "stdout", pieces)

    main(["generate"])

    assert "".join(pieces.written) == f"{BY_HEART}\n"
    assert not [each for each in pieces.written if "\N{REPLACEMENT CHARACTER}" in each]
    assert len(pieces.written) > len(BY_HEART) / 3


def parts(tokenizer: Tokenizer, token_ids: list[int]) -> list[str]:
    """Return the text of each token alone."""
    return [tokenizer.decode([token_id]) for token_id in token_ids]


class Pieces(io.StringIO):
    """Remembers what was written at once."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []

    def write(self, text: str) -> int:
        """Remember it."""
        self.written.append(text)
        return len(text)


def test_chance_is_repeatable_by_its_seed(toygpt: Toygpt, endless: Path) -> None:
    def text(*options: object) -> str:
        common = ("--model", endless, "--prompt", "The", "--max-new-tokens", 20)
        return toygpt("generate", *common, *options).out

    greedy = text()

    assert text("--seed", 1) == text("--seed", 1) != greedy
    assert text("--seed", 1) != text("--seed", 2)
    assert text("--temperature", 1) == text("--seed", 0), "what --help says"
    assert text("--seed", 0, "--temperature", 3) != text("--seed", 0)
    assert text("--seed", 0, "--top-k", 3) != text("--seed", 0)
    assert text("--seed", 0, "--top-p", 0.3) != text("--seed", 0)


@pytest.mark.parametrize(
    "options",
    [("--top-k", 1), ("--top-p", 1e-6), ("--temperature", 1e-4, "--seed", 3)],
    ids=str,
)
def test_chance_without_a_choice_is_none(
    toygpt: Toygpt, endless: Path, options: tuple[object, ...]
) -> None:
    common = ("--model", endless, "--prompt", "The", "--max-new-tokens", 20)

    said = toygpt("generate", *common, *options)

    assert said == toygpt("generate", *common)


@contextmanager
def writing(model: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that writes into a pipe, and stop it if need be."""
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "toygpt", "generate", "--model", str(model)),
            *("--prompt", "The", *options),
        ],
        cwd=PROJECT,
        env=os.environ | {"PYTHONUNBUFFERED": ""},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("ending", "code"), [("the reader has seen enough", 0), ("Ctrl-C", 130)]
)
def test_the_text_appears_while_it_is_written_and_may_be_cut_off(
    endless: Path, ending: str, code: int
) -> None:
    with writing(endless, "--max-new-tokens", "100000", "--seed", "1") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        begun = b""

        while len(begun) < 20:
            begun += process.stdout.read(100_000)
        still_running = process.poll() is None
        if ending == "Ctrl-C":
            process.send_signal(signal.SIGINT)
            while process.stdout.read(100_000):
                pass
        process.stdout.close()
        process.wait(timeout=PATIENCE_SECONDS)
        complaints = process.stderr.read()

    assert begun.startswith(b"The")
    assert len(begun) < 8_192, "it came in a block: Python's is of 8192 bytes"
    assert still_running
    assert process.returncode == code
    assert complaints == b""


def test_a_reader_may_leave_before_the_last_line_has_ended(by_heart: Path) -> None:
    with writing(by_heart) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        text = b""
        while len(text) < len(BY_HEART.encode()):
            text += process.stdout.read(1)
        process.stdout.close()
        process.wait(timeout=PATIENCE_SECONDS)
        complaints = process.stderr.read()

    assert text.decode() == BY_HEART
    assert complaints == b""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--frobnicate"], "--frobnicate"),
        (["--prompt", ""], "--prompt is empty"),
        (["--max-new-tokens", "0"], "--max-new-tokens must be positive: 0"),
        (["--max-new-tokens", "-1"], "--max-new-tokens must be positive: -1"),
        (["--max-new-tokens", "many"], "'many'"),
        (["--temperature", "0"], "temperature must be positive, got 0.0"),
        (["--temperature", "-1"], "temperature must be positive, got -1.0"),
        (["--temperature", "nan"], "temperature must be positive, got nan"),
        (["--temperature", "inf"], "temperature must be positive, got inf"),
        (["--temperature", "warm"], "'warm'"),
        (["--top-k", "0"], "top_k must be at least 1, got 0"),
        (["--top-p", "0"], "top_p must be above 0 and at most 1, got 0.0"),
        (["--top-p", "2"], "top_p must be above 0 and at most 1, got 2.0"),
        (["--seed", "-1"], "seed must be from 0 to 2^63 - 1, got -1"),
        (["--accelerator", "abacus"], "'abacus'"),
        (
            ["--accelerator", ABSENT_ACCELERATOR],
            f"{ABSENT_ACCELERATOR!r} is not available here, only ",
        ),
        (["--model", "nowhere"], "nowhere holds no model: nowhere/config.json is"),
        (["--model", "params.yaml"], "params.yaml holds no model: "),
        (["--prompt", "caf\udce9"], "--prompt is no text in UTF-8: 'caf\\udce9'"),
        (["--model", "runs:/abc/model"], "runs:/abc/model: there is no mlflow.db in "),
        (["--model", "models:/toy/1"], "models:/toy/1: there is no mlflow.db in "),
    ],
)
@pytest.mark.usefixtures("project")
def test_what_cannot_be_written_is_refused(
    toygpt: Toygpt, options: list[str], named: str
) -> None:
    assert_refused(toygpt("generate", *options), named)


def test_where_there_is_no_model_its_place_is_named(
    toygpt: Toygpt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert_refused(toygpt("generate"), f"{tmp_path}/models/toygpt holds no model")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: [path.unlink() for path in folder.iterdir()], "holds no model"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 99),
            "cannot read models/toygpt/model.safetensors: ",
        ),
        (
            lambda folder: (folder / "tokenizer.json").write_text("{}"),
            "models/toygpt/tokenizer.json is damaged: ",
        ),
        (
            lambda folder: (folder / "config.json").write_text("{}"),
            "models/toygpt/config.json describes no toyGPT model: ",
        ),
    ],
    ids=["empty", "weights", "tokenizer", "config"],
)
def test_a_damaged_model_is_refused_before_anything_is_written(
    toygpt: Toygpt, project: Path, damage: Callable[[Path], Any], named: str
) -> None:
    damage(project / "models" / "toygpt")

    assert_refused(toygpt("generate", "--model", "models/toygpt"), named)


def test_a_foreign_model_is_refused(toygpt: Toygpt, tmp_path: Path) -> None:
    from transformers import GPT2Config

    GPT2Config(n_layer=1, n_head=2, n_embd=8).save_pretrained(tmp_path)

    assert_refused(
        toygpt("generate", "--model", tmp_path),
        f"{tmp_path}/config.json describes no toyGPT model",
    )


def test_a_command_is_needed(toygpt: Toygpt) -> None:
    assert_refused(toygpt(), "COMMAND")


def test_an_unknown_command_is_told_the_known_ones(toygpt: Toygpt) -> None:
    assert_refused(toygpt("frobnicate"), "'frobnicate'", "train", "generate", "resume")


@pytest.fixture
def no_dvc(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand in a project in which DVC must not be started, and nothing change."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("DVC was started")

    before = {path: path.read_bytes() for path in project.rglob("*.yaml")}
    monkeypatch.setattr(subprocess, "Popen", fail)
    yield project
    assert {path: path.read_bytes() for path in before} == before
    assert not (project / ".dvc").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--frobnicate"], ["--frobnicate"]),
        (["--lr", "abc"], ["--lr", "'abc'"]),
        (["--lr", "-1"], ["train.learning_rate: got -1.0"]),
        (["--lr", "nan"], ["train.learning_rate: got nan"]),
        (["--wd", "-0.1"], ["train.weight_decay: got -0.1"]),
        (["--batch", "0"], ["train.batch_size: got 0"]),
        (["--batch", "1.5"], ["--batch", "'1.5'"]),
        (["--precision", "bf17"], ["train.precision: got 'bf17'", "bf16-mixed"]),
        (["--model", "nanoo"], ["'nanoo'", "did you mean 'nano'?"]),
        (["--wnb", "maybe"], ["--wnb", "'maybe'", "offline", "online", "disabled"]),
        (["-S", "seed"], ["-S takes KEY=VALUE, got 'seed'"]),
        (["-S", "=1"], ["-S takes KEY=VALUE, got '=1'"]),
        (["-S", "seed=[1"], ["-S seed=[1: "]),
        (["-S", "seed=2026-02-30"], ["-S seed=2026-02-30: "]),
        (["-S", "sede=1"], ["sede: unknown key; did you mean 'seed'?"]),
        (["-S", "seed.deep=1"], ["seed.deep: 'seed' in ", "is no section"]),
        (["-S", "train.learning_rate=1e-3,2e-3"], ["got '1e-3,2e-3'"]),
        (["-S", "train.optimizer="], ["train.optimizer: got None"]),
        (["--config", "nowhere.yaml"], ["cannot read nowhere.yaml: No such file"]),
        (["--config", "."], ["cannot read .: "]),
    ],
)
@pytest.mark.usefixtures("no_dvc")
def test_a_mistake_in_an_option_stops_before_anything_changes(
    toygpt: Toygpt, options: list[str], named: list[str]
) -> None:
    assert_refused(toygpt("train", *options), *named)


@pytest.mark.usefixtures("no_dvc")
def test_where_nothing_was_interrupted_nothing_is_resumed(toygpt: Toygpt) -> None:
    assert_refused(toygpt("resume"), "nothing to resume: no training was interrupted")
    assert_refused(toygpt("resume", "by-hand"), "nothing to resume")


@pytest.fixture
def two_interrupted(no_dvc: Path) -> list[str]:
    """Stand in a project with two interrupted trainings; return their ids."""
    ids = []
    for rate in (0.004, 0.005):
        inputs = {"seed": 1337, "train.learning_rate": rate, "train.bin": "a" * 64}
        with open_run_folder(no_dvc, inputs) as training:
            training.write_description(
                Description(
                    name=f"rate-{rate}",
                    run="a-run",
                    started=0.0,
                    experiment=None,
                    is_temporary=False,
                    params={"seed": 1337, "train": {"learning_rate": rate}},
                    inputs=inputs,
                    max_steps=1000,
                )
            )
            training.save(600, lambda file: file.write(b"weights"))
            ids.append(training.fingerprint)
    return ids


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ([], "several trainings were interrupted; say which, by its id"),
        (["rate-0.006"], "no interrupted training is called 'rate-0.006'"),
        (["rate"], "no interrupted training is called 'rate'"),
    ],
)
def test_several_interrupted_trainings_are_listed_with_what_sets_them_apart(
    toygpt: Toygpt, two_interrupted: list[str], wanted: list[str], named: str
) -> None:
    said = toygpt("resume", *wanted)

    assert_refused(said, named)
    lines = said.err.splitlines()[1:]
    for training_id, rate in zip(two_interrupted, ("0.004", "0.005"), strict=True):
        (line,) = [line for line in lines if training_id[:8] in line]
        assert f"rate-{rate} (" in line
        assert "step 600 of 1,000" in line
        assert line.endswith(f": train.learning_rate {rate}")


@pytest.mark.parametrize("wanted", ["name", "id", "beginning of id"])
def test_a_training_is_chosen_by_its_name_or_its_id(
    two_interrupted: list[str], wanted: str
) -> None:
    _, second = two_interrupted
    texts = {"name": "rate-0.005", "id": second, "beginning of id": second[:4]}

    chosen = choose(interrupted_trainings(Path.cwd()), texts[wanted])

    assert chosen.training.fingerprint == second


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--config", "seed.yaml"], "seed was 1337 and would be 5"),
        (["--config", "corpus.yaml"], "corpus was None and would be files"),
        (["--config", "nowhere.yaml"], "cannot read nowhere.yaml"),
    ],
)
def test_what_would_be_another_training_is_refused(
    toygpt: Toygpt,
    no_dvc: Path,
    two_interrupted: list[str],
    options: list[str],
    named: str,
) -> None:
    (no_dvc / "seed.yaml").write_text("seed: 5\ntracking: {project: another}")
    (no_dvc / "corpus.yaml").write_text("corpus: files")

    said = toygpt("resume", two_interrupted[0], *options)

    assert_refused(said, named)
    assert "tracking" not in said.err


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"train: [", "config.yaml is not valid YAML"),
        (b"\xff", "config.yaml is not valid YAML"),
        (b"- train\n- seed\n", "got ['train', 'seed']"),
        (b"", "config.yaml must hold sections"),
        (b"train: {lr: 1e-3}", "train.lr: unknown key"),
        (b"training: {batch_size: 1}", "training: unknown key"),
        (b"train: {batch_size: '16'}", "train.batch_size: got '16'"),
        (b"train: 5", "train: got 5"),
        (b"seed: {deep: 5}", "seed.deep: 'seed' in "),
        (b"model: nanoo", "got 'nanoo'"),
        (b'{"train": {"learning_rate": -1}}', "train.learning_rate: got -1"),
    ],
)
def test_a_mistake_in_a_file_stops_before_anything_changes(
    toygpt: Toygpt, no_dvc: Path, content: bytes, named: str
) -> None:
    (no_dvc / "config.yaml").write_bytes(content)

    assert_refused(toygpt("train", "--config", "config.yaml"), named)


def test_all_mistakes_are_told_at_once(toygpt: Toygpt, no_dvc: Path) -> None:
    (no_dvc / "config.yaml").write_text("seed: -1", encoding="utf-8")

    said = toygpt("train", "--config", "config.yaml", "--batch", 0, "-S", "split.key=x")

    assert_refused(said, "seed: got -1", "batch_size: got 0", "split.key: got 'x'")


@pytest.mark.parametrize("missing", ["params.yaml", "dvc.yaml"])
def test_training_needs_a_project(toygpt: Toygpt, no_dvc: Path, missing: str) -> None:
    kept = (no_dvc / missing).rename(no_dvc / "kept")

    said = toygpt("train", "--lr", "1e-3")

    kept.rename(no_dvc / missing)
    assert_refused(said, f"{no_dvc} is no toyGPT project")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {}),
        (["--wnb"], {"tracking.wandb": "online"}),
        (["--wnb", "true"], {"tracking.wandb": "online"}),
        (["--wnb", "online"], {"tracking.wandb": "online"}),
        (["--wnb", "offline"], {"tracking.wandb": "offline"}),
        (["--wnb", "false"], {"tracking.wandb": "disabled"}),
        (["--wnb", "disabled"], {"tracking.wandb": "disabled"}),
        (["-S", "a.b=1_000"], {"a.b": 1000}),
        (["-S", "a=1e-3"], {"a": 0.001}),
        (["-S", "a="], {"a": None}),
        (["-S", "a=b=c"], {"a": "b=c"}),
        (["-S", "a='1'"], {"a": "1"}),
        (["-S", "a=[1, b c]"], {"a": [1, "b c"]}),
        (["-S", "seed=1", "-S", "seed=2"], {"seed": 2}),
        (["--lr", "1", "-S", "train.learning_rate=2"], {"train.learning_rate": 2}),
    ],
    ids=str,
)
def test_an_option_stands_for_a_key(
    options: list[str], expected: dict[str, object]
) -> None:
    parsed = build_parser("toygpt").parse_args(["train", *options])

    assert overrides_of(parsed) == expected


def test_options_and_file_end_up_in_params_and_nothing_else(
    trained: tuple[Workspace, Said],
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


def test_training_is_an_experiment_with_an_evaluation(
    trained: tuple[Workspace, Said],
) -> None:
    workspace, said = trained

    experiments = workspace.dvc("exp", "list", "--name-only").stdout.split()

    assert said.code == 0
    assert re.findall(r"Running stage '(.+)'", said.out) == [
        "download",
        "tokenize",
        "split",
        "train",
        "evaluate",
        "generate-samples",
    ]
    assert (workspace.root / "models/toygpt/model.safetensors").is_file()
    assert experiments == ["by-hand"]
    assert "test_bits_per_byte" in the_run(workspace).data.metrics


@pytest.mark.parametrize(
    ("options", "arguments"),
    [([], ["exp", "run"]), (["--no-evaluate"], ["exp", "run", "train"])],
)
def test_the_evaluation_can_be_left_out(
    project: Path,
    capfd: pytest.CaptureFixture[str],
    options: list[str],
    arguments: list[str],
) -> None:
    (project / "dvc.py").write_text("import sys\nprint(sys.argv[1:])\n")

    assert main(["train", *options]) == 0

    assert capfd.readouterr().out == f"{arguments}\n"


def mlflow_client(workspace: Workspace) -> Any:
    """Return MLflow's own way to look at what it holds."""
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{workspace.root / 'mlflow.db'}")


def the_run(workspace: Workspace) -> Any:
    """Return the only run of the project."""
    client = mlflow_client(workspace)
    experiment = client.get_experiment_by_name("toygpt")
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def test_mlflow_has_one_run_of_that_name(trained: tuple[Workspace, Said]) -> None:
    run = the_run(trained[0])

    assert run.info.run_name == "by-hand"
    assert run.info.status == "FINISHED"
    assert run.data.params["train.learning_rate"] == "0.003"
    assert run.data.params["train.batch_size"] == "2"
    assert run.data.params["models.nano.embed_dim"] == "12"
    assert run.data.tags["mood"] == "good, isn't it?"


@pytest.fixture(scope="module")
def addresses(trained: tuple[Workspace, Said]) -> dict[str, str]:
    """Return what MLflow calls the trained model."""
    workspace, _ = trained
    run, client = the_run(workspace), mlflow_client(workspace)
    client.create_registered_model("toy")
    version = client.create_model_version(
        "toy", source=f"{run.info.artifact_uri}/model", run_id=run.info.run_id
    )
    client.set_registered_model_alias("toy", "best", version.version)
    return {
        "run": f"runs:/{run.info.run_id}/model",
        "version": f"models:/toy/{version.version}",
        "latest": "models:/toy/latest",
        "alias": "models:/toy@best",
    }


@pytest.mark.parametrize("kind", ["run", "version", "latest", "alias"])
def test_a_model_that_mlflow_keeps_writes_the_same(
    toygpt: Toygpt,
    trained: tuple[Workspace, Said],
    addresses: dict[str, str],
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    monkeypatch.chdir(trained[0].root)
    options = ("--prompt", "def", "--max-new-tokens", 8)

    said = toygpt("generate", "--model", addresses[kind], *options)

    assert said == toygpt("generate", *options)
    assert said.code == 0
    assert not list(scratch.iterdir())


@pytest.mark.parametrize(
    "address",
    [
        f"runs:/{'0' * 32}/model",
        "runs:/RUN/no-model",
        "runs:/RUN",
        "runs:/",
        "models:/nobody/1",
        "models:/toy/9",
        "models:/toy@worst",
        "models:/toy",
        "models:/",
    ],
)
def test_a_model_that_mlflow_does_not_know_is_named(
    toygpt: Toygpt,
    trained: tuple[Workspace, Said],
    addresses: dict[str, str],
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
) -> None:
    monkeypatch.chdir(trained[0].root)
    address = address.replace("RUN", addresses["run"].split("/")[1])

    said = toygpt("generate", "--model", address)

    assert_refused(said, f"cannot get {address} from MLflow: ")
    assert not list(scratch.iterdir())


def test_a_stage_that_fails_fails_the_command_from_any_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """There are no documents in texts/."""
    workspace = tiny_project(tmp_path / "project")
    for name, value in workspace.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(workspace.root / "docs")

    code = main(["train", "-S", "corpus=files"])

    assert code not in (0, 2)
    assert "failed to reproduce 'download'" in capfd.readouterr().err


def test_whoever_ends_the_command_ends_dvc(project: Path) -> None:
    (project / "dvc.py").write_text(
        "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)\n"
    )

    with subprocess.Popen(
        [*COMMANDS["python -m toygpt"], "train"],
        cwd=project,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        dvc = psutil.Process(int(process.stdout.readline()))
        process.terminate()
        code = process.wait(timeout=PATIENCE_SECONDS)

    assert code == 128 + signal.SIGTERM
    assert not dvc.is_running()


def through_dvc(values: dict[str, object], folder: Path) -> dict[str, object]:
    """Return what DVC makes of values that are set where others were."""
    from dvc.utils.hydra import apply_overrides

    path = folder / "params.yaml"
    path.write_text("old:\n  a: 1\n", encoding="utf-8")
    overrides = [
        to_hydra(f"old.{key}", value, is_new=key != "a")
        for key, value in values.items()
    ]
    apply_overrides(path, overrides)
    changed: dict[str, dict[str, object]] = YAML(typ="safe").load(path)
    return changed["old"]


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, 0, -1, 10**20, 1.0, 1e-5, 1e22, -0.5, 0.1),
        *([], ["a"], [1, None, True, 0.5, "1"], [["a"], []]),
        *("", "null", "true", "1", "~", "a: b", "-", "%", "@", "\t", "\r\n", "\u2028"),
        *AWKWARD_PROMPTS,
        AWKWARD_PROMPTS,
        *("C:\\", "C:\\\\", "it\\\\'s", ["C:\\", "D:\\"], {"C": {"D": 1}}),
        "C:\\\n",
    ],
    ids=repr,
)
def test_dvc_reads_the_value_that_was_meant(tmp_path: Path, value: object) -> None:
    read = through_dvc({"a": value, "new-one": value}, tmp_path)

    assert read == {"a": value, "new-one": value}
    assert repr(read["a"]) == repr(value), "1 is neither 1.0 nor True"


@settings(max_examples=100, derandomize=True)
@given(st.lists(st.text(st.sampled_from("aé \n'\"\\{}[],:=#")), min_size=1))
def test_dvc_reads_any_text(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        read = through_dvc({"a": texts, "b": texts[0]}, Path(folder))

    assert read == {"a": texts, "b": texts[0]}


@pytest.mark.parametrize("tags", ["{}", "{mood: bad}", "{other: tag}"])
def test_dvc_reads_a_mapping_as_the_check_before_does(
    tmp_path: Path, tags: str
) -> None:
    """`load_params` is shown what the run will have."""
    from dvc.utils.hydra import apply_overrides

    path = tmp_path / "params.yaml"
    path.write_text(f"tracking:\n  tags: {tags}\n", encoding="utf-8")
    known = dict(flatten(YAML(typ="safe").load(path)))
    options = ["train", "-S", "tracking.tags={mood: good}"]
    overrides = overrides_of(build_parser("toygpt").parse_args(options))

    apply_overrides(
        path,
        [to_hydra(k, v, is_new=k not in known) for k, v in overrides.items()],
    )

    changed = dict(flatten(YAML(typ="safe").load(path)))
    kept = {key: value for key, value in known.items() if value != {}}
    assert changed == kept | {"tracking.tags.mood": "good"}
    assert overrides.keys() == {"tracking.tags.mood"}


@pytest.mark.parametrize(
    ("command", "arguments", "code"),
    [
        ("python .", ["--help"], 0),
        ("python .", ["train", "--help"], 0),
        ("python .", ["generate", "--help"], 0),
        ("python -m toygpt", ["--help"], 0),
        ("toygpt", ["--help"], 0),
        ("python -m toygpt", ["generate", "--prompt", ""], 2),
        ("python -m toygpt", ["resume"], 2),
    ],
)
def test_help_and_mistakes_come_at_once(
    command: str, arguments: list[str], code: int, project: Path
) -> None:
    """Before anything is imported that takes seconds."""
    done = subprocess.run(
        [*COMMANDS[command], *arguments],
        # There nothing was interrupted; but `python .` is in the real project alone.
        cwd=PROJECT if command == "python ." else project,
        env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1", "COLUMNS": "80"},
        capture_output=True,
        text=True,
    )

    imported = set(re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE))
    assert done.returncode == code
    assert "toygpt.cli" in imported
    assert not imported & {"torch", "numpy", "pydantic", "ruamel.yaml", "mlflow", "dvc"}
    if code == 0:
        assert done.stdout.startswith(f"usage: {command} ")
    else:
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--model", "nano"),
        ("--batch", "7"),
        ("--lr", "0.5"),
        ("--wd", "0.5"),
        ("--precision", "32-true"),
        ("--wnb", "false"),
    ],
)
def test_an_option_of_train_names_its_key(
    toygpt: Toygpt, option: str, value: str
) -> None:
    known = dict(flatten(YAML(typ="safe").load(PROJECT / "params.yaml")))
    key, *_ = overrides_of(build_parser("toygpt").parse_args(["train", option, value]))

    help_of = re.split(r"\n  (?=-)", toygpt("train", "--help").out)

    (text,) = [each for each in help_of if each.startswith(f"{option} ")]
    assert f"({key})" in text
    assert key in known


def test_help_names_every_command_and_option(toygpt: Toygpt) -> None:
    overview = toygpt("--help").out
    generate = toygpt("generate", "--help").out

    for command in ("train", "generate", "resume"):
        assert f"\n    {command} " in overview
    for option in ("prompt", "model", "max-new-tokens", "temperature", "top-k", "seed"):
        assert f"\n  --{option} " in generate
    assert "models/toygpt" in generate


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tracking.tags.my tag", "x"),
        ("tracking.tags.größe", "x"),
        ("tracking.project", "a ${b}"),
        ("tracking.project", "???"),
        ("generate-samples.prompts", ["one", "two ${x}"]),
    ],
)
def test_what_dvc_would_take_for_something_else_is_refused(
    key: str, value: object
) -> None:
    with pytest.raises(InputError, match=r"DVC (takes no key|would look up)"):
        to_hydra(key, value)

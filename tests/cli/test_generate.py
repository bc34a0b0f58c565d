"""`toygpt generate`: a text appears as the model writes it."""

import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import assert_refused
from tests.conftest import Toygpt
from tests.project import PATIENCE_SECONDS, PROJECT, Workspace, mlflow_runs
from tests.tiny import ABSENT_ACCELERATOR, lively_model
from toygpt.cli import main
from toygpt.data.tokenizer import (
    END_OF_TEXT,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)
from toygpt.generation.engine import generate_batch
from toygpt.generation.packed import pack
from toygpt.generation.samples import continue_prompts
from toygpt.model.huggingface import load_model, save_model

VOCAB_SIZE = 270


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two models: one never ends its text, the other at once."""
    folder = tmp_path_factory.mktemp("models")
    english = "The road was so naive that it smiled. Once upon a time"
    tokenizer = train_tokenizer([[english]], vocab_size=VOCAB_SIZE)
    save_tokenizer(tokenizer, folder / "tokenizer", end_of_text=END_OF_TEXT)
    model = lively_model(vocab_size=VOCAB_SIZE)
    for name, bias in (("endless", -1e9), ("ending", 1e9)):
        torch.nn.init.constant_(model.to_logits.bias[:1], bias)
        (folder / name).mkdir()
        save_model(
            model,
            folder / name,
            end_of_text_id=0,
            tokenizer_directory=folder / "tokenizer",
        )
    return folder


@pytest.fixture
def endless(models: Path) -> Path:
    """Return a model that writes nonsense, and never ends."""
    return models / "endless"


@pytest.mark.parametrize("prompt", ["The", "Once upon", "\n", "<|endoftext|>", "道é"])
@pytest.mark.parametrize("num_tokens", [1, 40])
def test_the_text_is_that_of_the_samples(
    toygpt: Toygpt, endless: Path, prompt: str, num_tokens: int
) -> None:
    """Also where it is longer than the model's 16 tokens."""
    options = ("--model", endless, "--max-new-tokens", num_tokens)
    output = toygpt("generate", "--prompt", prompt, *options)

    [sample] = continue_prompts(
        pack(load_model(endless)),
        load_tokenizer(endless),
        [prompt],
        max_new_tokens=num_tokens,
        end_of_text_id=0,
    )
    assert output == (0, f"{prompt}{sample.continuation}\n", "")


@pytest.mark.parametrize("place", [".", "notes/old"])
def test_without_a_prompt_the_projects_model_begins_a_text(
    toygpt: Toygpt,
    folder: Path,
    endless: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    """From any folder of the project."""
    shutil.copytree(endless, folder / "models/toygpt")
    (folder / place).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(folder / place)
    model = pack(load_model(endless))
    steps = generate_batch(model, [[0]], max_new_tokens=40, end_of_text_id=0)

    text = load_tokenizer(endless).decode([step[0] for step in steps])
    assert toygpt("generate", "--max-new-tokens", 40) == (0, f"{text}\n", "")


def test_the_text_ends_where_the_model_ends_it(toygpt: Toygpt, models: Path) -> None:
    options = ("--model", models / "ending", "--prompt", "The")

    assert toygpt("generate", *options) == (0, "The\n", "")


def test_a_terminal_that_lacks_a_character_shows_its_code(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(terminal, encoding="ascii"))

    main(["generate", f"--model={models / 'ending'}", "--prompt=Straße"])

    assert terminal.getvalue() == b"Stra\\xdfe\n"


def test_sampling_is_repeatable_by_its_seed(toygpt: Toygpt, endless: Path) -> None:
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
    for no_choice in (("--top-k", 1), ("--top-p", 1e-6), ("--temperature", 1e-4)):
        assert text(*no_choice) == greedy


@pytest.mark.slow
@pytest.mark.parametrize("is_interrupted", [False, True])
def test_the_text_appears_while_it_is_written_and_may_be_cut_off(
    endless: Path, is_interrupted: bool
) -> None:
    """By a reader who has seen enough, or by Ctrl-C."""
    options = f"--model={endless} --prompt=The --max-new-tokens=100000 --seed=1"
    with subprocess.Popen(
        [sys.executable, "-m", "toygpt", "generate", *options.split()],
        cwd=PROJECT,
        env=os.environ | {"PYTHONUNBUFFERED": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        begun = b"".join(process.stdout.read(1) for _ in range(20))
        assert process.poll() is None, "it came at the end, in one block"
        if is_interrupted:
            process.send_signal(signal.SIGINT)
            while process.stdout.read(100_000):
                pass
        process.stdout.close()
        process.wait(timeout=PATIENCE_SECONDS)
        complaints = process.stderr.read()

    assert begun.startswith(b"The")
    assert process.returncode == (130 if is_interrupted else 0)
    assert complaints == b""


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--prompt", ""], "--prompt is empty"),
        (["--prompt", "caf\udce9"], "--prompt is not text in UTF-8: 'caf\\udce9'"),
        (["--max-new-tokens", "0"], "--max-new-tokens must be positive: 0"),
        (["--temperature", "0"], "temperature must be positive, got 0.0"),
        (["--temperature", "warm"], "'warm'"),
        (["--top-k", "0"], "top_k must be at least 1, got 0"),
        (["--accelerator", "abacus"], "'abacus'"),
        (
            ["--accelerator", ABSENT_ACCELERATOR],
            f"{ABSENT_ACCELERATOR!r} is not available here, only ",
        ),
        ([], "models/toygpt holds no model"),
        (["--model", "nowhere"], "nowhere holds no model: nowhere/config.json is"),
        (["--model", "params.yaml"], "params.yaml holds no model: "),
        (["--model", "runs:/abc/model"], "there is no mlflow.db in "),
        (["--model", "models:/toy/1"], "there is no mlflow.db in "),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_mistake_is_refused_before_anything_is_written(
    toygpt: Toygpt, options: list[str], named: str
) -> None:
    assert_refused(toygpt("generate", *options), named)


@pytest.mark.slow
def test_a_model_in_mlflow_writes_the_same(
    toygpt: Toygpt, project: Workspace, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = mlflow_runs(project)
    monkeypatch.chdir(project.root)
    options = ("--prompt", "def", "--max-new-tokens", 8)

    output = toygpt("generate", "--model", f"runs:/{run.info.run_id}/model", *options)

    assert output == toygpt("generate", *options)
    assert output.code == 0
    assert not list(scratch.iterdir())

"""`toygpt generate`: a text appears as the model writes it."""

import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from tests.cli.command import Toygpt, assert_refused
from tests.project import PATIENCE_SECONDS, PROJECT, Workspace
from tests.tiny import ABSENT_ACCELERATOR, lively_model, tiny_model
from toygpt.cli import main
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

VOCAB_SIZE = 270
# The tokenizer knows English alone: each byte of other characters is a token.
BY_HEART = "The road — Straße, 道 — was so naïve that it smiled: 😀."


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
            model, directory, end_of_text_id=0, tokenizer_directory=tokenizer_directory
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
def project_with_model(folder: Path, by_heart: Path) -> Path:
    """Return the working directory: a project whose model knows one text."""
    shutil.copytree(by_heart, folder / "models" / "toygpt")
    return folder


@pytest.mark.parametrize("prompt", ["The", "Once upon", "\n", "<|endoftext|>", "道é"])
@pytest.mark.parametrize("num_tokens", [1, 40])
def test_the_text_is_that_of_the_samples(
    toygpt: Toygpt,
    endless: Path,
    monkeypatch: pytest.MonkeyPatch,
    prompt: str,
    num_tokens: int,
) -> None:
    """Also where it is longer than the model's 16 tokens."""
    monkeypatch.chdir(endless.parent)
    options = ("--model", endless.name, "--max-new-tokens", num_tokens)
    output = toygpt("generate", "--prompt", prompt, *options)

    [sample] = continue_prompts(
        pack(load_model(endless)),
        load_tokenizer(endless),
        [prompt],
        max_new_tokens=num_tokens,
        end_of_text_id=0,
    )
    assert output == (0, f"{prompt}{sample.continuation}\n", "")


@pytest.mark.parametrize(
    "options", [(), ("--prompt", "The road —", "--max-new-tokens", 10_000)], ids=str
)
@pytest.mark.parametrize("place", [".", "notes/old"])
def test_the_projects_model_writes_a_text_to_its_end(
    toygpt: Toygpt,
    project_with_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[object, ...],
    place: str,
) -> None:
    """From any folder of the project; without a prompt the model begins a text."""
    (project_with_model / place).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(project_with_model / place)

    assert toygpt("generate", *options) == (0, f"{BY_HEART}\n", "")


@pytest.mark.usefixtures("project_with_model")
def test_characters_come_whole_and_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[str] = []
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=pieces.append, flush=int))

    main(["generate"])

    assert "".join(pieces) == f"{BY_HEART}\n"
    assert len(pieces) > len(BY_HEART) / 3


@pytest.mark.usefixtures("project_with_model")
def test_a_terminal_that_lacks_a_character_shows_its_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(terminal, encoding="ascii"))

    assert main(["generate"]) == 0

    assert terminal.getvalue() == f"{BY_HEART}\n".encode("ascii", "backslashreplace")


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
@pytest.mark.parametrize(
    ("model", "options", "num_bytes", "is_interrupted"),
    [
        ("endless", ["--max-new-tokens", "100000", "--seed", "1"], 20, False),
        ("endless", ["--max-new-tokens", "100000", "--seed", "1"], 20, True),
        ("by_heart", [], len(BY_HEART.encode()), False),  # before the last newline
    ],
)
def test_the_text_appears_while_it_is_written_and_may_be_cut_off(
    request: pytest.FixtureRequest,
    model: str,
    options: list[str],
    num_bytes: int,
    is_interrupted: bool,
) -> None:
    """By a reader who has seen enough, or by Ctrl-C."""
    directory = str(request.getfixturevalue(model))
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "toygpt", "generate", "--model", directory),
            *("--prompt", "The", *options),
        ],
        cwd=PROJECT,
        env=os.environ | {"PYTHONUNBUFFERED": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        begun = b"".join(process.stdout.read(1) for _ in range(num_bytes))
        still_running = process.poll() is None
        if is_interrupted:
            process.send_signal(signal.SIGINT)
            while process.stdout.read(100_000):
                pass
        process.stdout.close()
        process.wait(timeout=PATIENCE_SECONDS)
        complaints = process.stderr.read()

    assert begun.startswith(b"The")
    assert still_running or model == "by_heart", "it came at the end, in one block"
    assert process.returncode == (130 if is_interrupted else 0)
    assert complaints == b""


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--frobnicate"], "--frobnicate"),
        (["--prompt", ""], "--prompt is empty"),
        (["--prompt", "caf\udce9"], "--prompt is not text in UTF-8: 'caf\\udce9'"),
        (["--max-new-tokens", "0"], "--max-new-tokens must be positive: 0"),
        (["--max-new-tokens", "many"], "'many'"),
        (["--temperature", "0"], "temperature must be positive, got 0.0"),
        (["--temperature", "nan"], "temperature must be positive, got nan"),
        (["--temperature", "warm"], "'warm'"),
        (["--top-k", "0"], "top_k must be at least 1, got 0"),
        (["--top-p", "2"], "top_p must be above 0 and at most 1, got 2.0"),
        (["--seed", "-1"], "seed must be from 0 to 2^63 - 1, got -1"),
        (["--accelerator", "abacus"], "'abacus'"),
        (
            ["--accelerator", ABSENT_ACCELERATOR],
            f"{ABSENT_ACCELERATOR!r} is not available here, only ",
        ),
        ([], "models/toygpt holds no model"),
        (["--model", "nowhere"], "nowhere holds no model: nowhere/config.json is"),
        (["--model", "params.yaml"], "params.yaml holds no model: "),
        (["--model", "runs:/abc/model"], "runs:/abc/model: there is no mlflow.db in "),
        (["--model", "models:/toy/1"], "models:/toy/1: there is no mlflow.db in "),
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
    (run,) = (project.root / "mlartifacts" / "toygpt").iterdir()
    monkeypatch.chdir(project.root)
    options = ("--prompt", "def", "--max-new-tokens", 8)

    output = toygpt("generate", "--model", f"runs:/{run.name}/model", *options)

    assert output == toygpt("generate", *options)
    assert output.code == 0
    assert not list(scratch.iterdir())

"""Tokenizers from the Hugging Face hub, and a whole pipeline fed by it."""

import io
import json
import pickle
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.data.hub import LoopbackHub
from tests.data.hub_repositories import (
    END_OF_TEXT,
    GPT2,
    REDPAJAMA,
    WIKISOURCE,
    gpt2_tokenizer_files,
    redpajama_files,
    wikisource_files,
)
from tests.project import Workspace, tiny_project
from toygpt.data.corpus import Document, write_documents

FILES = gpt2_tokenizer_files()
VOCAB_SIZE = 512
TOKENIZER = Tokenizer.from_str(FILES["tokenizer.json"].decode())
TEXTS = ["the river of stone", f"naïve café 東京\r\n\t{END_OF_TEXT} ", "x" * 500]
EARLIER = b"what an earlier run made"


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    """A hub with GPT-2's tokenizer, which the test may break."""
    with LoopbackHub() as hub:
        hub.add_model(GPT2, FILES)
        yield hub


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A project with documents, as if `download` had run."""
    workspace = tiny_project(tmp_path_factory.mktemp("hub-tokenizer") / "project")
    documents = workspace.root / "data/documents"
    documents.mkdir(parents=True)
    write_documents((Document(text, text, text) for text in TEXTS), documents)
    workspace.set_params({"tokenize.tokenizer": "gpt2"})
    return workspace


@pytest.fixture
def project(shared: Workspace) -> Iterator[Workspace]:
    """The same with an earlier run's tokens; its parameters may be changed."""
    tokens = shared.root / "data/tokens"
    shutil.rmtree(tokens, ignore_errors=True)
    tokens.mkdir()
    (tokens / "tokens.bin").write_bytes(EARLIER)
    params = shared.root / "params.yaml"
    before = params.read_bytes()
    yield shared
    params.write_bytes(before)


def tokenize(
    project: Workspace, hub: LoopbackHub, home: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the stage against a hub, with a cache in `home`."""
    one_time = Workspace(project.root)
    one_time.environment |= hub.environment(home) | environment
    return one_time.run("python", "-m", "stages.tokenize", check=False)


def written_by(project: Workspace) -> dict[str, bytes]:
    """Return all files of the tokens' folder."""
    folder = project.root / "data/tokens"
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def expected_ids() -> list[int]:
    """Return the ids by the hub's tokenizer itself; a marker in a text is text."""
    plain = Tokenizer.from_str(TOKENIZER.to_str())
    plain.encode_special_tokens = True
    return [
        token_id
        for text in TEXTS
        for token_id in [*plain.encode(text).ids, VOCAB_SIZE - 1]
    ]


def assert_is_tokenized(project: Workspace) -> None:
    files = written_by(project)
    ids = np.frombuffer(files["tokens.bin"], dtype="<u2").tolist()
    assert ids == expected_ids()


def error_of(done: subprocess.CompletedProcess[str], project: Workspace) -> str:
    """Return the one line that a failed stage says, having touched nothing."""
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert done.stdout == ""
    assert line.startswith("error: ")
    assert "http://" not in line
    assert written_by(project) == {"tokens.bin": EARLIER}
    names = sorted(path.name for path in (project.root / "data").iterdir())
    assert names == ["documents", "tokens"]
    return line.removeprefix("error: ")


def test_gpt2_comes_from_the_hub_once_and_then_from_the_cache(
    project: Workspace, hub: LoopbackHub, tmp_path: Path
) -> None:
    online = tokenize(project, hub, tmp_path)
    num_requests, files = len(hub.requests), written_by(project)
    offline = tokenize(project, hub, tmp_path, HF_HUB_OFFLINE="1")

    assert_is_tokenized(project)
    manifest = json.loads(files["manifest.json"])
    assert manifest["vocab_size"] == VOCAB_SIZE
    assert manifest["end_of_text_id"] == VOCAB_SIZE - 1
    assert f"from a vocabulary of {VOCAB_SIZE}\n" in online.stdout
    assert num_requests
    assert {request.token for request in hub.requests} == {""}
    assert len(hub.requests) == num_requests
    assert written_by(project) == files
    assert online.stderr == offline.stderr == ""


def test_a_commit_stays_what_it_was_when_main_moves_on(
    project: Workspace, hub: LoopbackHub, tmp_path: Path
) -> None:
    """Nor is more asked for than a tokenizer is made of: a model is large."""
    commit = hub.add_model(GPT2, FILES | {"model.safetensors": bytes(9999)})
    newest = hub.add_model(GPT2, gpt2_tokenizer_files(vocab_size=300))
    project.set_params({"tokenize.tokenizer": f"{GPT2}@{commit}"})

    done = tokenize(project, hub, tmp_path)

    assert done.returncode == 0, done.stderr
    assert_is_tokenized(project)
    assert not hub.requests_for(newest)
    assert not hub.requests_for("safetensors")


def test_a_bad_day_of_network_and_hub_changes_nothing(
    project: Workspace,
    hub: LoopbackHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Large tokenizers are on the CDN, as all large files are."""
    monkeypatch.setattr("tests.data.hub.LARGE_FILE_SUFFIXES", {".json"})
    faults = [
        hub.limit_rate(1, where="/api/models/gpt2"),
        hub.limit_rate(2, where="resolve"),
        hub.be_unavailable(1, where="/api/models/openai"),
        hub.cut_downloads(2, where="tokenizer.json"),
        hub.cut_downloads(1, where="vocab.json", reset=True),
    ]

    done = tokenize(project, hub, tmp_path)

    assert [fault.fired for fault in faults] == [fault.times for fault in faults]
    assert done.returncode == 0, done.stderr
    assert_is_tokenized(project)
    assert "the hub asks to wait (HTTP 429); after `hf auth login`" in done.stderr
    assert "the hub answers HTTP 503. Waiting" in done.stderr
    assert "http" not in done.stderr


def test_a_damaged_tokenizer_is_refused_removed_and_fetched_anew(
    project: Workspace, hub: LoopbackHub, tmp_path: Path
) -> None:
    fault = hub.flip_byte(f"{GPT2}/tokenizer.json", times=1)

    message = error_of(tokenize(project, hub, tmp_path), project)

    assert fault.fired == 1
    assert message.startswith("tokenizer.json of the tokenizer 'gpt2' (")
    assert "was damaged" in message
    assert tokenize(project, hub, tmp_path).returncode == 0
    assert_is_tokenized(project)


def test_a_tokenizer_that_does_not_exist_is_named_with_the_key_to_change(
    project: Workspace, hub: LoopbackHub, tmp_path: Path
) -> None:
    project.set_params({"tokenize.tokenizer": "gpt-2"})

    message = error_of(tokenize(project, hub, tmp_path), project)

    assert message.startswith(
        "cannot fetch the tokenizer 'gpt-2' (tokenize.tokenizer in params.yaml): "
        "the hub has no such repository"
    )


def test_a_tokenizer_that_is_not_in_the_cache_is_named_when_offline(
    project: Workspace, hub: LoopbackHub, tmp_path: Path
) -> None:
    message = error_of(tokenize(project, hub, tmp_path, HF_HUB_OFFLINE="1"), project)

    assert "it is not in the hub's cache, and HF_HUB_OFFLINE forbids" in message
    assert hub.requests == []


def with_changes(name: str, changes: dict[str, object]) -> bytes:
    return json.dumps(json.loads(FILES[name]) | changes).encode()


CLASS = {"tokenizer_class": "PreTrainedTokenizerFast"}
# Repository, its files, and what is said of it.
UNUSABLE: dict[str, tuple[dict[str, bytes], str]] = {
    "owner/empty": ({"README.md": b"nothing"}, "there is no vocab.json"),
    "owner/half": ({"vocab.json": FILES["vocab.json"]}, "there is no merges.txt"),
    "owner/broken": (FILES | {"tokenizer.json": b"{"}, "line 1"),
    "owner/config": (FILES | {"config.json": b"{"}, "not a valid JSON file"),
    "owner/endless": (
        {
            "tokenizer.json": FILES["tokenizer.json"],
            "tokenizer_config.json": json.dumps(CLASS).encode(),
        },
        "has no token that ends a text (eos_token)",
    ),
    "owner/lower": (
        {
            "tokenizer.json": with_changes(
                "tokenizer.json", {"normalizer": {"type": "Lowercase"}}
            ),
            "tokenizer_config.json": json.dumps(
                CLASS | {"eos_token": END_OF_TEXT}
            ).encode(),
        },
        "does not keep every byte of a text",
    ),
    "owner/gated": (FILES, "only those who asked for access get it"),
    "owner/private": (FILES, "the hub has no such repository, or hides it"),
    "owner/nothing": ({}, "the hub has no such repository, or hides it"),
    f"gpt2@{'0' * 40}": ({}, "its repository has no such revision"),
    "gpt2@next": ({}, "its repository has no such revision"),
    "no name": ({}, "neither a folder nor the name of a repository"),
    "./no/folder": ({}, "neither a folder nor the name of a repository"),
}
LOAD_EACH = """
import pickle, sys
from toygpt.data.pretrained import load_pretrained_tokenizer

results = {}
for name in sys.argv[1:]:
    try:
        tokenizer, end_of_text = load_pretrained_tokenizer(name)
        results[name] = tokenizer.get_vocab_size(), end_of_text
    except Exception as error:
        results[name] = error
pickle.dump(results, open("results.pickle", "wb"))
"""


class Loaded(NamedTuple):
    """What became of each tokenizer."""

    results: dict[str, tuple[int, str] | Exception]
    stderr: str


@pytest.fixture(scope="module")
def loaded(shared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """All of them, loaded in one process: it is importing that takes the time."""
    folder = tmp_path_factory.mktemp("loaded")
    workspace = Workspace(folder)
    with LoopbackHub() as hub:
        hub.add_model(GPT2, FILES)
        hub.add_model("owner/old", {n: FILES[n] for n in ("vocab.json", "merges.txt")})
        for name, (files, _) in UNUSABLE.items():
            if files:
                hub.add_model(name, files)
        faults = [hub.gate("owner/gated"), hub.make_private("owner/private")]
        workspace.environment |= hub.environment(folder / "home")
        workspace.environment["PYTHONPATH"] = str(shared.root)
        done = workspace.run("python", "-c", LOAD_EACH, "owner/old", *UNUSABLE)
    assert all(fault.fired for fault in faults)
    results = pickle.load(io.BytesIO((folder / "results.pickle").read_bytes()))
    return Loaded(results, done.stderr)


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_tokenizer_that_cannot_be_used_is_named_with_the_key_to_change(
    loaded: Loaded, name: str
) -> None:
    error = loaded.results[name]

    assert type(error).__name__ == "InputError", repr(error)
    assert f"the tokenizer {name!r} (tokenize.tokenizer in params.yaml)" in str(error)
    assert UNUSABLE[name][1] in str(error)
    assert "\n" not in str(error)


def test_the_two_files_that_gpt2_first_had_are_enough(loaded: Loaded) -> None:
    assert loaded.results["owner/old"] == (VOCAB_SIZE, END_OF_TEXT)


def test_loading_shows_no_progress_to_a_log(loaded: Loaded) -> None:
    assert loaded.stderr == ""


def test_dvc_makes_everything_from_what_the_hub_has(tmp_path: Path) -> None:
    """Once, on a bad day; afterwards neither DVC nor the cache ask anything again."""
    workspace = tiny_project(tmp_path / "project")
    with LoopbackHub() as hub:
        workspace.environment |= hub.environment(tmp_path / "home")
        workspace.set_params(
            {
                "corpus": "seed",
                "tracking.mlflow": False,
                "tracking.wandb": "disabled",
                "download.max_documents": None,
                "hub.wikisource.revision": hub.add_dataset(
                    WIKISOURCE, wikisource_files(rows_per_file=4)
                ),
                "hub.redpajama.revision": hub.add_dataset(
                    REDPAJAMA, redpajama_files(rows_per_file=4)
                ),
                "tokenize.tokenizer": f"gpt2@{hub.add_model(GPT2, FILES)}",
            }
        )
        workspace.commit("from the hub")
        faults = [
            hub.cut_downloads(1, where="github_sample"),
            hub.limit_rate(2, where="arxiv_sample"),
            hub.limit_rate(1, where="gpt2"),
        ]

        first = workspace.dvc("repro")
        num_requests = len(hub.requests)
        lock = (workspace.root / "dvc.lock").read_bytes()
        second = workspace.dvc("repro")
        forced = workspace.dvc("repro", "--force", "--single-item", "download")

    assert [fault.fired for fault in faults] == [1, 2, 1]
    assert first.stdout.count("Running stage") == 6
    assert "64 documents" in first.stdout
    assert (workspace.root / "reports/samples/samples.md").stat().st_size
    assert "Running stage" not in second.stdout
    assert "Running stage 'download'" in forced.stdout
    assert len(hub.requests) == num_requests
    assert (workspace.root / "dvc.lock").read_bytes() == lock
    assert "http" not in first.stderr

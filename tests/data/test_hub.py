"""Corpora from the Hugging Face hub, through real sockets, with the hub's bad days."""

import errno
import gzip
import io
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from tests.data.hub import LoopbackHub, Request, Trouble
from tests.data.hub_repositories import (
    META,
    REDPAJAMA,
    ROWS,
    WIKISOURCE,
    gpt2_tokenizer_files,
    redpajama_files,
    redpajama_rows,
    wikisource_files,
    wikisource_rows,
)
from tests.data.test_local_files import parquet
from tests.files import digests_in
from tests.project import PROJECT, Workspace, tiny_project
from toygpt.data.corpus import RawDocument
from toygpt.data.documents import DOCUMENTS_FILE
from toygpt.data.hub import fetch_hub_dataset, read_hub_files
from toygpt.data.hub_client import MAX_TRIES, explain
from toygpt.data.inventory import Inventory
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.params import HubDataset
from toygpt.pipeline.params_file import load_params

FIRST_FILE, SECOND_FILE = (f"train-0000{n}-of-00005.parquet" for n in range(2))
QUIET = ".utils._http"  # the logger whose messages are filtered
TOKEN = "hf_" + "Secret" * 5  # in pieces: this file is among those searched for it
DATASETS = load_params(PROJECT / "params.yaml").hub


def read_hub_dataset(name: str, dataset: HubDataset) -> Iterator[RawDocument]:
    return read_hub_files(fetch_hub_dataset(name, dataset), Inventory())


class Client(NamedTuple):
    """This process, as it talks to a hub of its own, without ever sleeping."""

    hub: LoopbackHub
    home: Path
    commit: str  # of Wikisource
    naps: list[float]  # in seconds

    def dataset(self, **changes: object) -> HubDataset:
        """Return Wikisource as params.yaml describes it, pinned to the hub's commit."""
        pinned = {"revision": self.commit} | changes
        return DATASETS["wikisource"].model_copy(update=pinned)

    def read(self, **changes: object) -> list[str]:
        documents = read_hub_dataset("wikisource", self.dataset(**changes))
        return [document.content.decode() for document in documents]

    def complaint(self, **changes: object) -> str:
        with pytest.raises(InputError) as caught:
            self.read(**changes)
        assert "\n" not in str(caught.value)
        assert "http://" not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    with LoopbackHub() as hub:
        commit, home = hub.add(WIKISOURCE, wikisource_files()), tmp_path / "home"
        yield Client(hub, home, commit, naps=hub.talk_to(monkeypatch, home))


def texts_of(*numbers: int) -> list[str]:
    return [row["text"] for number in numbers for row in wikisource_rows(number)]


def files_asked_for(requests: Iterable[Request]) -> list[str]:
    """Return the names of files that were asked for, each once, in order."""
    return list(dict.fromkeys(Path(request.path).name for request in requests))


def expected_documents() -> Iterator[dict[str, str]]:
    """Yield the seed corpus, by what the files' rows are known to hold."""
    for number, name in enumerate(DATASETS["wikisource"].files):
        for place, row in enumerate(wikisource_rows(number), start=1):
            group = f"{WIKISOURCE}:title:Work {place - 1}"
            name_of_row = f"{WIKISOURCE}/{name}:{place}"
            yield {"id": name_of_row, "group": group, "text": row["text"]}
    keys = {source: next(iter(meta)) for source, meta in META.items()} | {"c4": "url"}
    for name in DATASETS["redpajama"].files:
        source = name.removesuffix("_sample.jsonl")
        for place, row in enumerate(redpajama_rows(source), start=1):
            name_of_row = group = f"{REDPAJAMA}/{name}:{place}"
            if key := keys.get(source):
                group = f"{REDPAJAMA}:meta.{key}:{row['meta'][key]}"
            yield {"id": name_of_row, "group": group, "text": row["text"]}


class SeedRun(NamedTuple):
    """What two stages made of the seed corpus, for a user who has a token."""

    workspace: Workspace
    outputs: list[str]
    requests: list[Request]
    commits: set[str]


@pytest.fixture(scope="module")
def seed_run(tmp_path_factory: pytest.TempPathFactory) -> SeedRun:
    """Run two stages as users do, although each `main` has moved on since its pin."""
    folder = tmp_path_factory.mktemp("seed")
    workspace = tiny_project(folder / "project")
    with LoopbackHub() as hub:
        pinned = {
            "hub.wikisource.revision": hub.add(WIKISOURCE, wikisource_files()),
            "hub.redpajama.revision": hub.add(REDPAJAMA, redpajama_files()),
        }
        model = {"model.safetensors": bytes(9999)}
        gpt2 = hub.add("gpt2", gpt2_tokenizer_files() | model)
        hub.add(WIKISOURCE, wikisource_files(seed=1))
        hub.add(REDPAJAMA, redpajama_files(seed=1))
        hub.add("gpt2", gpt2_tokenizer_files(vocab_size=300))
        fault = hub.fail("cut", "book_sample", times=1)
        workspace.set_params(
            pinned
            | {"corpus": "seed", "download.max_documents": None}
            | {"tokenize.tokenizer": f"gpt2@{gpt2}"}
        )
        workspace.environment |= hub.environment(folder / "home")
        workspace.environment["HF_TOKEN"] = TOKEN
        outputs = [run_stage(workspace, name) for name in ("download", "tokenize")]
    assert fault.fired == 1
    return SeedRun(workspace, outputs, hub.requests, {gpt2, *pinned.values()})


BOTH_STAGES = """
import sys
from stages import download, tokenize
from toygpt.pipeline.stage import run
run(download.main)
assert "torch" not in sys.modules
run(tokenize.main)
"""


def run_stage(workspace: Workspace, name: str) -> str:
    """Run a stage; return what it says."""
    result = workspace.run("python", "-m", f"stages.{name}")
    assert result.stderr == ""
    return result.stdout


@pytest.mark.slow
def test_the_seed_corpus_is_every_row_of_all_sixteen_files(seed_run: SeedRun) -> None:
    """In order, with its group and its place of origin, and with nothing else."""
    root = seed_run.workspace.root
    metrics = json.loads((root / "metrics/download.json").read_text())

    documents = pq.read_table(root / "data/documents" / DOCUMENTS_FILE).to_pylist()

    assert documents == list(expected_documents())
    assert metrics["corpus_documents"] == 16 * ROWS
    assert metrics["corpus_bytes"] == sum(len(d["text"].encode()) for d in documents)
    groups = [document["group"] for document in documents]
    assert groups.count(f"{REDPAJAMA}:meta.repo_name:owner/1") == 2
    assert groups.count(f"{WIKISOURCE}:title:Work 1") == 5


@pytest.mark.slow
def test_only_the_pinned_files_are_asked_for_and_the_token_goes_to_the_hub_alone(
    seed_run: SeedRun,
) -> None:
    asked = {part for r in seed_run.requests for part in r.path.split("/")}
    names = files_asked_for(seed_run.requests)
    tokens = {(request.origin, request.token) for request in seed_run.requests}
    files = [p for p in seed_run.workspace.root.parent.rglob("*") if p.is_file()]

    assert {part for part in asked if len(part) == 40} == seed_run.commits
    assert not {"README.md", "RedPajama-Data-1T-Sample.py"} & set(names)
    assert "model.safetensors" not in names
    assert len([name for name in names if name.endswith((".parquet", ".jsonl"))]) == 16
    assert tokens == {("hub", TOKEN), ("cdn", "")}
    assert len(files) > 100
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
    assert TOKEN not in "".join(seed_run.outputs)
    assert [len(output.splitlines()) for output in seed_run.outputs] == [1, 1]


@pytest.mark.slow
def test_the_cache_has_everything_when_there_is_no_hub(seed_run: SeedRun) -> None:
    """The hub has been closed: each request would fail. Torch is not imported."""
    data = seed_run.workspace.root / "data"
    before = digests_in(data)

    done = seed_run.workspace.run("python", "-c", BOTH_STAGES)

    assert (done.stdout, done.stderr) == ("".join(seed_run.outputs), "")
    assert digests_in(data) == before


def test_a_file_that_is_left_out_is_never_fetched_nor_is_one_not_reached(
    client: Client,
) -> None:
    files = DATASETS["wikisource"].files
    dataset = client.dataset(exclude=[files[1]])

    documents = read_hub_dataset("wikisource", dataset)
    texts = [next(documents).content.decode() for _ in range(ROWS + 1)]

    assert texts == texts_of(0, 2)[: ROWS + 1]
    assert files_asked_for(client.hub.requests) == [
        FIRST_FILE,
        "train-00002-of-00005.parquet",
    ]


def test_a_bad_day_of_network_and_hub_changes_nothing(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """The pauses are logged, but not the hub's addresses."""
    faults = [
        client.hub.fail("cut", FIRST_FILE, times=3),
        client.hub.fail("rate limit", SECOND_FILE, times=2, seconds=6),
        client.hub.fail("unavailable", "/resolve/", times=1),
        client.hub.fail("unavailable", "/cdn/", times=1),
    ]
    loggers = [logging.getLogger(f"huggingface_hub{part}") for part in ("", QUIET)]
    levels = [logger.level for logger in loggers]

    texts = client.read()

    assert [logger.level for logger in loggers] == levels
    assert [fault.fired for fault in faults] == [fault.times for fault in faults]
    assert texts == texts_of(*range(5))
    assert 7.0 in client.naps
    shown = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert any(line.endswith("Waiting 1 s before try 2 of 6.") for line in shown)
    assert any(line.startswith("Rate limited. Waiting 7") for line in shown)
    assert "http://" not in "".join(shown)


def test_a_hub_that_stays_away_is_given_up_and_whole_files_are_kept(
    client: Client,
) -> None:
    fault = client.hub.fail("unavailable", "train-00002")

    message = client.complaint()

    assert message.endswith("(hub.wikisource in params.yaml): the hub answers HTTP 503")
    ours = [2**number for number in range(MAX_TRIES - 1)]
    assert Counter(ours) <= Counter(client.naps)
    assert fault.fired >= MAX_TRIES
    fault.times = 0
    assert client.read() == texts_of(*range(5))
    assert [request.method for request in client.hub.requests].count("GET") == 5


def test_a_hub_that_is_down_is_named(client: Client) -> None:
    client.hub.server_close()

    message = client.complaint()

    assert message.startswith(f"cannot fetch 20231201.en/{FIRST_FILE} of {WIKISOURCE}")
    assert message.endswith("Connection refused")
    assert not any(nap >= 60 for nap in client.naps)


def test_a_damaged_file_is_refused_removed_and_fetched_again(client: Client) -> None:
    fault = client.hub.fail("flipped", FIRST_FILE, times=1)
    on_its_way = client.complaint()
    assert client.read() == texts_of(*range(5))
    (blob,) = {path.resolve() for path in client.home.rglob(FIRST_FILE)}
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)

    on_disk = client.complaint()

    assert fault.fired == 1
    assert not blob.exists()
    assert not list(client.home.rglob(FIRST_FILE)), "no link leads nowhere"
    for message in (on_its_way, on_disk):
        assert f"{FIRST_FILE} of {WIKISOURCE}" in message
        assert "was damaged" in message


REFUSALS: dict[str, tuple[dict[str, object], Trouble | None, str]] = {
    "missing": ({"repository": "a/sauce"}, None, "no such repository, or hides"),
    "gated": ({}, "gated", "only those who asked for access get it"),
    "revision": ({"revision": "0" * 40}, None, "its repository has no such revision"),
    "file": ({"files": ["no.jsonl"]}, None, "its repository has no such file"),
    "token": ({}, "bad token", "does not accept the token: run `hf auth login`"),
    "letters": ({}, None, "the token (HF_TOKEN) has a character that no token has"),
    "offline": ({}, None, "it is not in the hub's cache, and HF_HUB_OFFLINE forbids"),
    "full": ({}, None, "(HF_HOME names the folder of the hub's cache)"),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_what_cannot_be_fetched_is_named_at_once_with_the_key_to_change(
    client: Client, monkeypatch: pytest.MonkeyPatch, refusal: str
) -> None:
    changes, trouble, reason = REFUSALS[refusal]
    if trouble:
        client.hub.fail(trouble)
    if refusal in ("token", "letters"):
        monkeypatch.setenv("HF_TOKEN", TOKEN if refusal == "token" else "hf_é")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", refusal == "offline")
    if refusal == "full":
        client.home.write_text("a file, not a folder")

    message = client.complaint(**changes)

    assert message.startswith("cannot fetch ")
    assert "(hub.wikisource in params.yaml): " in message
    assert reason in message
    assert TOKEN not in message
    assert len(client.hub.requests) <= 1
    assert client.naps == []


def refused(status: int, **headers: str) -> Exception:
    """Return an error with an HTTP response, as the client raises it."""
    error = RuntimeError(f"HTTP {status}")
    error.__dict__["response"] = SimpleNamespace(status_code=status, headers=headers)
    return error


@pytest.mark.parametrize(
    ("cause", "reason", "pause"),
    [
        (OSError(errno.ENOSPC, "full"), "the disk is full; HF_", None),
        (OSError(errno.EDQUOT, "full"), "the disk is full; HF_", None),
        (OSError(errno.EACCES, "denied", "/a"), "denied: /a (", None),
        (refused(429, RateLimit='"api";r=0;t=7'), "(HTTP 429); after `hf", 8),
        (refused(429, RateLimit='"api";r=0;t=9999'), "(HTTP 429)", 600),
        (refused(429), "the hub asks to wait", 60),
        (refused(500), "the hub answers HTTP 500", 1),
        (refused(408), "the hub answers HTTP 408", 1),
        (refused(403), "the hub answers HTTP 403", None),
        (ConnectionResetError(104, "reset by peer"), "reset by peer", 1),
        (ValueError("no sense\nat all"), "no sense", None),
    ],
    ids=str,
)
def test_an_error_is_explained_by_its_cause_and_tried_again_only_if_that_may_help(
    cause: Exception, reason: str, pause: float | None
) -> None:
    error = RuntimeError("cannot download")  # as the client wraps its cause
    error.__cause__ = cause

    problem = explain(error)

    assert reason in problem.reason
    assert "\n" not in problem.reason
    assert problem.pause_seconds == pause


def row(text: str) -> bytes:
    return json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n"


UNREADABLE: dict[str, tuple[bytes, str | list[str]]] = {
    "broken.jsonl": (row("a") + b'{"text": \n' + row("b"), "line 2, is not JSON"),
    "no text.jsonl": (
        row("a") + b'{"txt": 1}\n',
        "row 2: no string in the column 'text' (hub.odd.text in params.yaml)",
    ),
    "latin-1.jsonl": (row("a") + b'{"text": "caf\xe9"}\n', "can't decode byte 0xe9"),
    "torn.jsonl.gz": (gzip.compress(99 * row("a"))[:-12], "ended before"),
    "no gzip.jsonl.gz": (99 * row("a"), "Not a gzipped file"),
    "no group.parquet": (
        parquet({"text": ["one"], "id": [1]}),
        "none of the columns title (`group` in `hub` of params.yaml), but text, id",
    ),
    "none.parquet": (b"<html>\n</html>\n" * 1000, "magic bytes not found"),
    "no text.parquet": (parquet({"title": ["T"]}), "'text' (hub.odd.text in params"),
    "null.parquet": (
        parquet({"text": ["a", None], "title": ["T", "T"]}),
        "row 2: no string in the column 'text'",
    ),
}


def arrow(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


TABLE = {"text": ['one, "two"', "three"], "title": ["a/1", "a/2"]}
READABLE: dict[str, tuple[bytes, str | list[str]]] = {
    "packed.jsonl.gz": (gzip.compress(row("one") + row("two")), ["one", "two"]),
    "windows.jsonl": (b'{"text": "one"}\r\n\r\n{"text": "two"}', ["one", "two"]),
    "other line ends.jsonl": (
        row("a\u2028b\x85c\x1cd\x0be\x0cf\rg\nh"),
        ["a\u2028b\x85c\x1cd\x0be\x0cf\rg\nh"],
    ),
    "empty.jsonl": (b"", []),
    "no rows.parquet": (parquet(dict.fromkeys(TABLE, pa.array([], pa.string()))), []),
    "part [1] of *.parquet": (parquet(TABLE), TABLE["text"]),
    "a.csv": (b'text,title\n"one, ""two""",a/1\nthree,a/2\n', TABLE["text"]),
    "a.arrow": (arrow(pa.table(TABLE)), TABLE["text"]),
}


@pytest.mark.parametrize("name", [*READABLE, *UNREADABLE])
def test_odd_contents_are_read_or_named_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    name: str,
) -> None:
    """As if the file had come from the hub; no library adds lines of its own."""
    content, expected = (READABLE | UNREADABLE)[name]
    (tmp_path / name).write_bytes(content)
    monkeypatch.setattr("toygpt.data.hub.fetch_file", lambda *_: tmp_path / name)
    changes = {"repository": "owner/odd", "files": [name], "group": ["title"]}
    dataset = DATASETS["wikisource"].model_copy(update=changes)

    try:
        documents = list(read_hub_dataset("odd", dataset))
    except InputError as error:
        assert f"owner/odd/{name}" in str(error)
        assert isinstance(expected, str)
        assert expected in str(error)
        assert "\n" not in str(error)
    else:
        assert [document.content.decode() for document in documents] == expected
        if expected == TABLE["text"]:
            assert {document.group for document in documents} == {"owner/odd:title:a"}
    assert capfd.readouterr() == ("", "")


def test_the_cache_may_be_on_a_disk_without_links(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows; the cache then holds no digests."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)

    assert client.read() == texts_of(*range(5))

    assert [path.is_symlink() for path in client.home.rglob(FIRST_FILE)] == [False]

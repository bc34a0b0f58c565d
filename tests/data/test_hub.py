"""Corpora from the Hugging Face hub, through real sockets, with the hub's bad days.

What talks to the hub runs in processes of its own: the hub's client reads its settings
once, when it is imported. Each test has a hub and a cache to itself, but all share one
copy of the project: a commit's id follows from its files, so that params.yaml may name
it before the hub is there.
"""

import errno
import gzip
import io
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tests.data.hub import ALWAYS, LoopbackHub, Request
from tests.data.hub_repositories import (
    REDPAJAMA,
    WIKISOURCE,
    redpajama_files,
    wikisource_files,
)
from tests.faults.kills import wait_until
from tests.project import PATIENCE_SECONDS, Workspace, tiny_project
from toygpt.data.corpus import DOCUMENTS_FILE, RawDocument
from toygpt.data.hub import FetchProblem, read_hub_dataset
from toygpt.data.inventory import Inventory
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.params import HubDataset

ROWS_PER_FILE = 20
REPOSITORY_FILES = {
    WIKISOURCE: wikisource_files(rows_per_file=ROWS_PER_FILE),
    REDPAJAMA: redpajama_files(rows_per_file=ROWS_PER_FILE),
}
FIRST_FILE, SECOND_FILE = "train-00000-of-00005", "train-00001-of-00005"
EARLIER = b"what an earlier run made"
TOKEN = "hf_" + "Secret" * 5  # in pieces: this file is among those searched for it

# Where the rows of each file of RedPajama say what they belong to, if they do.
GROUP_KEYS = {
    "arxiv_sample.jsonl": "arxiv_id",
    "book_sample.jsonl": "short_book_title",
    "c4_sample.jsonl": "url",
    "github_sample.jsonl": "repo_name",
    "stackexchange_sample.jsonl": "url",
    "wikipedia_sample.jsonl": "title",
}


def new_hub() -> LoopbackHub:
    """Return a hub with both datasets of the seed corpus, as params.yaml pins them."""
    hub = LoopbackHub()
    for name, files in REPOSITORY_FILES.items():
        hub.add_dataset(name, files)
    return hub


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    """A hub that the test may break."""
    with new_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A project whose parameters pin what `new_hub` holds."""
    workspace = tiny_project(tmp_path_factory.mktemp("hub") / "project")
    with LoopbackHub() as hub:
        commits = {
            name: hub.add_dataset(name, REPOSITORY_FILES[name])
            for name in REPOSITORY_FILES
        }
    workspace.set_params(
        {
            "corpus": "wikisource",
            "download.max_documents": None,
            "hub.wikisource.revision": commits[WIKISOURCE],
            "hub.redpajama.revision": commits[REDPAJAMA],
        }
    )
    return workspace


@pytest.fixture
def project(shared: Workspace) -> Iterator[Workspace]:
    """The project with an earlier run's documents; its parameters may be changed."""
    documents = shared.root / "data/documents"
    shutil.rmtree(documents.parent, ignore_errors=True)
    documents.mkdir(parents=True)
    (documents / DOCUMENTS_FILE).write_bytes(EARLIER)
    params = shared.root / "params.yaml"
    before = params.read_bytes()
    yield shared
    params.write_bytes(before)


@pytest.fixture(scope="module", autouse=True)
def closed_hub(
    shared: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[subprocess.Popen[str]]:
    """A download from a hub that is down.

    The client takes 23 seconds to give up; the other tests run meanwhile.
    """
    folder = tmp_path_factory.mktemp("closed")
    shutil.copytree(shared.root, folder / "project")
    with new_hub() as hub:
        environment = hub.environment(folder / "home")
    process = subprocess.Popen(
        ["python", "-m", "stages.download"],
        cwd=folder / "project",
        env=shared.environment | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.kill()


def download(
    project: Workspace, hub: LoopbackHub, home: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the stage against a hub, with a cache in `home`."""
    one_time = Workspace(project.root)
    one_time.environment |= hub.environment(home) | environment
    return one_time.run("python", "-m", "stages.download", check=False)


def documents_file(project: Workspace) -> bytes:
    return (project.root / "data/documents" / DOCUMENTS_FILE).read_bytes()


def texts_in(project: Workspace) -> list[str]:
    table = pq.read_table(io.BytesIO(documents_file(project)))
    texts: list[str] = table.column("text").to_pylist()
    return texts


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def error_of(done: subprocess.CompletedProcess[str], project: Workspace) -> str:
    """Return the one line that a failed stage says, having touched nothing."""
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert done.stdout == ""
    assert line.startswith("error: ")
    assert "http://" not in line
    assert documents_file(project) == EARLIER
    assert names_in(project.root / "data") == ["documents"]
    return line.removeprefix("error: ")


def files_asked_for(requests: Iterable[Request]) -> list[str]:
    """Return the names of files that were asked for, each once, in order."""
    return list(dict.fromkeys(Path(request.path).name for request in requests))


def rows_of(repository: str, name: str) -> list[dict[str, Any]]:
    content = REPOSITORY_FILES[repository][name]
    if name.endswith(".parquet"):
        rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(content)).to_pylist()
        return rows
    return [json.loads(line) for line in content.decode().split("\n") if line]


def expected_documents() -> Iterator[dict[str, str]]:
    """Yield what the seed corpus is, by what the files' rows are known to hold."""
    for repository, files in REPOSITORY_FILES.items():
        for name in files:
            if not name.endswith((".parquet", ".jsonl")):
                continue
            for number, row in enumerate(rows_of(repository, name), start=1):
                document_id = group = f"{repository}/{name}:{number}"
                if repository == WIKISOURCE:
                    group = f"{repository}:title:{row['title'].split('/')[0]}"
                elif key := GROUP_KEYS.get(name):
                    group = f"{repository}:meta.{key}:{row['meta'][key]}"
                yield {"id": document_id, "group": group, "text": row["text"]}


def wikisource_texts() -> list[str]:
    return [d["text"] for d in expected_documents() if d["id"].startswith(WIKISOURCE)]


class SeedRun(NamedTuple):
    """What a download of the whole seed corpus did, by a user who has a token."""

    done: subprocess.CompletedProcess[str]
    table: pa.Table
    content: bytes
    metrics: dict[str, int]
    requests: list[Request]
    home: Path
    root: Path


@pytest.fixture(scope="module")
def seed_run(
    shared: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SeedRun]:
    """The seed corpus, although `main` has moved on since its commit was pinned."""
    folder = tmp_path_factory.mktemp("seed")
    project = Workspace(folder / "project")
    shutil.copytree(shared.root, project.root)
    project.set_params({"corpus": "seed"})
    with new_hub() as hub:
        hub.add_dataset(WIKISOURCE, wikisource_files(seed=1))
        hub.add_dataset(REDPAJAMA, redpajama_files(seed=1))
        done = download(project, hub, folder / "home", HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    content = documents_file(project)
    metrics = json.loads((project.root / "metrics/download.json").read_text())
    table = pq.read_table(io.BytesIO(content))
    yield SeedRun(
        done, table, content, metrics, hub.requests, folder / "home", project.root
    )


def test_the_seed_corpus_is_every_row_of_all_sixteen_files(seed_run: SeedRun) -> None:
    """In order, with its group and its place of origin, and with nothing else."""
    expected = list(expected_documents())

    documents = seed_run.table.to_pylist()

    assert len(documents) == 16 * ROWS_PER_FILE
    assert documents == expected
    assert seed_run.table.column_names == ["id", "group", "text"]
    assert seed_run.metrics == {
        "corpus_documents": 16 * ROWS_PER_FILE,
        "corpus_bytes": sum(len(d["text"].encode()) for d in expected),
        **Inventory().metrics(),
    }


def test_what_belongs_together_is_one_group(seed_run: SeedRun) -> None:
    """Chapters of a work, files of a repository; a page of Common Crawl is alone."""
    sizes: dict[str, dict[str, int]] = {}
    for document in seed_run.table.to_pylist():
        of_source = sizes.setdefault(document["id"].rpartition(":")[0], {})
        of_source[document["group"]] = of_source.get(document["group"], 0) + 1

    assert max(sizes[f"{REDPAJAMA}/github_sample.jsonl"].values()) == 3
    assert set(sizes[f"{REDPAJAMA}/cc_2019-30_sample.jsonl"].values()) == {1}
    first, second = (
        sizes[f"{WIKISOURCE}/20231201.en/{name}.parquet"]
        for name in (FIRST_FILE, "train-00002-of-00005")
    )
    assert first.keys() & second.keys(), "works whose chapters are in several files"


def test_only_the_pinned_commits_are_asked_for_and_each_file_once(
    seed_run: SeedRun,
) -> None:
    """Nothing but the files that params.yaml lists, whatever else there is."""
    with new_hub() as hub:
        commits = {hub._repositories["datasets", n].main for n in REPOSITORY_FILES}

    asked = [path for r in seed_run.requests if (path := r.path.split("/"))]

    assert {part for path in asked for part in path if len(part) == 40} == commits
    assert all(commits & set(path) for path in asked)
    names = [Path(request.path).name for request in seed_run.requests]
    assert len(names) == 2 * 16  # one HEAD, one GET
    assert not {"README.md", "RedPajama-Data-1T-Sample.py"} & set(names)


def test_a_good_run_says_one_line_and_shows_no_progress_to_a_log(
    seed_run: SeedRun,
) -> None:
    assert seed_run.done.stderr == ""
    (line,) = seed_run.done.stdout.splitlines()
    assert line.startswith("320 documents, ")


def test_a_token_goes_to_the_hub_alone_and_is_written_nowhere(
    seed_run: SeedRun,
) -> None:
    tokens = {
        origin: {r.token for r in seed_run.requests if r.origin == origin}
        for origin in ("hub", "cdn")
    }
    files = [
        path
        for folder in (seed_run.home, seed_run.root)
        for path in folder.rglob("*")
        if path.is_file()
    ]
    told = [path for path in files if TOKEN.encode() in path.read_bytes()]

    assert tokens == {"hub": {TOKEN}, "cdn": {""}}
    assert len(files) > 100
    assert not told
    assert TOKEN not in seed_run.done.stdout + seed_run.done.stderr


def test_what_is_in_the_cache_is_not_asked_for_again(
    seed_run: SeedRun, project: Workspace, hub: LoopbackHub
) -> None:
    """Whether the user forbids the network or not, the documents are the same."""
    project.set_params({"corpus": "seed"})

    for offline in ("1", "0"):
        done = download(project, hub, seed_run.home, HF_HUB_OFFLINE=offline)

        assert done.stderr == ""
        assert hub.requests == []
        assert documents_file(project) == seed_run.content


def test_a_file_that_is_left_out_is_never_fetched_nor_is_one_not_reached(
    project: Workspace, hub: LoopbackHub, tmp_path: Path
) -> None:
    """Without a token, none is sent."""
    project.set_params(
        {
            "corpus": "redpajama",
            "hub.redpajama.exclude": ["book_sample.jsonl", "cc_2019-30_sample.jsonl"],
            "download.max_documents": 3 * ROWS_PER_FILE,
        }
    )

    done = download(project, hub, tmp_path)

    assert done.stderr == ""
    assert files_asked_for(hub.requests) == [
        "arxiv_sample.jsonl",
        "c4_sample.jsonl",
        "cc_2020-05_sample.jsonl",
    ]
    assert len(texts_in(project)) == 3 * ROWS_PER_FILE
    assert {request.token for request in hub.requests} == {""}


def test_a_limit_of_bytes_ends_the_fetching(
    project: Workspace, hub: LoopbackHub, tmp_path: Path
) -> None:
    texts = wikisource_texts()[: ROWS_PER_FILE + 5]
    num_bytes = sum(len(text.encode()) for text in texts)
    project.set_params({"download.max_bytes": num_bytes})

    done = download(project, hub, tmp_path)

    assert done.returncode == 0
    assert done.stderr == ""
    assert texts_in(project) == texts
    assert files_asked_for(hub.requests) == [
        f"{FIRST_FILE}.parquet",
        f"{SECOND_FILE}.parquet",
    ]


def test_a_bad_day_of_network_and_hub_changes_nothing(
    project: Workspace, hub: LoopbackHub, tmp_path: Path
) -> None:
    """Who is asked to wait is told so; the hub's addresses are no one's business."""
    faults = [
        hub.cut_downloads(3, where=FIRST_FILE),
        hub.limit_rate(2, where=SECOND_FILE),
        hub.be_unavailable(
            1,
            where="/resolve/",
        ),
        hub.be_unavailable(1, where="/cdn/"),
        hub.shorten("train-00004-of-00005", times=1),
    ]

    done = download(project, hub, tmp_path)

    assert [fault.fired for fault in faults] == [fault.times for fault in faults]
    assert done.returncode == 0
    assert texts_in(project) == wikisource_texts()
    unavailable, wait, inconsistent = done.stderr.splitlines()
    assert unavailable.endswith("HTTP 503. Waiting 1 s before try 2 of 6.")
    assert wait.startswith("Rate limited. Waiting 1")
    assert "Consistency check failed" in inconsistent
    assert inconsistent.endswith("Waiting 1 s before try 2 of 6.")
    assert "http" not in done.stderr


def test_connections_that_break_are_taken_up_again(
    project: Workspace, hub: LoopbackHub, tmp_path: Path
) -> None:
    project.set_params({"download.max_documents": ROWS_PER_FILE})
    fault = hub.cut_downloads(2, where=FIRST_FILE, reset=True)

    done = download(project, hub, tmp_path)

    assert fault.fired == 2
    assert done.returncode == 0, done.stderr
    assert texts_in(project) == wikisource_texts()[:ROWS_PER_FILE]


def test_a_damaged_file_is_refused_removed_and_fetched_anew(
    project: Workspace, hub: LoopbackHub, tmp_path: Path
) -> None:
    """Damaged on its way, and then, when all had been well, on the disk."""
    project.set_params({"download.max_documents": ROWS_PER_FILE})
    fault = hub.flip_byte(FIRST_FILE, times=1)

    damaged_on_its_way = error_of(download(project, hub, tmp_path), project)

    assert fault.fired == 1
    assert blobs_in(tmp_path) == []
    assert download(project, hub, tmp_path).returncode == 0
    assert texts_in(project) == wikisource_texts()[:ROWS_PER_FILE]

    (blob,) = blobs_in(tmp_path)
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)
    (project.root / "data/documents" / DOCUMENTS_FILE).write_bytes(EARLIER)

    damaged_on_disk = error_of(download(project, hub, tmp_path), project)

    assert blobs_in(tmp_path) == []
    for message in (damaged_on_its_way, damaged_on_disk):
        assert f"{FIRST_FILE}.parquet of {WIKISOURCE}" in message
        assert "was damaged" in message


def blobs_in(home: Path) -> list[Path]:
    """Return the contents in a cache, having seen that no link leads nowhere."""
    links = [path for path in home.rglob("snapshots/**/*") if path.is_symlink()]
    assert all(link.exists() for link in links)
    return sorted(home.rglob("blobs/*"))


def test_what_was_whole_before_a_kill_is_not_fetched_again(
    project: Workspace, hub: LoopbackHub, tmp_path: Path
) -> None:
    fault = hub.limit_rate(ALWAYS, seconds=60, where="train-00002")
    process = subprocess.Popen(
        ["python", "-m", "stages.download"],
        cwd=project.root,
        env=project.environment | hub.environment(tmp_path),
        stderr=subprocess.PIPE,
    )
    with process:
        wait_until(lambda: fault.fired or process.poll() is not None)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert fault.fired
    assert documents_file(project) == EARLIER
    fault.times = 0

    done = download(project, hub, tmp_path)

    assert done.returncode == 0
    assert texts_in(project) == wikisource_texts()
    assert len(hub.requests_for(".parquet", method="GET")) == 5
    assert names_in(project.root / "data") == ["documents"]


REFUSALS = {
    "missing": "the hub has no such repository, or hides it from you",
    "private": "the hub has no such repository, or hides it from you",
    "gated": "only those who asked for access get it",
    "revision": "its repository has no such revision",
    "file": "its repository has no such file",
    "token": "the hub does not accept the token: run `hf auth login`",
    "offline": "it is not in the hub's cache, and HF_HUB_OFFLINE forbids to ask",
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_what_cannot_be_had_is_named_at_once_with_the_key_to_change(
    project: Workspace, hub: LoopbackHub, tmp_path: Path, refusal: str
) -> None:
    environment, fault = {}, None
    match refusal:
        case "missing":
            project.set_params({"hub.wikisource.repository": "wikimedia/wikisauce"})
        case "private":
            fault = hub.make_private(WIKISOURCE)
        case "gated":
            fault = hub.gate(WIKISOURCE)
        case "revision":
            project.set_params({"hub.wikisource.revision": "0" * 40})
        case "file":
            fault = hub.remove_file(WIKISOURCE, f"20231201.en/{FIRST_FILE}.parquet")
        case "token":
            fault = hub.refuse_tokens()
            environment = {"HF_TOKEN": TOKEN}
        case "offline":
            environment = {"HF_HUB_OFFLINE": "1"}

    done = download(project, hub, tmp_path, **environment)

    message = error_of(done, project)
    assert fault is None or fault.fired
    assert len(hub.requests) == (0 if refusal == "offline" else 1)
    assert message.startswith(f"cannot fetch 20231201.en/{FIRST_FILE}.parquet of wiki")
    assert "(hub.wikisource in params.yaml): " + REFUSALS[refusal] in message
    assert TOKEN not in message


def row(text: object, **others: object) -> bytes:
    return json.dumps({"text": text} | others, ensure_ascii=False).encode() + b"\n"


def parquet(columns: dict[str, object]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


UNREADABLE = {
    "broken.jsonl": (row("a") + b'{"text": \n' + row("b"), "line 2, is not JSON"),
    "no text.jsonl": (
        row("a") + b'{"txt": 1}\n',
        "row 2: no string in the column 'text' (hub.odd.text in params.yaml)",
    ),
    "number.jsonl": (row("a") + row(1), "row 2: no string in the column 'text'"),
    "no object.jsonl": (row("a") + b'["text"]\n', "row 2: no string in the column"),
    "deep.jsonl": (b'{"text":' + 10**5 * b"[" + 10**5 * b"]" + b"}", "recursion"),
    "latin-1.jsonl": (row("a") + b'{"text": "caf\xe9"}\n', "can't decode byte 0xe9"),
    "torn.jsonl.gz": (gzip.compress(99 * row("a"))[:-12], "ended before"),
    "no gzip.jsonl.gz": (99 * row("a"), "Not a gzipped file"),
    "no group.parquet": (
        parquet({"text": ["one"], "id": [1]}),
        "has none of the columns title",
    ),
    "none.parquet": (b"<html>\n</html>\n" * 1000, "magic bytes not found"),
    "torn.parquet": (parquet({"text": ["a" * 9999], "title": ["T"]})[:-9], "magic"),
    "no text.parquet": (parquet({"title": ["T"]}), "'text' (hub.odd.text in params"),
    "null.parquet": (
        parquet({"text": ["a", None], "title": ["T", "T"]}),
        "row 2: no string in the column 'text'",
    ),
}
READABLE: dict[str, tuple[bytes, list[str | None]]] = {
    "plain.jsonl": (row("one") + row("two"), ["one", "two"]),
    "packed.jsonl.gz": (gzip.compress(row("one") + row("two")), ["one", "two"]),
    "no last line end.jsonl": ((row("one") + row("two"))[:-1], ["one", "two"]),
    "windows.jsonl": (b'{"text": "one"}\r\n\r\n{"text": "two"}\r\n', ["one", "two"]),
    "other line ends.jsonl": (
        row("a\u2028b\x85c\x1cd\x0be\x0cf\rg\nh"),
        ["a\u2028b\x85c\x1cd\x0be\x0cf\rg\nh"],
    ),
    "empty.jsonl": (b"", []),
    "half a character.jsonl": (
        row("one") + b'{"text": "a\\ud800b"}\n' + row("two"),
        ["one", None, "two"],  # no text, but no reason to give up
    ),
    "long.jsonl": (row(11_000_000 * "x") + row("two"), [11_000_000 * "x", "two"]),
    "no rows.parquet": (
        parquet(
            {"text": pa.array([], pa.string()), "title": pa.array([], pa.string())}
        ),
        [],
    ),
    "large strings.parquet": (
        parquet({"text": pa.array(["one"], pa.large_string()), "title": ["T"]}),
        ["one"],
    ),
    "part [1] of *.jsonl": (row("one"), ["one"]),
}
READ_EACH = """
import json, pickle, sys
from toygpt.data.hub import read_hub_dataset
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.params import HubDataset

revision, names = json.loads(sys.argv[1])
results = {}
for name in names:
    dataset = HubDataset(
        repository="owner/odd", revision=revision, files=[name], exclude=[],
        text="text", group=["title"], group_until=None,
    )
    try:
        results[name] = list(read_hub_dataset("odd", dataset))
    except Exception as error:
        results[name] = error
    print(name, file=sys.stderr)
pickle.dump(results, open("results.pickle", "wb"))
"""


class OddFiles(NamedTuple):
    """What became of each file that is not as it should be."""

    results: dict[str, list[RawDocument] | Exception]
    stderr: list[str]


@pytest.fixture(scope="module")
def odd_files(shared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> OddFiles:
    """All of them, read in one process: it is importing that takes the time."""
    import pickle

    folder = tmp_path_factory.mktemp("odd")
    contents = {name: case[0] for name, case in (UNREADABLE | READABLE).items()}
    workspace = Workspace(folder)
    with LoopbackHub() as hub:
        commit = hub.add_dataset("owner/odd", contents)
        workspace.environment |= hub.environment(folder / "home")
        workspace.environment["PYTHONPATH"] = str(shared.root)
        arguments = json.dumps([commit, list(contents)])
        done = workspace.run("python", "-c", READ_EACH, arguments)
    results = pickle.loads((folder / "results.pickle").read_bytes())
    return OddFiles(results, done.stderr.splitlines())


@pytest.mark.parametrize("name", UNREADABLE)
def test_contents_that_cannot_be_read_are_named_in_one_line(
    odd_files: OddFiles, name: str
) -> None:
    error = odd_files.results[name]

    assert type(error).__name__ == "InputError", repr(error)
    assert f"owner/odd/{name}" in str(error)
    assert UNREADABLE[name][1] in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("name", READABLE)
def test_contents_that_are_odd_but_whole_are_read(
    odd_files: OddFiles, name: str
) -> None:
    expected = READABLE[name][1]

    documents = odd_files.results[name]

    assert isinstance(documents, list), repr(documents)
    assert len(documents) == len(expected)
    for document, text in zip(documents, expected, strict=True):
        if text is None:
            with pytest.raises(UnicodeDecodeError):
                document.content.decode()
        else:
            assert document.content.decode() == text


def test_nobody_but_us_says_what_is_wrong_with_a_file(odd_files: OddFiles) -> None:
    assert odd_files.stderr == [*UNREADABLE, *READABLE]


def test_text_that_is_none_is_counted_and_the_rest_is_kept(
    project: Workspace, hub: LoopbackHub, tmp_path: Path
) -> None:
    lines = row("one") + b'{"text": "a\\ud800b"}\n' + row("") + row("one") + row("two")
    commit = hub.add_dataset(WIKISOURCE, {"mine.jsonl": lines})
    project.set_params(
        {"hub.wikisource.revision": commit, "hub.wikisource.files": ["mine.jsonl"]}
    )

    done = download(project, hub, tmp_path)

    assert done.stderr == ""
    assert done.stdout == (
        "2 documents, 0.0 MB; left out: 1 empty, 1 duplicate, 1 not UTF-8\n"
        "  not UTF-8: wikimedia/wikisource/mine.jsonl:2; from Latin-1, for example: "
        "iconv -f latin1 -t utf-8 FILE > NEW_FILE\n"
    )
    assert texts_in(project) == ["one", "two"]


@pytest.mark.parametrize("where", ["no links", "[brackets]"])
def test_the_cache_may_be_on_any_disk_and_under_any_name(
    project: Workspace, hub: LoopbackHub, tmp_path: Path, where: str
) -> None:
    """Where links cannot be made, as on Windows, the cache holds no digests."""
    project.set_params({"download.max_documents": ROWS_PER_FILE})
    links = {"HF_HUB_DISABLE_SYMLINKS": "1"} if where == "no links" else {}

    done = download(project, hub, tmp_path / where, **links)

    assert done.returncode == 0, done.stderr
    assert texts_in(project) == wikisource_texts()[:ROWS_PER_FILE]


def test_a_cache_that_cannot_be_written_is_named_without_waiting(
    project: Workspace, hub: LoopbackHub, tmp_path: Path
) -> None:
    (tmp_path / "home").write_text("a file, no folder")

    message = error_of(download(project, hub, tmp_path / "home"), project)

    assert "HF_HOME" in message
    assert "Not a directory" in message


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_called_by_its_name_and_not_tried_again(number: int) -> None:
    try:
        try:
            raise OSError(number, os.strerror(number))
        except OSError as cause:
            raise RuntimeError("cannot download") from cause
    except RuntimeError as error:
        trouble = FetchProblem.of(error)

    assert trouble.reason.startswith("the disk is full; HF_HOME names the folder")
    assert trouble.pause_seconds is None


def test_the_default_corpus_needs_no_network(
    project: Workspace, hub: LoopbackHub, tmp_path: Path
) -> None:
    project.set_params({"corpus": "python", "download.max_documents": 9})
    environment = hub.environment(tmp_path)

    done = download(project, hub, tmp_path)
    one_time = Workspace(project.root)
    one_time.environment |= environment
    one_time.run("python", "-m", "stages.tokenize")

    assert done.returncode == 0
    assert hub.requests == []
    assert list(tmp_path.iterdir()) == []


def test_a_hub_that_is_down_is_named(closed_hub: subprocess.Popen[str]) -> None:
    stdout, stderr = closed_hub.communicate(timeout=PATIENCE_SECONDS)

    (line,) = stderr.splitlines()
    assert closed_hub.returncode == 1
    assert stdout == ""
    assert line.startswith(f"error: cannot fetch 20231201.en/{FIRST_FILE}.parquet of ")
    assert line.endswith(
        "(hub.wikisource in params.yaml): [Errno 111] Connection refused"
    )


def test_a_limit_of_requests_says_how_long_and_how_to_raise_it() -> None:
    """Where the hub does not say until when, a minute is waited."""

    class RefusedError(Exception):
        def __init__(self, status: int, headers: dict[str, str]) -> None:
            self.response = Response(status, headers)

    class Response(NamedTuple):
        status_code: int
        headers: dict[str, str]

    told, untold = (
        FetchProblem.of(RefusedError(429, headers))
        for headers in ({"RateLimit": '"api";r=0;t=7'}, {})
    )

    assert (told.pause_seconds, untold.pause_seconds) == (8, 60)
    assert "(HTTP 429); after `hf auth login` it allows more" in told.reason
    assert FetchProblem.of(RefusedError(500, {})).pause_seconds == 1
    assert FetchProblem.of(RefusedError(403, {})).pause_seconds is None


def test_a_full_disk_ends_the_download_and_leaves_what_was_there(
    project: Workspace, hub: LoopbackHub, tmp_path: Path
) -> None:
    """A disk of its own, as only some systems let a test have."""
    tiny_disk = "mount -t tmpfs -o size=16k tiny home && exec python -m stages.download"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    home = project.root / "home"
    home.mkdir(exist_ok=True)
    one_time = Workspace(project.root)
    if one_time.run(*command, "mount -t tmpfs tiny home", check=False).returncode:
        pytest.skip("this system lets nobody mount a disk")
    one_time.environment |= hub.environment(home)

    message = error_of(one_time.run(*command, tiny_disk, check=False), project)

    assert message.startswith(f"cannot fetch 20231201.en/{FIRST_FILE}.parquet of wiki")
    assert "the disk is full; HF_HOME names the folder of the hub's cache" in message


def dataset_of(path: Path, *, text: str, group: str) -> HubDataset:
    """Return a dataset of one file."""
    return HubDataset(
        repository="a/b",
        revision="0" * 40,
        files=[path.name],
        exclude=[],
        text=text,
        group=[group],
        group_until=None,
    )


@pytest.mark.parametrize("suffix", ["csv", "arrow"])
def test_tables_of_other_formats_are_read_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    rows = [{"body": 'one, "two"', "topic": "a"}, {"body": "three", "topic": "b"}]
    table = pa.Table.from_pylist(rows)
    path = tmp_path / f"part.{suffix}"
    if suffix == "csv":
        pyarrow.csv.write_csv(table, path)
    else:
        with (
            pa.OSFile(str(path), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as w,
        ):
            w.write_table(table)
    monkeypatch.setattr("toygpt.data.hub.fetch_file", lambda *_: path)
    dataset = dataset_of(path, text="body", group="topic")

    documents = list(read_hub_dataset("mine", dataset))

    assert [document.content.decode() for document in documents] == [
        'one, "two"',
        "three",
    ]
    assert [document.group for document in documents] == ["a/b:topic:a", "a/b:topic:b"]


def test_a_group_that_no_table_has_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each row would be a group of its own, without a word."""
    path = tmp_path / "part.parquet"
    pq.write_table(pa.Table.from_pylist([{"text": "one", "title": "a"}]), path)
    monkeypatch.setattr("toygpt.data.hub.fetch_file", lambda *_: path)
    dataset = dataset_of(path, text="text", group="titel")

    with pytest.raises(InputError, match=r"none of the columns titel .* but text, ti"):
        list(read_hub_dataset("mine", dataset))

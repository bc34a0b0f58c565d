"""Datasets on the Hugging Face hub: fetched file by file, read row by row.

Files go to the hub's own cache (HF_HOME), so that a second run, an interrupted one or
another project needs no second download. They are asked for by commit: the same
parameters give the same bytes, forever.
"""

from __future__ import annotations

import errno
import glob
import gzip
import hashlib
import logging
import os
import re
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq

from toygpt.data.corpus import RawDocument, content_of, rows_of_jsonl
from toygpt.pipeline.errors import InputError, first_line
from toygpt.pipeline.files import sha256_of

if TYPE_CHECKING:
    from toygpt.pipeline.params import HubDataset

logger = logging.getLogger(__name__)

# Xet, the hub's newer way of handing out files, has failures of its own kind. The hub's
# client reads this once, when it is imported: that happens below, in functions.
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")

# What `datasets` reads, each by a builder of that name; the rest is lines of JSON.
TABLE_SUFFIXES = (".parquet", ".csv", ".arrow")

MAX_TRIES = 6
MAX_PAUSE_SECONDS = 600


def read_hub_dataset(name: str, dataset: HubDataset) -> Iterator[RawDocument]:
    """Yield each row of a dataset's files as a document.

    One file after the other is fetched and read; who stops early fetches no more.

    Args:
        name: The dataset's key in `hub` of params.yaml, for messages.
        dataset: What to fetch, and which columns hold text and group.

    Raises:
        InputError: A file cannot be had, or is not what it should be.
    """
    for file in dataset.files:
        if file in dataset.exclude:
            continue
        path = fetch_file(name, dataset, file)
        address = f"{dataset.repository}/{file}"
        try:
            for number, row in enumerate(_rows(path, address, dataset), start=1):
                content = content_of(row, dataset.text)
                if content is None:
                    raise InputError(
                        f"{address}, row {number}: no string in the column "
                        f"{dataset.text!r} (hub.{name}.text in params.yaml)"
                    )
                document_id = f"{address}:{number}"
                group = _group_of(row, dataset) or document_id
                yield RawDocument(document_id, group, content)
        except InputError:
            raise
        except (
            *(OSError, EOFError, ValueError, OverflowError),
            *(zlib.error, pa.ArrowException),
        ) as error:
            raise InputError(
                f"cannot read {address} (hub.{name} in params.yaml): "
                f"{first_line(error)}"
            ) from None


def fetch_file(name: str, dataset: HubDataset, file: str) -> Path:
    """Return a file of a dataset, from the cache or else from the hub.

    Raises:
        InputError: As `ask_hub`; or the file is not what the hub promised.
    """
    from huggingface_hub import hf_hub_download

    what = f"{file} of {dataset.repository} at {dataset.revision[:7]}"
    settings = f"hub.{name} in params.yaml"
    link = ask_hub(
        lambda: hf_hub_download(
            dataset.repository, file, repo_type="dataset", revision=dataset.revision
        ),
        what=what,
        settings=settings,
    )
    check_digest(link, f"{what} ({settings})")
    return link


def ask_hub(download: Callable[[], str], *, what: str, settings: str) -> Path:
    """Download something, with patience, and say in one line why if it cannot be had.

    The hub's client takes up a connection that breaks, and waits when the hub asks it
    to (HTTP 429). Where it gives up, we go on, with longer and longer pauses, so that a
    bad moment of hub or network ends nothing. A hub that does not answer at all for
    half a minute is not waited for.

    Args:
        download: Calls the hub's client.
        what: What is asked for, for messages.
        settings: Where the user said so.

    Raises:
        InputError: It does not exist, is not for this user, cannot be reached; the
            disk is full.
    """
    for number in range(1, MAX_TRIES + 1):
        try:
            with _quiet_client():
                return Path(download())
        except Exception as error:  # of many kinds, and some are only in its causes
            problem = FetchProblem.of(error)
        if number == MAX_TRIES or problem.pause_seconds is None:
            break
        pause = max(problem.pause_seconds, 2 ** (number - 1))
        logger.warning(
            "%s: %s. Waiting %.0f s before try %d of %d.",
            what,
            problem.reason,
            pause,
            number + 1,
            MAX_TRIES,
        )
        time.sleep(pause)
    raise InputError(f"cannot fetch {what} ({settings}): {problem.reason}")


class FetchProblem(NamedTuple):
    """Why something could not be fetched, and whether trying again may help."""

    reason: str
    pause_seconds: float | None  # None: trying again will not help

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """Explain an error of the hub's client by what led to it."""
        from huggingface_hub.errors import (
            EntryNotFoundError,
            GatedRepoError,
            HFValidationError,
            LocalEntryNotFoundError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        causes = [error]
        while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
            causes.append(cause)
        for cause in causes:
            match cause:
                case GatedRepoError():
                    return cls(
                        "only those who asked for access get it: do so on its page on "
                        "the hub, then run `hf auth login`",
                        None,
                    )
                case RepositoryNotFoundError():
                    return cls(
                        "the hub has no such repository, or hides it from you; if it "
                        "is private, run `hf auth login`",
                        None,
                    )
                case HFValidationError():
                    return cls(
                        "it is neither a folder nor the name of a repository on the "
                        "hub",
                        None,
                    )
                case UnicodeEncodeError():
                    return cls(
                        "the token (HF_TOKEN) has a character that no token has: run "
                        "`hf auth login`",
                        None,
                    )
                case RevisionNotFoundError():
                    return cls("its repository has no such revision", None)
                case OfflineModeIsEnabled():
                    return cls(
                        "it is not in the hub's cache, and HF_HUB_OFFLINE forbids to "
                        "ask for it",
                        None,
                    )
                case EntryNotFoundError() if not isinstance(
                    cause, LocalEntryNotFoundError
                ):
                    return cls("its repository has no such file", None)
                case OSError(errno=errno.ENOSPC | errno.EDQUOT):
                    return cls(
                        "the disk is full; HF_HOME names the folder of the hub's "
                        "cache, it may be on another disk",
                        None,
                    )
                case ConnectionError() | TimeoutError():
                    pass  # looked at below
                case OSError(errno=int(), filename=str()):
                    return cls(
                        f"{cause.strerror}: {cause.filename} (HF_HOME names the folder "
                        f"of the hub's cache)",
                        None,
                    )
        for cause in causes:
            if (response := getattr(cause, "response", None)) is not None:
                return cls._of_status(response)
        reason = first_line(causes[-1]).rstrip(".")
        # Where nobody answers, or what was asked for makes no sense, it stays so.
        is_hopeless = any(
            type(cause).__name__ in ("ConnectError", "ConnectTimeout")
            or isinstance(cause, ValueError)
            for cause in causes
        )
        return cls(reason, None if is_hopeless else 1)

    @classmethod
    def _of_status(cls, response: Any) -> Self:
        """Explain an HTTP error."""
        status = response.status_code
        if status == 429:
            # See https://huggingface.co/docs/hub/rate-limits.
            asked = re.search(r"t=(\d+)", response.headers.get("RateLimit", ""))
            return cls(
                "the hub asks to wait (HTTP 429); after `hf auth login` it allows more",
                min(int(asked[1]) + 1, MAX_PAUSE_SECONDS) if asked else 60,
            )
        if status == 401:
            return cls("the hub does not accept the token: run `hf auth login`", None)
        may_help = status == 408 or status >= 500
        return cls(f"the hub answers HTTP {status}", 1 if may_help else None)


def check_digest(link: Path, what: str) -> None:
    """Refuse a file that is not the one the hub promised, and remove it.

    The cache names contents by their digest (SHA-256 for large files, Git's for others)
    and never looks at it again. Where it cannot make links, it keeps no digest.

    Raises:
        InputError: The contents have another digest.
    """
    contents = link.resolve()
    promised = contents.name
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", promised):
        return
    try:
        found = sha256_of(contents) if len(promised) == 64 else _git_digest(contents)
        if found != promised:
            link.unlink()
            contents.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot read {what} in the hub's cache: {error.strerror}: {contents} "
            f"(HF_HOME names the folder of the hub's cache)"
        ) from None
    if found != promised:
        raise InputError(
            f"{what} was damaged on its way or on this disk, and has been removed: run "
            f"the same command again to fetch it anew"
        )


def _git_digest(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def _quiet_client() -> Iterator[None]:
    """Let the hub's client say that it was asked to wait, and nothing else.

    Otherwise it reports each broken connection, with addresses that are no one's
    business; what came of them is in its errors.
    """

    def is_about_waiting(record: logging.LogRecord) -> bool:
        return record.getMessage().startswith("Rate limited")

    all_of_it = logging.getLogger("huggingface_hub")
    requests = logging.getLogger("huggingface_hub.utils._http")
    levels = all_of_it.level, requests.level
    all_of_it.setLevel(logging.ERROR)
    requests.setLevel(logging.WARNING)
    requests.addFilter(is_about_waiting)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        requests.removeFilter(is_about_waiting)
        all_of_it.setLevel(levels[0])
        requests.setLevel(levels[1])


def _rows(path: Path, address: str, dataset: HubDataset) -> Iterator[Any]:
    """Yield the rows of a file, never all of them in memory.

    Lines of JSON are parsed one by one: files whose rows differ in their columns, or in
    the types of these (RedPajama's do), have no common table.
    """
    if path.suffix not in TABLE_SUFFIXES:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            yield from rows_of_jsonl(lines, address)
        return
    import datasets

    options: dict[str, Any] = {}
    if path.suffix == ".parquet":
        found = pq.read_schema(path).names
        wanted = [dataset.text, *(key.partition(".")[0] for key in dataset.group)]
        options["columns"] = [column for column in found if column in wanted]
        if dataset.text not in found:
            yield {}  # a row without text, to be complained of as such
            return
        if dataset.group and not set(wanted[1:]) & set(found):
            raise InputError(
                f"{address} has none of the columns {', '.join(dataset.group)} "
                f"(`group` in `hub` of params.yaml), but {', '.join(found)}"
            )
        if not pq.read_metadata(path).num_rows:
            return
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # errors are ours to tell
    yield from datasets.load_dataset(
        path.suffix.removeprefix("."),
        data_files=glob.escape(str(path)),
        split="train",
        streaming=True,
        **options,
    )


def _group_of(row: dict[str, Any], dataset: HubDataset) -> str | None:
    """Return what the first of the group's columns that this row has says."""
    for key in dataset.group:
        value: Any = row
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value not in (None, ""):
            group = str(value)
            if dataset.group_until is not None:
                group = group.partition(dataset.group_until)[0]
            return f"{dataset.repository}:{key}:{group}"
    return None

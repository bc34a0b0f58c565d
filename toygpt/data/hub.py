"""Datasets on the Hugging Face hub: fetched file by file, read row by row.

Files go to the hub's own cache (HF_HOME), so that a second run, an interrupted one or
another project needs no second download. They are asked for by commit: the same
parameters give the same bytes, forever.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from toygpt.data.corpus import RawDocument
from toygpt.errors import InputError
from toygpt.files import sha256_of

if TYPE_CHECKING:
    from toygpt.params import HubDataset

logger = logging.getLogger(__name__)

MAX_TRIES = 6


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
            for number, row in enumerate(_rows(path, dataset), start=1):
                text = row.get(dataset.text) if isinstance(row, dict) else None
                if not isinstance(text, str):
                    raise InputError(
                        f"{address}, row {number}: no string in the column "
                        f"{dataset.text!r} (hub.{name}.text in params.yaml)"
                    )
                document_id = f"{address}:{number}"
                yield RawDocument(
                    document_id,
                    _group_of(row, dataset) or document_id,
                    # A lone surrogate has no UTF-8; its bytes will not decode again.
                    text.encode(errors="surrogatepass"),
                )
        except (OSError, ValueError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"cannot read {address} ({path}): {error}") from None


def fetch_file(name: str, dataset: HubDataset, file: str) -> Path:
    """Return a file of a dataset, from the cache or else from the hub.

    Raises:
        InputError: As `ask_hub`; or the file is not what the hub promised.
    """
    from huggingface_hub import hf_hub_download

    what = f"{file} of {dataset.repository} at {dataset.revision[:7]}"
    link = ask_hub(
        lambda: hf_hub_download(
            dataset.repository, file, repo_type="dataset", revision=dataset.revision
        ),
        what=what,
        settings=f"hub.{name} in params.yaml",
    )
    check_digest(link, what)
    return link


def ask_hub(download: Callable[[], str], *, what: str, settings: str) -> Path:
    """Download something, with patience, and say in one line why if it cannot be had.

    The hub's client takes up a connection that breaks, and waits when the hub asks it
    to (HTTP 429). Where it gives up, we go on: so often, and with longer and longer
    pauses in between, that a bad moment of network or hub ends nothing.

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
            with _calm_client():
                return Path(download())
        except Exception as error:  # of many kinds, and some are only in its causes
            trouble = Trouble.of(error)
        if number == MAX_TRIES or trouble.pause_seconds is None:
            break
        pause = max(trouble.pause_seconds, 2 ** (number - 1))
        logger.warning(
            "%s: %s. Waiting %.0f s before try %d of %d.",
            what,
            trouble.reason,
            pause,
            number + 1,
            MAX_TRIES,
        )
        time.sleep(pause)
    raise InputError(f"cannot fetch {what} ({settings}): {trouble.reason}")


class Trouble(NamedTuple):
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
                    return cls("this is no name of a repository on the hub", None)
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
        for cause in causes:
            if (response := getattr(cause, "response", None)) is not None:
                return cls._of_status(response)
        text = str(causes[-1]).strip().partition("\n")[0]
        reason = (text or type(causes[-1]).__name__).rstrip(".")
        # The client itself has tried six times to connect.
        is_hopeless = any("Connect" in type(cause).__name__ for cause in causes)
        return cls(reason, None if is_hopeless else 1)

    @classmethod
    def _of_status(cls, response: Any) -> Self:
        """Explain an answer that is none."""
        status = response.status_code
        if status == 429:
            asked = response.headers.get("Retry-After", "")
            return cls(
                "the hub asks to wait (HTTP 429); after `hf auth login` it allows more",
                float(asked) if asked.isdigit() else 60,
            )
        if status == 401:
            return cls("the hub does not accept the token: run `hf auth login`", None)
        return cls(f"the hub answers HTTP {status}", 1 if status >= 500 else None)


def check_digest(link: Path, what: str) -> None:
    """Refuse a file that is not the one the hub promised, and remove it.

    The cache names contents by their digest (SHA-256 for large files, Git's for others)
    and never looks at it again.

    Raises:
        InputError: The contents have another digest.
    """
    contents = link.resolve()
    if contents.name not in (sha256_of(contents), _git_digest(contents)):
        link.unlink()
        contents.unlink(missing_ok=True)
        raise InputError(
            f"{what} was damaged on its way or on this disk, and has been removed: run "
            f"the same command again to fetch it anew"
        )


def _git_digest(path: Path) -> str:
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


@contextmanager
def _calm_client() -> Iterator[None]:
    """Let the hub's client say that it was asked to wait, and nothing else.

    Otherwise it reports each broken connection, with addresses that are no one's
    business; what came of them is in its errors.
    """

    def is_about_waiting(record: logging.LogRecord) -> bool:
        return record.getMessage().startswith("Rate limited")

    loggers = [
        logging.getLogger(f"huggingface_hub.{module}")
        for module in ("utils._http", "file_download")
    ]
    for each in loggers:
        each.addFilter(is_about_waiting)
    try:
        yield
    finally:
        for each in loggers:
            each.removeFilter(is_about_waiting)


def _rows(path: Path, dataset: HubDataset) -> Iterator[Any]:
    """Yield the rows of a file, a few megabytes at a time.

    Lines of JSON are parsed one by one: files whose rows differ in their columns, or in
    the types of these (RedPajama's do), have no common table.
    """
    from datasets import load_dataset

    files = str(path)
    if path.suffix == ".parquet":
        columns = [dataset.text, *(key.partition(".")[0] for key in dataset.group)]
        yield from load_dataset(
            "parquet",
            data_files=files,
            split="train",
            streaming=True,
            columns=list(dict.fromkeys(columns)),
        )
    else:
        lines = load_dataset("text", data_files=files, split="train", streaming=True)
        for number, line in enumerate(lines, start=1):
            if line["text"].strip():
                try:
                    yield json.loads(line["text"])
                except ValueError as error:
                    raise ValueError(f"line {number} is not JSON: {error}") from None


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

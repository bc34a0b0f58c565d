"""The Hugging Face hub's client: asked with patience, its errors in our own words.

Files go to the hub's own cache (HF_HOME), so that a second run, an interrupted one or
another project needs no second download.
"""

import errno
import hashlib
import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from toygpt.pipeline.errors import InputError, first_line
from toygpt.pipeline.files import sha256_of

logger = logging.getLogger(__name__)

MAX_TRIES = 6
MAX_PAUSE_SECONDS = 600

CACHE = "HF_HOME names the folder of the hub's cache"
# What the errors of the client mean, by class; the first that fits is shown.
REASONS = {
    "GatedRepoError": "only those who asked for access get it: do so on its page on "
    "the hub, then run `hf auth login`",
    "RepositoryNotFoundError": "the hub has no such repository, or hides it from you; "
    "if it is private, run `hf auth login`",
    "HFValidationError": "it is neither a folder nor the name of a repository on the "
    "hub",
    "UnicodeEncodeError": "the token (HF_TOKEN) has a character that no token has: run "
    "`hf auth login`",
    "RevisionNotFoundError": "its repository has no such revision",
    "OfflineModeIsEnabled": "it is not in the hub's cache, and HF_HUB_OFFLINE forbids "
    "to ask for it",
    "RemoteEntryNotFoundError": "its repository has no such file",
}
# No hub answers at the address, or the question makes no sense: trying again is vain.
HOPELESS = {"ConnectError", "ConnectTimeout", "ValueError"}


def hub_client() -> ModuleType:
    """Return huggingface_hub, which reads its settings once, when it is imported.

    Files come over plain HTTP: Xet, the hub's newer protocol, has failures of its own.
    """
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    import huggingface_hub

    return huggingface_hub


def ask_hub(download: Callable[[], str], *, what: str, settings: str) -> Path:
    """Download something, with patience; return its path in the cache.

    The hub's client resumes a connection that breaks, and waits when the hub asks it to
    (HTTP 429). Where it gives up, we try again, with longer and longer pauses, so that
    a bad moment of hub or network ends nothing. A hub that does not answer at all for
    half a minute is not waited for.

    Args:
        download: Calls the hub's client.
        what: What is asked for, for messages.
        settings: The key in params.yaml that asks for it, for messages.

    Raises:
        InputError: It does not exist, the user may not have it, the hub cannot be
            reached, or the disk is full.
    """
    for number in range(1, MAX_TRIES + 1):
        try:
            with _quiet_client():
                return Path(download())
        except Exception as error:  # of many kinds, and some are only in its causes
            problem = explain(error)
        if number == MAX_TRIES or problem.pause_seconds is None:
            break
        pause = max(problem.pause_seconds, 2 ** (number - 1))
        logger.warning(
            f"{what}: {problem.reason}. Waiting {pause:.0f} s before try {number + 1} "
            f"of {MAX_TRIES}."
        )
        time.sleep(pause)
    raise InputError(f"cannot fetch {what} ({settings}): {problem.reason}")


class FetchProblem(NamedTuple):
    """Why something could not be fetched, and how long to wait before another try."""

    reason: str
    pause_seconds: float | None = None  # None: trying again will not help


def explain(error: BaseException) -> FetchProblem:
    """Return what an error of the hub's client means, by the errors that led to it."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    for cause in causes:
        for kind in type(cause).__mro__:
            if kind.__name__ in REASONS:
                return FetchProblem(REASONS[kind.__name__])
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return FetchProblem(f"the disk is full; {CACHE}, it may be on another disk")
        if isinstance(cause, OSError) and isinstance(cause.filename, str):
            return FetchProblem(f"{cause.strerror}: {cause.filename} ({CACHE})")
    for cause in causes:
        if (response := getattr(cause, "response", None)) is not None:
            return _explain_status(response.status_code, response.headers)
    names = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    reason = first_line(causes[-1]).rstrip(".")
    return FetchProblem(reason, None if names & HOPELESS else 1)


def _explain_status(status: int, headers: Any) -> FetchProblem:
    """Return what the status of an HTTP response means."""
    if status == 401:
        return FetchProblem("the hub does not accept the token: run `hf auth login`")
    if status == 429:
        # See https://huggingface.co/docs/hub/rate-limits.
        asked = re.search(r"t=(\d+)", headers.get("RateLimit", ""))
        return FetchProblem(
            "the hub asks to wait (HTTP 429); after `hf auth login` it allows more",
            min(int(asked[1]) + 1, MAX_PAUSE_SECONDS) if asked else 60,
        )
    may_help = status == 408 or status >= 500
    return FetchProblem(f"the hub answers HTTP {status}", 1 if may_help else None)


def check_digest(link: Path, what: str) -> None:
    """Raise an error if a file is not what the hub promised, and remove it.

    The cache names contents by their digest (SHA-256 for large files, Git's for others)
    and never checks it again. Where it cannot make links, it keeps no digest.

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
            f"({CACHE})"
        ) from None
    if found != promised:
        raise InputError(
            f"{what} was damaged on its way or on this disk, and has been removed: run "
            f"the same command again to fetch it again"
        )


def _git_digest(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def _quiet_client() -> Iterator[None]:
    """Silence the hub's client, except for its message that it was asked to wait.

    Otherwise it logs each broken connection, with addresses that may be secret; how the
    connection ended is in its errors.
    """

    def is_about_waiting(record: logging.LogRecord) -> bool:
        return record.getMessage().startswith("Rate limited")

    everything = logging.getLogger("huggingface_hub")
    requests = logging.getLogger("huggingface_hub.utils._http")
    levels = everything.level, requests.level
    everything.setLevel(logging.ERROR)
    requests.setLevel(logging.WARNING)
    requests.addFilter(is_about_waiting)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        requests.removeFilter(is_about_waiting)
        everything.setLevel(levels[0])
        requests.setLevel(levels[1])

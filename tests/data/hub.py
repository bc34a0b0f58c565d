"""A Hugging Face hub on this machine, with the faults that the real one has.

It keeps repositories in memory and answers, over real sockets, what huggingface_hub and
transformers ask when they download. The real hub hands large files out from hosts of
their own, where a token has no business; so does this one: its server is the hub under
the name 127.0.0.1, and the CDN under the name localhost.

Rate limits: https://huggingface.co/docs/hub/rate-limits
"""

import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

import pytest

# The CDN has these, from this size on (the real one: from 10 MB on).
LARGE_FILE_SUFFIXES = {".parquet", ".jsonl", ".safetensors"}
LARGE_FILE_BYTES = 4096
ALWAYS = sys.maxsize

# What goes wrong: HTTP 429, 503 and 401 (the token, or access to the repository), and
# transfers of large files that end in the middle, or with a wrong byte.
Trouble = Literal["rate limit", "unavailable", "bad token", "gated", "cut", "flipped"]

NAME = r"(?P<name>[^/]+(?:/[^/]+)??)"
FILE = re.compile(
    rf"/(?:cdn/)?(?:datasets/)?{NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)"
)
API = re.compile(
    rf"/api/(?:datasets|models)/{NAME}/(?P<topic>revision|tree)/(?P<revision>[^/]+)"
)


class Request(NamedTuple):
    """What a client sent."""

    method: str
    path: str
    origin: Literal["hub", "cdn"]
    range: str  # such as "bytes=100-", or "" for all
    token: str  # "" if none came along


class Response(NamedTuple):
    """What the client gets, and after how many bytes the connection ends."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    cut_after: int = ALWAYS


@dataclass
class Fault:
    """Something that goes wrong a number of times, and counts how often it did."""

    trouble: Trouble
    where: str  # part of the address
    times: int = ALWAYS
    seconds: int = 0  # until a rate limit ends
    fired: int = 0


@dataclass(frozen=True)
class StoredFile:
    """A file of a repository; the client calls it by its etag."""

    path: str
    content: bytes

    @property
    def is_large(self) -> bool:
        suffix = PurePosixPath(self.path).suffix
        return len(self.content) >= LARGE_FILE_BYTES and suffix in LARGE_FILE_SUFFIXES

    @property
    def digest(self) -> str:
        """Git LFS's name for the content, or for a small file Git's."""
        if self.is_large:
            return hashlib.sha256(self.content).hexdigest()
        header = b"blob %d\0" % len(self.content)
        return hashlib.sha1(header + self.content).hexdigest()

    def entry(self) -> dict[str, Any]:
        """Describe the file as listings do."""
        size = len(self.content)
        entry = {"type": "file", "path": self.path, "oid": self.digest, "size": size}
        if self.is_large:
            entry["lfs"] = {"oid": self.digest, "size": size, "pointerSize": 134}
        return entry


class LoopbackHub(ThreadingHTTPServer):
    """A hub that answers from when it is made until it is closed."""

    daemon_threads = False  # closing waits for them
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[Request] = []
        self._repositories: dict[str, dict[str, dict[str, StoredFile]]] = {}
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        loop = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        loop.start()

    def server_close(self) -> None:
        """Stop answering; from now on connections are refused."""
        self.shutdown()
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Be silent where it is the client who hung up: tests kill clients."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def environment(self, home: Path) -> dict[str, str]:
        """Return what makes a new process talk to this hub only, and write to `home`.

        huggingface_hub reads most of it once, when it is imported.
        """
        return {
            "HF_ENDPOINT": f"http://127.0.0.1:{self.server_port}",
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_TOKEN": "",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def talk_to(self, patch: pytest.MonkeyPatch, home: Path) -> list[float]:
        """Make this process talk to this hub only, and sleep never.

        Returns:
            The seconds that would have been slept, in order, from now on.
        """
        from huggingface_hub import constants

        environment = self.environment(home)
        for name, value in environment.items():
            patch.setenv(name, value)
        for name in ("HF_HOME", "HF_HUB_CACHE", "HF_TOKEN_PATH"):
            patch.setattr(constants, name, environment[name])
        endpoint = environment["HF_ENDPOINT"]
        patch.setattr(constants, "ENDPOINT", endpoint)
        patch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        url = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        naps: list[float] = []
        patch.setattr(time, "sleep", naps.append)
        return naps

    def add(self, name: str, files: Mapping[str, bytes]) -> str:
        """Make `files` the newest commit of a repository; return the commit's id.

        The id follows from the files alone.
        """
        stored = {path: StoredFile(path, files[path]) for path in sorted(files)}
        names = "".join(f"{file.digest} {path}\n" for path, file in stored.items())
        commit = hashlib.sha1(names.encode()).hexdigest()
        with self._lock:
            commits = self._repositories.setdefault(name, {})
            commits[commit] = commits["main"] = stored
        return commit

    def fail(
        self,
        trouble: Trouble,
        where: str = "",
        *,
        times: int = ALWAYS,
        seconds: int = 0,
    ) -> Fault:
        """Make requests with `where` in their path fail; of several the oldest first.

        A rate limit says to wait some seconds; huggingface_hub adds one.
        """
        fault = Fault(trouble, where, times, seconds)
        with self._lock:
            self._faults.append(fault)
        return fault

    def answer(self, request: Request) -> Response:
        """Answer one request, and remember it."""
        with self._lock:
            self.requests.append(request)
            return self._refusal(request) or self._answer(request)

    def _strike(self, trouble: Trouble, request: Request) -> Fault | None:
        """Return the fault that befalls a request, if one does, having counted it."""
        for fault in self._faults:
            is_due = fault.fired < fault.times and fault.where in request.path
            if fault.trouble == trouble and is_due:
                fault.fired += 1
                return fault
        return None

    def _refusal(self, request: Request) -> Response | None:
        if self._strike("unavailable", request):
            return _error(503, "Service Unavailable")
        if request.token and self._strike("bad token", request):
            return _error(401, "Invalid credentials in Authorization header")
        if self._strike("gated", request):
            return _error(401, "Access is restricted.", code="GatedRepo")
        if fault := self._strike("rate limit", request):
            limit = {"RateLimit": f'"resolvers";r=0;t={fault.seconds}'}
            return _error(429, "We had to rate limit your IP.", headers=limit)
        return None

    def _answer(self, request: Request) -> Response:
        asked = FILE.fullmatch(request.path) or API.fullmatch(request.path)
        if asked is None:
            return _error(404, "Not Found")
        name, revision = asked["name"], unquote(asked["revision"])
        if (commits := self._repositories.get(name)) is None:
            # So does the real hub hide private repositories.
            return _error(401, "Invalid username or password.", code="RepoNotFound")
        if (files := commits.get(revision)) is None:
            return _error(404, "Invalid rev id", code="RevisionNotFound")
        commit = next(each for each, stored in commits.items() if stored is files)
        if asked.re is API and asked["topic"] == "tree":
            return _json([file.entry() for file in files.values()])
        if asked.re is API:
            siblings = [{"rfilename": path} for path in files]
            return _json({"id": name, "sha": commit, "siblings": siblings})
        headers = {"X-Repo-Commit": commit}
        if (file := files.get(unquote(asked["path"]))) is None:
            return _error(404, "no such file", code="EntryNotFound", headers=headers)
        headers["ETag"] = etag = f'"{file.digest}"'
        if request.origin == "hub" and file.is_large:
            size, port = str(len(file.content)), self.server_port
            headers |= {"X-Linked-Size": size, "X-Linked-ETag": etag}
            headers["Location"] = f"http://localhost:{port}/cdn{request.path}"
            return Response(302, headers)
        return self._content(request, file.content, headers)

    def _content(
        self, request: Request, body: bytes, headers: dict[str, str]
    ) -> Response:
        """Hand out the part of a file that was asked for."""
        size, cut_after = len(body), ALWAYS
        middle = size // 2
        if request.method == "GET":
            if self._strike("flipped", request):
                body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
            if self._strike("cut", request):
                cut_after = middle
        if part := re.fullmatch(r"bytes=(\d+)-(\d*)", request.range):
            first, last = int(part[1]), min(int(part[2] or size), size - 1)
            headers = headers | {"Content-Range": f"bytes {first}-{last}/{size}"}
            return Response(206, headers, body[first : last + 1], cut_after)
        return Response(200, headers, body, cut_after)


def _json(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    headers = {"Content-Type": "application/json"} | dict(headers or {})
    return Response(status, headers, json.dumps(content).encode())


def _error(
    status: int,
    message: str,
    *,
    code: str = "",
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return an error in the form that huggingface_hub understands."""
    headers = {"X-Error-Message": message, "X-Error-Code": code} | dict(headers or {})
    return _json({"error": message}, status, headers)


class _Handler(BaseHTTPRequestHandler):
    """Turn bytes into a `Request`, and a `Response` into bytes."""

    protocol_version = "HTTP/1.1"
    timeout = 10  # seconds that a silent connection may keep the server from closing
    server: LoopbackHub

    def do_GET(self) -> None:
        """Answer a request of any method."""
        is_cdn = self.headers.get("Host", "").startswith("localhost")
        request = Request(
            method=self.command,
            path=urlsplit(self.path).path,
            origin="cdn" if is_cdn else "hub",
            range=self.headers.get("Range", ""),
            token=self.headers.get("Authorization", "").removeprefix("Bearer "),
        )
        response = self.server.answer(request)
        self.send_response(response.status)
        for name, text in response.headers.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(response.body)))
        # A connection kept open would keep its thread, and the server from closing.
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body[: response.cut_after])

    do_HEAD = do_GET  # noqa: N815 (http.server looks it up by name)

    def log_message(self, *_: Any) -> None:
        """Write nothing: `LoopbackHub.requests` is the log."""

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
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

import pytest

# The CDN has these (of the real hub, those of 10 MB and more).
LARGE_FILE_SUFFIXES = {".parquet", ".jsonl", ".safetensors"}
ALWAYS = sys.maxsize

# What goes wrong: HTTP 429, 503 and 401 (the token, or access to the repository), and
# transfers of large files that end in the middle, or with a wrong byte.
Trouble = Literal["rate limit", "unavailable", "bad token", "gated", "cut", "flipped"]

NAME = r"(?P<name>[^/]+(?:/[^/]+)??)"
FILE = re.compile(
    rf"/(?:cdn/)?(?:datasets/)?{NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)"
)
API = re.compile(rf"/api/models/{NAME}/(?P<topic>revision|tree)/(?P<revision>[^/]+)")

# How it refuses, in the headers that huggingface_hub understands.
REFUSALS: dict[Trouble, tuple[int, dict[str, str]]] = {
    "unavailable": (503, {}),
    "bad token": (
        401,
        {"X-Error-Message": "Invalid credentials in Authorization header"},
    ),
    "gated": (401, {"X-Error-Code": "GatedRepo"}),
    "rate limit": (429, {}),
}


class Request(NamedTuple):
    method: str
    path: str
    origin: Literal["hub", "cdn"]
    token: str  # "" if none came along
    first: int  # byte of the file


class Response(NamedTuple):
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


def is_large(path: str) -> bool:
    return Path(path).suffix in LARGE_FILE_SUFFIXES


def digest_of(path: str, content: bytes) -> str:
    """Return Git LFS's name for the content, or for a small file Git's."""
    if is_large(path):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class LoopbackHub(ThreadingHTTPServer):
    """A hub that answers from when it is made until it is closed."""

    daemon_threads = False  # closing waits for them
    request_queue_size = 128

    def __init__(self, handler: "type[HubHandler] | None" = None) -> None:
        super().__init__(("127.0.0.1", 0), handler or HubHandler)
        self.requests: list[Request] = []
        self._repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self._faults: list[Fault] = []
        self._lock = threading.RLock()  # `add` may be called while answering
        loop = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        loop.start()

    def server_close(self) -> None:
        """Stop answering; from now on connections are refused."""
        self.shutdown()
        super().server_close()

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
        stored = dict(sorted(files.items()))
        names = "".join(f"{digest_of(*file)} {file[0]}\n" for file in stored.items())
        commit = hashlib.sha1(names.encode()).hexdigest()
        with self._lock:
            commits = self._repositories.setdefault(name, {})
            commits[commit] = commits["main"] = stored
        return commit

    def fail(self, trouble: Trouble, where: str = "", **changes: int) -> Fault:
        """Make requests with `where` in their path fail; of several the oldest first.

        A rate limit says to wait some seconds; huggingface_hub adds one.
        """
        fault = Fault(trouble, where, **changes)
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
        for trouble, (status, headers) in REFUSALS.items():
            if trouble == "bad token" and not request.token:
                continue
            if fault := self._strike(trouble, request):
                limit = {"RateLimit": f'"resolvers";r=0;t={fault.seconds}'}
                return Response(status, headers | limit)
        return None

    def _answer(self, request: Request) -> Response:
        asked = FILE.fullmatch(request.path) or API.fullmatch(request.path)
        if asked is None:
            return Response(404, {})
        if (commits := self._repositories.get(asked["name"])) is None:
            # So does the real hub hide private repositories.
            return Response(401, {"X-Error-Code": "RepoNotFound"})
        if (files := commits.get(unquote(asked["revision"]))) is None:
            return Response(404, {"X-Error-Code": "RevisionNotFound"})
        commit = next(each for each, stored in commits.items() if stored is files)
        if asked.re is API:
            info = {"id": asked["name"], "sha": commit}
            tree = [
                {"type": "file", "path": path, "oid": digest_of(path, content)}
                | {"size": len(content)}
                for path, content in files.items()
            ]
            answer = json.dumps(tree if asked["topic"] == "tree" else info)
            return Response(200, {}, answer.encode())
        headers, path = {"X-Repo-Commit": commit}, unquote(asked["path"])
        if (content := files.get(path)) is None:
            return Response(404, headers | {"X-Error-Code": "EntryNotFound"})
        headers["ETag"] = etag = f'"{digest_of(path, content)}"'
        if request.origin == "hub" and is_large(path):
            size, port = str(len(content)), self.server_port
            headers |= {"X-Linked-Size": size, "X-Linked-ETag": etag}
            headers["Location"] = f"http://localhost:{port}/cdn{request.path}"
            return Response(302, headers)
        return self._content(request, content, headers)

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
        if first := request.first:
            headers = headers | {"Content-Range": f"bytes {first}-{size - 1}/{size}"}
            return Response(206, headers, body[first:], cut_after)
        return Response(200, headers, body, cut_after)


class HubHandler(BaseHTTPRequestHandler):
    """Turn bytes into a `Request`, and a `Response` into bytes."""

    protocol_version = "HTTP/1.1"
    timeout = 10  # seconds that a silent connection may keep the server from closing
    server: LoopbackHub

    def do_GET(self) -> None:
        """Answer a request for something."""
        self.reply(self.server.answer(self.request_made()))

    do_HEAD = do_GET  # noqa: N815 (http.server looks it up by name)

    def request_made(self) -> Request:
        """Return the request, without what it brings."""
        is_cdn = self.headers.get("Host", "").startswith("localhost")
        part = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return Request(
            method=self.command,
            path=urlsplit(self.path).path,
            origin="cdn" if is_cdn else "hub",
            token=self.headers.get("Authorization", "").removeprefix("Bearer "),
            first=int(part[1]) if part else 0,
        )

    def reply(self, response: Response) -> None:
        """Send a response."""
        self.send_response(response.status)
        for name, text in response.headers.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(response.body)))
        # A connection kept open would keep its thread, and the server from closing.
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body[: response.cut_after])

    def log_message(self, *_: Any) -> None:
        """Write nothing: `LoopbackHub.requests` is the log."""

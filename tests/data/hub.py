"""A Hugging Face hub on this machine, with the faults that the real one has.

It keeps repositories in memory and answers, over real sockets, what huggingface_hub,
transformers and datasets ask when they download. The real hub hands large files out
from hosts of their own, where a token has no business; so does this one: its server
is the hub under the name 127.0.0.1, and the CDN under the name localhost.

Rate limits: https://huggingface.co/docs/hub/rate-limits
"""

import hashlib
import json
import os
import re
import socket
import struct
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

LARGE_FILE_BYTES = 4096  # the real hub's is 10 MB
LARGE_FILE_SUFFIXES = {".parquet", ".jsonl", ".bin", ".safetensors"}
ALWAYS = sys.maxsize

Kind = Literal["datasets", "models"]
Trouble = Literal[
    "rate limit",
    "unavailable",
    "bad token",
    "cut",
    "reset",
    "flipped",
    "shortened",
    "gated",
    "private",
    "removed",
]

# A name has an owner, except where a client still uses one from before owners.
NAME = "(?P<name>[^/]+(?:/[^/]+)??)"
FILE = re.compile(
    rf"/(?:(?P<kind>datasets)/)?{NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)"
)
API = re.compile(
    rf"/api/(?P<kind>datasets|models)/{NAME}"
    r"(?:/(?P<topic>revision|tree|paths-info)/(?P<revision>[^/]+)(?:/(?P<path>.+))?)?"
)
CDN_FILE = re.compile(
    rf"/cdn/(?P<kind>datasets|models)/{NAME}/(?P<commit>\w{{40}})/(?P<path>.+)"
)
BYTES = re.compile(r"bytes=(?P<first>\d+)-(?P<last>\d*)")


class Request(NamedTuple):
    """What a client sent."""

    method: str
    path: str
    query: str
    origin: Literal["hub", "cdn"]
    range: str  # such as "bytes=100-", or "" for all
    token: str  # "" if none came along


class Response(NamedTuple):
    """What the client gets, a `cut` or `reset` one only half of the body."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    breaks: Literal["", "cut", "reset"] = ""


class RefusalError(Exception):
    """An answer that is an error, in the form that huggingface_hub understands."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        all_headers = {"X-Error-Message": message} | dict(headers or {})
        if code:
            all_headers["X-Error-Code"] = code
        self.response = _json({"error": message}, status, all_headers)


@dataclass
class Fault:
    """Something that goes wrong a number of times, and counts how often it did."""

    trouble: Trouble
    where: str  # part of the address, or of "owner/name/path", of what it befalls
    times: int
    seconds: int = 0  # until a rate limit ends
    token: str = ""  # that opens a gated or private repository
    fired: int = 0


@dataclass(frozen=True)
class StoredFile:
    """A file of a repository."""

    path: str
    content: bytes

    @property
    def is_large(self) -> bool:
        """Tell whether the CDN has it (Git LFS or Xet), not the repository itself."""
        suffix = PurePosixPath(self.path).suffix
        return len(self.content) >= LARGE_FILE_BYTES and suffix in LARGE_FILE_SUFFIXES

    @cached_property
    def git_id(self) -> str:
        """Return Git's name for the content."""
        header = b"blob %d\0" % len(self.content)
        return hashlib.sha1(header + self.content).hexdigest()

    @cached_property
    def sha256(self) -> str:
        """Return Git LFS's name for the content."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self) -> str:
        """Return the name under which huggingface_hub keeps the content."""
        return f'"{self.sha256 if self.is_large else self.git_id}"'

    def entry(self) -> dict[str, Any]:
        """Describe the file as listings do."""
        size = len(self.content)
        entry = {"type": "file", "path": self.path, "oid": self.git_id, "size": size}
        if self.is_large:
            entry["lfs"] = {"oid": self.sha256, "size": size, "pointerSize": 134}
        return entry


@dataclass
class Repository:
    """A dataset or a model: all its commits, and the one that `main` points to."""

    kind: Kind
    name: str
    commits: dict[str, dict[str, StoredFile]]
    main: str

    def commit(self, revision: str) -> str:
        """Return the commit that a branch's name or a commit's id stands for."""
        commit = self.main if revision in ("main", "HEAD") else revision
        if commit not in self.commits:
            raise RefusalError(
                404, f"Invalid rev id: {revision}", code="RevisionNotFound"
            )
        return commit


class LoopbackHub:
    """A hub that answers from when it is made until it is closed.

    Its faults are made by methods, each of which returns a `Fault`; `fault.fired` tells
    how often it came about. Of several that fit a request the oldest comes first.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._repositories: dict[tuple[Kind, str], Repository] = {}
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._server = _Server(self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop answering; from now on connections to `endpoint` are refused."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        """Return the hub's address, for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def environment(self, home: Path) -> dict[str, str]:
        """Return what makes a new process talk to this hub only, and write to `home`.

        huggingface_hub reads most of it once, when it is imported.
        """
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_TOKEN": "",
            "HUGGING_FACE_HUB_TOKEN": "",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def add_dataset(self, name: str, files: Mapping[str, bytes]) -> str:
        """Make `files` the newest commit of a dataset, and return the commit's id."""
        return self._add("datasets", name, files)

    def add_model(self, name: str, files: Mapping[str, bytes]) -> str:
        """Make `files` the newest commit of a model, and return the commit's id.

        As `gpt2` leads to `openai-community/gpt2`, a name without its owner leads to
        the model that was added first under that name.
        """
        return self._add("models", name, files)

    def requests_for(
        self, part: str, *, method: str = "", origin: str = ""
    ) -> list[Request]:
        """Return the requests with `part` in their path, in the order they came."""
        with self._lock:
            return [
                request
                for request in self.requests
                if part in request.path
                and method in ("", request.method)
                and origin in ("", request.origin)
            ]

    def limit_rate(self, times: int, *, seconds: int = 0, where: str = "") -> Fault:
        """Answer 429 to the next requests with `where` in their path.

        Args:
            times: How many requests.
            seconds: How long the hub says to wait. huggingface_hub adds one.
            where: A part of the path.
        """
        return self._add_fault(Fault("rate limit", where, times, seconds=seconds))

    def be_unavailable(self, times: int, *, where: str = "") -> Fault:
        """Answer 503 to the next requests, of hub or CDN, with `where` in the path."""
        return self._add_fault(Fault("unavailable", where, times))

    def refuse_tokens(self, times: int = ALWAYS) -> Fault:
        """Answer 401 to requests with a token, as if it were mistyped or expired."""
        return self._add_fault(Fault("bad token", "", times))

    def cut_downloads(
        self, times: int, *, where: str = "", reset: bool = False
    ) -> Fault:
        """Close the connection in the middle of the next large files.

        Args:
            times: How many transfers.
            where: A part of "owner/name/path/in/repository".
            reset: Let the connection break (RST), where it would else end (FIN).
        """
        return self._add_fault(Fault("reset" if reset else "cut", where, times))

    def flip_byte(self, path: str, *, times: int = ALWAYS) -> Fault:
        """Hand a file out with a wrong byte in its middle."""
        return self._add_fault(Fault("flipped", path, times))

    def shorten(self, path: str, *, times: int = ALWAYS) -> Fault:
        """Hand only a file's first half out, with a Content-Length that fits it."""
        return self._add_fault(Fault("shortened", path, times))

    def gate(self, name: str, *, token: str = "") -> Fault:
        """Refuse a repository's files, but not its listing, to all without `token`."""
        return self._add_fault(Fault("gated", name, ALWAYS, token=token))

    def make_private(self, name: str, *, token: str = "") -> Fault:
        """Deny that a repository exists to all who come without `token`."""
        return self._add_fault(Fault("private", name, ALWAYS, token=token))

    def remove_file(self, name: str, path: str) -> Fault:
        """Take a file out of all commits of a repository, whose ids stay."""
        with self._lock:
            for repository in self._repositories.values():
                if repository.name == name:
                    for files in repository.commits.values():
                        files.pop(path, None)
        return self._add_fault(Fault("removed", f"{name}/{path}", ALWAYS))

    def answer(self, request: Request, body: bytes) -> Response:
        """Answer one request, and remember it."""
        with self._lock:
            self.requests.append(request)
            try:
                if request.origin == "cdn":
                    return self._from_cdn(request)
                return self._from_hub(request, body)
            except RefusalError as refusal:
                return refusal.response

    def _add(self, kind: Kind, name: str, files: Mapping[str, bytes]) -> str:
        stored = {path: StoredFile(path, files[path]) for path in sorted(files)}
        names = "".join(f"{file.git_id} {path}\n" for path, file in stored.items())
        commit = hashlib.sha1(names.encode()).hexdigest()
        with self._lock:
            repository = self._repositories.setdefault(
                (kind, name), Repository(kind, name, commits={}, main="")
            )
            repository.commits[commit] = stored
            repository.main = commit
        return commit

    def _add_fault(self, fault: Fault) -> Fault:
        with self._lock:
            self._faults.append(fault)
        return fault

    def _strike(self, trouble: Trouble, what: str, token: str = "") -> Fault | None:
        """Return the fault that befalls `what` now, if one does, having counted it."""
        for fault in self._faults:
            if (
                fault.trouble == trouble
                and fault.where in what
                and fault.fired < fault.times
                and not (token and token == fault.token)
            ):
                fault.fired += 1
                return fault
        return None

    def _from_cdn(self, request: Request) -> Response:
        if self._strike("unavailable", request.path):
            return Response(503, {})
        asked = CDN_FILE.fullmatch(request.path)
        if asked is None:
            return Response(403, {})
        repository = self._repositories[_kind(asked), asked["name"]]
        file = repository.commits[asked["commit"]][unquote(asked["path"])]
        return self._content(request, repository, file, {"ETag": file.etag})

    def _from_hub(self, request: Request, body: bytes) -> Response:
        self._refuse_if_in_trouble(request)
        asked = FILE.fullmatch(request.path) or API.fullmatch(request.path)
        if asked is None:
            raise RefusalError(404, "Not Found")
        if full_name := self._full_name(_kind(asked), asked["name"]):
            start, end = asked.span("name")
            path = request.path[:start] + full_name + request.path[end:]
            query = f"?{request.query}" if request.query else ""
            return Response(307, {"Location": path + query})

        repository = self._repository(_kind(asked), asked["name"], request.token)
        commit = repository.commit(unquote(asked["revision"] or "main"))
        path = unquote(asked["path"] or "")
        if asked.re is FILE:
            return self._file(request, repository, commit, path)
        files = repository.commits[commit]
        match asked["topic"]:
            case "tree":
                is_recursive = "recursive=true" in request.query.lower()
                return _json(_tree(files, path, recursive=is_recursive))
            case "paths-info":
                paths = parse_qs(body.decode()).get("paths", [])
                entries = _tree(files, "", recursive=True)
                return _json([entry for entry in entries if entry["path"] in paths])
            case _:
                return _json(self._info(repository, commit))

    def _refuse_if_in_trouble(self, request: Request) -> None:
        if self._strike("unavailable", request.path):
            raise RefusalError(503, "Service Unavailable")
        if request.token and self._strike("bad token", request.path):
            raise RefusalError(401, "Invalid credentials in Authorization header")
        if fault := self._strike("rate limit", request.path):
            is_api = request.path.startswith("/api/")
            group, quota = ("api", 500) if is_api else ("resolvers", 3000)
            raise RefusalError(
                429,
                "We had to rate limit your IP. To continue using our service, create a "
                "HF account or login to your existing account, and make sure you pass "
                "a HF_TOKEN if you're using the API.",
                headers={
                    "RateLimit": f'"{group}";r=0;t={fault.seconds}',
                    "RateLimit-Policy": f'"fixed window";"{group}";q={quota};w=300',
                    "Retry-After": str(fault.seconds),
                },
            )

    def _repository(self, kind: Kind, name: str, token: str) -> Repository:
        repository = self._repositories.get((kind, name))
        if repository is None or self._strike("private", name, token):
            # The same for both, so that nobody learns the names of private ones.
            status, message = (
                (404, "Repository not found")
                if token
                else (401, "Invalid username or password.")
            )
            raise RefusalError(status, message, code="RepoNotFound")
        return repository

    def _full_name(self, kind: Kind, name: str) -> str | None:
        """Return the name with its owner, if only the owner is missing."""
        if "/" in name or (kind, name) in self._repositories:
            return None
        for repository in self._repositories.values():
            if repository.kind == kind and repository.name.endswith(f"/{name}"):
                return repository.name
        return None

    def _info(self, repository: Repository, commit: str) -> dict[str, Any]:
        name = repository.name
        troubles = {fault.trouble for fault in self._faults if fault.where == name}
        return {
            "_id": "0",
            "id": name,
            "sha": commit,
            "private": "private" in troubles,
            "gated": "manual" if "gated" in troubles else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "createdAt": "2024-01-01T00:00:00.000Z",
            "lastModified": "2024-01-01T00:00:00.000Z",
            "siblings": [{"rfilename": path} for path in repository.commits[commit]],
        }

    def _file(
        self, request: Request, repository: Repository, commit: str, path: str
    ) -> Response:
        kind, name = repository.kind, repository.name
        if self._strike("gated", name, request.token):
            status, reason = (
                (403, " and you are not in the authorized list.")
                if request.token
                else (401, ". You must have access to it and be authenticated.")
            )
            message = f"Access to {kind[:-1]} {name} is restricted{reason}"
            raise RefusalError(status, message, code="GatedRepo")
        if path not in repository.commits[commit]:
            self._strike("removed", f"{name}/{path}")
            raise RefusalError(
                404,
                "Entry not found",
                code="EntryNotFound",
                headers={"X-Repo-Commit": commit},
            )
        file = repository.commits[commit][path]
        headers = {"X-Repo-Commit": commit, "ETag": file.etag}
        if not file.is_large:
            return self._content(request, repository, file, headers)
        headers |= {
            "X-Linked-Size": str(len(file.content)),
            "X-Linked-ETag": file.etag,
            "Location": f"http://localhost:{self._server.server_port}"
            f"/cdn/{kind}/{name}/{commit}/{quote(path)}",
        }
        return Response(302, headers)

    def _content(
        self,
        request: Request,
        repository: Repository,
        file: StoredFile,
        headers: dict[str, str],
    ) -> Response:
        """Hand out the part of a file that was asked for."""
        body, size = file.content, len(file.content)
        what = f"{repository.name}/{file.path}"
        is_get = request.method == "GET"
        if is_get and self._strike("flipped", what):
            middle = size // 2
            wrong = bytes([body[middle] ^ 1])
            body = body[:middle] + wrong + body[middle + 1 :]
        if is_get and self._strike("shortened", what):
            size //= 2
            body = body[:size]

        status = 200
        headers = headers | {"Accept-Ranges": "bytes"}
        if part := BYTES.fullmatch(request.range):
            first = int(part["first"])
            last = min(int(part["last"] or size), size - 1)
            if first > last:
                return Response(416, {"Content-Range": f"bytes */{size}"})
            status = 206
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
            body = body[first : last + 1]

        breaks: Literal["", "cut", "reset"] = ""
        if is_get and file.is_large:
            if self._strike("cut", what):
                breaks = "cut"
            elif self._strike("reset", what):
                breaks = "reset"
        return Response(status, headers, body, breaks)


def _kind(asked: re.Match[str]) -> Kind:
    return "datasets" if asked["kind"] == "datasets" else "models"


def _json(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    headers = {"Content-Type": "application/json"} | dict(headers or {})
    return Response(status, headers, json.dumps(content).encode())


def _tree(
    files: Mapping[str, StoredFile], folder: str, *, recursive: bool
) -> list[dict[str, Any]]:
    """List files and folders inside `folder`, or below it if `recursive`."""
    entries = {path: file.entry() for path, file in files.items()}
    for path in files:
        for parent in PurePosixPath(path).parents[:-1]:
            name = str(parent)
            oid = hashlib.sha1(name.encode()).hexdigest()
            entries[name] = {"type": "directory", "path": name, "oid": oid, "size": 0}
    start = f"{folder}/" if folder else ""
    inside = [
        entries[path]
        for path in sorted(entries)
        if path.startswith(start) and (recursive or "/" not in path.removeprefix(start))
    ]
    if folder and not inside:
        raise RefusalError(404, f"{folder} does not exist", code="EntryNotFound")
    return inside


class _Server(ThreadingHTTPServer):
    """The socket, and a thread for each connection."""

    daemon_threads = False  # closing waits for them
    request_queue_size = 128

    def __init__(self, hub: LoopbackHub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Be silent where it is the client who hung up: tests kill clients."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Turn bytes into a `Request`, and a `Response` into bytes."""

    protocol_version = "HTTP/1.1"
    timeout = 10  # seconds that a silent connection may keep the server from closing
    server: _Server

    def do_GET(self) -> None:
        """Answer a request of any method."""
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        url = urlsplit(self.path)
        is_cdn = self.headers.get("Host", "").startswith("localhost")
        request = Request(
            method=self.command,
            path=url.path,
            query=url.query,
            origin="cdn" if is_cdn else "hub",
            range=self.headers.get("Range", ""),
            token=self.headers.get("Authorization", "").removeprefix("Bearer "),
        )
        self._send(self.server.hub.answer(request, body))

    do_HEAD = do_POST = do_GET  # noqa: N815 (http.server looks them up by name)

    def log_message(self, *_: Any) -> None:
        """Write nothing: `LoopbackHub.requests` is the log."""

    def _send(self, response: Response) -> None:
        self.send_response(response.status)
        for name, text in response.headers.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(response.body)))
        # A connection kept open would keep its thread, and the server from closing.
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        half = len(response.body) // 2
        self.wfile.write(response.body[:half] if response.breaks else response.body)
        if response.breaks == "reset":
            no_lingering = struct.pack("ii", 1, 0)
            self.connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, no_lingering
            )
            os.close(self.connection.detach())

"""The hub of this machine, to which one can publish.

It answers, over real sockets, what huggingface_hub asks to create a repository and to
commit: small files come within the commit, large ones to an address of their own (Git
LFS: https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md).
"""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tests.data.hub import HubHandler, LoopbackHub, Request, Response, is_large

Answer = tuple[int, Any]

OWNER = "ada"
TOKEN = "hf_of0ada"
VALIDATE = "/api/validate-yaml"  # for anyone


class PublishingHub(LoopbackHub):
    """A hub on which one user may publish under one name."""

    def __init__(self) -> None:
        super().__init__(PublishingHandler)
        self.commits: list[str] = []  # their messages
        self.private: set[str] = set()
        self._large: dict[str, bytes] = {}  # by SHA-256

    def talk_to(self, patch: pytest.MonkeyPatch, home: Path) -> list[float]:
        """Make this process talk to this hub only, as the user that may publish."""
        from huggingface_hub import constants

        naps = super().talk_to(patch, home)
        patch.setenv("HF_TOKEN", TOKEN)
        # As `hub_client` has it: but the client was imported before.
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        return naps

    def take(self, request: Request, body: bytes) -> Response:
        """Answer a request that brings something."""
        with self._lock:
            self.requests.append(request)
            if refusal := self._refusal(request):
                return refusal
            if request.method == "PUT":  # as to the hosts that store large files
                self._large[request.path.removeprefix("/lfs/")] = body
                return Response(200, {})
            if request.token != TOKEN and request.path != VALIDATE:
                message = "Invalid credentials in Authorization header"
                return Response(401, {"X-Error-Message": message}, b"{}")
            status, value = self._take(request.path, body)
            return Response(status, {}, json.dumps(value).encode())

    def _take(self, path: str, body: bytes) -> Answer:
        if path == VALIDATE:
            return self._validate(json.loads(body)["content"])
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if found := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            return self._may_write(found[1]) or (200, self._batch(json.loads(body)))
        if found := re.fullmatch(r"/api/models/(.+)/(preupload|commit)/main", path):
            if refused := self._may_write(found[1]):
                return refused
            if found[2] == "preupload":
                return 200, self._preupload(json.loads(body))
            return self._commit(found[1], body)
        return 404, {}

    def _may_write(self, name: str) -> Answer | None:
        return None if name.startswith(f"{OWNER}/") else (403, {"error": "Forbidden"})

    def _validate(self, card: str) -> Answer:
        """Check of a card's head what the real hub says that it checks."""
        try:
            head = YAML(typ="safe").load(card.split("---\n")[1])
        except (IndexError, YAMLError) as error:
            return 400, {"errors": [{"message": str(error)}]}
        if head["license"] == "other" and not head.get("license_name"):
            return 400, {"errors": [{"message": '"license_name" is missing'}]}
        return 200, {}

    def _create(self, wanted: dict[str, Any]) -> Answer:
        name = f"{wanted['organization'] or OWNER}/{wanted['name']}"
        if refused := self._may_write(name):
            return refused
        if name in self._repositories:
            return 409, {"url": f"/{name}"}
        self.add(name, {})
        if wanted.get("visibility") == "private":
            self.private.add(name)
        return 200, {"url": f"/{name}"}

    def _preupload(self, wanted: dict[str, Any]) -> Any:
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if is_large(file["path"]) else "regular",
                    "shouldIgnore": False,
                }
                for file in wanted["files"]
            ]
        }

    def _batch(self, wanted: dict[str, Any]) -> Any:
        address = f"http://127.0.0.1:{self.server_port}/lfs"
        return {
            "objects": [
                {**file, "actions": {"upload": {"href": f"{address}/{file['oid']}"}}}
                for file in wanted["objects"]
            ]
        }

    def _commit(self, name: str, body: bytes) -> Answer:
        files = dict(self._repositories[name]["main"])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            match line["key"]:
                case "header":
                    self.commits.append(value["summary"])
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    content = self._large[value["oid"]]
                    assert hashlib.sha256(content).hexdigest() == value["oid"]
                    files[value["path"]] = content
        commit = self.add(name, files)
        address = f"http://127.0.0.1:{self.server_port}/{name}/commit/{commit}"
        return 200, {"commitUrl": address, "commitOid": commit}

    def _answer(self, request: Request) -> Response:
        name = request.path.removeprefix("/api/models/")
        if name in self._repositories:
            info = {"id": name, "private": name in self.private}
            return Response(200, {}, json.dumps(info).encode())
        return super()._answer(request)

    def files_of(self, name: str) -> dict[str, bytes]:
        """Return the newest commit of a repository; nothing if there is none."""
        return self._repositories.get(name, {}).get("main", {})


class PublishingHandler(HubHandler):
    """Read what a request brings."""

    server: PublishingHub

    def do_POST(self) -> None:  # noqa: N802 (http.server looks it up by name)
        """Answer a request that brings something."""
        if "Content-Length" in self.headers:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        else:
            body = b"".join(self._chunks())
        self.reply(self.server.take(self.request_made(), body))

    do_PUT = do_POST  # noqa: N815

    def _chunks(self) -> Any:
        """Yield the parts of a body whose size is not said before."""
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

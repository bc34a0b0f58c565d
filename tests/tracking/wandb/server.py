"""A stand-in of W&B's server: it keeps what W&B's own process sends, or fails.

It answers the requests that wandb-core makes for a run and its artifacts, no others.
What the real server checks, or shows, cannot be seen here.
"""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "planted".ljust(40, "0")  # of the length that W&B's client accepts

FEATURE = "ARTIFACT_MEMBERSHIP_IN_LINK_ARTIFACT_RESPONSE"


class WandbServer(ThreadingHTTPServer):
    """Keeps runs by their id, and artifacts in the order in which they came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Requests)
        self.runs: dict[str, dict[str, Any]] = {}  # the last values of each
        self.lines: dict[str, dict[str, list[str]]] = {}  # by run, by file
        self.exit_codes: dict[str, int] = {}
        self.artifacts: list[dict[str, Any]] = []
        self.registries: set[str] = set()
        self.links: list[dict[str, Any]] = []
        self.uploads: dict[str, bytes] = {}
        self.sweep_command: list[str] = []
        self.trials: list[dict[str, Any]] = []  # of a sweep, for its agent to run
        self.keys: set[str] = set()  # the API keys that came
        self.unknown: set[str] = set()  # operations that it has no answer to
        self.fault: tuple[int, str, str] | None = None  # status, type of content, body
        self.delay_seconds = 0.0
        self.num_requests = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def history(self, run_id: str) -> list[dict[str, Any]]:
        """Return the points of a run, without W&B's own keys."""
        lines = self.lines.get(run_id, {}).get("wandb-history.jsonl", [])
        return [
            {key: value for key, value in json.loads(line).items() if key[0] != "_"}
            for line in lines
        ]

    def summary(self, run_id: str) -> dict[str, Any]:
        lines = self.lines.get(run_id, {}).get("wandb-summary.json", ["{}"])
        return dict(json.loads(lines[-1]))

    def answer(self, operation: str, values: dict[str, Any]) -> dict[str, Any]:
        """Answer a GraphQL operation as far as W&B's process reads the answer."""
        given = values.get("input", {})
        match operation:
            case "ServerFeaturesQuery":
                features = [{"name": FEATURE, "isEnabled": True}]
                return {"serverInfo": {"features": features}}
            case "Viewer":
                viewer = {"id": "1", "entity": "me", "username": "me", "flags": "{}"}
                return {"viewer": {**viewer, "email": "", "teams": {"edges": []}}}
            case "SweepWithRuns":
                config = json.dumps({"command": self.sweep_command})  # also YAML
                sweep = {"config": config, "runs": {"edges": []}}
                return {"project": {"sweep": sweep}}
            case "CreateAgent":
                return {"createAgent": {"agent": {"id": "1"}}}
            case "Heartbeat":
                commands, self.trials = self.trials[:1], self.trials[1:]
                return {"agentHeartbeat": {"commands": json.dumps(commands)}}
            case "OrganizationCoreWeaveOrganizationID":
                return {"entity": {"organization": None}}
            case "ArtifactType":
                return {"project": {"artifact": None}}  # there is none of that name
            case "RunResumeStatus":
                return {"model": self._model(values)}
            case "UpsertBucket":
                return {"upsertBucket": self._upsert(values)}
            case "RunStoppedStatus":
                return {"project": {"run": {"stopped": False}}}
            case "CreateRunFiles":
                files = [
                    {"name": name, "uploadUrl": f"{self.url}/upload/{name}"}
                    for name in values["files"]
                ]
                created = {"runID": "1", "uploadHeaders": [], "files": files}
                return {"createRunFiles": created}
            case "CreateArtifact":
                self.artifacts.append(given)
                number = str(len(self.artifacts))
                latest = {"latestArtifact": None}
                artifact = {
                    "id": number,
                    "state": "PENDING",
                    "artifactSequence": latest,
                }
                return {"createArtifact": {"artifact": artifact}}
            case "CreateArtifactManifest" | "UpdateArtifactManifest":
                name = operation[0].lower() + operation[1:]
                url = f"{self.url}/upload/manifest"
                file = {"id": "1", "uploadUrl": url, "uploadHeaders": []}
                return {name: {"artifactManifest": {"id": "1", "file": file}}}
            case "CreateArtifactFiles":
                nodes = [
                    {
                        "storagePath": file["name"],
                        "uploadUrl": f"{self.url}/upload/{file['name']}",
                        "uploadHeaders": [],
                        "uploadMultipartUrls": None,
                        "artifact": {"id": file["artifactID"]},
                    }
                    for file in given["artifactFiles"]
                ]
                edges = [{"node": node} for node in nodes]
                return {"createArtifactFiles": {"files": {"edges": edges}}}
            case "CommitArtifact":
                number = values["artifactID"]
                self.artifacts[int(number) - 1]["is_committed"] = True
                return {"commitArtifact": {"artifact": {"id": number, "digest": "1"}}}
            case "ArtifactByID":
                return {"artifact": self._artifact(values["id"])}
            case "FetchOrgInfoFromEntity":
                organization = {"name": "Org", "orgEntity": {"name": "org"}}
                return {"entity": {"organization": organization, "user": None}}
            case "LinkArtifact":
                if given["projectName"] not in self.registries:
                    return {"result": None}
                self.links.append(given)
                membership = self._membership(given)
                return {"result": {"versionIndex": 0, "artifactMembership": membership}}
        self.unknown.add(operation)
        return {}

    def _artifact(self, number: str) -> dict[str, Any]:
        given = self.artifacts[int(number) - 1]
        collection = _collection(given["artifactCollectionName"], given["projectName"])
        return {
            "id": number,
            "artifactSequence": {"__typename": "ArtifactSequence", **collection},
            "artifactType": {"name": given["artifactTypeName"]},
            "versionIndex": 0,
            "description": None,
            "metadata": given["metadata"],
            "ttlDurationSeconds": -2,
            "ttlIsInherited": True,
            "tags": [],
            "historyStep": None,
            "state": "COMMITTED",
            "size": 0,
            "digest": given["digest"],
            "commitHash": None,
            "fileCount": 1,
            "createdAt": "2026-01-01T00:00:00Z",
            "updatedAt": None,
            "aliases": [],
        }

    def _membership(self, given: dict[str, Any]) -> dict[str, Any]:
        name, project = given["artifactPortfolioName"], given["projectName"]
        return {
            "id": "1",
            "versionIndex": 0,
            "createdAt": "2026-01-01T00:00:00Z",
            "aliases": [],
            "artifactCollection": {
                "__typename": "ArtifactPortfolio",
                **_collection(name, project),
            },
            "artifact": self._artifact(given["artifactID"]),
        }

    def _model(self, values: dict[str, Any]) -> dict[str, Any]:
        run_id = values["name"]
        bucket = None
        if run_id in self.runs:
            history = self.lines.get(run_id, {}).get("wandb-history.jsonl", [])
            events = self.lines.get(run_id, {}).get("wandb-events.jsonl", [])
            bucket = {
                "id": run_id,
                "name": run_id,
                "summaryMetrics": json.dumps(self.summary(run_id)),
                "logLineCount": 0,
                "historyLineCount": len(history),
                "eventsLineCount": len(events),
                "historyTail": json.dumps(history[-1:]),
                "eventsTail": json.dumps(events[-1:]),
                "config": self.runs[run_id].get("config") or "{}",
                "tags": self.runs[run_id].get("tags"),
                "wandbConfig": '{"t": 1}',
            }
        return {"id": "1", "name": "", "entity": {"id": "1"}, "bucket": bucket}

    def _upsert(self, values: dict[str, Any]) -> dict[str, Any]:
        run_id = values["name"]
        is_new = run_id not in self.runs
        run = self.runs.setdefault(run_id, {})
        run |= {key: value for key, value in values.items() if value is not None}
        project = {
            "id": "1",
            "name": run.get("project"),
            "entity": {"id": "1", "name": run.get("entity") or "me"},
        }
        lines = self.lines.get(run_id, {}).get("wandb-history.jsonl", [])
        bucket = {
            "id": run_id,
            "name": run_id,
            "displayName": run.get("displayName"),
            "config": run.get("config"),
            "sweepName": run.get("sweep"),
            "project": project,
            "historyLineCount": len(lines),
        }
        return {"bucket": bucket, "inserted": is_new}

    def keep_lines(self, run_id: str, sent: dict[str, Any]) -> None:
        """Write lines at the place in their file that they name, as the server does."""
        files = self.lines.setdefault(run_id, {})
        for name, piece in sent.get("files", {}).items():
            lines = files.setdefault(name, [])
            start = piece["offset"]
            lines[start : start + len(piece["content"])] = piece["content"]
        if sent.get("complete"):
            self.exit_codes[run_id] = sent.get("exitcode", 0)


class Requests(BaseHTTPRequestHandler):
    """Answers one connection after another."""

    protocol_version = "HTTP/1.1"
    server: WandbServer

    def do_GET(self) -> None:
        self._respond(404, "text/plain", "not here")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server = self.server
        server.num_requests += 1
        time.sleep(server.delay_seconds)
        if server.fault is not None:
            self._respond(*server.fault)
            return
        server.keys.add(self.headers.get("Authorization", ""))
        values = json.loads(body or b"{}")
        if match := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            server.keep_lines(match[1], values)
            self._respond(200, "application/json", "{}")
            return
        operation = values.get("operationName") or _operation(values["query"])
        data = server.answer(operation, values.get("variables") or {})
        self._respond(200, "application/json", json.dumps({"data": data}))

    def do_PUT(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.server.uploads[self.path.removeprefix("/upload/")] = self.rfile.read(
            length
        )
        self._respond(200, "text/plain", "")

    def _respond(self, status: int, content_type: str, body: str) -> None:
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def _collection(name: str, project: str) -> dict[str, Any]:
    entity = {"name": "team"}
    project_info = {"id": "1", "internalId": "1", "name": project, "entity": entity}
    return {"name": name, "project": project_info}


def _operation(query: str) -> str:
    found = re.search(r"(?:query|mutation)\s+(\w+)", query)
    return found[1] if found else query


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """Yield a server that runs until the block ends."""
    with WandbServer() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()

"""A real MLflow server on this machine, and a proxy before it that makes faults."""

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.faults.audit import differences, in_mlflow
from tests.faults.kills import wait_until
from tests.ports import free_port
from toygpt.tracking.mlflow.database import database_uri
from toygpt.tracking.record import Record

PAGE = "<!doctype html>\n<html>\n<body>Welcome to nginx!</body>\n</html>\n"


class Server(NamedTuple):
    """A server that runs."""

    address: str
    folder: Path  # of its files, like `mlflow.db`

    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.address)

    def experiment_names(self) -> dict[str, str]:
        """Return the names of all experiments, by their ids."""
        found = self.client().search_experiments()
        return {experiment.experiment_id: experiment.name for experiment in found}


def audit_at(server: Server, record: Record) -> list[str]:
    """Return what the server has of a record otherwise than once and as it is."""
    runs = in_mlflow(server.folder).get(record.info.id, [])
    if len(runs) != 1:
        return [f"{len(runs)} runs of {record.info.name}"]
    return differences("mlflow", record, *runs)


# Runs a command with all that it starts, until standard input is closed: also if the
# test was killed.
UNTIL_THE_TEST_ENDS = """
import os, select, signal, subprocess, sys
process = subprocess.Popen(
    sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True
)
while process.poll() is None and not select.select([sys.stdin], [], [], 0.2)[0]:
    pass
os.killpg(process.pid, signal.SIGKILL)
"""


@contextmanager
def running_server(
    folder: Path, database: Path, *options: str, **environment: str
) -> Iterator[Server]:
    """Run `mlflow server` in a folder.

    Args:
        folder: For its files.
        database: An empty one of MLflow's, which it gets a copy of.
        options: Of the command.
        environment: Variables besides those of the test.
    """
    shutil.copy(database, folder)
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", database_uri(folder / database.name)]
    command += ["--artifacts-destination", str(folder / "artifacts"), *options]
    quiet = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    log = folder / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", UNTIL_THE_TEST_ENDS, *command],
            cwd=folder,
            env=os.environ | quiet | environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C at the test is not for it
        )
    try:

        def answers() -> bool:
            assert process.poll() is None, log.read_text()
            with suppress(OSError), urllib.request.urlopen(f"{address}/health") as it:
                return bool(it.status == 200)
            return False

        wait_until(answers)
        yield Server(address, folder)
    finally:
        process.communicate()


class Proxy:
    """Passes requests on to a server, unless it shall answer itself, or is down."""

    def __init__(self, server: Server) -> None:
        self.upstream = urlsplit(server.address).netloc
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.answer: tuple[int, str] | None = None  # instead of the server's
        self.requests: list[str] = []  # their paths
        self.num_naps = 0  # without a request, before those that wait are answered
        self.num_rounds = 0  # of requests, if those at the same time are one
        self.hangs_at = ""  # a word of a request that it never answers
        self.is_down = True
        self._lock = Lock()
        self._round = Event()  # set when it ends
        self._round.set()

    def wait_for_round(self) -> None:
        """Wait until all requests of the same time have come, however slowly.

        On a busy machine naps take longer, as does all that a client does in them.
        """
        with self._lock:
            is_first = self._round.is_set()
            if is_first:
                self._round = Event()
                self.num_rounds += 1
            this_round = self._round
        if not is_first:
            this_round.wait()
            return
        num_requests = 0
        while num_requests < len(self.requests):
            num_requests = len(self.requests)
            for _ in range(self.num_naps):
                time.sleep(0.01)
        with self._lock:
            this_round.set()

    def start(self) -> None:
        self._http = ThreadingHTTPServer(("127.0.0.1", self.port), _Handler)
        self._http.daemon_threads = True
        self._http.proxy = self  # type: ignore[attr-defined]
        self._thread = Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()
        self.is_down = False

    def stop(self) -> None:
        """Refuse connections, and answer no more on those that are open."""
        if not self.is_down:
            self.is_down = True
            self._http.shutdown()
            self._http.server_close()
            self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        proxy: Proxy = self.server.proxy  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        proxy.requests.append(urlsplit(self.path).path)
        proxy.wait_for_round()
        if proxy.hangs_at and proxy.hangs_at.encode() in body:
            proxy.requests.append("hanging")
            Event().wait()
        if proxy.is_down:
            self.close_connection = True
            return
        if proxy.answer is not None:
            status, text = proxy.answer
            self._send(status, "text/html", text.encode())
            return
        with closing(HTTPConnection(proxy.upstream)) as upstream:
            headers = {k: v for k, v in self.headers.items() if k != "Accept-Encoding"}
            upstream.request(self.command, self.path, body, headers)
            got = upstream.getresponse()
            kind = got.getheader("Content-Type", "")
            self._send(got.status, kind, got.read())

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@contextmanager
def proxy_before(server: Server) -> Iterator[Proxy]:
    proxy = Proxy(server)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()

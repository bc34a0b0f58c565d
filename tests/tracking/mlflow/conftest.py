"""A server of MLflow, a proxy before it, and a database that is soon locked."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tracking.mlflow.server import Proxy, Server, proxy_before, running_server
from toygpt.tracking.record import new_run_id


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> Iterator[Server]:
    """Return an MLflow server on this machine; it has the runs of many tests."""
    with running_server(tmp_path_factory.mktemp("server"), empty_database) as server:
        yield server


@pytest.fixture
def run_id() -> str:
    """Return the id of a record that no other test has."""
    return new_run_id()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """Return a proxy before that server."""
    with proxy_before(server) as proxy:
        yield proxy


@pytest.fixture
def busy_timeout_is_short() -> Iterator[None]:
    """Make MLflow wait 0.3 s for a locked database, not 20 s."""
    import sqlalchemy
    from sqlalchemy import event

    def shorten(_: Any, __: Any, sql: str, parameters: Any, *___: Any) -> Any:
        return sql.replace("busy_timeout = 20000", "busy_timeout = 300"), parameters

    event.listen(sqlalchemy.Engine, "before_cursor_execute", shorten, retval=True)
    yield
    event.remove(sqlalchemy.Engine, "before_cursor_execute", shorten)

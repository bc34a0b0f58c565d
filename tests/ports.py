"""Ports of this machine at which a test may listen."""

import socket
from contextlib import ExitStack


def free_ports(number: int) -> list[int]:
    """Return ports that nothing listens at."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def free_port() -> int:
    """Return a port that nothing listens at."""
    return free_ports(1)[0]

"""A process that runs a cluster's daemons: with it they all end, also if it is killed.

Daemons leave the process that has started them, on purpose. So this one becomes the
parent of all orphans below it, and kills what is left when its input ends. That is held
open by the tests, however these end.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import IO

import psutil

from tests.project import PROJECT

START_SECONDS = 60.0
PR_SET_CHILD_SUBREAPER = 36


@contextmanager
def supervising() -> Iterator[None]:
    """Become the parent of all that is started in the block; kill it at the end."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _kill_children()


def lines_until_the_end(answer: str) -> Iterator[str]:
    """Print a line once all has started; yield the lines of the input."""
    # As the init process of a machine does: DVC takes dead processes for alive.
    signal.signal(signal.SIGCHLD, lambda *_: _reap_children())
    print(answer, flush=True)
    for line in sys.stdin:
        yield line.strip()


def _reap_children() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _kill_children() -> None:
    while children := psutil.Process().children(recursive=True):
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children, timeout=1)


@contextmanager
def supervisor(
    module: str, variables: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[str, IO[str]]]:
    """Run a module that supervises; yield its first line, and where it reads others.

    Args:
        module: Its name.
        variables: Of its environment, beside those of this process.
    """
    with subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
        env=os.environ | dict(variables),
        start_new_session=True,  # Ctrl-C ends the tests first, then this
    ) as process:  # closes the input at the end, and waits
        assert process.stdin is not None and process.stdout is not None
        answer = process.stdout.readline().strip()
        assert answer, f"{module} did not start"
        yield answer, process.stdin

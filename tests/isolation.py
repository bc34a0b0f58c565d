"""Run a program where there is no network, and see what it tried to reach."""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

# A new network namespace has a loopback device, which is down.
IN_NAMESPACE = """
import fcntl, os, socket, struct, sys
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))
os.execvp(sys.argv[1], sys.argv[1:])
"""
UNSHARE = ["unshare", "--user", "--map-root-user", "--net"]
IN_ISOLATION = [*UNSHARE, "python", "-c", IN_NAMESPACE]


@cache
def can_isolate() -> bool:
    """Return whether this machine lets us make a network namespace."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*IN_ISOLATION, "true"], capture_output=True).returncode == 0


def isolated(*command: str, trace: Path) -> list[str]:
    """Return the command that runs another one where only the loopback device is.

    Args:
        command: The command to run.
        trace: The file that lists its connections, if this machine has strace.
    """
    strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=connect,sendto"]
    tracing = [*strace, "-o", str(trace)] if shutil.which("strace") else []
    return [*IN_ISOLATION, *tracing, *command]


def outside_addresses(trace: Path) -> list[str]:
    """Return the addresses beyond this machine that were connected to, or tried to."""
    found = re.findall(
        r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"',
        trace.read_text(encoding="utf-8"),
    )
    addresses = {one or other for one, other in found}
    return sorted(a for a in addresses if not a.startswith("127.") and a != "::1")

"""A Ray cluster on this machine.

python -m tests.cluster.local_ray    # until Ctrl-C, or the end of its input

It prints its address, for the variable RAY_ADDRESS. `running_ray` sets the variables
without which others than this machine could reach it.
"""

import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.supervisor import lines_until_the_end, supervising, supervisor

START = ["ray.scripts.scripts", "start", "--head", "--port=0", "--num-cpus=2"]
START += ["--include-dashboard=false", "--disable-usage-stats"]
# For the cluster and its clients: else Ray replaces 127.0.0.1 by an outer address.
LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def main() -> None:
    """Run a cluster."""
    # Its sockets lie in the folder, and their paths may not be long.
    new_folder = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp")
    with new_folder as folder, supervising():
        subprocess.run(
            [sys.executable, "-m", *START, f"--temp-dir={folder}"],
            stdout=sys.stderr,
            check=True,
        )
        address = Path(folder, "ray_current_cluster").read_text(encoding="utf-8")
        for _ in lines_until_the_end(address):
            pass


@contextmanager
def running_ray() -> Iterator[dict[str, str]]:
    """Run a cluster, of which nothing is left when the block, or this process, ends.

    Yields:
        The variables by which its clients find it.
    """
    # Its own token: Ray would keep one in the home directory, for all clusters.
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    variables = LOOPBACK_ONLY | token
    with supervisor("tests.cluster.local_ray", variables) as (address, _):
        yield variables | {"RAY_ADDRESS": address}


if __name__ == "__main__":
    main()

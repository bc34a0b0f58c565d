"""A Slurm of two nodes on this machine, run by the daemons of Debian's packages.

python -m tests.cluster.slurm    # until Ctrl-C, or the end of its input

It needs root, and neither systemd nor cgroups nor names in /etc/hosts. It prints the
folder that holds all it writes, for as long as it runs; clients find it by the variable
SLURM_CONF=FOLDER/slurm.conf.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil

from tests.cluster.supervisor import (
    START_SECONDS,
    lines_until_the_end,
    supervising,
    supervisor,
)
from tests.ports import free_ports

INSTALL = "apt-get install -y slurmctld slurmd munge slurm-client"
DAEMONS = ["munged", "slurmctld", "slurmd", "srun"]
NODES = ["n0", "n1"]

# Jobs of `high` preempt those of `low`: SIGTERM, a minute's grace, back into the queue.
# A requeued job waits until its old credential has expired, by default two minutes.
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MailProg=/bin/true
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldTimeout=20
SlurmdTimeout=10
KillWait=5
InactiveLimit=0
JobRequeue=1
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={nodes} NodeHostname={host} NodeAddr=127.0.0.1 Port={slurmd_ports} CPUs=2
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""


def missing() -> str | None:
    """Return why this machine cannot run a Slurm, or None if it can."""
    if absent := [name for name in DAEMONS if shutil.which(name) is None]:
        return f"{', '.join(absent)} not found: {INSTALL}"
    if os.geteuid() != 0:
        return "the daemons of Slurm need root: run the tests by `sudo -E`"
    return None


class Daemons:
    """The daemons of one cluster, all below this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # munged wants a folder that others may enter, but not write to.
        folder.chmod(0o755)
        (folder / "state").mkdir(exist_ok=True)
        (folder / "munge.key").write_bytes(secrets.token_bytes(128))
        (folder / "munge.key").chmod(0o400)
        ports = free_ports(1 + len(NODES))
        self.conf = folder / "slurm.conf"
        text = CONFIGURATION.format(
            host=socket.gethostname(),
            folder=folder,
            ports=ports,
            nodes=",".join(NODES),
            slurmd_ports=",".join(map(str, ports[1:])),
        )
        self.conf.write_text(text, encoding="utf-8")

    def start(self) -> None:
        """Start all of them, and wait until both nodes are idle."""
        munged = ["--socket=munge.socket", "--key-file=munge.key"]
        munged += ["--pid-file=munged.pid", "--seed-file=munged.seed"]
        munged += ["--log-file=munged.log"]
        whole = [word.replace("=", f"={self.folder}/") for word in munged]
        self._run("munged", "--foreground", *whole)
        self._wait_for((self.folder / "munge.socket").exists)
        self._run("slurmctld", "-D", "-f", str(self.conf))
        for node in NODES:
            self.start_node(node)
        self._wait_for(self._are_idle)

    def start_node(self, node: str) -> None:
        """Start the daemon of a node."""
        (self.folder / f"spool-{node}").mkdir(exist_ok=True)
        self._run("slurmd", "-D", "-f", str(self.conf), "-N", node)

    def _run(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.out").open("ab") as output:
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"SLURM_CONF": str(self.conf)},
            )

    def _are_idle(self) -> bool:
        command = ["sinfo", "--noheader", "--partition=low", "--format=%t"]
        environment = os.environ | {"SLURM_CONF": str(self.conf)}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=30
        )
        return done.stdout.split() == ["idle"]

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                outputs = (file.read_text() for file in self.folder.glob("*.out"))
                sys.exit("\n".join(["Slurm did not start:", *outputs]))
            time.sleep(0.1)


def main() -> None:
    """Run a cluster; each line of the input names a node whose daemon to start."""
    # munged wants all folders above its socket to be closed to writing by others.
    with (
        tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder,
        supervising(),
    ):
        daemons = Daemons(Path(folder))
        daemons.start()
        for node in lines_until_the_end(folder):
            daemons.start_node(node)


class Slurm:
    """A cluster that runs, and what a test asks of it."""

    def __init__(self, folder: Path, supervisor: IO[str]) -> None:
        self.folder = folder
        self._supervisor = supervisor
        # The names of the nodes are in no /etc/hosts; all of them are this machine.
        self.environment = {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "MASTER_ADDR": "127.0.0.1",
        }

    def ask(self, *command: str) -> str:
        """Return what a client of Slurm prints."""
        return subprocess.check_output(
            command, env=os.environ | self.environment, text=True, timeout=60
        )

    def states(self) -> list[str]:
        """Return the state of each node: idle, alloc, down …"""
        return self.ask("sinfo", "-h", "-N", "-p", "low", "-o", "%t").split()

    def job(self, number: int, field: str) -> str:
        """Return a field of `scontrol show job`."""
        words = self.ask("scontrol", "show", "job", "-o", str(number)).split()
        return dict(word.split("=", 1) for word in words if "=" in word)[field]

    def node_daemon(self, node: str) -> psutil.Process:
        """Return the process of a node's slurmd."""
        pid = (self.folder / f"slurmd-{node}.pid").read_text(encoding="utf-8")
        return psutil.Process(int(pid))

    def start_node(self, node: str) -> None:
        """Start the daemon of a node whose daemon was killed."""
        print(node, file=self._supervisor, flush=True)


@contextmanager
def running_slurm() -> Iterator[Slurm]:
    """Run a cluster, of which nothing is left when the block, or this process, ends."""
    with supervisor("tests.cluster.slurm") as (folder, lines):
        yield Slurm(Path(folder), lines)


if __name__ == "__main__":
    main()

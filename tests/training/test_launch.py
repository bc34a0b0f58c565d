"""One process for each device: who may start, and that together they are one."""

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tests.faults.kills import wait_until
from tests.ports import free_port
from tests.project import PATIENCE_SECONDS, PROJECT
from tests.tiny import ABSENT_ACCELERATOR, runtime_params
from tests.training.ranks import place_of
from toygpt.pipeline.errors import InputError
from toygpt.training import launch as launching
from toygpt.training.launch import launch
from toygpt.training.ranks import on_rank_zero


def launched(**changes: Any) -> Any:
    return launch(runtime_params(**changes), precision="32-true")


def test_a_machine_without_what_runtime_asks_for_is_refused() -> None:
    with pytest.raises(InputError, match=r"does not fit `runtime` in params\.yaml"):
        launched(accelerator=ABSENT_ACCELERATOR)


@pytest.fixture
def slurm_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an `srun` into the search path."""
    (tmp_path / "srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.usefixtures("slurm_is_installed")
def test_where_slurm_is_installed_lightning_does_not_warn_of_it() -> None:
    """It would advise to run a command that does not work here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        launched()


@pytest.mark.usefixtures("slurm_is_installed")
@pytest.mark.parametrize("devices", [1, 4])
def test_a_slurm_job_of_several_tasks_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, devices: int
) -> None:
    """As `sbatch --ntasks=4` sets it for what its script runs."""
    job = (
        "JOB_ID=7 JOB_NAME=train NTASKS=4 NPROCS=4 NNODES=1 PROCID=0 LOCALID=0 NODEID=0"
    )
    for variable in job.split():
        monkeypatch.setenv(*f"SLURM_{variable}".split("="))

    with pytest.raises(InputError, match="Use `--ntasks-per-node=4` instead") as error:
        launched(devices=devices)

    assert "\n" not in str(error.value)
    assert error.value.__suppress_context__


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "a"},
        {"WORLD_SIZE": "2", "RANK": "0"},  # as Kubernetes sets it
        {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"},
        {"OMPI_COMM_WORLD_SIZE": "2"},
        {"NODE_RANK": "1"},
        {"WORLD_SIZE": "many"},
    ],
    ids=["torchrun", "Kubernetes", "srun", "mpirun", "nodes", "damaged"],
)
def test_processes_that_would_each_train_a_model_of_their_own_are_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(InputError, match="does not fit `runtime`"):
        launched()


def test_a_rank_zero_that_has_no_address_is_refused_before_any_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variables = place_of(0, 2, free_port()) | {"MASTER_ADDR": "no host"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(InputError, match=r"'no host', has no address here; set MASTER"):
        launched(devices=2)


def is_listening(process: psutil.Process) -> bool:
    return any(one.status == psutil.CONN_LISTEN for one in process.net_connections())


@pytest.mark.slow
def test_a_rank_that_waits_for_others_is_ended_by_sigterm() -> None:
    """Rank zero, which under srun opens the port at which all meet, and waits there.

    Though Python has a handler, which would run only after the wait.
    """
    place = place_of(0, 2, free_port()) | {"TORCHELASTIC_USE_AGENT_STORE": "False"}
    handle = "signal.signal(signal.SIGTERM, print)"
    wait = f"from {__name__} import *; {handle}; launched(devices=2)"
    with subprocess.Popen(
        [sys.executable, "-c", wait],
        cwd=PROJECT,
        env=os.environ | place,
    ) as waiting:
        process = psutil.Process(waiting.pid)
        try:
            wait_until(lambda: is_listening(process))
            waiting.terminate()

            assert waiting.wait(PATIENCE_SECONDS) == -signal.SIGTERM
        finally:
            waiting.kill()


def test_lightning_s_own_variables_do_not_overrule_the_parameters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("PRECISION", "bf16-mixed"), ("DEVICES", "2")):
        monkeypatch.setenv(f"LT_{name}", value)

    fabric = launched()

    assert fabric.world_size == 1
    half = torch.zeros(1, dtype=torch.bfloat16)
    assert fabric.strategy.precision.convert_input(half).dtype == half.dtype


def test_deterministic_algorithms_are_on_as_long_as_the_parameter_is() -> None:
    for is_deterministic in (True, False):
        launched(deterministic=is_deterministic)

        assert torch.are_deterministic_algorithms_enabled() == is_deterministic


def test_a_signal_ends_a_process_at_once_while_it_waits_for_other_ranks() -> None:
    """In C++, Python's own handlers would not run before the wait is over."""
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}

    with launching._signals_end_the_process():
        during = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    launched()

    assert during == [signal.SIG_DFL] * 2
    assert before == {n: signal.getsignal(n) for n in signal.valid_signals()}


class OtherRank:
    """A rank above zero, whose rank zero sends one value."""

    is_global_zero = False

    def __init__(self, value: object) -> None:
        self.value = value

    def broadcast(self, _: object) -> object:
        return self.value


def test_other_ranks_do_not_act_and_end_quietly_where_rank_zero_fails() -> None:
    """Lightning kills rank zero five seconds after another rank failed."""

    def fail() -> None:
        raise InputError("the run is running already")

    assert on_rank_zero(OtherRank(False), fail) is None  # type: ignore[arg-type]
    with pytest.raises(SystemExit) as ended:
        on_rank_zero(OtherRank(True), fail)  # type: ignore[arg-type]
    assert ended.value.code == 0
    with pytest.raises(InputError, match="running already"):
        on_rank_zero(launched(), fail)
    assert on_rank_zero(launched(), lambda: 3) == 3


@pytest.mark.parametrize("number", ["1", "3"])
def test_a_launcher_that_starts_another_number_of_ranks_is_refused(
    monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    """They would wait for one another in vain."""
    for name, value in place_of(0, int(number), free_port()).items():
        monkeypatch.setenv(name, value)

    with pytest.raises(InputError, match=rf"{number} processes were .* \(2\) is 2"):
        launch(runtime_params(devices=2), precision="32-true")

"""The doctor and damaged results, lost databases and damaged records."""

import os
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.doctor.conftest import Visit
from tests.project import Workspace
from tests.tracking.trackers import new_record
from toygpt.cli import main
from toygpt.tracking.record import Record


def flip_a_bit(path: Path) -> None:
    """Damage a file as a disk would: neither its size nor its time changes."""
    before = path.stat()
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def in_cache(project: Workspace, path: Path) -> Path:
    """Return DVC's copy of a file."""
    (copy,) = (
        candidate
        for candidate in (project.root / ".dvc/cache/files/md5").rglob("*")
        if candidate.is_file() and candidate.read_bytes() == path.read_bytes()
    )
    return copy


@pytest.mark.slow
def test_every_damage_to_results_is_found_and_its_command_restores_them(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    root = project.root
    project.dvc("status")  # DVC looks at the files of this copy, and remembers them
    before = {
        path: path.read_bytes()
        for folder in ("data", "models", "metrics", "reports")
        for path in (root / folder).rglob("*")
        if path.is_file()
    }
    # A bit flips in a result, ...
    flip_a_bit(root / "data/tokens/tokens.bin")
    assert project.dvc("status", "tokenize").stdout.strip().endswith("up to date.")
    # ... in a result that is one file with DVC's copy, as after `dvc checkout`, ...
    split = root / "data/splits/train.bin"
    copy = in_cache(project, split)
    split.unlink()
    split.hardlink_to(copy)
    flip_a_bit(split)
    # ... and in DVC's copy alone.
    model_copy = in_cache(project, root / "models/toygpt/model.safetensors")
    flip_a_bit(model_copy)
    shutil.rmtree(root / "reports/train")
    metrics = root / "metrics/train.json"
    metrics.write_text(metrics.read_text().replace("0", "1"))

    result = visit(fix=True)

    assert "all as dvc.lock has them" not in result.text
    for problem, expected in {
        "tokens.bin changed": "rm -r data/tokens*dvc checkout data/tokens",
        "train.bin changed": "rm -f .dvc/cache/*dvc repro --force --single-item split",
        "reports/train is missing": "dvc checkout*reports/train",
        "train.json is not what": "git checkout HEAD --*metrics/train.json",
        "DVC's copy of models/": "rm -f .dvc/cache/*dvc commit models/toygpt",
    }.items():
        command = result.command(problem)
        assert fnmatch(command, expected)
        project.run("sh", "-c", command)
    assert visit().code == 0
    assert before == {path: path.read_bytes() for path in before}
    assert model_copy.read_bytes() == before[root / "models/toygpt/model.safetensors"]


@pytest.mark.slow
def test_token_files_that_do_not_fit_their_manifest_are_made_again(
    project: Workspace, visit: Callable[..., Visit]
) -> None:
    flip_a_bit(project.root / "data/tokens/tokens.bin")
    (project.root / "data/tokens/tokens.bin").touch()
    project.dvc("commit", "--force", "data/tokens")

    project.run("sh", "-c", visit().command("tokens.bin is damaged"))

    assert visit().code == 0


def untracked_record(project: Workspace, **changes: str) -> Record:
    """Create the record of a training of which no tracker knows."""
    record = new_record(project.root, project="toygpt", trackers=["mlflow"], **changes)
    record.append({"train_loss": 2.0}, step=1)
    return record


@pytest.mark.slow
def test_the_trackers_get_the_runs_that_they_lack_or_lost(
    project: Workspace, visit: Callable[..., Visit], monkeypatch: pytest.MonkeyPatch
) -> None:
    project.set_params({"tracking.mlflow": True})
    record = untracked_record(project)  # its process is gone, and it says RUNNING
    assert visit().command("1 run that the trackers") == "python . track"

    assert visit(fix=True).code == 0
    assert Record(record.folder).info.status == "KILLED"
    assert "mlflow.db is whole" in visit().text

    database = project.root / "mlflow.db"
    data = database.read_bytes()
    damaged = data[:4096] + os.urandom(16384) + data[20480:]
    database.write_bytes(damaged)
    result = visit(fix=True)
    assert database.read_bytes() == damaged, "it is not touched"

    aside, rebuild = result.command("mlflow.db is damaged").rsplit(" && ", 1)
    project.run("sh", "-c", aside)
    assert rebuild == "python . track --rebuild"
    monkeypatch.chdir(project.root)
    assert main(rebuild.split()[2:]) == 0
    result = visit()
    assert result.code == 0
    assert "mlflow.db is whole" in result.text

    database.unlink()
    assert visit().command("mlflow.db is gone, and had runs") == rebuild


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl"])
def test_a_damaged_record_is_named_and_put_aside(
    project: Workspace, visit: Callable[..., Visit], name: str
) -> None:
    damaged = untracked_record(project, status="FINISHED").folder / name
    damaged.write_text('{"version": \n')

    result = visit(fix=True)
    assert damaged.exists()
    project.run("sh", "-c", result.command(name))

    assert visit().code == 0

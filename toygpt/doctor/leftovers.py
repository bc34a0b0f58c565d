"""Leftovers of killed processes: DVC's files, and ours."""

import json
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import psutil

from toygpt.doctor.cluster import is_shared
from toygpt.doctor.finding import Finding, Line, fixable, readable_size
from toygpt.pipeline.files import TEMPORARY_NAME, is_being_written, remove_leftover


def check_dvc(root: Path) -> Iterator[Line]:
    """Find the leftovers of killed processes among DVC's files, and ours."""
    if work := work_in(root):
        yield f"{work} is at work: leftovers are examined when it is done"
        return
    findings = [
        *_folders_of_experiments(root),
        *_locks(root),
        *_torn_lock(root),
        *_empty_folders_of_runs(root),
        *_unfinished_files(root),
    ]
    if is_shared(root):
        findings = list(map(_unless_elsewhere, findings))
    yield from findings
    if not findings:
        yield "no leftovers of processes that are gone"


def _unless_elsewhere(finding: Finding) -> Finding:
    """Return a finding for the user to decide on.

    DVC notes process ids without a host, and locks may not hold between machines: on a
    file system that they share, a process may be at work that cannot be seen from here.
    """
    problem = f"{finding.problem} (unless DVC works here on another machine)"
    return replace(finding, problem=problem, fix=None)


# DVC's own number for an experiment that is being run (`TaskStatus.RUNNING`).
STATUS_RUNNING = 2


def _folders_of_experiments(root: Path) -> Iterator[Finding]:
    """Find the folders of experiments (`--temp`, the queue) whose process is gone."""
    experiments = root / ".dvc/tmp/exps"
    queued = dict(_queued_experiments(experiments))
    for folder in sorted(
        [*experiments.glob("standalone/tmp*"), *experiments.glob("tmp*")]
    ):
        name = folder.relative_to(root)
        size = readable_size(size_of(folder))
        if folder in queued:
            # The queue takes it for running, and looks for the folder.
            task = queued[folder]
            yield Finding(
                f"{name}, {size}, of the queued experiment {task}: its process is gone",
                f"dvc queue kill {shlex.quote(task)} && rm -rf {name}",
            )
        else:
            problem = f"{name}, {size}, of a temporary experiment: its process is gone"
            yield fixable(root, problem, f"rm -r {name}")
    running = experiments / "run/workspace"
    if running.is_dir():
        yield fixable(
            root,
            "DVC has a record of an experiment that runs in this folder; none does",
            f"rm -r {running.relative_to(root)}",
        )


def _queued_experiments(experiments: Path) -> Iterator[tuple[Path, str]]:
    """Yield the folder of each experiment that the queue takes for running."""
    for path in experiments.glob("run/*/*.run"):
        # A file that cannot be read is not a record of DVC's.
        with suppress(OSError, KeyError, TypeError, ValueError):
            note = json.loads(path.read_text(encoding="utf-8"))
            if note["location"] == "dvc-task" and note["status"] <= STATUS_RUNNING:
                yield Path(note["root_dir"]), note["name"] or path.stem


def _locks(root: Path) -> Iterator[Finding]:
    """Find stale locks of DVC, whose process is gone.

    DVC itself looks at the process id alone, and may wait for another process that has
    the same id now.
    """
    for name in (".dvc/tmp/rwlock", ".dvc/tmp/exps/rwlock"):
        path = root / name
        try:
            locks = json.loads(path.read_text(encoding="utf-8"))
            writers = locks.get("write", {}).values()
            readers = chain.from_iterable(locks.get("read", {}).values())
            holders = {int(entry["pid"]) for entry in (*writers, *readers)}
        except FileNotFoundError:
            continue
        except (AttributeError, KeyError, TypeError, ValueError):
            yield fixable(root, f"{name} is damaged: DVC refuses to work", f"rm {name}")
            continue
        if holders and not any(map(_is_hidden, holders)):
            gone = ", ".join(map(str, sorted(holders)))
            yield fixable(
                root,
                f"{name} has locks of a DVC that is gone (process {gone})",
                f"rm {name}",
            )


def _torn_lock(root: Path) -> Iterator[Finding]:
    """Find a dvc.lock that is half-written, because DVC was killed."""
    lock = root / "dvc.lock"
    if not _is_read_by_dvc(lock):
        if b"<<<<<<< " in lock.read_bytes():
            # Only the user knows which side is right.
            yield Finding(
                "dvc.lock has a merge conflict: DVC refuses to work",
                "git checkout HEAD -- dvc.lock && dvc repro",
            )
            return
        is_committed = not subprocess.run(
            ["git", "cat-file", "-e", "HEAD:./dvc.lock"], cwd=root, capture_output=True
        ).returncode
        # DVC finds the results since the last commit in its cache.
        yield fixable(
            root,
            "dvc.lock is damaged: DVC refuses to work",
            "git checkout HEAD -- dvc.lock" if is_committed else "rm dvc.lock",
        )


def _empty_folders_of_runs(root: Path) -> Iterator[Finding]:
    """Find the empty folders that a killed DVC leaves in its run cache."""
    for folder in sorted((root / ".dvc/cache/runs").glob("*/*")):
        if folder.is_dir() and not any(folder.iterdir()):
            name = folder.relative_to(root)
            yield fixable(root, f"{name} is empty: DVC fails on it", f"rmdir {name}")


def _is_read_by_dvc(lock: Path) -> bool:
    """Return whether DVC can read a dvc.lock, or the file is absent."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.serialize import load_yaml

    try:
        COMPILED_LOCKFILE_SCHEMA(load_yaml(str(lock)))
    except FileNotFoundError:
        return True
    except Exception:  # of DVC, voluptuous or ruamel.yaml
        return False
    return True


def _is_hidden(process_id: int) -> bool:
    """Return whether a process exists whose command we may not read."""
    try:
        process = psutil.Process(process_id)
        process.cmdline(), process.cwd()
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
    return False


def _unfinished_files(root: Path) -> Iterator[Finding]:
    """Find temporary files of processes that are gone (see pipeline/files.py)."""
    for folder in ("data", "models", "reports", "metrics", ".toygpt"):
        for path in sorted((root / folder).rglob(".*.tmp")):
            match = TEMPORARY_NAME.fullmatch(path.name)
            if match is None or is_being_written(path):
                continue
            target = path.with_name(match["name"])
            if match["old"] and not target.exists():
                # It was moved aside, and its process killed before the new one came.
                yield fixable(
                    root,
                    f"{target} was being replaced when its process was killed",
                    shlex.join(["mv", str(path), str(target)]),
                )
            else:
                yield Finding(
                    f"{path} was never finished: its process is gone",
                    shlex.join(["rm", "-r", str(path)]),
                    partial(remove_leftover, path),
                )


def size_of(folder: Path) -> int:
    """Return the size of all files in a folder, in bytes."""
    return sum(path.lstat().st_size for path in folder.rglob("*"))


def work_in(root: Path) -> str | None:
    """Return the process of DVC, or of a stage, that works in the project, if any."""
    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        command = process.info["cmdline"] or []
        folder = process.info["cwd"]
        if not folder or not Path(folder).is_relative_to(root):
            continue
        is_stage = any(argument.startswith("stages.") for argument in command[1:4])
        if is_stage or "dvc" in (Path(argument).name for argument in command[:3]):
            return f"process {process.info['pid']}"
    return None

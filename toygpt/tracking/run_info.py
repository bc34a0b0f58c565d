"""What is known of a training, besides its points: `run.json` and `synced.json`."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import write_json
from toygpt.pipeline.json_file import read_json
from toygpt.pipeline.params import TrackingParams
from toygpt.tracking.mlflow.destination import tracker_name

VERSION = 1
INFO_FILE = "run.json"
SYNCED_FILE = "synced.json"
# Two fields have other names in run.json: those of earlier toyGPTs, so that earlier and
# later ones can read each other's records. The second is of earlier ones, and is kept
# there until it is in synced.json.
KEYS_ON_DISK = {"facts": "metadata", "told": "synced"}

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class Synced:
    """What a tracker is known to have of a run."""

    id: str  # of the run at the tracker
    num_points: int = 0
    status: Status | None = None
    directories: list[str] = field(default_factory=list)  # of which it has a copy
    is_wanted: bool = True  # otherwise the user deleted the run there
    missing: list[str] = field(default_factory=list)  # of which it shall get a copy


@dataclass(frozen=True)
class RunInfo:
    """What is known of a training, besides its points."""

    id: str
    name: str
    project: str
    params: dict[str, Any]
    tags: dict[str, str]
    trackers: list[str]  # those that show the run, as `wanted_trackers` names them
    status: Status = "RUNNING"
    reason: str | None = None  # why it is not FINISHED
    started: float = 0.0  # seconds since 1970
    ended: float | None = None  # seconds since 1970
    metadata: dict[str, str] = field(default_factory=dict)
    weights_sha256: str | None = None
    synced: dict[str, Synced] = field(default_factory=dict)  # by tracker

    def unsynced(
        self,
        trackers: Iterable[str],
        num_points: int,
        *,
        at_hand: Collection[str] | None = None,
    ) -> list[str]:
        """Return which of these trackers show the run, but lack something of it.

        Args:
            trackers: Their names.
            num_points: How many points the run has.
            at_hand: Missing directories count only if they are among these; by default
                all of them count.
        """
        unsynced = []
        for tracker in trackers:
            has = self.synced.get(tracker, Synced(""))
            missing = set(has.missing)
            if at_hand is not None:
                missing &= set(at_hand)
            is_synced = (has.num_points, has.status) == (num_points, self.status)
            is_shown = tracker in self.trackers and has.is_wanted
            if is_shown and (missing or not is_synced):
                unsynced.append(tracker)
        return unsynced

    @property
    def all_metadata(self) -> dict[str, str]:
        """The metadata and the reason; the reason of a resumed run is empty."""
        if self.reason is None and "resumed.after" not in self.metadata:
            return self.metadata
        return {**self.metadata, "reason": self.reason or ""}


@dataclass(frozen=True)
class _SyncedFile:
    trackers: dict[str, Synced]


def wanted_trackers(tracking: TrackingParams) -> list[str]:
    """Return the names of the trackers that the parameters ask for.

    `mlflow` is the project's own database, `mlflow:ADDRESS` a server: what one of them
    has, the other lacks.
    """
    wanted = []
    if tracking.mlflow:
        wanted.append(tracker_name(tracking))
    if tracking.wandb != "disabled":
        wanted.append("wandb")
    return wanted


def runs_folder(root: Path) -> Path:
    """Return the folder of all records of a project."""
    return root / ".toygpt" / "runs"


def all_infos(root: Path) -> Iterator[tuple[Path, RunInfo]]:
    """Yield the folder and the info of each readable record, oldest first."""
    folder = runs_folder(root)
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        with suppress(InputError):
            yield path, read_info(path)


def write_info(folder: Path, info: RunInfo) -> None:
    """Write all of it but what the trackers have, which `write_synced` writes."""
    values = asdict(info)
    if not info.synced or (folder / SYNCED_FILE).exists():
        del values["synced"]
    for key, name in KEYS_ON_DISK.items():
        if name in values:
            values[key] = values.pop(name)
    write_json(folder / INFO_FILE, {"version": VERSION, **values})


def write_synced(folder: Path, synced: Mapping[str, Synced]) -> None:
    """Write what each tracker has; `read_info` finds it.

    Earlier toyGPTs do not know `missing`: to them a file that has it is as none.
    """
    trackers = {name: asdict(entry) for name, entry in synced.items()}
    for entry in trackers.values():
        if not entry["missing"]:
            del entry["missing"]
    write_json(folder / SYNCED_FILE, {"version": VERSION, "trackers": trackers})


def read_info(folder: Path) -> RunInfo:
    """Return what is known of a training, besides its points.

    Raises:
        InputError: The folder has no record, or a damaged one.
    """
    path = folder / INFO_FILE
    try:
        info = read_json(
            path,
            RunInfo,
            version=VERSION,
            advice="`python . doctor` says how to put it aside",
            renamed=KEYS_ON_DISK,
        )
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path} is not the record of a training: {reason}") from None
    with suppress(InputError, FileNotFoundError):
        path = folder / SYNCED_FILE
        synced = read_json(path, _SyncedFile, version=VERSION, advice="remove it")
        return replace(info, synced=synced.trackers)
    return info

"""What is known of a training stays known, whatever else is lost."""

import errno
import json
import math
import os
import resource
import threading
from pathlib import Path

import pytest

from tests.tracking.trackers import RUN_ID, kill, record_in, start, until_it_says
from toygpt.pipeline.errors import InputError
from toygpt.tracking.record import (
    Point,
    Record,
    Synced,
    all_infos,
    alone_in,
    count_points,
    new_run_id,
    record_of_weights,
    runs_folder,
)

WEIGHTS = "ab" * 32

AT_WORK = """
import sys, time
from pathlib import Path
from toygpt.tracking.record import Record

record = Record(Path(sys.argv[1]))
with record.locked():
    for step in range(1, 4):
        record.append({"loss": 1 / step}, step=step)
    print("written", flush=True)
    time.sleep(600)
"""


def new_record(root: Path, run_id: str = RUN_ID) -> Record:
    """Begin a record of a training with a parameter."""
    return Record.create(
        root,
        id=run_id,
        name="nano-python",
        project="toy",
        params={"seed": 7, "train.learning_rate": 1e-3, "hub.token": None},
        tags={"mood": "good"},
        trackers=["mlflow", "wandb"],
    )


def points_of(record: Record) -> list[tuple[int | None, dict[str, float]]]:
    """Return the points without their times."""
    return [(point.step, point.metrics) for point in record.points]


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Return the record of a training that has just begun."""
    return new_record(tmp_path)


@pytest.fixture
def curves(record: Record) -> Path:
    """Return where the points of that record lie."""
    return record.folder / "metrics.jsonl"


def test_a_record_is_found_as_it_was_left(tmp_path: Path, record: Record) -> None:
    record.append({"loss": 3.0, "speed": 10.0}, step=5)
    record.append({"parameters": 123}, step=None)
    record.add_metadata({"device": "abacus"})
    record.update(status="FAILED", reason="no power", ended=12.5, weights_sha256="ab")
    record.note_synced("mlflow", Synced("1", 2, "FAILED", ["model"]))

    found = record_in(tmp_path)

    assert found.info == record.info
    assert found.points == record.points
    assert found.info.params["hub.token"] is None
    assert found.info.synced["mlflow"].directories == ["model"]


def test_a_point_is_on_disk_before_the_next_step_begins(
    record: Record, curves: Path
) -> None:
    record.append({"loss": 3.0}, step=5)

    (line,) = curves.read_text().splitlines()

    assert json.loads(line)["metrics"] == {"loss": 3.0}


def test_what_was_written_survives_a_kill(tmp_path: Path, record: Record) -> None:
    process = start(AT_WORK, record.folder)

    with until_it_says(process, "written"):
        kill(process)

    assert points_of(record_in(tmp_path)) == [
        (1, {"loss": 1.0}),
        (2, {"loss": 0.5}),
        (3, {"loss": 1 / 3}),
    ]


def test_a_step_that_comes_again_is_not_noted_twice(
    tmp_path: Path, record: Record
) -> None:
    """A resumed training repeats what came after its checkpoint; other values stay."""
    record.append({"loss": 3.0}, step=5)
    resumed = record_in(tmp_path)

    resumed.append({"loss": 3.0000001, "speed": 9.0}, step=5)
    resumed.append({"loss": 2.0}, step=6)

    assert points_of(record_in(tmp_path)) == [
        (5, {"loss": 3.0}),
        (5, {"speed": 9.0}),
        (6, {"loss": 2.0}),
    ]


def test_a_result_is_noted_again_only_if_it_is_another(record: Record) -> None:
    for loss in (2.5, 2.5, 2.25):
        record.append({"test_loss": loss}, step=None)

    assert points_of(record) == [
        (None, {"test_loss": 2.5}),
        (None, {"test_loss": 2.25}),
    ]


@pytest.mark.parametrize("torn", [b'{"step": 6, "ti', b"{", b"\0" * 40])
def test_a_line_that_a_crash_cut_short_is_dropped_and_writing_goes_on(
    tmp_path: Path, record: Record, curves: Path, torn: bytes
) -> None:
    record.append({"loss": 3.0}, step=5)
    whole = curves.read_bytes()
    curves.write_bytes(whole + torn)

    found = record_in(tmp_path)
    with found.locked():
        found.append({"loss": 2.0}, step=6)

    assert curves.read_bytes().startswith(whole + b'{"step": 6')
    expected = [(5, {"loss": 3.0}), (6, {"loss": 2.0})]
    assert points_of(found) == points_of(record_in(tmp_path)) == expected


def test_a_line_that_was_cut_short_is_all_there_is(
    tmp_path: Path, record: Record, curves: Path
) -> None:
    curves.write_bytes(b'{"step": 6, "ti')

    with record.locked():
        record.append({"loss": 2.0}, step=6)

    assert points_of(record_in(tmp_path)) == [(6, {"loss": 2.0})]


def test_a_full_disk_is_an_error_and_what_was_whole_stays(
    tmp_path: Path, record: Record, curves: Path
) -> None:
    """The disk has room for half a line; later there is more."""
    record.append({"loss": 3.0}, step=5)
    whole = curves.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, hard))
    try:
        with pytest.raises(OSError) as caught:
            record.append({"loss": 2.0}, step=6)
        left = curves.read_bytes()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    record.append({"loss": 2.0}, step=6)

    assert caught.value.errno == errno.EFBIG, "the fault fired"
    assert left == whole
    expected = [(5, {"loss": 3.0}), (6, {"loss": 2.0})]
    assert points_of(record) == points_of(record_in(tmp_path)) == expected


def test_a_full_disk_leaves_what_is_known_of_the_run(
    tmp_path: Path, record: Record
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        with pytest.raises(OSError, match=r"run\.json"):
            record.update(status="FINISHED")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert record_in(tmp_path).info.status == "RUNNING"


def test_curves_that_somebody_deleted_are_written_again(
    tmp_path: Path, record: Record, curves: Path
) -> None:
    record.append({"loss": 3.0}, step=5)
    curves.unlink()

    record.append({"loss": 2.0}, step=6)

    assert points_of(record_in(tmp_path)) == [(5, {"loss": 3.0}), (6, {"loss": 2.0})]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_none_is_refused(record: Record, value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        record.append({"loss": value}, step=5)

    record.append({"loss": 1.0}, step=5)
    assert points_of(record) == [(5, {"loss": 1.0})]


def test_facts_and_news_of_trackers_do_not_overwrite_each_other(
    tmp_path: Path, record: Record
) -> None:
    """Two sync_worker and the training write at once."""

    def tell(tracker: str) -> None:
        for number in range(40):
            record.note_synced(tracker, Synced(tracker, number))

    sync_worker = [
        threading.Thread(target=tell, args=[name]) for name in ("one", "other")
    ]
    for worker in sync_worker:
        worker.start()
    for number in range(40):
        record.add_metadata({f"fact-{number}": "true"})
    for worker in sync_worker:
        worker.join()

    found = record_in(tmp_path).info
    assert len(found.metadata) == 40
    assert {name: told.num_points for name, told in found.synced.items()} == {
        "one": 39,
        "other": 39,
    }


def test_a_record_is_being_written_as_long_as_a_process_is_at_work(
    record: Record,
) -> None:
    before = record.is_being_written()
    process = start(AT_WORK, record.folder)

    with until_it_says(process, "written"):
        meanwhile = record.is_being_written()
        with pytest.raises(BlockingIOError), record.locked(is_patient=False):
            pass
        kill(process)
    with record.locked(is_patient=False):
        in_this_process = record.is_being_written()

    assert not before
    assert meanwhile
    assert in_this_process
    assert not record.is_being_written()


def test_who_waits_for_a_record_reads_what_was_written_meanwhile(
    tmp_path: Path, record: Record
) -> None:
    other = record_in(tmp_path)
    other.append({"loss": 3.0}, step=5)
    other.update(status="FAILED")

    with record.locked():
        found = (record.info.status, points_of(record))

    assert found == ("FAILED", [(5, {"loss": 3.0})])


def test_a_folder_can_be_held_before_there_is_a_record(tmp_path: Path) -> None:
    folder = runs_folder(tmp_path) / RUN_ID

    with alone_in(folder):
        listed = list(all_infos(tmp_path))
        new_record(tmp_path)

    assert listed == []
    assert record_in(tmp_path).info.name == "nano-python"


def test_a_record_of_what_is_over_appears_whole(tmp_path: Path) -> None:
    """Without its curves it would seem to be a training that noted none."""

    def points_then_a_crash() -> list[Point]:
        class Crashing(list[Point]):
            def __iter__(self) -> None:  # type: ignore[override]
                raise KeyboardInterrupt

        return Crashing([Point(1, 0.0, {"loss": 1.0})])

    what = {"name": "a", "project": "b", "params": {}, "tags": {}, "trackers": []}
    with pytest.raises(KeyboardInterrupt):
        Record.create(tmp_path, points_then_a_crash(), **what)

    record = Record.create(tmp_path, [Point(1, 0.0, {"loss": 1.0})], **what)

    assert [info.id for _, info in all_infos(tmp_path)] == [record.info.id]
    assert points_of(record) == [(1, {"loss": 1.0})]


@pytest.mark.parametrize(
    "text", ["", "{", "{}", "[]", '{"version": 2}', '{"version": 1, "told": {}}']
)
def test_what_is_no_record_is_named(record: Record, text: str) -> None:
    (record.folder / "run.json").write_text(text)

    with pytest.raises(InputError, match=r"run\.json is no record of a training"):
        Record(record.folder)


def test_damaged_curves_are_named(record: Record, curves: Path) -> None:
    curves.write_text("no point\n")

    with pytest.raises(InputError, match=r"metrics\.jsonl is damaged"):
        Record(record.folder)


def test_all_records_are_found_but_those_that_are_damaged(tmp_path: Path) -> None:
    for run_id in ("b", "a", "c"):
        new_record(tmp_path, run_id)
    (runs_folder(tmp_path) / "b" / "run.json").write_text("{")
    (runs_folder(tmp_path) / "stray").write_text("")

    assert [info.id for _, info in all_infos(tmp_path)] == ["a", "c"]
    assert list(all_infos(tmp_path / "elsewhere")) == []


def test_a_model_belongs_to_the_latest_training_that_made_it(tmp_path: Path) -> None:
    for run_id, weights in (("a", WEIGHTS), ("b", WEIGHTS), ("c", "other")):
        new_record(tmp_path, run_id).update(weights_sha256=weights)

    found = record_of_weights(tmp_path, WEIGHTS)

    assert found is not None
    assert found.info.id == "b"
    assert record_of_weights(tmp_path, "none") is None


def test_ids_differ_and_sort_by_time() -> None:
    ids = [new_run_id() for _ in range(100)]

    assert len(set(ids)) == 100
    assert [run_id[:15] for run_id in ids] == sorted(run_id[:15] for run_id in ids)


def test_points_are_counted_without_being_read(record: Record, curves: Path) -> None:
    before = count_points(record.folder)
    record.append({"loss": 1.0}, step=1)
    with curves.open("ab") as file:
        file.write(b"torn")

    assert (before, count_points(record.folder)) == (0, 1)


def test_who_is_told_what(record: Record) -> None:
    record.append({"loss": 1.0}, step=1)
    record.update(status="FINISHED")
    record.note_synced("mlflow", Synced("1", 1, "FINISHED"))
    record.note_synced("wandb", Synced("1", 1, "RUNNING"))

    assert record.info.unsynced(["mlflow", "wandb", "none"], 1) == ["wandb"]
    assert record.info.unsynced(["mlflow"], 2) == ["mlflow"]
    record.note_synced("mlflow", Synced("", is_wanted=False))
    assert record.info.unsynced(["mlflow"], 2) == [], "it was deleted there"


def test_no_lock_is_left_by_a_process_that_is_gone(record: Record) -> None:
    (record.folder / "lock").write_text(str(os.getpid()))

    assert not record.is_being_written()

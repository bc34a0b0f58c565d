"""Everything that was logged of a training stays, even if the trackers lose it."""

import json
from pathlib import Path

import pytest

from tests.tracking.trackers import RUN_ID, new_record, record_in
from toygpt.pipeline.errors import InputError
from toygpt.tracking.points import Point
from toygpt.tracking.record import Record, alone_in, new_run_id, record_of_weights
from toygpt.tracking.run_info import Synced, all_infos, runs_folder


def points_of(record: Record) -> list[tuple[int | None, dict[str, float]]]:
    return [(point.step, point.metrics) for point in record.points]


def test_a_record_is_found_as_it_was_left(tmp_path: Path, record: Record) -> None:
    record.append({"loss": 3.0, "speed": 10.0}, step=5)
    record.append({"parameters": 123}, step=None)
    record.add_metadata({"precision": "bf16"})
    record.update(status="FAILED", reason="no power", ended=12.5, weights_sha256="ab")
    record.note_synced({"mlflow": Synced("1", 2, "FAILED", ["model"])})

    found = record_in(tmp_path)

    assert found.info == record.info
    assert found.points == record.points
    assert found.info.params["hub.token"] is None
    assert found.info.metadata == {"device": "abacus", "precision": "bf16"}
    assert found.info.synced["mlflow"].directories == ["model"]


def test_run_json_keeps_the_keys_of_its_version(record: Record) -> None:
    """Earlier and later toyGPTs read each other's records."""
    record.note_synced({"mlflow": Synced("1", 2, "FINISHED", ["model"])})
    record.update()

    written = json.loads((record.folder / "run.json").read_text())
    synced = json.loads((record.folder / "synced.json").read_text())

    assert written.keys() == {
        *("version", "id", "name", "project", "params", "tags", "trackers", "status"),
        *("reason", "started", "ended", "facts", "weights_sha256"),
    }
    assert (written["version"], written["facts"]) == (1, {"device": "abacus"})
    assert synced["version"] == 1
    assert synced["trackers"]["mlflow"] == {
        "id": "1",
        "num_points": 2,
        "status": "FINISHED",
        "directories": ["model"],
        "is_wanted": True,
    }


def test_synced_json_keeps_its_keys_and_has_another_where_a_directory_is_missing(
    tmp_path: Path, record: Record
) -> None:
    """Earlier toyGPTs do not know it: to them such a file is as none."""
    record.note_synced({"mlflow": Synced("1", missing=["model"])})

    written = json.loads((record.folder / "synced.json").read_text())

    assert written["trackers"]["mlflow"]["missing"] == ["model"]
    assert record_in(tmp_path).info.synced == record.info.synced


def test_what_an_earlier_version_has_noted_in_run_json_stays(record: Record) -> None:
    noted = {"mlflow": {"id": "1", "num_points": 2, "status": "FINISHED"}}
    path = record.folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"told": noted}))

    record.refresh()
    record.update(name="new")
    record.refresh()

    expected = {"mlflow": Synced("1", 2, "FINISHED")}
    assert (record.info.name, record.info.synced) == ("new", expected)
    record.note_synced({})
    record.update()
    record.refresh()
    assert record.info.synced == {}
    assert "told" not in path.read_text()


def test_a_step_that_is_repeated_is_not_logged_twice(
    tmp_path: Path, record: Record
) -> None:
    """A resumed training repeats what came after its checkpoint; other values stay."""
    record.append({"loss": 3.0}, step=5)
    resumed = record_in(tmp_path)

    resumed.append({"loss": 3.0000001, "speed": 9.0}, step=5)
    resumed.append({"loss": 2.0}, step=6)
    for loss in (2.5, 2.5, 2.25):  # a result may change
        resumed.append({"test_loss": loss}, step=None)

    assert points_of(record_in(tmp_path)) == [
        (5, {"loss": 3.0}),
        (5, {"speed": 9.0}),
        (6, {"loss": 2.0}),
        (None, {"test_loss": 2.5}),
        (None, {"test_loss": 2.25}),
    ]


def test_curves_that_the_user_deleted_are_written_again(
    tmp_path: Path, record: Record
) -> None:
    record.append({"loss": 3.0}, step=5)
    (record.folder / "metrics.jsonl").unlink()

    record.append({"loss": 2.0}, step=6)

    assert points_of(record_in(tmp_path)) == [(5, {"loss": 3.0}), (6, {"loss": 2.0})]


def test_what_another_process_writes_is_read_without_the_rest(
    tmp_path: Path, record: Record
) -> None:
    """The stage writes run.json and the points; the process beside it, synced.json."""
    stage, follower = record, record_in(tmp_path)
    stage.append({"loss": 3.0}, step=5)
    follower.refresh()
    (record.folder / "metrics.jsonl").write_bytes(
        b"x" * (record.folder / "metrics.jsonl").stat().st_size
    )  # what has been read is not read again
    follower.note_synced({"mlflow": Synced("1", 1)})
    stage.append({"loss": 2.0}, step=6)
    stage.update(status="FINISHED")
    follower.refresh()

    assert points_of(follower) == [(5, {"loss": 3.0}), (6, {"loss": 2.0})]
    assert follower.info.status == "FINISHED"
    assert follower.info.synced == {"mlflow": Synced("1", 1)}


def test_a_point_that_was_taken_back_is_forgotten(
    tmp_path: Path, record: Record
) -> None:
    """The disk was full: the line was there, but not flushed."""
    for step in (5, 6):
        record.append({"loss": 3.0}, step=step)
    found = record_in(tmp_path)
    path = record.folder / "metrics.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])

    found.refresh()

    assert points_of(found) == [(5, {"loss": 3.0})]


@pytest.mark.parametrize("text", ["", "{", '{"version": 2}'])
def test_damaged_notes_are_as_none(tmp_path: Path, record: Record, text: str) -> None:
    """Then each tracker is asked what it has."""
    record.note_synced({"mlflow": Synced("1", 1)})
    (record.folder / "synced.json").write_text(text)

    assert record_in(tmp_path).info.synced == {}


def test_a_process_that_waited_for_a_record_reads_it_again(
    tmp_path: Path, record: Record
) -> None:
    other = record_in(tmp_path)
    other.append({"loss": 3.0}, step=5)
    other.update(status="FAILED")

    with record.locked():
        assert other.writer()
        with pytest.raises(BlockingIOError), other.locked(is_patient=False):
            pass
        assert record.info.status == "FAILED"
        assert points_of(record) == [(5, {"loss": 3.0})]
    assert not other.writer()


def test_a_folder_can_be_locked_before_there_is_a_record(tmp_path: Path) -> None:
    folder = runs_folder(tmp_path) / RUN_ID

    with alone_in(folder):
        assert list(all_infos(tmp_path)) == []
        assert new_record(tmp_path).writer()


def test_the_record_of_a_training_that_is_over_appears_whole(tmp_path: Path) -> None:
    """Without its curves it would seem to be a training that logged none."""

    class Crashing(list[Point]):
        def __iter__(self) -> None:  # type: ignore[override]
            raise KeyboardInterrupt

    values = {"name": "a", "project": "b", "params": {}, "tags": {}, "trackers": []}
    with pytest.raises(KeyboardInterrupt):
        Record.create(tmp_path, Crashing([Point(1, 0.0, {"loss": 1.0})]), **values)

    record = Record.create(tmp_path, [Point(1, 0.0, {"loss": 1.0})], **values)

    assert [info.id for _, info in all_infos(tmp_path)] == [record.info.id]
    assert points_of(record) == [(1, {"loss": 1.0})]


@pytest.mark.parametrize(
    "text",
    ["", "{", "{}", "[]", '{"version": 2}', '{"version": 1, "told": {}}', None],
)
def test_a_damaged_record_is_named_and_skipped(
    tmp_path: Path, record: Record, text: str | None
) -> None:
    new_record(tmp_path, "other")
    (runs_folder(tmp_path) / "stray").write_text("")
    path = record.folder / "run.json"
    path.unlink() if text is None else path.write_text(text)

    with pytest.raises(InputError, match=r"run\.json (is|has)"):
        Record(record.folder)

    assert [info.id for _, info in all_infos(tmp_path)] == ["other"]
    assert list(all_infos(tmp_path / "elsewhere")) == []


def test_a_model_belongs_to_the_latest_training_that_made_it(tmp_path: Path) -> None:
    for run_id, weights in (("b", "same"), ("a", "same"), ("c", "other")):
        new_record(tmp_path, run_id, weights_sha256=weights)

    found = record_of_weights(tmp_path, "same")

    assert found is not None and found.info.id == "b"
    assert record_of_weights(tmp_path, "unknown") is None


def test_ids_differ_and_sort_by_time() -> None:
    ids = [new_run_id() for _ in range(100)]

    assert len(set(ids)) == 100
    assert [run_id[:15] for run_id in ids] == sorted(run_id[:15] for run_id in ids)

"""A tracker gets exactly the part of a record that it lacks."""

import pytest

from tests.tracking.service import Service
from toygpt.tracking.connection import Connection
from toygpt.tracking.record import Record, Synced

EVERYTHING = [(1, "loss", 1.0), (2, "loss", 0.5), (None, "parameters", 123.0)]


@pytest.fixture
def record(record: Record) -> Record:
    """Return the record of a training of two steps."""
    for step, name, value in EVERYTHING:
        record.append({name: value}, step=step)
    record.update(status="FINISHED", ended=2.0)
    return record


def sync(record: Record, service: Service, *directories: str) -> list[Synced]:
    """Open the service, sync everything, and return what was noted on the way."""
    noted: list[Synced] = []

    def note(synced: Synced) -> None:
        noted.append(synced)
        record.note_synced("mlflow", synced)

    before = record.info.synced.get("mlflow")
    connection = Connection(service.open(), record, before, note=note)
    connection.sync(dict.fromkeys(directories, record.folder))
    connection.close()
    return noted


@pytest.mark.parametrize("known", [EVERYTHING, EVERYTHING[:1], EVERYTHING[1:], []])
def test_only_missing_points_are_sent(
    record: Record, service: Service, known: list[tuple[int | None, str, float]]
) -> None:
    service.points = list(known)

    noted = sync(record, service)

    assert sorted(service.points, key=str) == sorted(EVERYTHING, key=str)
    assert noted == [Synced("1"), Synced("1", 3, "FINISHED")]


def test_of_a_result_that_changed_the_last_value_stays(
    record: Record, service: Service
) -> None:
    record.append({"test_loss": 2.5, "xz": 1.0}, step=None)
    record.append({"test_loss": 2.25}, step=None)
    has_all = [*EVERYTHING, (None, "test_loss", 2.25), (None, "xz", 1.0)]
    service.points = list(has_all)

    sync(record, service)

    assert service.points == has_all


@pytest.mark.parametrize(("run_id", "whole"), [("1", ["samples"]), ("0", [])])
def test_only_a_whole_copy_of_this_run_is_noted_as_a_copy(
    record: Record, service: Service, run_id: str, whole: list[str]
) -> None:
    """A killed process leaves half a copy, which the service lists like any other."""
    record.note_synced("mlflow", Synced(run_id, directories=["samples", "deleted"]))
    service.directories = {"model", "samples"}

    *_, without_model = sync(record, service)
    *_, with_model = sync(record, service, "model")

    assert without_model == Synced("1", 3, "FINISHED", whole)
    assert with_model.directories == ["model", *whole]


@pytest.mark.parametrize("name", ["model", "samples"])
def test_while_a_copy_is_made_only_the_others_are_noted(
    record: Record, service: Service, name: str
) -> None:
    """A killed process leaves nothing but these notes."""
    record.note_synced("mlflow", Synced("1", 1, "FINISHED", ["model"]))
    meanwhile: list[Synced] = []
    service.fail(
        "log_directory", lambda: meanwhile.append(record.info.synced["mlflow"])
    )
    service.directories = {"model"}

    *_, noted = sync(record, service, name)

    assert meanwhile == [Synced("1", directories=sorted({"model"} - {name}))]
    assert noted.directories == sorted({"model", name})

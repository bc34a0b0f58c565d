"""Models that were trained elsewhere get runs, from the pipeline's results."""

import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo

from tests.files import files_in, write_files
from tests.project import PROJECT
from tests.tracking.trackers import (
    POINTS,
    RESULTS,
    tracked_by,
)
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.git import git
from toygpt.tracking.backfill import track
from toygpt.tracking.points import known_of
from toygpt.tracking.record import Record
from toygpt.tracking.results import Results, all_results
from toygpt.tracking.run_info import all_infos


@pytest.fixture
def repository(repository: Path) -> Path:
    """Return that repository, with DVC in it."""
    Repo.init(str(repository))
    return repository


def test_the_results_of_a_revision_make_a_record(repository: Path) -> None:
    write_files(repository, RESULTS)
    shutil.copy(PROJECT / "params.yaml", repository)
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", "trained elsewhere")
    shutil.rmtree(repository / "models")
    shutil.rmtree(repository / "reports")

    track(repository, tracked_by(), revisions=["HEAD"])

    ((folder, info),) = all_infos(repository)
    assert (info.name, info.metadata["restored.from"]) == ("HEAD", "HEAD")
    assert info.params["train.batch_size"] > 0
    assert known_of(Record(folder).points) == POINTS
    with Results(repository, "HEAD").directories() as found:
        assert found.keys() == {"model"}
        assert files_in(found["model"]) == {"model.safetensors": "weights"}


@pytest.mark.parametrize(
    ("revision", "message"),
    [
        ("nosuch", "unknown Git revision 'nosuch'"),
        ("HEAD", "HEAD has no models/toygpt/model.safetensors"),
    ],
)
def test_a_revision_without_results_is_named(
    repository: Path, revision: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        track(repository, tracked_by(), revisions=[revision])


def test_results_are_of_revisions_of_experiments_and_last_of_the_workspace(
    repository: Path,
) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    for name in (f"{commit[:2]}/{commit[2:]}/plain-goat", "stash", "celery/stash"):
        git(repository, "update-ref", f"refs/exps/{name}", "HEAD")

    found = list(all_results(repository, ["HEAD"]))

    names = [(results.revision, results.name) for results in found]
    assert names == [("HEAD", "HEAD"), (commit, "plain-goat"), (None, None)]

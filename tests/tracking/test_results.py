"""Models that were trained elsewhere get runs, from the pipeline's results."""

import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo

from tests.project import PROJECT
from tests.tracking.trackers import files_in, tracked_by, write_files
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.git import git
from toygpt.tracking.backfill import track
from toygpt.tracking.points import known_of
from toygpt.tracking.record import Record, all_infos
from toygpt.tracking.results import Results, all_results


def test_the_results_of_a_revision_make_a_record(repository: Path) -> None:
    Repo.init(str(repository))
    files = {
        "params.yaml": (PROJECT / "params.yaml").read_text(),
        "models/toygpt/model.safetensors": "weights",
        "reports/train/train.csv": "step,train_loss\n1,3.0\n",
        "reports/train/validation.csv": "step,validation_loss\n1,2.75\n",
        "metrics/train.json": '{"parameters": 123, "steps": 1}',
    }
    write_files(repository, files)
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", "trained elsewhere")
    shutil.rmtree(repository / "models")
    shutil.rmtree(repository / "reports")

    track(repository, tracked_by(), revisions=["HEAD"])

    ((folder, info),) = all_infos(repository)
    assert (info.name, info.metadata["restored.from"]) == ("HEAD", "HEAD")
    assert info.params["train.batch_size"] > 0
    assert known_of(Record(folder).points) == {
        (1, "train_loss"): 3.0,
        (1, "validation_loss"): 2.75,
        (None, "parameters"): 123.0,
        (None, "steps"): 1.0,
    }
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
    Repo.init(str(repository))

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

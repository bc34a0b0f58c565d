"""What MLflow keeps of a directory, whose files DVC may have made read-only."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.files import files_in
from tests.project import PROJECT

# Root may write to any file, unless it is started without that right.
WITHOUT_RIGHTS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
PROGRAM = """
from functools import partial
from pathlib import Path
from mlflow import MlflowClient
from toygpt.tracking.mlflow.files import copy_files
client = MlflowClient("sqlite:///mlflow.db")
kept = (Path.cwd() / "kept").as_uri()
experiment = client.create_experiment("toygpt", artifact_location=kept)
run_id = client.create_run(experiment).info.run_id

def copy():
    copy_files(Path("directory"), partial(client.log_artifact, run_id), folder="model")

copy()
try:
    next(Path("kept").rglob("a")).write_text("")
except PermissionError:
    print("read-only")
Path("directory/a").unlink()
Path("directory/a").write_text("new")
copy()
Path("directory/a").chmod(0)
try:
    copy()
except PermissionError:
    print("unreadable")
print(run_id)
"""


@pytest.mark.slow
def test_a_read_only_copy_is_replaced_and_lost_by_no_fault(
    tmp_path: Path, empty_database: Path
) -> None:
    as_user = WITHOUT_RIGHTS if os.geteuid() == 0 else []
    if as_user and shutil.which("setpriv") is None:
        pytest.skip("root may write to any file, and this machine has no setpriv")
    shutil.copy(empty_database, tmp_path)
    directory = tmp_path / "directory"
    directory.mkdir()
    for name in ("a", "b"):
        (directory / name).write_text(name)
        (directory / name).chmod(0o444)

    done = subprocess.run(
        [*as_user, sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    *noticed, run_id = done.stdout.split()
    assert noticed == ["read-only", "unreadable"]
    kept = tmp_path / "kept" / run_id / "artifacts/model"
    assert files_in(kept) == {"a": "new", "b": "b"}

"""A file of a commit that is not to be had: the reason is named."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import Workspace, copy_project
from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.revision import Revision


@pytest.fixture
def project(tmp_path: Path) -> Workspace:
    """Return the project, whose remote no process serves."""
    workspace = copy_project(tmp_path / "project")
    url = "http://127.0.0.1:1/storage"
    workspace.dvc("remote", "add", "--local", "--default", "storage", url)
    return workspace


@pytest.mark.slow
def test_a_remote_that_does_not_answer_is_named(project: Workspace) -> None:
    head = Revision(project.root, "HEAD")
    path = paths.TRAIN_REPORT / "train.csv"

    with pytest.raises(FileNotFoundError, match=r"neither here .* Connect call failed"):
        head.read(path)
    with (
        pytest.raises(InputError, match=r"in its remote: .* Connect call failed"),
        head.folder(paths.SPLITS),
    ):
        pass


@pytest.mark.slow
def test_a_full_disk_is_not_taken_for_a_file_that_is_not_there(
    project: Workspace,
) -> None:
    """A real disk of 64 kB, on which the copy of a folder does not fit."""
    (project.root / "large").mkdir()
    (project.root / "large/file").write_bytes(bytes(2**17))
    project.commit("a large folder")
    (project.root / paths.TEMPORARY).mkdir(parents=True, exist_ok=True)
    alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=64k tiny {project.root / paths.TEMPORARY}"
    if subprocess.run([*alone, mount], capture_output=True).returncode:
        pytest.skip("this system lets no user mount a disk")
    program = (
        "from pathlib import Path; from toygpt.pipeline.revision import Revision\n"
        "with Revision(Path(), 'HEAD').folder(Path('large')): pass"
    )

    done = project.run(
        *alone, f'{mount} && {sys.executable} -c "{program}"', check=False
    )

    assert done.stderr.splitlines()[-1].startswith("OSError: [Errno 28]")

"""What DVC refuses is one line, without its own log."""

from pathlib import Path

import pytest
from dvc.repo import Repo

from toygpt.pipeline.dvc_errors import dvc_errors
from toygpt.pipeline.errors import InputError


@pytest.mark.parametrize(
    ("dvc_folder", "named"),
    [(".dvc", "not a git repository"), ("elsewhere", "not inside of a DVC repository")],
)
def test_an_error_of_dvc_is_an_input_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, dvc_folder: str, named: str
) -> None:
    (tmp_path / dvc_folder).mkdir()

    with pytest.raises(InputError, match=f"^DVC: .*{named}"), dvc_errors():
        Repo(str(tmp_path))

    assert not caplog.records

"""How DVC is run: what is checked before, its grammar, and its end."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from dvc.utils.hydra import apply_overrides
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.kills import is_gone, wait_until
from tests.project import PATIENCE_SECONDS, PROJECT
from toygpt.cli import dvc
from toygpt.cli.dvc import run_experiment, to_hydra
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.git import git
from toygpt.pipeline.params_file import read_yaml

Run = Callable[..., bool]
# They mean something to YAML, to DVC's grammar, or to both.
PROMPTS = ["it's", "it\\'s", "C:\\new\\table", "$x and $y", "# no comment", " spaces "]
PROMPTS += ["1e-3", "道 Straße 😀", "[1, 2], {a: b}, c=d", 'def f(self):\n    """\n']


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return how to run an experiment; it returns whether DVC was started."""
    monkeypatch.setattr(dvc, "run_dvc", lambda *_, **__: 0)

    def run(root: Path, *, is_temporary: bool = False) -> bool:
        return not run_experiment(root, {}, is_temporary=is_temporary, settings={})

    return run


def repository(root: Path) -> Path:
    """Make a repository that holds params.yaml."""
    root.mkdir()
    shutil.copy(PROJECT / "params.yaml", root)
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    git(root, *identity, "commit", "--quiet", "--message", "first")
    return root


def test_git_must_know_the_user_once_there_are_edits_to_stash(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without edits DVC gets by, as on a machine that only runs experiments."""
    for variable in os.environ:
        if variable.startswith("GIT_"):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    root = repository(tmp_path / "project")
    assert run(root)
    with (root / "params.yaml").open("a") as file:
        file.write("# an edit\n")

    complaint = r"does not know your name and email, .*: git config .* user\.name "
    with pytest.raises(InputError, match=complaint):
        run(root)
    monkeypatch.setenv("GIT_COMMITTER_NAME", "test")
    with pytest.raises(InputError, match="does not know your email, which"):
        run(root)
    git(root, "config", "user.email", "a@b.c")
    assert run(root)


@pytest.mark.parametrize("part", ["#", "?", "ü", "%20", "%2F", "a b 100%;+'~"])
def test_a_path_that_is_not_a_url_keeps_experiments_in_the_workspace(
    tmp_path: Path, run: Run, part: str
) -> None:
    root = repository(tmp_path / f"my{part}project")

    if part.startswith("a b"):
        assert run(root, is_temporary=True)
    else:
        message = rf"--temp and queue .* the {re.escape(part)} in its"
        with pytest.raises(InputError, match=message):
            run(root, is_temporary=True)
    assert run(root)


def through_dvc(values: dict[str, object], folder: Path) -> dict[str, object]:
    """Return the values as DVC writes and reads them, in place of others."""
    path = folder / "params.yaml"
    path.write_text("old:\n  a: 1\n", encoding="utf-8")
    apply_overrides(
        path, [to_hydra(f"old.{k}", v, is_new=k != "a") for k, v in values.items()]
    )
    changed: dict[str, object] = read_yaml(path)["old"]
    return changed


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, 0, -1, 10**20, 1.0, 1e-5, 1e22, -0.5, 0.1),
        *([], ["a"], [1, None, True, 0.5, "1"], [["a"], []]),
        *("", "null", "true", "1", "~", "a: b", "-", "%", "@", "\t", "\r\n", "\u2028"),
        *PROMPTS,
        PROMPTS,
        *("C:\\", "C:\\\\", "it\\\\'s", ["C:\\", "D:\\"], {"C": {"D": 1}}),
        "C:\\\n",
    ],
    ids=repr,
)
def test_dvc_reads_the_value_that_was_meant(tmp_path: Path, value: object) -> None:
    read = through_dvc({"a": value, "new-one": value}, tmp_path)

    assert read == {"a": value, "new-one": value}
    assert repr(read["a"]) == repr(value), "1 is neither 1.0 nor True"


@pytest.mark.slow
@settings(max_examples=50, derandomize=True)
@given(st.lists(st.text(st.sampled_from("aé \n'\"\\{}[],:=#")), min_size=1))
def test_dvc_reads_any_text(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        read = through_dvc({"a": texts, "b": texts[0]}, Path(folder))

    assert read == {"a": texts, "b": texts[0]}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("my tag", "x"),
        ("größe", "x"),
        ("tracking.project", "???"),
        ("generate-samples.prompts", ["one", "two ${x}"]),
    ],
)
def test_a_value_that_dvc_would_misread_is_refused(key: str, value: object) -> None:
    with pytest.raises(InputError, match=r"DVC (takes no key|would look up)"):
        to_hydra(key, value, is_new=False)


def test_a_sigterm_to_the_command_ends_dvc(folder: Path) -> None:
    (folder / "dvc.py").write_text(
        "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)\n"
    )

    with subprocess.Popen(
        [sys.executable, "-m", "toygpt", "train"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        process.terminate()
        code = process.wait(timeout=PATIENCE_SECONDS)

    assert code == 128 + signal.SIGTERM
    wait_until(lambda: is_gone(child))

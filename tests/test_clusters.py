"""The batch files in docs/clusters/ are programs that a shell and a cluster can read.

Their commands are checked by tests/cli/test_commands.py, and tests/cluster/ runs some.
"""

import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.project import PROJECT

FOLDER = PROJECT / "docs/clusters"
PAGE = PROJECT / "docs/clusters.md"


def programs() -> Iterator[tuple[str, str]]:
    """Yield each shell program, and the name of its file."""
    for path in FOLDER.glob("*.sbatch"):
        yield path.name, path.read_text(encoding="utf-8")
    for path in FOLDER.glob("*.yaml"):
        for document in YAML(typ="safe").load_all(path):
            yield from ((path.name, text) for text in texts_in(document))


def texts_in(value: Any) -> Iterator[str]:
    """Yield the shell programs inside a document: the texts that run DVC."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts_in(item)
    elif "dvc" in str(value):
        yield str(value)


@pytest.mark.parametrize(("name", "program"), [*programs()])
def test_a_shell_can_read_each_program(name: str, program: str) -> None:
    done = subprocess.run(["bash", "-n"], input=program, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, ""), name
    assert "dvc" in program


def test_the_page_names_each_file_and_no_other() -> None:
    named = re.findall(r"\(clusters/([\w.]+)\)", PAGE.read_text(encoding="utf-8"))

    assert sorted(named) == sorted(path.name for path in FOLDER.iterdir())
    assert {name for name, _ in programs()} == set(named)


def test_a_job_asks_for_as_many_devices_as_it_starts_ranks() -> None:
    """Its comments name the parameters that have to be the same."""
    text = (FOLDER / "train.sbatch").read_text(encoding="utf-8")
    options = dict(re.findall(r"#SBATCH --([\w-]+)=(\S+)", text))

    assert options["gres"] == f"gpu:{options['ntasks-per-node']}"
    assert options["signal"].startswith("USR1@")
    assert "#SBATCH --requeue" in text

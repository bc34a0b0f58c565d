"""The ONNX file computes what the network does, or it is not written."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.model.saved import Saved, save
from tests.project import PROJECT, Workspace
from tests.tiny import BLOCK_SIZE, lively_model
from toygpt.model.huggingface import load_model
from toygpt.pipeline.errors import InputError

for name in ("onnx", "onnxscript"):
    pytest.importorskip(name, reason="install it by `uv sync --extra onnx`")
onnxruntime = pytest.importorskip("onnxruntime")

from toygpt.sharing import onnx  # noqa: E402
from toygpt.sharing.onnx import export_onnx, largest_difference  # noqa: E402

pytestmark = pytest.mark.slow  # the exporter takes seconds


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return save(tmp_path_factory.mktemp("saved"))


@pytest.fixture(scope="module")
def exported(saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("exported") / "onnx"
    (saved.directory / ".DS_Store").touch()
    (saved.directory / ".ipynb_checkpoints").mkdir()
    difference = export_onnx(saved.directory, target)
    assert 0 < difference < 1e-4
    return target


def test_the_file_writes_what_the_network_writes(saved: Saved, exported: Path) -> None:
    """Greedy decoding from any length, for one text and for several."""
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    texts = torch.randint(saved.model.config.vocab_size, (3, 1))
    theirs = ours = texts
    while ours.shape[1] < BLOCK_SIZE:
        (logits,) = session.run(None, {"input_ids": theirs.numpy()})
        chosen = torch.from_numpy(logits)[:, -1:].argmax(-1)
        theirs = torch.cat([theirs, chosen], dim=1)
        with torch.no_grad():
            ours = torch.cat([ours, saved.model(ours)[:, -1:].argmax(-1)], dim=1)

    assert torch.equal(ours, theirs)
    assert len(ours.unique()) > 3


def test_the_tokenizer_lies_beside_it(saved: Saved, exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} == {
        "model.onnx",
        "config.json",
        "merges.txt",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
    }
    tokenizer = (exported / "tokenizer.json").read_bytes()
    assert tokenizer == (saved.directory / "tokenizer.json").read_bytes()


def test_an_export_replaces_an_earlier_one_and_nothing_else(
    saved: Saved, exported: Path, tmp_path: Path
) -> None:
    target = Path(shutil.copytree(exported, tmp_path / "onnx"))
    (target / "model.onnx").write_bytes(b"old")

    export_onnx(saved.directory, target)

    assert largest_difference(load_model(saved.directory), target / "model.onnx") < 1e-4
    (target / "thesis.tex").write_text("years of work")
    (tmp_path / "file").touch()
    for wrong, problem in [(target, "thesis.tex"), (tmp_path / "file", "is a file")]:
        with pytest.raises(InputError, match=problem):
            export_onnx(saved.directory, wrong)
    assert (target / "thesis.tex").is_file()


def test_a_file_that_computes_something_else_is_not_kept(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = lively_model(seed=7, vocab_size=saved.model.config.vocab_size)
    write = onnx._write
    monkeypatch.setattr(onnx, "_write", lambda _, path: write(other, path))

    with pytest.raises(InputError, match=r"model\.onnx differs from the network by"):
        export_onnx(saved.directory, tmp_path / "onnx")

    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_behind(saved: Saved, tmp_path: Path) -> None:
    """A real disk of 64 kB, on which the model does not fit."""
    alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=64k tiny {tmp_path}"
    if subprocess.run([*alone, mount], capture_output=True).returncode:
        pytest.skip("this system lets no user mount a disk")
    export = f"{sys.executable} -m toygpt export onnx --model {saved.directory}"
    command = f"{mount} && {export} --out {tmp_path}/onnx; echo $?; ls -A {tmp_path}"

    done = Workspace(PROJECT).run(*alone, command)

    (complaint,) = done.stderr.splitlines()
    assert complaint.startswith("error: [Errno 28] No space left on device")
    assert done.stdout == "1\n", "the exit code, and the files that are left"

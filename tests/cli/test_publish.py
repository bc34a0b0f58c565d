"""`toygpt publish`: what would be published is shown, and then it is."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import assert_refused
from tests.conftest import Toygpt
from tests.project import Workspace
from tests.sharing.hub import TOKEN, PublishingHub
from toygpt.model.huggingface import weights_digest
from toygpt.pipeline.measurements import remove_measurements

NAME = "ada/toy"


@pytest.fixture
def hub(
    project: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PublishingHub]:
    """Stand in a built project, and return the hub of its user."""
    project.enter(monkeypatch)
    with PublishingHub() as hub:
        hub.talk_to(monkeypatch, tmp_path / "home")
        yield hub


def test_without_yes_nothing_leaves_the_machine(
    toygpt: Toygpt, hub: PublishingHub, project: Workspace
) -> None:
    output = toygpt("publish", NAME)

    assert output.code == 0
    assert output.err == "note: nothing was uploaded; to upload this, add --yes\n"
    assert hub.requests == []
    listed = dict(re.findall(r"^ +([\d,]+) bytes  (\S+)$", output.out, re.MULTILINE))
    sizes = {name: int(size.replace(",", "")) for size, name in listed.items()}
    model = project.root / "models/toygpt"
    assert sizes.keys() == {"LICENSE", *(path.name for path in model.iterdir())}
    weights = model / "model.safetensors"
    assert sizes[weights.name] == weights.stat().st_size
    assert "license_name: mit-and-psf-2.0" in output.out
    assert "type: bits_per_byte" in output.out


def test_the_published_model_loads_by_its_name_and_is_the_same(
    toygpt: Toygpt, hub: PublishingHub, project: Workspace, tmp_path: Path
) -> None:
    from huggingface_hub import ModelCard, snapshot_download
    from transformers import AutoModelForCausalLM, AutoTokenizer

    output = toygpt("publish", NAME, "--yes")
    shown = toygpt("publish", NAME)

    assert output.code == 0
    assert f"/{NAME}/commit/" in output.out.splitlines()[-1]
    assert TOKEN not in output.out + output.err
    assert len(hub.commits) == 1
    downloaded = Path(snapshot_download(NAME))
    assert weights_digest(downloaded) == weights_digest(project.root / "models/toygpt")
    card = ModelCard.load(NAME)
    assert str(card) in shown.out
    card.validate()
    assert (downloaded / "LICENSE").read_text().startswith("MIT License")
    model = AutoModelForCausalLM.from_pretrained(NAME)
    tokenizer = AutoTokenizer.from_pretrained(NAME)
    prompt = tokenizer("def", return_tensors="pt")
    written = tokenizer.decode(model.generate(**prompt, max_new_tokens=4)[0])
    greedy = toygpt("generate", "--prompt", "def", "--max-new-tokens", 4)
    assert written == greedy.out.removesuffix("\n")


def test_what_is_missing_in_the_card_is_said(
    toygpt: Toygpt, hub: PublishingHub, project: Workspace
) -> None:
    remove_measurements()  # as `train` does
    project.set_params({"publish.python.licenses": []})

    output = toygpt("publish", NAME, "--yes")

    assert output.code == 0
    results, licence = output.err.splitlines()
    assert "`dvc repro evaluate`" in results
    assert "publish.python.licenses of params.yaml" in licence
    assert b"model-index" not in hub.files_of(NAME)["README.md"]


def test_mistakes_are_one_line_and_publish_nothing(
    toygpt: Toygpt,
    hub: PublishingHub,
    project: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert_refused(toygpt("publish", "toy", "--yes"), "'toy'", "NAME/REPO")
    assert_refused(toygpt("publish"), "NAME/REPO")
    (project.root / "models/toygpt/config.json").unlink()
    assert_refused(toygpt("publish", NAME, "--yes"), "holds no model")

    assert hub.requests == []

"""To publish is one commit, or an error of one line and nothing at all."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download

from tests.data.hub import Response
from tests.sharing.hub import TOKEN, PublishingHub
from toygpt.pipeline.errors import InputError
from toygpt.sharing.publish import check_repository_name, publish

CARD = b"---\nlicense: mit\n---\n# Toy\n"
WEIGHTS = bytes(range(256)) * 4_000


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PublishingHub]:
    """Return a hub on which this process may publish as `ada`."""
    with PublishingHub() as hub:
        hub.talk_to(monkeypatch, tmp_path / "home")
        yield hub


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path | bytes]:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(WEIGHTS)
    return {"README.md": CARD, "model.safetensors": weights}


def complaint(
    files: dict[str, Path | bytes],
    repository: str = "ada/toy",
    *,
    is_private: bool = False,
) -> str:
    with pytest.raises(InputError) as caught:
        publish(repository, files, is_private=is_private)
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)
    return str(caught.value)


def test_all_files_come_in_one_commit(
    hub: PublishingHub, files: dict[str, Path | bytes]
) -> None:
    address = publish("ada/toy", files, is_private=False)

    assert hub.files_of("ada/toy") == {
        "README.md": CARD,
        "model.safetensors": WEIGHTS,
    }
    assert hub.commits == ["Publish the model"]
    assert "/ada/toy/commit/" in address
    assert Path(hf_hub_download("ada/toy", "model.safetensors")).read_bytes() == WEIGHTS


def test_a_second_model_replaces_the_first(
    hub: PublishingHub, files: dict[str, Path | bytes]
) -> None:
    publish("ada/toy", files | {"by-hand.png": b"picture"}, is_private=False)

    publish("ada/toy", files | {"README.md": CARD + b"new"}, is_private=False)

    assert len(hub.commits) == 2
    assert hub.files_of("ada/toy")["README.md"].endswith(b"new")
    assert hub.files_of("ada/toy")["by-hand.png"] == b"picture"


def test_what_is_to_be_private_never_becomes_public(
    hub: PublishingHub, files: dict[str, Path | bytes]
) -> None:
    publish("ada/secret", files, is_private=True)
    publish("ada/secret", files, is_private=True)
    hub.add("ada/open", {})

    assert hub.private == {"ada/secret"}
    assert "exists and is public" in complaint(files, "ada/open", is_private=True)
    assert hub.files_of("ada/open") == {}


def test_without_a_token_the_hub_is_not_asked(
    hub: PublishingHub,
    files: dict[str, Path | bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HF_TOKEN")

    assert "run `hf auth login`, or set HF_TOKEN" in complaint(files)
    assert hub.requests == []


def test_a_refusal_is_one_line_and_nothing_is_published(
    hub: PublishingHub,
    files: dict[str, Path | bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub.add("bob/his", {})

    assert "the token may not write there" in complaint(files, "bob/new")
    assert "the token may not write there" in complaint(files, "bob/his")
    broken = files | {"README.md": b"---\na: [\n---\n"}
    assert "Invalid metadata in README.md" in complaint(broken)
    missing = files | {"model.safetensors": tmp_path / "missing"}
    assert "is not a file on the local file system" in complaint(missing)
    monkeypatch.setenv("HF_TOKEN", "hf_of0bob")
    assert "does not accept the token" in complaint(files)
    monkeypatch.setenv("HF_TOKEN", "hf_ofé")
    assert "has a character that no token has" in complaint(files)

    assert hub.commits == []
    assert not any(map(hub.files_of, ["bob/new", "bob/his", "ada/toy"]))


def test_a_page_in_place_of_a_hub_is_one_line(
    hub: PublishingHub,
    files: dict[str, Path | bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = Response(200, {"Content-Type": "text/html"}, b"<html>Welcome</html>")
    monkeypatch.setattr(hub, "take", lambda *_: page)

    assert "what answers there is not a hub (HF_ENDPOINT)" in complaint(files)


@pytest.mark.parametrize("where", ["/api/repos/create", "/lfs/", "/commit/"])
def test_a_hub_that_fails_midway_shows_nothing_of_the_model(
    hub: PublishingHub, files: dict[str, Path | bytes], where: str
) -> None:
    fault = hub.fail("unavailable", where)

    message = complaint(files)

    assert fault.fired
    assert message == "cannot publish ada/toy: the hub answers HTTP 503"
    assert hub.files_of("ada/toy") == {}


def test_no_network_is_one_line(
    hub: PublishingHub,
    files: dict[str, Path | bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub.server_close()

    assert "Connection refused" in complaint(files)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids to ask the hub" in complaint(files)


@pytest.mark.parametrize(
    "name",
    ["toy", "ada/toy/1", "ada/", "/toy", "ada/to y", "ada/to..y", "ada/t.git", ""],
)
def test_a_name_that_the_hub_would_refuse(name: str) -> None:
    with pytest.raises(InputError, match="it takes NAME/REPO"):
        check_repository_name(name)

    check_repository_name("ada-L/toy_GPT-1.0")

"""Versioned JSON: a file is as declared, or refused with what is wrong with it."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from toygpt.pipeline.errors import InputError
from toygpt.pipeline.json_file import WrongVersionError, read_json


@dataclass(frozen=True)
class Part:
    tokens: int


@dataclass(frozen=True)
class Manifest:
    name: str
    seconds: float
    parts: dict[str, Part]
    note: str | None = None


@dataclass(frozen=True)
class WithVersion:
    version: int
    tokens: int


VALUES = {"version": 3, "name": "a", "seconds": 1, "parts": {"x": {"tokens": 1}}}


def read(path: Path, text: str) -> Manifest:
    path.write_bytes(text.encode(errors="surrogatepass"))
    return read_json(path, Manifest, version=3, advice="delete it")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.json"


def test_a_file_becomes_what_it_declares(path: Path) -> None:
    assert read(path, json.dumps(VALUES)) == Manifest("a", 1.0, {"x": Part(1)}, None)


def test_fields_may_have_another_name_in_the_file_and_may_hold_the_version(
    path: Path,
) -> None:
    path.write_text('{"version": 3, "facts": 5}')
    renamed = {"facts": "tokens"}

    found = read_json(path, WithVersion, version=3, advice="", renamed=renamed)

    assert found == WithVersion(3, 5)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "Expecting value"),
        ("[" * 100_000, "recursion"),
        ("\ud800", "surrogates|decode"),
        ("[]", "not a JSON object with a version"),
        ("{}", "not a JSON object with a version"),
        (json.dumps(VALUES | {"name": 1}), "name: .* valid string, got 1"),
        (json.dumps(VALUES | {"seconds": True}), "seconds: .* valid number, got True"),
        (json.dumps(VALUES | {"more": 1}), "more: Unexpected"),
        (json.dumps(VALUES | {"parts": {"x": {"tokens": "1"}}}), r"parts\.x\.tokens: "),
        (json.dumps({"version": 3}), "name: Field required"),
    ],
)
def test_a_damaged_file_is_refused_with_what_is_wrong_and_what_to_do(
    path: Path, text: str, what: str
) -> None:
    message = rf"(?s)a\.json is damaged \(.*({what}).*\); delete it$"
    with pytest.raises(InputError, match=message):
        read(path, text)


@pytest.mark.parametrize("version", [2, 4, "3", None])
def test_another_version_is_refused(path: Path, version: object) -> None:
    message = rf"has version {version!r}, this toyGPT reads 3; delete it"
    with pytest.raises(WrongVersionError, match=message):
        read(path, json.dumps(VALUES | {"version": version}))


def test_a_missing_file_is_the_callers_to_explain(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_json(path, Manifest, version=3, advice="")

"""Read JSON files that have a version, and know what is wrong with one."""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from toygpt.pipeline.errors import InputError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Model = TypeVar("Model")


class WrongVersionError(InputError):
    """The file was written by another toyGPT, earlier or later."""


def read_json(
    path: Path,
    model: type[Model],
    *,
    version: int,
    advice: str,
    renamed: Mapping[str, str] | None = None,
) -> Model:
    """Read a JSON file as a dataclass, each value of which has its declared type.

    The file is an object with the dataclass's fields and `version`, and nothing else.

    Args:
        path: The file.
        model: A dataclass. Its fields may be dataclasses, too.
        version: The only version that is read.
        advice: What the user can do about a file that cannot be read.
        renamed: Fields whose names in the file differ: `{"facts": "tags"}` reads the
            file's `facts` as the field `tags`.

    Raises:
        FileNotFoundError: There is no such file.
        WrongVersionError: The file has another version.
        InputError: The file is damaged. The message ends with the advice.
    """
    # Only when a file is read: training alone needs no pydantic.
    from pydantic import ValidationError

    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (RecursionError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}); {advice}") from None
    if not isinstance(values, dict) or "version" not in values:
        raise InputError(
            f"{path} is damaged (not a JSON object with a version); {advice}"
        )
    if (found := values["version"]) != version:
        raise WrongVersionError(
            f"{path} has version {found!r}, this toyGPT reads {version}; {advice}"
        )
    assert is_dataclass(model)
    if "version" not in {field.name for field in fields(model)}:
        del values["version"]
    for old, new in (renamed or {}).items():
        if old in values:
            values[new] = values.pop(old)
    try:
        # Strict, but JSON's objects and lists are dataclasses' and lists' right form.
        return _adapter(model).validate_json(
            json.dumps(values), strict=True, extra="forbid"
        )
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{path} is damaged ({key}: {first['msg']}, got {first['input']!r:.60}); "
            f"{advice}"
        ) from None


@cache
def _adapter(model: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(model)

"""Read params.yaml, apply overrides, and explain every mistake in one message."""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from toygpt.pipeline.errors import InputError, first_line
from toygpt.pipeline.params import (
    CORPUS_SOURCES,
    HubDataset,
    ModelParams,
    Params,
    Section,
)


def load_params(path: Path, overrides: Mapping[str, Any] | None = None) -> Params:
    """Read params.yaml and validate all of it, for any stage.

    Args:
        path: Of the file.
        overrides: Values that replace those in the file, each under its path
            (`train.learning_rate`), as with `dvc exp run -S`.

    Raises:
        InputError: Every problem at once, each with its key.
    """
    if not path.exists():
        raise InputError(
            f"{path} not found in {Path.cwd()}: run this in the project's folder"
        )
    values = read_yaml(path)
    for key, value in (overrides or {}).items():
        *sections, name = key.split(".")
        section = values
        for part in sections:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise InputError(f"{key}: {part!r} in {path} is not a section")
        section[name] = value
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        with_options = " with these options" if overrides else ""
        raise InputError(
            "\n  ".join([f"in {path}{with_options}:", *_explain(error, values)])
        ) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the sections of parameters in a YAML or JSON file.

    The language is YAML 1.2, as in DVC: in YAML 1.1 (PyYAML) `1e-3` is a string.

    Raises:
        InputError: The file cannot be read, or holds no sections.
    """
    is_json = path.suffix == ".json"
    # Pure: the parser in C does not name the line of every mistake.
    read = json.loads if is_json else YAML(typ="safe", pure=True).load
    try:
        values = read(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (YAMLError, LookupError, RecursionError, TypeError, ValueError) as error:
        language = "JSON" if is_json else "YAML"
        raise InputError(f"{path} is not valid {language}: {_reason(error)}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold sections of parameters, got {values!r}")
    return values


def _reason(error: Exception) -> str:
    """Return in one line what is wrong with a file, and where."""
    problem, mark = (getattr(error, k, None) for k in ("problem", "problem_mark"))
    return f"line {mark.line + 1}: {problem}" if mark else first_line(error)


def _explain(error: ValidationError, values: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each wrong key: its value, and which values are allowed."""
    allowed: dict[str, list[str]] = {}
    got: dict[str, Any] = {}
    for problem in error.errors():
        location, kind = problem["loc"], problem["type"]
        key = _key_in_file(location, values)
        if kind == "extra_forbidden":
            yield f"{key}: unknown key{_where_it_belongs(location)}"
        elif kind == "missing":
            yield f"{key}: missing"
        elif kind == "value_error":
            reason = str(problem["ctx"]["error"])
            yield f"{key}: {reason}" if key else reason
        elif kind.startswith("union_tag"):
            yield f"{key}.source: must be one of {', '.join(CORPUS_SOURCES)}"
        else:  # a key that may be of several types has a problem with each of them
            allowed.setdefault(key, []).append(problem["msg"])
            got[key] = problem["input"]
    for key, messages in allowed.items():
        yield f"{key}: got {got[key]!r}; {', or '.join(messages)}"


def _key_in_file(location: Sequence[str | int], values: Any) -> str:
    """Return the path of a key as in params.yaml, without pydantic's own parts."""
    parts = []
    for number, part in enumerate(location, start=1):
        is_here = (isinstance(values, Mapping) and part in values) or (
            isinstance(values, list) and isinstance(part, int)
        )
        if is_here:
            values = values[part]
        if is_here or (number == len(location) and isinstance(values, Mapping)):
            parts.append(str(part))
    return ".".join(parts)


def _where_it_belongs(location: Sequence[str | int]) -> str:
    """Return a guess at the key that the user meant by an unknown one."""
    *path, key = map(str, location)
    beside = _section_at(path).keys()
    if close := difflib.get_close_matches(key, beside, n=1):
        return f"; did you mean {close[0]!r}?"
    sections = {name: field.annotation for name, field in Params.keys().items()}
    owners = [
        name
        for name, section in sections.items()
        if isinstance(section, type)
        and issubclass(section, Section)
        and key in section.keys()  # noqa: SIM118 (a method, not a mapping)
    ]
    return f"; it belongs to {' or '.join(owners)}" if owners else ""


def _section_at(path: Sequence[str]) -> type[Section]:
    match path:
        case []:
            return Params
        case ["models", *_]:
            return ModelParams
        case ["corpora", _, source, *_]:
            return CORPUS_SOURCES[source]
        case ["hub", *_]:
            return HubDataset
        case _:
            section: type[Section] = Params.keys()[path[0]].annotation  # type: ignore[assignment]
            return section

"""Read params.yaml, put overrides in place, and explain every mistake in it."""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
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
    """Read params.yaml and check all of it, whichever stage asks.

    Args:
        path: Where it is.
        overrides: Values to put in the place of those in the file, each under its path
            (`train.learning_rate`), as `dvc exp run -S` would.

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
                raise InputError(f"{key}: {part!r} in {path} is no section")
        section[name] = value
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        with_options = " with these options" if overrides else ""
        raise InputError(
            "\n  ".join([f"in {path}{with_options}:", *_explain(error, values)])
        ) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read sections of parameters from a YAML or JSON file.

    YAML 1.2, as DVC reads it: to YAML 1.1 (PyYAML) `1e-3` is a string.

    Raises:
        InputError: No such file, or no sections in it.
    """
    is_json = path.suffix == ".json"
    read = json.loads if is_json else _parse_yaml
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
    """Return what is wrong with a file in one line, and where."""
    problem, mark = (getattr(error, k, None) for k in ("problem", "problem_mark"))
    return f"line {mark.line + 1}: {problem}" if mark else first_line(error)


def _explain(error: ValidationError, values: Mapping[str, Any]) -> Iterator[str]:
    """Say for each wrong key, in one line, what was got and what is allowed."""
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
    """Return the path of a key as params.yaml has it, without pydantic's own marks."""
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
    """Return what the user may have meant by an unknown key."""
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

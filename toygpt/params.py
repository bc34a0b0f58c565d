"""params.yaml as typed objects: read-only, complete, and closed to unknown keys."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from toygpt.errors import InputError

Fraction = Annotated[float, Field(ge=0, lt=1)]
PositiveFraction = Annotated[float, Field(gt=0, lt=1)]


class Section(BaseModel):
    """One section of params.yaml: read-only, typed strictly, without spare keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False
    )

    @classmethod
    def keys(cls) -> dict[str, FieldInfo]:
        """Return the section's fields under the names that params.yaml has for them."""
        return {field.alias or name: field for name, field in cls.model_fields.items()}


class StandardLibrary(Section):
    """The Python files that came with the running Python."""

    source: Literal["standard_library"]


class LocalFiles(Section):
    """The user's own files."""

    source: Literal["local_files"]
    folder: Annotated[str, Field(min_length=1)]


CORPUS_SOURCES = ("standard_library", "local_files")
Corpus = Annotated[StandardLibrary | LocalFiles, Field(discriminator="source")]


class ModelParams(Section):
    """The size of the network."""

    num_layers: PositiveInt
    num_heads: PositiveInt
    block_size: Annotated[int, Field(ge=2)]
    embed_dim: Annotated[int, Field(ge=2, multiple_of=2)]

    @model_validator(mode="after")
    def _heads_share_the_channels(self) -> Self:
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim must be divisible by num_heads, got "
                f"{self.embed_dim} and {self.num_heads}"
            )
        return self


class DownloadParams(Section):
    """How much of the corpus to take."""

    max_documents: PositiveInt | None


class TokenizeParams(Section):
    """How fine the text is cut."""

    # 256 bytes and <|endoftext|> are always there; a million is five times what the
    # largest models use.
    vocab_size: Annotated[int, Field(ge=257, le=1_000_000)]


class SplitParams(Section):
    """What is held out, and how it is chosen."""

    validation_fraction: PositiveFraction
    test_fraction: PositiveFraction
    key: Annotated[int, Field(ge=0, lt=2**64)]

    @model_validator(mode="after")
    def _something_is_left_to_learn_from(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                "validation_fraction + test_fraction must be below 1, got "
                f"{self.validation_fraction} + {self.test_fraction}"
            )
        return self


class TrainParams(Section):
    """How long, how fast, and in what portions the network learns."""

    max_tokens: PositiveInt
    batch_size: PositiveInt
    optimizer: Literal["muon", "adamw"]
    muon_learning_rate: PositiveFloat
    learning_rate: PositiveFloat
    warmup_tokens: NonNegativeInt
    decay_tokens: NonNegativeInt
    weight_decay: NonNegativeFloat
    gradient_clip_norm: PositiveFloat
    dropout: Fraction
    attention: Literal["flash", "from_scratch"]
    precision: Literal["auto", "32-true", "bf16-mixed"]
    validate_every_tokens: PositiveInt
    validation_tokens: PositiveInt

    @model_validator(mode="after")
    def _warmup_ends_before_training_does(self) -> Self:
        if self.warmup_tokens >= self.max_tokens:
            raise ValueError(
                "warmup_tokens must be below max_tokens, got "
                f"{self.warmup_tokens} and {self.max_tokens}"
            )
        return self


class EvaluateParams(Section):
    """How the test split is read."""

    batch_size: PositiveInt
    overlap_fraction: Fraction


class GenerateSamplesParams(Section):
    """What to continue, and for how long."""

    max_new_tokens: PositiveInt
    prompts: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


class RuntimeParams(Section):
    """How to compute; no stage's results depend on it."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"]
    devices: PositiveInt | Literal["auto"]
    num_nodes: PositiveInt
    strategy: Literal["auto", "ddp"]
    compile: bool | Literal["auto"]
    micro_batch_size: PositiveInt


class TrackingParams(Section):
    """Who is told about a run; no stage's results depend on it."""

    mlflow: bool
    wandb: Literal["offline", "online", "disabled"]
    # W&B takes no other project names, and no longer tags (`name: value`).
    project: Annotated[str, Field(pattern=r"^[^/\\#?%:]{1,128}$")]
    tags: dict[
        Annotated[str, Field(min_length=1, max_length=20)],
        Annotated[str, Field(max_length=40)],
    ]

    def muted(self) -> Self:
        """Return the same with nobody to tell."""
        return self.model_copy(update={"mlflow": False, "wandb": "disabled"})


class Params(Section):
    """All of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    corpus: str
    model: str
    corpora: dict[str, Corpus]
    models: dict[str, ModelParams]
    download: DownloadParams
    tokenize: TokenizeParams
    split: SplitParams
    train: TrainParams
    evaluate: EvaluateParams
    generate_samples: Annotated[GenerateSamplesParams, Field(alias="generate-samples")]
    runtime: RuntimeParams
    tracking: TrackingParams

    @model_validator(mode="after")
    def _sections_fit_together(self) -> Self:
        for key, choice, menu in (
            ("corpus", self.corpus, self.corpora),
            ("model", self.model, self.models),
        ):
            if choice not in menu:
                close = difflib.get_close_matches(choice, menu, n=1)
                raise ValueError(
                    f"{key} must be one of {', '.join(menu)}, got {choice!r}"
                    + (f"; did you mean {close[0]!r}?" if close else "")
                )
        if self.train.validation_tokens < self.chosen_model.block_size:
            raise ValueError(
                f"train.validation_tokens must fill at least one block of "
                f"models.{self.model}.block_size tokens, got "
                f"{self.train.validation_tokens} and {self.chosen_model.block_size}"
            )
        return self

    @property
    def chosen_corpus(self) -> StandardLibrary | LocalFiles:
        """The entry of `corpora` that `corpus` names."""
        return self.corpora[self.corpus]

    @property
    def chosen_model(self) -> ModelParams:
        """The entry of `models` that `model` names."""
        return self.models[self.model]


def load_params(path: Path) -> Params:
    """Read params.yaml and check all of it, whichever stage asks.

    YAML 1.2, as DVC reads it: to YAML 1.1 (PyYAML) `1e-3` is a string.

    Raises:
        InputError: Every problem at once, each with its key.
    """
    try:
        values = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path} not found in {Path.cwd()}: run this in the project's folder"
        ) from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error}") from None
    except (YAMLError, ValueError) as error:  # ValueError: no UTF-8, no such date
        raise InputError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, Mapping):
        raise InputError(f"{path} must hold sections of parameters, got {values!r}")
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise InputError(
            "\n  ".join([f"in {path}:", *_explain(error, values)])
        ) from None


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value under its path, as DVC writes it: `models.nano.num_layers`."""
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{path}.")
        else:
            yield path, value


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
        case ["corpora", _, "local_files", *_]:
            return LocalFiles
        case ["corpora", *_]:
            return StandardLibrary
        case _:
            section: type[Section] = Params.keys()[path[0]].annotation  # type: ignore[assignment]
            return section

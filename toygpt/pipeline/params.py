"""params.yaml as typed objects: read-only, complete, and closed to unknown keys."""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from pydantic.fields import FieldInfo

from toygpt.pipeline.errors import InputError

Fraction = Annotated[float, Field(ge=0, lt=1)]
PositiveFraction = Annotated[float, Field(gt=0, lt=1)]

SERVER_ADDRESS = re.compile(
    r"(?P<host>https?://([\w.-]+|\[[\da-f:]+\])(:\d+)?)(?P<path>(/[^\s/]+)*)/*",
    re.IGNORECASE,
)

MAX_LEVELS = 20  # of sections in sections; params.yaml has three


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

    def path(self) -> Path:
        """Return the folder, with `~` and `~user` expanded to a home directory.

        Raises:
            InputError: There is no such user.
        """
        if not self.folder.startswith("~"):
            return Path(self.folder)  # also ./~, which is a folder of that name
        try:
            return Path(self.folder).expanduser()
        except RuntimeError:
            raise InputError(
                f"corpora.*.folder: got {self.folder!r}, but the home directory of "
                f"that user is not known; write the whole path"
            ) from None


class HubCorpus(Section):
    """Datasets on the Hugging Face hub, one after another."""

    source: Literal["hub"]
    datasets: Annotated[list[str], Field(min_length=1)]


CORPUS_SOURCES: dict[str, type[Section]] = {
    "standard_library": StandardLibrary,
    "local_files": LocalFiles,
    "hub": HubCorpus,
}
Corpus = Annotated[
    StandardLibrary | LocalFiles | HubCorpus, Field(discriminator="source")
]

Column = Annotated[str, Field(min_length=1)]


class HubDataset(Section):
    """A dataset on the hub: its files, and which columns to take."""

    repository: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    # A branch moves: the same parameters would give another corpus some day.
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    files: Annotated[
        list[
            Annotated[
                str, Field(pattern=r"^[^/].*\.(parquet|csv|arrow|jsonl?(\.gz)?)$")
            ]
        ],
        Field(min_length=1),
    ]
    exclude: list[str]
    text: Column
    group: list[Column]
    group_until: Annotated[str, Field(min_length=1)] | None

    @model_validator(mode="after")
    def _something_is_left_to_read(self) -> Self:
        if unknown := [name for name in self.exclude if name not in self.files]:
            close = difflib.get_close_matches(unknown[0], self.files, n=1)
            raise ValueError(
                f"exclude names {unknown[0]!r}, which is not among files"
                + (f"; did you mean {close[0]!r}?" if close else "")
            )
        if set(self.files) == set(self.exclude):
            raise ValueError("exclude leaves none of files to read")
        return self


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
    """How much of the corpus to take, and into how large files to cut it."""

    max_documents: PositiveInt | None
    max_bytes: PositiveInt | None
    shard_bytes: PositiveInt


class TokenizeParams(Section):
    """How the text is cut into tokens."""

    tokenizer: Annotated[str, Field(min_length=1)]
    # 256 bytes and <|endoftext|> are always there; a million is five times the largest
    # models' vocabulary.
    vocab_size: Annotated[int, Field(ge=257, le=1_000_000)]


class SplitParams(Section):
    """How much text is held out, and how it is chosen."""

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
    """How long, how fast and in which batches the network learns."""

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
    attention: Literal["auto", "flash", "from_scratch"]
    kernels: Literal["auto", "plain", "fused"]
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
    recall_prompts: PositiveInt


class GenerateSamplesParams(Section):
    """Which prompts to continue, and for how many tokens."""

    max_new_tokens: PositiveInt
    prompts: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


class RuntimeParams(Section):
    """How to compute; no stage's results depend on it."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"]
    devices: PositiveInt | Literal["auto"]
    num_nodes: PositiveInt
    launcher: Literal["none", "srun", "torchrun"]
    strategy: Literal["auto", "ddp", "fsdp"]
    compile: bool | Literal["auto"]
    micro_batch_size: PositiveInt | Literal["auto"]
    deterministic: bool
    checkpoint_every_steps: PositiveInt | None
    checkpoint_every_minutes: PositiveFloat
    data_engine: Literal["local", "slurm", "ray"]
    data_workers: PositiveInt | Literal["auto"]

    @model_validator(mode="after")
    def _a_launcher_needs_a_number_of_devices(self) -> Self:
        if self.launcher != "none" and self.devices == "auto":
            raise ValueError(
                f"devices must be the number of devices on each machine where launcher "
                f"is {self.launcher}, got auto"
            )
        return self


def server_address(address: str) -> str:
    """Return the address of an MLflow server in the one way in which it is written.

    Raises:
        ValueError: It is another kind of address, or holds a secret, which is not
            repeated.
    """
    if set("@?#") & set(address):
        raise ValueError(
            "got an address with a user, a password or options; name the server alone, "
            "and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "MLFLOW_TRACKING_TOKEN, in the environment"
        )
    match = SERVER_ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(
            f"got {address!r}; allowed is the address of an MLflow server, as in "
            f"http://localhost:5000 or https://mlflow.example.com"
        )
    return match["host"].lower() + match["path"]


def _server_or_switch(value: bool | str) -> bool | str:
    return server_address(value) if isinstance(value, str) else value


class TrackingParams(Section):
    """Which trackers log a run; no stage's results depend on it."""

    # Whether MLflow does, in the project's own database, or the address of a server.
    mlflow: Annotated[bool | str, AfterValidator(_server_or_switch)]
    wandb: Literal["offline", "online", "disabled"]
    # W&B refuses other project names, and longer tags (`name: value`).
    project: Annotated[str, Field(pattern=r"^[^/\\#?%:]{1,128}$")]
    tags: dict[
        Annotated[str, Field(min_length=1, max_length=20)],
        Annotated[str, Field(max_length=40)],
    ]
    entity: Annotated[str, Field(pattern=r"^[^/\\#?%:]{1,128}$")] | None
    group: str | None
    job_type: str | None
    notes: str | None
    wandb_registry: Annotated[str, Field(pattern=r"^[^/\\#?%:]{1,113}$")] | None

    def without(self, trackers: Collection[str]) -> Self:
        """Return the same parameters without these trackers: `wandb`, `mlflow:…`."""
        off: dict[str, object] = {"mlflow": False, "wandb": "disabled"}
        kinds = {name.partition(":")[0] for name in trackers}
        return self.model_copy(update={kind: off[kind] for kind in kinds})


class DataTerms(Section):
    """What the card of a published model says of a text that it was trained on."""

    licenses: list[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]]
    languages: list[Annotated[str, Field(pattern=r"^([a-z]{2,3}|code|multilingual)$")]]


class Params(Section):
    """All of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    corpus: str
    model: str
    corpora: dict[str, Corpus]
    hub: dict[str, HubDataset]
    models: dict[str, ModelParams]
    download: DownloadParams
    tokenize: TokenizeParams
    split: SplitParams
    train: TrainParams
    evaluate: EvaluateParams
    generate_samples: Annotated[GenerateSamplesParams, Field(alias="generate-samples")]
    runtime: RuntimeParams
    tracking: TrackingParams
    publish: dict[str, DataTerms]

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
        if isinstance(self.chosen_corpus, HubCorpus):
            for name in self.chosen_corpus.datasets:
                if name not in self.hub:
                    raise ValueError(
                        f"corpora.{self.corpus}.datasets must name entries of hub "
                        f"({', '.join(self.hub)}), got {name!r}"
                    )
        for name in self.publish:
            if name not in self.corpora and name not in self.hub:
                raise ValueError(
                    f"publish must name entries of corpora or of hub "
                    f"({', '.join({**self.corpora, **self.hub})}), got {name!r}"
                )
        if self.train.validation_tokens < self.chosen_model.block_size:
            raise ValueError(
                f"train.validation_tokens must fill at least one block of "
                f"models.{self.model}.block_size tokens, got "
                f"{self.train.validation_tokens} and {self.chosen_model.block_size}"
            )
        return self

    @property
    def chosen_corpus(self) -> StandardLibrary | LocalFiles | HubCorpus:
        """The entry of `corpora` that `corpus` names."""
        return self.corpora[self.corpus]

    def expanded_folders(self) -> dict[str, str]:
        """Return the whole path of each folder that begins with `~`, by its key.

        DVC, which watches `corpora.files.folder`, does not expand `~`.
        """
        return {
            f"corpora.{name}.folder": str(corpus.path())
            for name, corpus in self.corpora.items()
            if isinstance(corpus, LocalFiles) and corpus.folder.startswith("~")
        }

    @property
    def chosen_model(self) -> ModelParams:
        """The entry of `models` that `model` names."""
        return self.models[self.model]

    def in_use(self) -> dict[str, Any]:
        """Return each parameter under its path, without menu entries not chosen.

        Nor what `publish` says of the data: it describes no run.
        """
        corpus = self.chosen_corpus
        chosen = {
            "corpora": [self.corpus],
            "hub": corpus.datasets if isinstance(corpus, HubCorpus) else [],
            "models": [self.model],
        }
        values = self.model_dump(by_alias=True, exclude={"publish"})
        for menu, names in chosen.items():
            entries = values.pop(menu)
            if names:
                values[menu] = {name: entries[name] for name in names}
        return dict(flatten(values))


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value under its path, as DVC writes it: `models.nano.num_layers`.

    Raises:
        InputError: A mapping contains itself, as YAML's aliases allow.
    """
    if prefix.count(".") > MAX_LEVELS:
        raise InputError(f"{prefix[:20]}… has more than {MAX_LEVELS} levels")
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{path}.")
        else:
            yield path, value

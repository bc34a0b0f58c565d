"""Datasets on the Hugging Face hub: fetched file by file, read row by row.

Files are asked for by commit: the same parameters give the same bytes, forever.
"""

import glob
import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from toygpt.data.corpus import RawDocument, content_of, rows_of_jsonl
from toygpt.data.hub_client import ask_hub, check_digest, hub_client
from toygpt.data.inventory import Inventory
from toygpt.pipeline.errors import InputError, first_line
from toygpt.pipeline.params import HubDataset

# `datasets` reads these, each by a builder of that name; other files are lines of JSON.
TABLE_SUFFIXES = (".parquet", ".csv", ".arrow")

UNREADABLE = (
    *(OSError, EOFError, ValueError, OverflowError),
    *(zlib.error, pa.ArrowException),
)


class HubFile(NamedTuple):
    """A file of a dataset, in the hub's cache."""

    key: str  # of the dataset in `hub` of params.yaml, for messages
    name: str
    path: str
    size: int
    settings: str  # the dataset's, as JSON: a worker may be another process


def fetch_hub_dataset(key: str, dataset: HubDataset) -> Iterator[HubFile]:
    """Fetch one file after another; a caller that stops early fetches no more.

    Args:
        key: Of the dataset in `hub` of params.yaml, for messages.
        dataset: What to fetch, and which columns hold text and group.

    Raises:
        InputError: As `fetch_file`.
    """
    settings = dataset.model_dump_json()
    for name in dataset.files:
        if name not in dataset.exclude:
            path = fetch_file(key, dataset, name)
            yield HubFile(key, name, str(path), path.stat().st_size, settings)


def read_hub_files(
    files: Iterable[HubFile], inventory: Inventory
) -> Iterator[RawDocument]:
    """Yield each row of files in the hub's cache as a document.

    Raises:
        InputError: The contents of a file are not what the hub promised, or cannot be
            read.
    """
    for key, name, cached, _, settings in files:
        dataset, path = HubDataset.model_validate_json(settings), Path(cached)
        check_digest(path, f"{_described(dataset, name)} ({_section(key)})")
        address = f"{dataset.repository}/{name}"
        try:
            for number, row in enumerate(_rows(path, address, dataset), start=1):
                content = content_of(row, dataset.text)
                if content is None:
                    raise InputError(
                        f"{address}, row {number}: no string in the column "
                        f"{dataset.text!r} (hub.{key}.text in params.yaml)"
                    )
                document_id = f"{address}:{number}"
                group = _group_of(row, dataset) or document_id
                yield RawDocument(document_id, group, content)
        except InputError:
            raise
        except UNREADABLE as error:
            raise InputError(
                f"cannot read {address} ({_section(key)}): {first_line(error)}"
            ) from None


def fetch_file(key: str, dataset: HubDataset, name: str) -> Path:
    """Return the path of a dataset's file in the cache, fetched if it is not there.

    Raises:
        InputError: As `ask_hub`.
    """
    return ask_hub(
        lambda: hub_client().hf_hub_download(
            dataset.repository, name, repo_type="dataset", revision=dataset.revision
        ),
        what=_described(dataset, name),
        settings=_section(key),
    )


def _described(dataset: HubDataset, name: str) -> str:
    return f"{name} of {dataset.repository} at {dataset.revision[:7]}"


def _section(key: str) -> str:
    return f"hub.{key} in params.yaml"


def _rows(path: Path, address: str, dataset: HubDataset) -> Iterator[Any]:
    """Yield the rows of a file, never all of them in memory.

    Lines of JSON are parsed one by one: rows that differ in their columns, or in the
    types of their columns (RedPajama's do), fit no common table.
    """
    if path.suffix not in TABLE_SUFFIXES:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            yield from rows_of_jsonl(lines, address)
        return
    import datasets

    # It would count each file's reading as a download, and import torch for nothing.
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    datasets.config.TORCH_AVAILABLE = False
    options: dict[str, Any] = {}
    if path.suffix == ".parquet":
        found = pq.read_schema(path).names
        wanted = [dataset.text, *(key.partition(".")[0] for key in dataset.group)]
        options["columns"] = [column for column in found if column in wanted]
        if dataset.text not in found:
            yield {}  # a row without text, which the caller reports
            return
        if dataset.group and not set(wanted[1:]) & set(found):
            raise InputError(
                f"{address} has none of the columns {', '.join(dataset.group)} "
                f"(`group` in `hub` of params.yaml), but {', '.join(found)}"
            )
        if not pq.read_metadata(path).num_rows:
            return
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # we report errors
    yield from datasets.load_dataset(
        path.suffix.removeprefix("."),
        data_files=glob.escape(str(path)),
        split="train",
        streaming=True,
        **options,
    )


def _group_of(row: dict[str, Any], dataset: HubDataset) -> str | None:
    """Return the group of a row: the value of the first group column that it has."""
    for key in dataset.group:
        value: Any = row
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value not in (None, ""):
            group = str(value)
            if dataset.group_until is not None:
                group = group.partition(dataset.group_until)[0]
            return f"{dataset.repository}:{key}:{group}"
    return None

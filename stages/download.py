"""Gather the documents of the chosen corpus.

Writes: data/documents/, metrics/download.json
"""

from collections.abc import Iterable, Iterator
from itertools import chain

from tqdm import tqdm

from toygpt.data.corpus import (
    Document,
    RawDocument,
    clean,
    read_standard_library,
    up_to,
)
from toygpt.data.documents import write_documents
from toygpt.data.hub import read_hub_dataset
from toygpt.data.inventory import Inventory
from toygpt.data.local_files import read_local_files
from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import new_directory, write_json
from toygpt.pipeline.params import HubCorpus, LocalFiles, Params
from toygpt.pipeline.params_file import load_params
from toygpt.pipeline.stage import run


def main() -> None:
    params = load_params(paths.PARAMS)
    inventory = Inventory()  # complete when the last document has been written
    documents = up_to(
        clean(found_documents(params, inventory), inventory),
        max_documents=params.download.max_documents,
        max_bytes=params.download.max_bytes,
    )
    with new_directory(paths.DOCUMENTS) as directory:
        num_documents, num_bytes = write_documents(
            with_progress(documents),
            directory,
            shard_bytes=params.download.shard_bytes,
        )
        if not num_documents:
            raise InputError(
                f"the corpus {params.corpus!r} holds no text (see "
                f"corpora.{params.corpus} and `download` in params.yaml); "
                + "\n  ".join(
                    [inventory.summary() or "nothing was found", *inventory.advice()]
                )
            )

    write_json(
        paths.METRICS / "download.json",
        {
            "corpus_documents": num_documents,
            "corpus_bytes": num_bytes,
            **inventory.metrics(),
        },
    )
    size = f"{num_documents:,} documents, {num_bytes / 1e6:.1f} MB"
    print("; ".join(filter(None, [size, inventory.summary()])))
    for line in inventory.advice():
        print(f"  {line}")


def found_documents(params: Params, inventory: Inventory) -> Iterator[RawDocument]:
    """Yield the documents of the chosen corpus as they are found."""
    match params.chosen_corpus:
        case HubCorpus(datasets=names):
            return chain.from_iterable(
                read_hub_dataset(name, params.hub[name]) for name in names
            )
        case LocalFiles() as files:
            return read_local_files(files.path(), inventory)
        case _:
            return read_standard_library()


def with_progress(documents: Iterable[Document]) -> Iterator[Document]:
    """Yield the documents and show how many have been read."""
    with tqdm(desc="download", unit="B", unit_scale=True, disable=None) as progress:
        for number, document in enumerate(documents, start=1):
            progress.set_postfix(documents=number, refresh=False)
            progress.update(document.num_bytes)
            yield document


if __name__ == "__main__":
    run(main)

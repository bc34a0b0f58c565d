"""Gather the documents of the chosen corpus.

Writes: data/documents/, metrics/download.json
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from tqdm import tqdm

from toygpt.data.corpus import (
    Document,
    RawDocument,
    clean,
    read_standard_library,
    write_documents,
)
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
    inventory = Inventory()
    documents = islice(
        clean(found_documents(params, inventory), inventory),
        params.download.max_documents,
    )
    totals: Counter[str] = Counter()
    with new_directory(paths.DOCUMENTS) as directory:
        write_documents(
            count(documents, totals, max_bytes=params.download.max_bytes), directory
        )
        if not totals["documents"]:
            raise InputError(
                "\n  ".join(
                    [
                        f"the corpus {params.corpus!r} holds no text (see "
                        f"corpora.{params.corpus} and `download` in params.yaml); "
                        f"{inventory.summary() or 'nothing was found'}",
                        *inventory.advice(),
                    ]
                )
            )

    write_json(
        paths.METRICS / "download.json",
        {
            "corpus_documents": totals["documents"],
            "corpus_bytes": totals["bytes"],
            **inventory.metrics(),
        },
    )
    size = f"{totals['documents']:,} documents, {totals['bytes'] / 1e6:.1f} MB"
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


def count(
    documents: Iterable[Document], totals: Counter[str], *, max_bytes: int | None
) -> Iterator[Document]:
    """Pass documents on, counting them and their bytes, and show the progress.

    Args:
        documents: What to pass on.
        totals: Where to count.
        max_bytes: Stop before there are more; None passes all on.
    """
    with tqdm(desc="download", unit="B", unit_scale=True, disable=None) as progress:
        for document in documents:
            num_bytes = len(document.text.encode())
            if max_bytes is not None and totals["bytes"] + num_bytes > max_bytes:
                return
            totals.update(documents=1, bytes=num_bytes)
            progress.set_postfix(documents=totals["documents"], refresh=False)
            progress.update(num_bytes)
            yield document


if __name__ == "__main__":
    run(main)

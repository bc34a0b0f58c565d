"""Gather the documents of the chosen corpus.

Writes: data/documents/, metrics/download.json
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from stages import run
from toygpt import paths
from toygpt.data.corpus import (
    Document,
    clean,
    read_local_files,
    read_standard_library,
    write_documents,
)
from toygpt.errors import InputError
from toygpt.files import new_directory, write_json
from toygpt.params import LocalFiles, load_params


def main() -> None:
    params = load_params(paths.PARAMS)
    match params.chosen_corpus:
        case LocalFiles(folder=folder):
            found = read_local_files(Path(folder))
        case _:
            found = read_standard_library()

    left_out: Counter[str] = Counter()
    documents = islice(clean(found, left_out), params.download.max_documents)
    totals: Counter[str] = Counter()
    with new_directory(paths.DOCUMENTS) as directory:
        write_documents(count(documents, totals), directory)
        if not totals["documents"]:
            raise InputError(
                f"the corpus {params.corpus!r} holds no text (left out: "
                f"{dict(left_out)}); see `corpora` in params.yaml"
            )

    reasons = ("empty", "duplicate", "not_utf8")
    write_json(
        paths.METRICS / "download.json",
        {
            "corpus_documents": totals["documents"],
            "corpus_bytes": totals["bytes"],
            **{f"left_out_{reason}": left_out[reason] for reason in reasons},
        },
    )
    print(
        f"{totals['documents']:,} documents, {totals['bytes'] / 1e6:.1f} MB; left out: "
        + ", ".join(f"{left_out[reason]} {reason}" for reason in reasons)
    )


def count(documents: Iterable[Document], totals: Counter[str]) -> Iterator[Document]:
    """Pass documents on, counting them and their bytes, and show the progress."""
    with tqdm(desc="download", unit="B", unit_scale=True, disable=None) as progress:
        for document in documents:
            num_bytes = len(document.text.encode())
            totals.update(documents=1, bytes=num_bytes)
            progress.update(num_bytes)
            yield document


if __name__ == "__main__":
    run(main)

"""Gather the documents of the chosen corpus.

Writes: data/documents/, metrics/download.json
"""

from itertools import chain

from toygpt.data.chunks import FoundCorpus
from toygpt.data.corpus import find_standard_library, read_standard_library
from toygpt.data.engines.engine import Engine
from toygpt.data.gathering import gather
from toygpt.data.hub import fetch_hub_dataset, read_hub_files
from toygpt.data.local_files import find_files, read_local_files
from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import new_directory, write_json
from toygpt.pipeline.params import HubCorpus, LocalFiles, Params
from toygpt.pipeline.params_file import load_params
from toygpt.pipeline.stage import run


def main() -> None:
    params = load_params(paths.PARAMS)
    with (
        Engine("download", params.runtime) as engine,
        new_directory(paths.DOCUMENTS) as directory,
    ):
        num_documents, num_bytes, inventory = gather(
            found_corpus(params), engine, directory, params.download
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


def found_corpus(params: Params) -> FoundCorpus:
    """Return the chosen corpus as it is found."""
    match params.chosen_corpus:
        case HubCorpus(datasets=names):
            datasets = (fetch_hub_dataset(name, params.hub[name]) for name in names)
            return FoundCorpus(chain.from_iterable(datasets), read_hub_files)
        case LocalFiles() as files:
            return FoundCorpus(find_files(files.path()), read_local_files)
        case _:
            return FoundCorpus(find_standard_library(), read_standard_library)


if __name__ == "__main__":
    run(main)

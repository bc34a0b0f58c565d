"""What the hub holds, in small: the same files, columns and types, but other texts."""

import hashlib
import json
from collections.abc import Callable
from random import Random
from typing import Any
from urllib.parse import quote

WIKISOURCE = "wikimedia/wikisource"
REDPAJAMA = "togethercomputer/RedPajama-Data-1T-Sample"
GPT2 = "openai-community/gpt2"

END_OF_TEXT = "<|endoftext|>"

COMMON_WORDS = (
    "the of and to in a that was he his it with as for had is on at by which be not "
    "from but this have her were they all one so said when there would an or no been "
    "their we who more out up what them some could into time than other now only like "
    "man men little over upon after very great before down old here day made long "
    "house water river stone night light letter people country king ship captain "
    "mountain garden window evening morning winter summer history question answer "
    "chapter language measure theorem field energy number function value result "
    "machine network memory signal pattern sample model cafe café naïve façade über "
    "señor Ægean 東京 москва remembered travelling understood wonderful nevertheless "
    "themselves afterwards beginning suddenly necessary difference government"
)
COMMON_SYLLABLES = (
    "ka lo mi ren tos var eld und ber sin dor mal pha qui zel orn ast ive"
)
WORDS, SYLLABLES = COMMON_WORDS.split(), COMMON_SYLLABLES.split()


def prose(random: Random, num_words: int) -> str:
    """Return sentences of about so many words, common ones more often than others."""
    by_rank = [1 / (rank + 3) for rank in range(len(WORDS))]
    paragraphs: list[list[str]] = [[]]
    left = num_words
    while left > 0:
        length = min(left, random.randint(4, 18))
        words = random.choices(WORDS, by_rank, k=length)
        # A name that no other text is likely to have.
        words[random.randrange(length)] = invented_name(random)
        sentence = " ".join(words) + random.choice([".", ".", ".", "!", "?", ";"])
        paragraphs[-1].append(sentence[0].upper() + sentence[1:])
        if random.random() < 0.2:
            paragraphs.append([])
        left -= length
    return "\n\n".join(" ".join(sentences) for sentences in paragraphs if sentences)


def invented_name(random: Random) -> str:
    """Return a name of a person or a place that does not exist."""
    return "".join(random.choices(SYLLABLES, k=random.randint(3, 4))).capitalize()


def code(random: Random, num_words: int) -> str:
    """Return Python functions of about so many words."""
    functions = []
    for _ in range(max(1, num_words // 12)):
        name, argument = invented_name(random).lower(), random.choice(SYLLABLES)
        functions.append(
            f"def {name}({argument}, {argument}_size={random.randint(0, 999)}):\n"
            f'    """{prose(random, 6)}"""\n'
            f"    for index in range({argument}_size):\n"
            f"        {argument} += index * {random.randint(2, 99)}\n"
            f"    return {argument}\n"
        )
    return "\n\n".join(functions)


def wikisource_files(
    *, rows_per_file: int = 20, words_per_row: int = 120, seed: int = 0
) -> dict[str, bytes]:
    """Build the English part of wikimedia/wikisource: five Parquet files.

    Works have chapters, "Work/Chapter 1" and so on, and the chapters of a work are
    spread over several files.
    """
    num_files = 5
    random = Random(seed)
    num_rows = num_files * rows_per_file
    works = [
        f"The {invented_name(random)} of {invented_name(random)}"
        for _ in range(max(1, num_rows // 4))
    ]
    rows = []
    for place in range(num_rows):
        chapter, work = divmod(place, len(works))
        title = works[work] + (f"/Chapter {chapter}" if chapter else "")
        rows.append(
            {
                "id": str(1000 + 7 * place),
                "url": "https://en.wikisource.org/wiki/" + quote(title, safe=""),
                "title": title,
                "text": prose(random, words_per_row),
            }
        )
    names = [f"20231201.en/train-{n:05}-of-{num_files:05}.parquet" for n in range(5)]
    return {
        "README.md": WIKISOURCE_CARD.encode(),
        **{
            name: _parquet(rows[n * rows_per_file : (n + 1) * rows_per_file])
            for n, name in enumerate(names)
        },
    }


def _parquet(rows: list[dict[str, str]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    # Several groups of rows, as a file of hundreds of megabytes has them.
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(rows), sink, row_group_size=max(1, len(rows) // 3)
    )
    content: bytes = sink.getvalue().to_pybytes()
    return content


WIKISOURCE_CARD = """---
language:
- en
license:
- cc-by-sa-3.0
- gfdl
configs:
- config_name: 20231201.en
  data_files:
  - split: train
    path: 20231201.en/train-*
dataset_info:
- config_name: 20231201.en
  features:
  - name: id
    dtype: string
  - name: url
    dtype: string
  - name: title
    dtype: string
  - name: text
    dtype: string
---
# Wikisource
"""


def redpajama_files(
    *, rows_per_file: int = 20, words_per_row: int = 120, seed: int = 0
) -> dict[str, bytes]:
    """Build togethercomputer/RedPajama-Data-1T-Sample: eleven files of JSON lines.

    The rows are of seven shapes (https://github.com/togethercomputer/RedPajama-Data,
    branch rp_v1), and of the irregular kind that types guessed from the first rows do
    not fit: the last book's date is a text, some ids of GitHub are null, and the pages
    of Common Crawl have no `meta`.
    """
    random = Random(seed)
    files = {
        "README.md": REDPAJAMA_CARD.encode(),
        "RedPajama-Data-1T-Sample.py": REDPAJAMA_SCRIPT.encode(),
    }
    for name, row in REDPAJAMA_ROWS.items():
        rows = [row(random, place, words_per_row) for place in range(rows_per_file)]
        if name == "book_sample.jsonl" and rows:
            rows[-1]["meta"]["publication_date"] = "c. 1800"
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        files[name] = "".join(lines).encode()
    return files


Row = dict[str, Any]


def _arxiv_row(random: Random, place: int, num_words: int) -> Row:
    arxiv_id = f"1002.{place:04}"
    return {
        "text": f"\\section{{{invented_name(random)}}}\n\n{prose(random, num_words)}\n",
        "meta": {
            "timestamp": "2010-02-12T07:46:39.000Z",
            "yymm": "1002",
            "arxiv_id": arxiv_id,
            "language": "en",
            "url": f"https://arxiv.org/abs/{arxiv_id}",
            "source": "arxiv",
        },
    }


def _book_row(random: Random, place: int, num_words: int) -> Row:
    title = f"The {invented_name(random)}"
    return {
        "text": f"{title.upper()}\n\n{prose(random, 2 * num_words)}",
        "meta": {
            "short_book_title": title,
            "publication_date": 1500 + place,
            "url": f"http://www.gutenberg.org/ebooks/{place}",
        },
    }


def _c4_row(random: Random, place: int, num_words: int) -> Row:
    return {
        "text": prose(random, num_words),
        "meta": {
            "timestamp": "2019-04-25T12:57:54Z",
            "url": f"https://{invented_name(random).lower()}.example/{place}",
            "language": "en",
            "source": "c4",
        },
    }


def _github_row(random: Random, place: int, num_words: int) -> Row:
    text = code(random, num_words)
    lines = text.splitlines()
    lengths = [len(line) for line in lines]
    size = str(len(text.encode()))
    return {
        "text": text,
        "meta": {
            "content_hash": hashlib.md5(text.encode()).hexdigest(),
            "timestamp": "",
            "source": "github",
            "line_count": len(lines),
            "max_line_length": max(lengths),
            "avg_line_length": sum(lengths) / len(lines),
            "alnum_prop": sum(map(str.isalnum, text)) / len(text),
            # Several files of one repository.
            "repo_name": f"owner/repository-{place // 3}",
            "id": None if place % 7 == 3 else hashlib.sha1(text.encode()).hexdigest(),
            "size": size,
            "binary": False,
            "copies": "1",
            "ref": "refs/heads/master",
            "path": f"source/file_{place}.py",
            "mode": "33188",
            "license": "mit",
            "language": [{"name": "Python", "bytes": size}],
        },
    }


def _stackexchange_row(random: Random, place: int, num_words: int) -> Row:
    question, answer = prose(random, num_words // 2), prose(random, num_words // 2)
    return {
        "text": f"Q: {question}\n\nA: {answer}",
        "meta": {
            "language": "en",
            "url": f"https://stackoverflow.com/questions/{place}",
            "timestamp": "2023-03-29",
            "source": "stackexchange",
            "question_score": str(random.randint(-2, 40)),
        },
    }


def _wikipedia_row(random: Random, place: int, num_words: int) -> Row:
    title = f"{invented_name(random)} {place}"
    return {
        "text": f"{title} is {prose(random, num_words)}",
        "meta": {
            "title": title,
            "url": f"https://en.wikipedia.org/wiki/{quote(title)}",
            "language": "en",
            "timestamp": "20230320",
        },
    }


def _common_crawl_row(crawl: str) -> Callable[[Random, int, int], Row]:
    def row(random: Random, place: int, num_words: int) -> Row:
        return {
            "text": prose(random, num_words),
            "pred_label": "__label__cc",
            "pred_label_prob": random.uniform(0.5, 1),
            "wiki_prob": random.uniform(0.25, 0.5),
            "source": f"cc/{crawl}/en_middle_0053.json.gz/line{place}",
        }

    return row


REDPAJAMA_ROWS: dict[str, Callable[[Random, int, int], Row]] = {
    "arxiv_sample.jsonl": _arxiv_row,
    "book_sample.jsonl": _book_row,
    "c4_sample.jsonl": _c4_row,
    **{
        f"cc_{crawl}_sample.jsonl": _common_crawl_row(crawl)
        for crawl in ("2019-30", "2020-05", "2021-04", "2022-05", "2023-06")
    },
    "github_sample.jsonl": _github_row,
    "stackexchange_sample.jsonl": _stackexchange_row,
    "wikipedia_sample.jsonl": _wikipedia_row,
}

REDPAJAMA_CARD = """---
task_categories:
- text-generation
language:
- en
pretty_name: Red Pajama 1T Sample
---
# Red Pajama
"""

# The real one defines a dataset; `datasets` stopped running such scripts in 4.0.
REDPAJAMA_SCRIPT = 'raise RuntimeError("a script from the hub was run")\n'


def gpt2_tokenizer_files(*, vocab_size: int = 512) -> dict[str, bytes]:
    """Build what openai-community/gpt2 has of a tokenizer, but of a small vocabulary.

    As there, the end of text is the last token; a newly trained tokenizer has its
    special tokens first.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([prose(Random(0), 4000)], trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    vocab, merges = trained["vocab"], [tuple(pair) for pair in trained["merges"]]
    vocab[END_OF_TEXT] = len(vocab)
    tokenizer.model = models.BPE(vocab, merges)
    tokenizer.add_special_tokens([END_OF_TEXT])

    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": len(vocab),
        "n_positions": 1024,
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "bos_token_id": vocab[END_OF_TEXT],
        "eos_token_id": vocab[END_OF_TEXT],
    }
    return {
        "config.json": json.dumps(config, indent=2).encode(),
        "merges.txt": ("\n".join(lines) + "\n").encode(),
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps({"model_max_length": 1024}).encode(),
        "vocab.json": json.dumps(vocab).encode(),
    }

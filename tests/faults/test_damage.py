"""Damaged and hostile input, and full disks: one message, and nothing good is lost."""

import copy
import hashlib
import json
import os
import pickle
import resource
import shutil
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers

from stages import download, evaluate, generate_samples, split, tokenize
from tests.project import PROJECT, Workspace, tiny_project
from tests.tiny import lively_model
from toygpt.data.corpus import clean, read_groups, read_texts
from toygpt.data.inventory import Inventory
from toygpt.data.local_files import read_local_files
from toygpt.data.manifest import open_tokens, read_ends, read_manifest
from toygpt.data.tokenizer import load_tokenizer, train_tokenizer, vocab_size_of
from toygpt.model.huggingface import load_config, load_model, save_model
from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.files import new_directory, new_file, write_text
from toygpt.pipeline.params import load_params
from toygpt.pipeline.stage import run

STAGES: dict[str, ModuleType] = {
    "download": download,
    "tokenize": tokenize,
    "split": split,
    "evaluate": evaluate,
    "generate_samples": generate_samples,
}
OUTPUTS = {
    "download": ["data/documents", "metrics/download.json"],
    "tokenize": ["data/tokens", "metrics/tokenize.json"],
    "split": ["data/splits", "metrics/split.json"],
    "evaluate": ["metrics/evaluate.json"],
    "generate_samples": ["reports/samples", "metrics/generate-samples.json"],
}
# A directory of token files, the part that is damaged, and the stage that reads it.
TOKEN_FILES = [
    pytest.param("tokenize", "data/tokens", "tokens.bin", split, id="tokens"),
    pytest.param("split", "data/splits", "validation.bin", evaluate, id="splits"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a project whose every stage has run; the model was not trained."""
    workspace = tiny_project(tmp_path_factory.mktemp("damage") / "project")
    workspace.set_params(
        {
            "corpus": "files",
            "tokenize.vocab_size": 260,
            "models.nano.block_size": 4,
            "generate-samples.prompts": ["def"],
            "tracking.mlflow": False,
            "tracking.wandb": "disabled",
        }
    )
    for number in range(12):
        write_text(
            workspace.root / "texts" / f"{number}" / "a.txt",
            f"def number_{number}(self):\n    return {number**9}\n" * 2,
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace.root)
        for stage in (download, tokenize, split):
            run(stage.main)
        tokenizer = load_tokenizer(paths.TOKENIZER)
        with new_directory(paths.MODEL) as directory:
            save_model(
                lively_model(vocab_size=vocab_size_of(tokenizer), block_size=4),
                directory,
                end_of_text_id=0,
                tokenizer_directory=paths.TOKENIZER,
            )
        for stage in (evaluate, generate_samples):
            run(stage.main)
    return workspace


@pytest.fixture
def project(
    made: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Workspace:
    """Return a copy of it to damage, which is the working directory."""
    root = tmp_path / "project"
    shutil.copytree(made.root, root, ignore=shutil.ignore_patterns(".git", "tests"))
    monkeypatch.chdir(root)
    return Workspace(root)


def complaint_of(stage: ModuleType) -> str:
    """Return what a stage says at its end; Python prints it, and exits with 1."""
    with pytest.raises(SystemExit) as ended:
        run(stage.main)
    message = ended.value.code
    assert isinstance(message, str)
    assert message.startswith("error: ")
    assert len(message.splitlines()) == 1
    return message.removeprefix("error: ")


def digests(folder: Path) -> dict[str, str]:
    """Return every file below a folder, hidden ones too, with its digest."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    }


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def change_json(path: Path, change: Callable[[Any], object]) -> None:
    values = read_json(path)
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


def reseal(directory: Path) -> None:
    """Let the manifest vouch for the files as they are now."""

    def update(values: Any) -> None:
        for name, record in values["files"].items():
            content = (directory / name).read_bytes()
            record["bytes"] = len(content)
            record["sha256"] = hashlib.sha256(content).hexdigest()

    change_json(directory / "manifest.json", update)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def extend(file: Path) -> None:
    with file.open("ab") as end:
        end.write(bytes(2))


def flip_one_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0b1000
    file.write_bytes(content)


def swap(file: Path) -> None:
    """Give it the contents of another token file, and that one its own."""
    other = next(path for path in sorted(file.parent.glob("*.bin")) if path != file)
    content, others = file.read_bytes(), other.read_bytes()
    file.write_bytes(others)
    other.write_bytes(content)


def swap_tokens(file: Path) -> None:
    """Exchange two tokens: size and letters stay, the text does not."""
    tokens = np.fromfile(file, dtype="<u2")
    place = int(np.flatnonzero(tokens[1:] != tokens[:-1])[0])
    tokens[[place, place + 1]] = tokens[[place + 1, place]]
    file.write_bytes(tokens.tobytes())


@pytest.mark.parametrize(("maker", "where", "name", "stage"), TOKEN_FILES)
@pytest.mark.parametrize(
    "damage", [truncate, extend, flip_one_bit, swap, swap_tokens, Path.unlink]
)
def test_a_damaged_token_file_is_named_and_nothing_else_changes(
    project: Workspace,
    damage: Callable[[Path], None],
    maker: str,
    where: str,
    name: str,
    stage: ModuleType,
) -> None:
    file = Path(where, name)
    intact = file.read_bytes()
    damage(file)
    assert not file.exists() or file.read_bytes() != intact
    before = digests(project.root)

    message = complaint_of(stage)

    assert message.startswith(str(Path(where)))
    assert (file.name in message) or (damage is swap and ".bin is damaged" in message)
    if damage in (truncate, extend):
        assert f"bytes instead of {len(intact):,}" in message
    assert message.endswith(f"run `dvc repro --force --single-item {maker}`")
    assert digests(project.root) == before


def test_the_flipped_bit_is_one_bit(project: Workspace) -> None:
    """Else the test above would show less than it says."""
    file = Path("data/tokens/tokens.bin")
    intact = file.read_bytes()

    flip_one_bit(file)

    difference = int.from_bytes(intact) ^ int.from_bytes(file.read_bytes())
    assert difference.bit_count() == 1


def test_a_stage_with_damaged_input_ends_without_a_traceback(
    project: Workspace,
) -> None:
    """The same in a process of its own, as DVC runs it."""
    flip_one_bit(Path("data/tokens/tokens.bin"))
    before = digests(project.root / "data")

    ended = project.run("python", "-m", "stages.split", check=False)

    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr == (
        "error: data/tokens/tokens.bin is damaged: its contents are not what tokenize "
        "wrote; run `dvc repro --force --single-item tokenize`\n"
    )
    assert digests(project.root / "data") == before


@pytest.mark.parametrize(("maker", "where", "name", "stage"), TOKEN_FILES)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"token_type": "uint32"}, "uint32 for a vocabulary of 260"),
        ({"token_type": "float32"}, "float32 for a vocabulary of 260"),
        ({"vocab_size": 70_000, "token_type": "uint32"}, "bin cannot hold"),
        ({"version": 2}, "has version 2, this toyGPT reads 1"),
    ],
)
def test_a_manifest_that_says_what_cannot_be_is_refused(
    project: Workspace,
    change: dict[str, Any],
    reason: str,
    maker: str,
    where: str,
    name: str,
    stage: ModuleType,
) -> None:
    path = Path(where, "manifest.json")
    change_json(path, lambda values: values.update(change))
    before = digests(project.root)

    message = complaint_of(stage)

    assert message.startswith(f"{path} ")
    assert reason in message
    assert message.endswith(f"run `dvc repro --force --single-item {maker}`")
    assert digests(project.root) == before


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\x80\x04K\x01.", b"\xff", b"[" * 100_000, b"9" * 10_000],
    ids=["empty", "cut off", "a pickle", "not UTF-8", "deep", "long number"],
)
def test_a_manifest_that_is_no_json_is_named(
    project: Workspace, content: bytes
) -> None:
    path = Path("data/tokens/manifest.json")
    path.write_bytes(content)

    message = complaint_of(split)

    assert message.startswith(f"{path} ")
    assert message.endswith("run `dvc repro --force --single-item tokenize`")


@pytest.mark.parametrize("section", ["files", "parts"])
@pytest.mark.parametrize("name", ["../splits/test", "/etc/hostname", "a/../tokens"])
def test_a_manifest_that_points_elsewhere_is_refused(
    project: Workspace, section: str, name: str
) -> None:
    """`../splits/test.bin` is even there, and its digest could be written down."""
    assert Path("data/tokens/../splits/test.bin").exists()
    path = Path("data/tokens/manifest.json")

    def point_elsewhere(values: Any) -> None:
        suffix = ".bin" if section == "files" else ""
        (known,) = list(values[section].values())[-1:]
        values[section][name + suffix] = known

    change_json(path, point_elsewhere)

    message = complaint_of(split)

    assert message.startswith(f"{path} ")
    assert name in message


def test_directories_that_were_exchanged_are_recognised(project: Workspace) -> None:
    """Each of them is intact, and the other stage's."""
    tokens, splits = Path("data/tokens"), Path("data/splits")
    tokens.rename("data/aside")
    splits.rename(tokens)
    Path("data/aside").rename(splits)
    shutil.copytree(splits / "tokenizer", tokens / "tokenizer")

    assert "manifest.json names no tokens.bin: run `dvc repro`" in complaint_of(split)
    assert "manifest.json names no test.bin: run `dvc repro`" in complaint_of(evaluate)


@pytest.mark.parametrize(
    "damage",
    [
        lambda ends: ends[::-1],
        lambda ends: ends[:-1],
        lambda ends: np.append(ends[:-1], ends[-1] + np.uint64(1)),
        lambda ends: np.append(ends[:-1], np.uint64(2**63 + 5)),
        lambda ends: np.append(ends[:-2], [ends[-1], ends[-1]]),
    ],
    ids=["backwards", "one too few", "too far", "overflowing", "an empty document"],
)
def test_documents_must_end_one_after_another_where_the_tokens_do(
    project: Workspace, damage: Callable[[Any], Any]
) -> None:
    file = Path("data/tokens/ends.bin")
    ends = np.fromfile(file, dtype="<u8")
    file.write_bytes(damage(ends).astype("<u8").tobytes())
    reseal(file.parent)
    manifest = read_manifest(file.parent, made_by="tokenize")

    with pytest.raises(InputError) as caught:
        read_ends(file.parent, manifest)

    assert str(caught.value) == complaint_of(split)
    assert str(caught.value).startswith(f"{file} does not say where 12 documents end")


def test_another_tokenizer_beside_the_token_ids_is_refused(project: Workspace) -> None:
    """Its tokens have other lengths: the bytes of each split would be wrong."""
    path = Path("data/tokens/tokenizer/tokenizer.json")
    train_tokenizer([["something else " * 5]], vocab_size=260).save(str(path))

    message = complaint_of(split)

    assert message.startswith("the tokenizer in data/tokens/tokenizer is not the one")
    assert message.endswith("run `dvc repro`")


class Evil:
    """What a pickle can be made to do to those who load it."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("stage", [evaluate, generate_samples])
def test_a_pickle_that_calls_itself_safetensors_is_not_run(
    project: Workspace, stage: ModuleType
) -> None:
    canary = project.root / "canary"
    weights = Path("models/toygpt/model.safetensors")
    weights.write_bytes(pickle.dumps(Evil(canary)))
    before = digests(project.root)

    message = complaint_of(stage)

    assert not canary.exists()
    assert message.startswith(f"cannot read {weights}: ")
    assert "`dvc checkout --force models/toygpt` brings back" in message
    assert "`dvc repro --force --single-item train` trains anew" in message
    assert digests(project.root) == before
    pickle.loads(weights.read_bytes())
    assert canary.exists(), "the pickle was harmless, and the test worthless"


def header(description: object, length: int | None = None) -> bytes:
    """Return a safetensors file that has a header, and hardly anything behind it."""
    text = json.dumps(description).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + b"1234"


def tensor(shape: list[int], offsets: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    "content",
    [
        header({}, 2**63 - 1),
        header({}, 90_000_000),
        header(tensor([10**12, 10**12], [0, 4])),
        header(tensor([10**11], [0, 4 * 10**11])),
        header(tensor([1], [4 * 10**11, 4 * 10**11 + 4])),
        header(tensor([-1], [0, 4])),
        header(tensor([1], [0, 4], dtype="F1024")),
        header(["not", "tensors"]),
        b"",
    ],
    ids=[
        "endless header",
        "long header",
        "more than can be counted",
        "more than fits",
        "far away",
        "negative",
        "unknown type",
        "a list",
        "empty",
    ],
)
def test_weights_that_claim_absurd_sizes_take_no_memory(
    project: Workspace, content: bytes
) -> None:
    weights = Path("models/toygpt/model.safetensors")
    weights.write_bytes(content)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    message = complaint_of(generate_samples)

    assert message.startswith(f"cannot read {weights}: ")
    assert "dvc checkout --force models/toygpt" in message
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    assert grown < 50_000  # kB


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights.popitem(),
        lambda weights: weights.update(more=torch.zeros(1)),
        lambda weights: weights.update({"lm_head.bias": torch.zeros(3)}),
        lambda weights: weights.update(
            {"lm_head.bias": weights["lm_head.bias"].long()}
        ),
        lambda weights: weights.clear(),
    ],
    ids=["missing", "foreign", "another shape", "another type", "none"],
)
def test_weights_of_another_model_are_refused(
    project: Workspace, change: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    path = Path("models/toygpt/model.safetensors")
    weights = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(weights)
    save_file(weights, path)

    message = complaint_of(generate_samples)

    assert message.startswith(f"{path} does not fit models/toygpt/config.json: ")
    assert "dvc checkout --force models/toygpt" in message


def test_one_flipped_bit_in_the_header_of_the_weights_is_no_surprise(
    project: Workspace,
) -> None:
    """It is told to the user, or the model is the same."""
    path = Path("models/toygpt/model.safetensors")
    intact = path.read_bytes()
    expected = load_model(path.parent).state_dict()
    (length,) = struct.unpack("<Q", intact[:8])
    complaints = 0
    for place in range(0, 8 + length, 37):
        content = bytearray(intact)
        content[place] ^= 1
        path.write_bytes(content)
        try:
            found = load_model(path.parent).state_dict()
        except InputError as error:
            assert str(error).startswith((f"cannot read {path}", f"{path} does not"))
            complaints += 1
        else:
            assert all(torch.equal(found[name], expected[name]) for name in expected)

    assert complaints


@pytest.mark.parametrize(
    "change",
    [
        {"n_layer": 0},
        {"n_layer": -1},
        {"n_layer": True},
        {"n_layer": 20_000},
        {"n_head": 0},
        {"n_head": 3},
        {"n_positions": 0},
        {"n_positions": 10**12},
        {"vocab_size": 10**30},
        {"vocab_size": -1},
        {"n_embd": 7, "dff": 28},
        {"n_embd": -8, "dff": -32},
        {"resid_pdrop": "much"},
        {"resid_pdrop": 7},
        {"resid_pdrop": float("nan")},
    ],
    ids=str,
)
def test_a_network_that_cannot_be_is_not_built(
    project: Workspace, change: dict[str, Any]
) -> None:
    path = Path("models/toygpt/config.json")
    change_json(path, lambda values: values.update(change))
    began = time.process_time()

    message = complaint_of(generate_samples)

    assert str(path) in message
    assert time.process_time() - began < 1


def test_a_config_as_deep_as_a_well_is_refused(project: Workspace) -> None:
    path = Path("models/toygpt/config.json")
    path.write_text("[" * 100_000, encoding="utf-8")

    with pytest.raises(InputError, match=r"config\.json describes no toyGPT model"):
        load_config(path.parent)


@pytest.mark.parametrize("stage", [evaluate, generate_samples])
def test_a_model_with_the_tokenizer_of_another_is_refused(
    project: Workspace, stage: ModuleType
) -> None:
    """Its weights fit its config; the tokens that it is asked about do not."""
    aside = Path("tokenizer aside")
    shutil.copytree(paths.TOKENIZER, aside)
    with new_directory(paths.MODEL) as directory:
        save_model(
            lively_model(vocab_size=100, block_size=4),
            directory,
            end_of_text_id=0,
            tokenizer_directory=aside,
        )
    before = digests(project.root)

    message = complaint_of(stage)

    assert message.startswith("models/toygpt predicts 100 tokens, ")
    assert message.endswith("run `dvc repro --force --single-item train`")
    assert digests(project.root) == before


def laughs(*, levels: int = 10, merged: bool = False) -> str:
    """Return lists of lists of lists: `lol`, nine times as often on each level."""
    begin, end = ("{<<: [", "]}") if merged else ("[", "]")
    lines = ["a0: &a0 {k: lol}" if merged else "a0: &a0 [lol]"]
    for level in range(1, levels):
        aliases = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"a{level}: &a{level} {begin}{aliases}{end}")
    return "\n".join(lines) + "\n"


def expanded(value: Any, known: dict[int, int]) -> int:
    """Return how many values there would be if none were shared."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        inside = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(expanded(part, known) for part in inside)
    return known[id(value)]


def complaint_about(text: str) -> str:
    """Return what is said of a params.yaml; it must cost no time and no memory."""
    path = Path("params.yaml")
    path.write_text(text, encoding="utf-8")
    began = time.process_time()
    with pytest.raises(InputError) as caught:
        load_params(path)
    assert time.process_time() - began < 2
    tracemalloc.start()
    with pytest.raises(InputError):
        load_params(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 30_000_000
    message = str(caught.value)
    assert len(message) < 1000
    return message


def test_a_billion_laughs_are_refused(project: Workspace) -> None:
    """Ten lines, and nobody has the memory to write them out."""
    intact = Path("params.yaml").read_text(encoding="utf-8")
    text = laughs()
    assert expanded(YAML(typ="safe").load(text), {}) > 10**8

    on_top = complaint_about(text)
    beside = complaint_about(text + intact.replace("- def", "- *a9"))
    as_list = complaint_about(
        "\n".join(f"- {line.partition(': ')[2]}" for line in text.splitlines())
    )
    merged = complaint_about(laughs(merged=True))

    for message in (on_top, beside, as_list, merged):
        assert message.startswith("params.yaml is not valid YAML: line 6: *a4 and the")
        assert message.endswith("stand for more than 100,000 values")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("&a [*a]", "line 1: *a stands for itself"),
        ("&a {b: *a}", "line 1: *a stands for itself"),
        ("seed: &a\n  <<: *a", "line 2: *a stands for itself"),
        ("a: *b", "line 1: found undefined alias 'b'"),
        ("[" * 100_000, "line 1: more than 100 levels deep"),
        ("{a: " * 1_000, "line 1: more than 100 levels deep"),
        ("seed: 1\nseed: 2", "line 2: found duplicate key"),
        ("train:\n  a: 1\n  b: 2\n  a: 3", "line 4: found duplicate key"),
        ("a: !!bool maybe", "'maybe'"),
        ("a: !!int ''", "string index out of range"),
        ("a: !!timestamp soon", "line 1: failed to construct timestamp"),
        ("a: &a [b]\n? [*a]\n: c", "unhashable"),
        ("a: 1\n---\na: 2", "line 2: but found another document"),
    ],
)
def test_a_params_file_that_is_a_trap_is_refused(
    project: Workspace, text: str, reason: str
) -> None:
    message = complaint_about(text)

    assert message.startswith("params.yaml is not valid YAML: ")
    assert reason in message


@pytest.mark.parametrize(
    "tag", ["python/object/apply:os.mkdir", "python/object/new:os.mkdir"]
)
def test_a_tag_in_a_params_file_runs_nothing(project: Workspace, tag: str) -> None:
    canary = project.root / "canary"
    intact = Path("params.yaml").read_text(encoding="utf-8")
    evil = f"!!{tag} [{json.dumps(str(canary))}]"

    message = complaint_about(intact.replace("seed: 1337", f"seed: {evil}"))

    assert not canary.exists()
    assert "line 1: could not determine a constructor for the tag" in message
    assert message.endswith(f"{tag}'")


def test_the_tag_would_run_where_tags_are_trusted(tmp_path: Path) -> None:
    """Else the test above would show nothing."""
    canary = tmp_path / "canary"
    evil = f"!!python/object/apply:os.mkdir [{json.dumps(str(canary))}]"

    subprocess.run(
        [sys.executable, "-c", f"import yaml; yaml.unsafe_load({evil!r})"], check=True
    )

    assert canary.exists()


def test_harmless_aliases_stay_allowed(project: Workspace) -> None:
    path = Path("params.yaml")
    intact = path.read_text(encoding="utf-8")
    path.write_text(
        intact.replace("  nano: ", "  nano: &nano ") + "\n", encoding="utf-8"
    )
    text = path.read_text(encoding="utf-8").replace(
        "models:",
        "models:\n  twin: &twin {num_layers: 1, num_heads: 1, "
        "block_size: 4, embed_dim: 8}\n  other: *twin",
        1,
    )
    path.write_text(text, encoding="utf-8")

    params = load_params(path)

    assert params.models["other"] == params.models["twin"]


def test_a_stage_refuses_a_bomb_before_anything_else(project: Workspace) -> None:
    """In a process of its own, which may take no more memory than Python needs."""
    Path("params.yaml").write_text(laughs(merged=True), encoding="utf-8")
    before = digests(project.root / "data")

    ended = project.run("python", "-m", "stages.download", check=False)

    assert ended.returncode == 1
    assert ended.stderr.startswith("error: params.yaml is not valid YAML: line 6: ")
    assert len(ended.stderr.splitlines()) == 1
    assert digests(project.root / "data") == before


def surrogate_strings(*texts: bytes) -> pa.Array:
    """Return strings that are not UTF-8, as careless programs write them."""
    return pa.array(texts, pa.binary()).view(pa.string())


def test_what_is_no_text_is_left_out_of_the_corpus_and_counted(
    project: Workspace,
) -> None:
    shutil.rmtree("texts")
    folder = Path("texts")
    folder.mkdir()
    (folder / "binary.txt").write_bytes(bytes(range(256)) * 100)
    (folder / "image.md").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    (folder / "surrogates.py").write_bytes(b"x = '\xed\xa0\x80'")
    (folder / "nul.txt").write_bytes(b"one\0two" + bytes(1000))
    (folder / "zeros.jsonl").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1_000))
    (folder / "rows.jsonl").write_text(
        '{"text": "\\ud800"}\n{"text": "row\\u0000", "group": "\\udfff"}\n',
        encoding="utf-8",
    )
    pq.write_table(
        pa.table(
            {
                "text": surrogate_strings(b"\xed\xa0\x80", b"a", b"b"),
                "group": surrogate_strings(b"x", b"\xed\xa0\x80", b"\xff\0"),
            }
        ),
        folder / "table.parquet",
    )

    run(download.main)

    texts = [text for texts in read_texts(paths.DOCUMENTS) for text in texts]
    assert texts == ["row\0", "a", "b"]
    groups = list(read_groups(paths.DOCUMENTS))
    assert groups == ["\\udfff", "\\xed\\xa0\\x80", "\\xff\0"]
    assert read_json(Path("metrics/download.json")) == {
        "corpus_documents": 3,
        "corpus_bytes": sum(map(len, texts)),
        **Inventory().metrics(),
        "left_out_binary": 4,
        "left_out_not_utf8": 3,
    }
    run(tokenize.main)  # NUL bytes are bytes like any other
    manifest = read_manifest(paths.TOKENS, made_by="tokenize")
    tokens = open_tokens(paths.TOKENS, manifest, "tokens").tolist()
    decoded = load_tokenizer(paths.TOKENIZER).decode(tokens)
    assert decoded == "".join(texts)


def test_a_corpus_of_binary_files_alone_leaves_the_old_documents(
    project: Workspace,
) -> None:
    for path in Path("texts").rglob("*.txt"):
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + os.urandom(1000))
    before = digests(project.root)

    ended = project.run("python", "-m", "stages.download", check=False)

    assert ended.returncode == 1
    assert ended.stderr == (
        "error: the corpus 'files' holds no text (see corpora.files and `download` in "
        "params.yaml); left out: 1 hidden, 12 binary\n"
        "  binary: 0/a.txt, 1/a.txt, 10/a.txt, …; if it is text with NUL characters: "
        "tr -d '\\000' < FILE > NEW_FILE\n"
    )
    assert digests(project.root) == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.parquet", os.urandom(5_000)),
        ("a.parquet", b"PAR1" + bytes(5_000) + b"PAR1"),
        ("a.jsonl", b"x" * 50_000_000),
    ],
    ids=["noise", "zeros", "gigantic line"],
)
def test_a_table_that_is_none_is_named(
    project: Workspace, name: str, content: bytes
) -> None:
    path = Path("texts", name)
    path.write_bytes(content)
    before = digests(project.root)

    message = complaint_of(download)

    assert str(path) in message
    assert len(message) < 300
    assert digests(project.root) == before


@pytest.mark.parametrize(
    "columns",
    [
        pa.table({"text": surrogate_strings(b"\xed\xa0\x80").dictionary_encode()}),
        pa.table({"text": ["a"], "group": pa.array([2**62], pa.timestamp("us"))}),
        pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"]),
    ],
    ids=["half a character", "a date beyond all calendars", "two columns `text`"],
)
def test_values_that_cannot_be_read_are_blamed_on_their_file(
    project: Workspace, columns: pa.Table
) -> None:
    path = Path("texts/a.parquet")
    pq.write_table(columns, path)

    message = complaint_of(download)

    assert message.startswith(f"cannot read {path}: ")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_gigantic_line_is_a_document_like_any_other(
    project: Workspace, name: str
) -> None:
    text = "word " * 10_000_000
    line = json.dumps({"text": text}) if name == "a.jsonl" else text
    shutil.rmtree("texts")
    Path("texts").mkdir()
    Path("texts", name).write_text(line, encoding="utf-8")
    inventory = Inventory()

    (document,) = clean(read_local_files(Path("texts"), inventory), inventory)

    assert document.text == text
    assert not inventory.left_out


@pytest.mark.parametrize("char", ["a", "\0", " ", "字"])
def test_a_gigantic_word_does_not_take_days_to_learn_from(char: str) -> None:
    """Unless it is cut up, the time grows with the square of its length."""
    began = time.process_time()

    tokenizer = train_tokenizer([[char * 1_000_000, "def f():" * 9]], vocab_size=270)

    assert time.process_time() - began < 10
    assert tokenizer.decode(tokenizer.encode(char * 2_500).ids) == char * 2_500
    # Only the learning cuts words up, not what is learned.
    assert isinstance(tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel)


# Runs a stage again and again, with ever more room, until it passes. The disk is real:
# a file system in memory, in a name space of its own. Each attempt is a process that
# was forked when all that takes long had been imported.
COUNT_UP = """
import hashlib, importlib, json, os, runpy, shutil, subprocess, sys, tempfile, traceback
from pathlib import Path

made, disk, outputs = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
for stage in outputs:
    importlib.import_module(f"stages.{stage}")
for stage in outputs:
    del sys.modules[f"stages.{stage}"]
sys.modules["toygpt.model.huggingface"].load_model(made / "models" / "toygpt")

subprocess.run(["mount", "-t", "tmpfs", "tiny", disk], check=True)
os.chdir(disk)
for name in ("data", "models", "metrics", "reports", "texts"):
    shutil.copytree(made / name, disk / name)
for name in ("params.yaml", "dvc.yaml"):
    shutil.copy(made / name, disk / name)


def resize(kind, room):
    usage = os.statvfs(disk)
    pages = (usage.f_blocks - usage.f_bfree) if usage.f_blocks else 0
    inodes = usage.f_files - usage.f_ffree
    size = (pages + room) * usage.f_frsize if kind == "bytes" else 1 << 30
    files = inodes + room if kind == "files" else 1 << 20
    options = f"remount,size={size},nr_inodes={files}"
    subprocess.run(["mount", "-o", options, disk], check=True)


def is_full_after(kind, room):
    test = disk / "test"
    try:
        if kind == "bytes":
            test.write_bytes(bytes((room + 1) * os.statvfs(disk).f_frsize))
        else:
            test.mkdir()
            for number in range(room):
                (test / str(number)).touch()
    except OSError as error:
        return error.errno == 28
    finally:
        shutil.rmtree(test) if test.is_dir() else test.unlink(missing_ok=True)
    return False


def tree():
    return {
        str(path.relative_to(disk)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(disk.rglob("*")) if path.is_file()
    }


def put_old(names):
    for name in names:
        path = disk / name
        if path.is_dir():
            shutil.rmtree(path)
            path.mkdir()
            path /= "old"
        path.write_text("old")


def run_stage(stage):
    # As Python itself would, but for tidying up all that torch brought along.
    code = 0
    try:
        runpy.run_module(f"stages.{stage}", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        print(ended.code, file=sys.stderr)
        code = 1
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    os._exit(code)


def attempt(stage, kind, room):
    for name in ("data", "models", "metrics", "reports"):
        shutil.rmtree(disk / name)
        shutil.copytree(made / name, disk / name)
    put_old(outputs[stage])
    before = tree()
    resize(kind, room)
    full = is_full_after(kind, room)
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if not child:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            run_stage(stage)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        report = {
            "stage": stage, "kind": kind, "room": room, "full": full, "code": code,
            "said": said.read(), "before": before, "after": tree(),
        }
    resize("neither", 0)
    print(json.dumps(report), flush=True)
    return code


for stage in outputs:
    for kind in ("bytes", "files"):
        room = 0
        while attempt(stage, kind, room) and room < 60:
            room += 1
"""


class Attempt(NamedTuple):
    """A stage that ran with so many pages, or files, left on its disk."""

    stage: str
    kind: str
    room: int
    full: bool
    code: int
    said: str
    before: dict[str, str]
    after: dict[str, str]


@pytest.fixture(scope="module")
def attempts(
    made: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> list[Attempt]:
    """Return what became of each stage as the disk was given more and more room."""
    disk = tmp_path_factory.mktemp("disk")
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    workspace = Workspace(made.root)
    if (
        shutil.which("unshare") is None
        or workspace.run(
            *alone, "mount", "-t", "tmpfs", "tiny", str(disk), check=False
        ).returncode
    ):
        pytest.skip("this system lets nobody mount a disk")
    workspace.environment["PYTHONPATH"] = str(PROJECT)
    done = workspace.run(
        *(*alone, "python", "-P", "-c", COUNT_UP),
        *(str(made.root), str(disk), json.dumps(OUTPUTS)),
    )
    return [Attempt(**json.loads(line)) for line in done.stdout.splitlines()]


def under(files: dict[str, str], name: str) -> dict[str, str]:
    """Return the files that make up an output."""
    return {
        path: digest
        for path, digest in files.items()
        if path == name or path.startswith(f"{name}/")
    }


@pytest.mark.parametrize("kind", ["bytes", "files"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_ends_a_stage_and_leaves_what_was_there(
    made: Workspace, attempts: list[Attempt], stage: str, kind: str
) -> None:
    """At whichever write it is: there is room for all before it, and none for it."""
    new = digests(made.root)
    mine = [a for a in attempts if (a.stage, a.kind) == (stage, kind)]
    *failed, passed = mine

    assert passed.code == 0, passed.said
    for name in OUTPUTS[stage]:
        assert under(passed.after, name) == under(new, name)
    assert failed
    for attempt in failed:
        assert attempt.full
        assert attempt.code == 1
        (line,) = attempt.said.splitlines()
        assert line.startswith("error: no room left for ")
        assert line.endswith(": make room on its disk, then run the same command again")
        (named,) = [n for n in OUTPUTS[stage] if f"for {n}" in line]
        assert under(attempt.after, named) == under(attempt.before, named)
        for name in OUTPUTS[stage]:
            assert under(attempt.after, name) in (
                under(attempt.before, name),
                under(new, name),
            )
        assert attempt.after.keys() <= attempt.before.keys() | new.keys()
        assert not [name for name in attempt.after if name.endswith(".tmp")]
    # With no room at all, nothing has changed.
    assert failed[0].after == failed[0].before


class RustError(Exception):
    """Libraries in Rust have no class for what the system refuses."""


@pytest.mark.parametrize("make", [new_file, new_directory])
@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError("[Errno 28] Error writing bytes to file"),
        RustError("No space left on device (os error 28)"),
        RustError("while serializing: I/O error: (os error 28)"),
        shutil.Error([("a", "b", "[Errno 28] No space left on device: 'a' -> 'b'")]),
    ],
    ids=["write", "pyarrow", "tokenizers", "safetensors", "copytree"],
)
def test_every_library_is_made_to_say_which_file_it_could_not_write(
    tmp_path: Path, make: Any, error: Exception
) -> None:
    path = tmp_path / "output"

    with pytest.raises(OSError, match="No space left") as caught, make(path):
        raise copy.copy(error)

    assert (caught.value.errno, caught.value.filename) == (28, str(path))
    assert list(tmp_path.iterdir()) == []


def test_a_file_inside_a_new_directory_is_called_what_it_would_have_been(
    tmp_path: Path,
) -> None:
    """Nobody has seen the temporary folder, and it is gone."""
    with (
        pytest.raises(FileNotFoundError) as caught,
        new_directory(tmp_path / "tokens") as directory,
    ):
        (directory / "missing" / "a.bin").write_bytes(b"")

    assert caught.value.filename == str(tmp_path / "tokens" / "missing" / "a.bin")


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    """Even an error of the user's that quotes one of the system."""
    for error in (KeyError("Errno"), InputError("cannot read x (os error 2)")):
        with pytest.raises(type(error)) as caught, new_directory(tmp_path / "output"):
            raise error
        assert caught.value is error


def test_an_error_without_a_file_is_told_all_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Standard output may be a file on a full disk."""

    def fail() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(SystemExit, match="error: no room left for the output: make"):
        run(fail)

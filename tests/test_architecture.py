"""What the code may know of itself: who imports whom, and what DVC must know of it."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from tests.imports import imported_modules, names_imported
from tests.project import PROJECT, Workspace, tiny_project
from tests.tiny import tiny_model
from toygpt.data.tokenizer import load_tokenizer, vocab_size_of
from toygpt.model.huggingface import save_model
from toygpt.pipeline import paths
from toygpt.pipeline.files import new_directory
from toygpt.pipeline.params import ModelParams, Params

STAGES = YAML(typ="safe").load(PROJECT / "dvc.yaml")["stages"]
# Each room of toygpt/ may import those of the lines above it, and the last line any.
LAYERS = [
    {"pipeline"},
    {"data", "model", "resuming", "tracking"},
    {"training", "generation", "evaluation"},
    {"cli", "doctor", "stages"},
]
# Code that a stage runs and DVC need not watch, by folder, with the reason.
NOT_WATCHED = {
    "toygpt/pipeline": "passes values and files on, but decides no content",
    "toygpt/resuming": "a resumed training ends with the same bits as an uninterrupted",
    "toygpt/tracking": "shows results, and is never read by a stage",
}
LIBRARY = sorted(
    path.relative_to(PROJECT)
    for folder in ("toygpt", "stages")
    for path in (PROJECT / folder).rglob("*.py")
)


def script_of(stage: str) -> Path:
    module = STAGES[stage]["cmd"].removeprefix("python -m ")
    return Path(*module.split(".")).with_suffix(".py")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_all_the_code_it_runs(stage: str) -> None:
    """DVC cannot see imports: a module missing here would keep stale results alive.

    See https://github.com/treeverse/dvc/issues/9195.
    """
    script = script_of(stage)
    needed = {script, *imported_modules(script, root=PROJECT)}
    known = [*map(Path, STAGES[stage]["deps"]), *map(Path, NOT_WATCHED)]

    missing = [
        path
        for path in needed
        if path.name != "__init__.py"
        and not any(path.is_relative_to(folder) for folder in known)
    ]

    assert not missing


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_no_code_that_it_does_not_run(stage: str) -> None:
    script = script_of(stage)
    needed = {script, *imported_modules(script, root=PROJECT)}
    code = [Path(dep) for dep in STAGES[stage]["deps"] if "toygpt/" in f"{dep}/"]

    for dep in code:
        if dep.parts[0] != "models":
            assert any(path.is_relative_to(dep) for path in needed), dep


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in LIBRARY
        if path.name == "__init__.py" and "cli" not in path.parts
    ],
    ids=str,
)
def test_to_import_a_folder_runs_nothing(path: Path) -> None:
    """So that none of them need be a dependency; stages/ prepares for what it runs."""
    statements = ast.parse((PROJECT / path).read_text(encoding="utf-8")).body

    if path != Path("stages/__init__.py"):
        assert all(isinstance(statement, ast.Expr) for statement in statements)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_parameters_it_reads(stage: str) -> None:
    script = script_of(stage)
    modules = {script, *imported_modules(script, root=PROJECT)}
    read = set().union(*(keys_read(PROJECT / module) for module in modules))
    # Whoever reads a whole section reads each key of it.
    needed = {key for key in read if not any(key.startswith(f"{k}.") for k in read)}

    assert set(STAGES[stage]["params"]) == needed


def keys_read(path: Path) -> set[str]:
    """Return the keys of params.yaml that a file means when it says `params.…`."""
    visitor = ParamsVisitor()
    visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
    keys: set[str] = set()
    for section, *rest in visitor.found:
        match section:
            case "chosen_model":
                field = [name for name in rest[:1] if name in ModelParams.model_fields]
                keys |= {"model", ".".join(["models", "${model}", *field])}
            case "chosen_corpus":
                keys |= {"corpus", "corpora.${corpus}"}
            case "runtime" | "tracking":
                pass  # who is told, and on what machine, decides no result
            case name if name in Params.model_fields:
                keys.add(Params.model_fields[name].alias or name)
    return keys


class ParamsVisitor(ast.NodeVisitor):
    """Collects `a.b` for every `params.a.b`."""

    def __init__(self) -> None:
        self.found: set[tuple[str, ...]] = set()

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Take the whole of a dotted name."""
        parts = ast.unparse(node).split(".")
        if parts[0] == "params":
            self.found.add(tuple(parts[1:]))
        else:
            self.generic_visit(node)


@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_imports_flow_one_way(path: Path) -> None:
    own_room = room_of(path.as_posix().replace("/", "."))

    for name in names_imported(PROJECT / path):
        if (room := room_of(name)) not in (None, own_room) and own_room is not None:
            allowed = layer_of(room) <= layer_of(own_room)
            assert allowed, f"{path} imports {name}"


def test_no_two_rooms_import_each_other() -> None:
    arrows = {
        (room_of(path.as_posix().replace("/", ".")), room_of(name))
        for path in LIBRARY
        for name in names_imported(PROJECT / path)
    }

    assert not {(one, other) for one, other in arrows if one != other} & {
        (other, one) for one, other in arrows
    }


def test_every_module_is_in_a_room() -> None:
    beside = {path.name for path in (PROJECT / "toygpt").glob("*.py")}

    assert beside == {"__init__.py", "__main__.py"}


def room_of(module: str) -> str | None:
    """Return the folder of toygpt/ that a module is in, or stages."""
    package, _, rest = module.partition(".")
    room = package if package == "stages" else rest.partition(".")[0]
    return room if any(room in layer for layer in LAYERS) else None


def layer_of(room: str | None) -> int:
    return next(number for number, rooms in enumerate(LAYERS) if room in rooms)


@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_heavy_libraries_stay_in_their_place(path: Path) -> None:
    places = {
        "lightning": "toygpt/training/",
        "mlflow": "toygpt/tracking/",
        "wandb": "toygpt/tracking/",
        "pyarrow": "toygpt/data/",
        "datasets": "toygpt/data/hub.py",
        "huggingface_hub": "toygpt/data/",
        "transformers": "toygpt/data/pretrained.py",
        "pydantic": "toygpt/pipeline/",
    }
    text = (PROJECT / path).read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        modules = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        for module in modules:
            place = places.get(module.split(".")[0])
            assert place is None or path.as_posix().startswith(place)


# What takes seconds to import, or should not be needed where a stage runs.
NOT_LOADED_BY = {
    "download": ["torch", "lightning", "transformers", "mlflow", "wandb", "datasets"],
    "tokenize": ["torch", "lightning", "transformers", "mlflow", "wandb", "datasets"],
    "split": ["torch", "lightning", "transformers", "mlflow", "wandb", "datasets"],
    "evaluate": ["lightning", "mlflow", "wandb", "transformers", "pyarrow"],
    "generate_samples": ["lightning", "mlflow", "wandb", "transformers", "pyarrow"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a project with documents, tokens, splits and an untrained model."""
    workspace = tiny_project(tmp_path_factory.mktemp("architecture") / "project")
    for stage in ("download", "tokenize", "split"):
        workspace.run(sys.executable, "-m", f"stages.{stage}")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace.root)
        vocab_size = vocab_size_of(load_tokenizer(paths.TOKENIZER))
        with new_directory(paths.MODEL) as directory:
            save_model(
                tiny_model(vocab_size=vocab_size),
                directory,
                end_of_text_id=0,
                tokenizer_directory=paths.TOKENIZER,
            )
    return workspace


@pytest.mark.parametrize("stage", NOT_LOADED_BY)
def test_a_stage_that_runs_loads_nothing_heavy_that_it_does_not_need(
    made: Workspace, stage: str
) -> None:
    """Also not on its way: this is a real run, to its end."""
    program = (
        "import sys; from toygpt.pipeline.stage import run; "
        f"from stages import {stage}; run({stage}.main); print(*sys.modules)"
    )
    loaded = made.run(sys.executable, "-c", program).stdout.split()

    assert f"stages.{stage}" in loaded
    assert not set(NOT_LOADED_BY[stage]) & set(loaded)


def test_training_loads_neither_dvc_nor_datasets() -> None:
    loaded = python("import sys, stages.train; print(*sys.modules)").split()

    assert "lightning" in loaded
    assert not {"dvc", "datasets", "mlflow", "wandb"} & set(loaded)


def test_a_stage_looks_for_garbage_again_once_it_works() -> None:
    """`python -m` leaves "-m" as the script while it looks for the stage's module."""
    program = (
        "import gc, sys; sys.argv[0] = '-m'; import stages; "
        "from toygpt.pipeline.stage import run; "
        "print(gc.isenabled()); run(lambda: print(gc.isenabled()))"
    )

    assert python(program).split() == ["False", "True"]


def test_a_program_that_imports_the_stages_keeps_its_garbage_collection() -> None:
    assert python("import gc, stages; print(gc.isenabled())").strip() == "True"


@pytest.mark.parametrize(("setting", "is_off"), [(None, True), ("0", False)])
def test_files_of_the_hub_come_over_plain_http_unless_set_otherwise(
    setting: str | None, is_off: bool
) -> None:
    """The hub's client reads the variable once, when it is imported."""
    program = f"""
import os, sys
if {setting!r}:
    os.environ["HF_HUB_DISABLE_XET"] = {setting!r}
import stages.download, stages.tokenize
from toygpt.data.hub_client import hub_client
assert "huggingface_hub" not in sys.modules
hub_client()
import huggingface_hub.constants
print(huggingface_hub.constants.HF_HUB_DISABLE_XET)
"""

    assert python(program).strip() == str(is_off)


def test_help_costs_no_heavy_import() -> None:
    program = (
        "import sys; from toygpt.cli import build_parser; "
        "build_parser('toygpt').format_help(); print(*sys.modules)"
    )

    assert not {"torch", "dvc", "mlflow", "pydantic"} & set(python(program).split())


def test_dvc_changes_no_line_of_params_but_the_one_it_is_told_to(
    tmp_path: Path,
) -> None:
    """`dvc exp run -S` writes the file anew, in its own style: ours is the same."""
    copy = tmp_path / "params.yaml"
    shutil.copy(PROJECT / "params.yaml", copy)

    apply_overrides(copy, ["seed=7"])

    before = (PROJECT / "params.yaml").read_text(encoding="utf-8").splitlines()
    after = copy.read_text(encoding="utf-8").splitlines()
    assert after[1:] == before[1:]
    assert after[0] == before[0].replace("1337", "7   ")


def test_training_needs_torch_lightning_and_numpy_alone() -> None:
    """So that it can be run and timed on a machine where nothing else is installed."""
    program = """
import sys
for name in ("pydantic", "ruamel", "mlflow", "wandb", "dvc", "datasets", "pyarrow"):
    sys.modules[name] = None  # importing it is an error now
from types import SimpleNamespace
import numpy as np
from toygpt.model.gpt import GPT, GPTConfig
from toygpt.training.launch import launch
from toygpt.training.loop import train
from toygpt.training.report import Curves

tokens = np.arange(1000, dtype=np.uint16) % 11
params = SimpleNamespace(
    max_tokens=64, batch_size=2, optimizer="muon", muon_learning_rate=1e-2,
    learning_rate=1e-3, warmup_tokens=16, decay_tokens=16, weight_decay=0.1,
    gradient_clip_norm=1.0,
    validate_every_tokens=32, validation_tokens=32,
)
runtime = SimpleNamespace(
    accelerator="cpu", devices=1, num_nodes=1, strategy="auto", compile=False,
    micro_batch_size=2, deterministic=False,
)
model = GPT(GPTConfig(11, 1, 2, 8, 8, 0.0))
fabric = launch(runtime, precision="32-true")
outcome = train(
    fabric, model, tokens, tokens, params=params, runtime=runtime, seed=0,
    curves=Curves(),
)
print("steps:", outcome.steps)
"""

    assert "steps: 4" in python(program)


def python(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

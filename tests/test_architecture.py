"""Who imports whom, and what dvc.yaml must name of it."""

import ast
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from tests.conftest import LONGEST_FIRST
from tests.imports import imported_modules, imports_of, packages_of
from tests.project import PROJECT, Workspace
from toygpt.pipeline.params import ModelParams, Params

STAGES = YAML(typ="safe").load(PROJECT / "dvc.yaml")["stages"]
# The rooms of toygpt/, and stages/: each may import the rooms of its own line and of
# the lines above, but no two rooms import each other.
LAYERS = [
    {"pipeline"},
    {"data", "model", "resuming", "tracking"},
    {"training", "generation", "evaluation"},
    {"cli", "doctor", "stages"},
]
# Code that a stage runs without depending on it in dvc.yaml, with the reason.
NOT_WATCHED = {
    "toygpt/pipeline": "passes values and files on, but decides no content",
    "toygpt/resuming": "a resumed training ends with the same bits as an uninterrupted",
    "toygpt/tracking": "shows results, and is never read by a stage",
}
# Where each of the heavy packages may be imported.
PLACES = {
    "datasets": ["toygpt/data"],
    "dvc": ["toygpt/doctor", "toygpt/tracking"],
    "gigatoken": ["toygpt/data"],
    "huggingface_hub": ["toygpt/data"],
    "lightning": ["toygpt/training"],
    "mlflow": ["toygpt/tracking"],
    "pyarrow": ["toygpt/data"],
    "pydantic": ["toygpt/pipeline", "toygpt/resuming", "toygpt/tracking"],
    "safetensors": ["toygpt/model"],
    "sqlalchemy": ["toygpt/tracking"],
    "tokenizers": ["toygpt/data", "toygpt/generation", "toygpt/model/loading.py"],
    "torch": [
        "toygpt/data/batches.py",
        "toygpt/evaluation",
        "toygpt/generation",
        "toygpt/model",
        "toygpt/resuming/checkpoint.py",
        "toygpt/training",
        "stages/train.py",
    ],
    "transformers": ["toygpt/data/pretrained.py"],
    "triton": ["toygpt/training/loss_kernel.py"],
    "wandb": ["toygpt/tracking"],
}
LIBRARY = sorted(
    path.relative_to(PROJECT)
    for folder in ("toygpt", "stages")
    for path in (PROJECT / folder).rglob("*.py")
)


def script_of(stage: str) -> Path:
    module = STAGES[stage]["cmd"].removeprefix("python -m ")
    return Path(*module.split(".")).with_suffix(".py")


def code_of(stage: str) -> set[Path]:
    """Return the script of a stage, and all of our modules that it imports."""
    script = script_of(stage)
    return {script, *imported_modules(script)}


@pytest.mark.parametrize("stage", STAGES)
def test_every_import_of_a_stage_lies_inside_a_dependency(stage: str) -> None:
    """DVC cannot see imports: a module missing here would keep stale results alive.

    See https://github.com/treeverse/dvc/issues/9195. Exempt are the folders that
    `NOT_WATCHED` names, and `__init__.py`, which runs nothing.
    """
    watched = [*STAGES[stage]["deps"], *NOT_WATCHED]

    missing = [
        str(path)
        for path in code_of(stage)
        if path.name != "__init__.py" and not any(map(path.is_relative_to, watched))
    ]

    assert not missing, f"add to deps of {stage!r} in dvc.yaml: {sorted(missing)}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_no_code_that_it_does_not_run(stage: str) -> None:
    for dep in STAGES[stage]["deps"]:
        if dep.startswith(("toygpt/", "stages/")):
            assert any(path.is_relative_to(dep) for path in code_of(stage)), dep


def test_to_import_a_folder_runs_nothing() -> None:
    """So that none of them need be a dependency; stages/ prepares the process."""
    for path in LIBRARY:
        if path.name == "__init__.py" and path.parent.name not in ("cli", "stages"):
            body = ast.parse((PROJECT / path).read_text(encoding="utf-8")).body
            assert all(isinstance(statement, ast.Expr) for statement in body), path


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_parameters_it_reads(stage: str) -> None:
    read = set().union(*(keys_read(PROJECT / module) for module in code_of(stage)))
    # A section that is read as a whole stands for each of its keys.
    needed = {key for key in read if not any(key.startswith(f"{k}.") for k in read)}

    assert set(STAGES[stage]["params"]) == needed


@cache
def keys_read(path: Path) -> set[str]:
    """Return the keys of params.yaml that a file means when it says `params.…`."""
    keys: set[str] = set()
    text = path.read_text(encoding="utf-8")
    for found in re.findall(r"(?<![\w.])params\.([\w.]+)", text):
        section, *rest = found.split(".")
        match section:
            case "chosen_model":
                field = [name for name in rest[:1] if name in ModelParams.model_fields]
                keys |= {"model", ".".join(["models", "${model}", *field])}
            case "chosen_corpus":
                keys |= {"corpus", "corpora.${corpus}"}
            case "runtime" | "tracking":
                pass  # no tracker and no machine decides a result
            case name if name in Params.model_fields:
                keys.add(Params.model_fields[name].alias or name)
    return keys


def test_imports_flow_one_way_and_no_two_rooms_import_each_other() -> None:
    arrows = {
        (room_of(path.as_posix()), room_of(name))
        for path in LIBRARY
        for name in imports_of(PROJECT / path)
    }

    assert not [arrow for arrow in arrows if layer_of(arrow[1]) > layer_of(arrow[0])]
    assert not [(a, b) for a, b in arrows if a and b and a < b and (b, a) in arrows]


def test_every_module_is_in_a_room() -> None:
    beside = {path.name for path in (PROJECT / "toygpt").glob("*.py")}

    assert beside == {"__init__.py", "__main__.py"}


def room_of(name: str) -> str:
    """Return the folder of toygpt/ that a module or a file is in, or stages."""
    package, _, rest = name.replace("/", ".").partition(".")
    room = package if package == "stages" else rest.partition(".")[0]
    return room if any(room in layer for layer in LAYERS) else ""


def layer_of(room: str) -> int:
    """Return the line of `LAYERS` that a room is in; `__main__` is above them all."""
    layers = [number for number, rooms in enumerate(LAYERS) if room in rooms]
    return layers[0] if layers else len(LAYERS)


@pytest.mark.parametrize("package", PLACES)
def test_a_heavy_package_stays_in_its_place(package: str) -> None:
    elsewhere = [
        str(path)
        for path in LIBRARY
        if package in packages_of(PROJECT / path)
        and not any(map(path.is_relative_to, PLACES[package]))
    ]

    assert not elsewhere


@pytest.mark.slow
def test_stages_load_nothing_heavy_that_they_do_not_need(project: Workspace) -> None:
    """In real runs, to their end: three stages in one process, two in another."""
    project.run("rm", "-r", ".toygpt")  # there is no run to log the results to

    def packages_loaded_by(*stages: str) -> set[str]:
        runs = "".join(f"from stages import {s}; run({s}.main)\n" for s in stages)
        program = f"from toygpt.pipeline.stage import run\n{runs}"
        program += "import sys; print('loaded:', *sys.modules)"
        output = project.run(sys.executable, "-c", program).stdout
        return set(output.partition("loaded:")[2].split())

    of_data = packages_loaded_by("download", "tokenize", "split")
    of_model = packages_loaded_by("evaluate", "generate_samples")

    needed_by_none = {"lightning", "transformers", "mlflow", "wandb", "dvc", "datasets"}
    assert "pyarrow" in of_data
    assert not of_data & {"torch", *needed_by_none}
    assert "torch" in of_model
    assert not of_model & {"pyarrow", *needed_by_none}


def test_training_starts_without_the_trackers_and_dvc() -> None:
    """They take seconds to import; MLflow and W&B come once the run is opened."""
    loaded = packages_at_start_of(script_of("train"))

    assert "torch" in loaded
    assert not loaded & {"dvc", "datasets", "mlflow", "pyarrow", "transformers"}
    assert "wandb" not in loaded


@pytest.mark.parametrize(
    ("module", "packages"),
    [
        ("model/gpt.py", {"jaxtyping", "torch"}),
        ("generation/simple.py", {"jaxtyping", "torch"}),
        ("training/loop.py", {"jaxtyping", "lightning", "numpy", "torch", "tqdm"}),
    ],
)
def test_the_reading_path_needs_few_packages(module: str, packages: set[str]) -> None:
    """So that it can be run and timed on a machine where little else is installed."""
    needed = packages_at_start_of(Path("toygpt", module))

    assert needed - sys.stdlib_module_names - {"toygpt"} == packages


def packages_at_start_of(script: Path) -> set[str]:
    """Return the packages that a file imports, itself or through our modules."""
    modules = {script, *imported_modules(script, at_start=True)}
    return set().union(
        *(packages_of(PROJECT / path, at_start=True) for path in modules)
    )


def test_the_longest_test_files_exist() -> None:
    assert [name for name in LONGEST_FIRST if not (PROJECT / name).is_file()] == []


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
def test_files_of_the_hub_come_over_plain_http_by_default(
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


def test_dvc_changes_the_one_line_of_params_that_it_has_to(
    tmp_path: Path,
) -> None:
    """`dvc exp run -S` rewrites the file in its own style: ours is the same."""
    copy = tmp_path / "params.yaml"
    shutil.copy(PROJECT / "params.yaml", copy)

    apply_overrides(copy, ["seed=7"])

    before = (PROJECT / "params.yaml").read_text(encoding="utf-8").splitlines()
    after = copy.read_text(encoding="utf-8").splitlines()
    assert after[1:] == before[1:]
    assert after[0] == before[0].replace("1337", "7   ")


def python(program: str) -> str:
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout

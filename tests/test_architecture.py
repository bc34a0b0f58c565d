"""Who imports whom, and what dvc.yaml must name of it."""

import ast
import os
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
    {"data", "model", "pages", "resuming", "tracking"},
    {"training", "generation", "evaluation", "explaining", "reporting", "sharing"},
    {"cli", "doctor", "stages"},
]
# Code that a stage runs without depending on it in dvc.yaml, with the reason.
NOT_WATCHED = {
    "toygpt/pipeline": "passes values and files on, but decides no content",
    "toygpt/resuming": "a resumed training ends with the same bits as an uninterrupted",
    "toygpt/tracking": "shows results, and is never read by a stage",
}
# The heavy packages that a file or a folder may import.
HEAVY = {
    "stages/evaluate.py": "tokenizers",
    "stages/train.py": "torch",
    "toygpt/data": "datasets gigatoken huggingface_hub pyarrow tokenizers",
    "toygpt/data/batches.py": "torch",
    "toygpt/data/pretrained.py": "transformers",
    "toygpt/data/engines/ray_engine.py": "ray",
    "toygpt/data/engines/slurm_engine.py": "submitit",
    "toygpt/doctor": "dvc",
    "toygpt/evaluation": "torch",
    "toygpt/explaining": "torch",
    "toygpt/generation": "tokenizers torch",
    "toygpt/model": "safetensors torch",
    "toygpt/model/loading.py": "tokenizers",
    "toygpt/pages": "tokenizers",
    "toygpt/pipeline": "pydantic",
    "toygpt/pipeline/dvc_errors.py": "dvc",
    "toygpt/pipeline/revision.py": "dvc",
    "toygpt/reporting": "dvc matplotlib",
    "toygpt/resuming": "pydantic",
    "toygpt/resuming/checkpoint.py": "torch",
    "toygpt/resuming/tensor_folder.py": "torch",
    "toygpt/sharing": "dvc torch",
    "toygpt/tracking/mlflow": "mlflow sqlalchemy",
    "toygpt/tracking/wandb": "wandb",
    "toygpt/training": "lightning_fabric torch",
    "toygpt/training/loss_kernel.py": "triton",
}
# What a module of the same folder puts into a page: it is code that a stage runs.
TEMPLATES = (".css", ".html", ".js")
XET = "HF_HUB_DISABLE_XET"
LIBRARY = sorted(
    path.relative_to(PROJECT)
    for folder in ("toygpt", "stages")
    for path in (PROJECT / folder).rglob("*.py")
)


def script_of(stage: str) -> Path:
    module = STAGES[stage]["cmd"].removeprefix("python -m ")
    return Path(*module.split(".")).with_suffix(".py")


def code_of(stage: str) -> set[Path]:
    """Return the script of a stage, all of our modules that it imports, and templates.

    The templates are those in the folders of these modules.
    """
    script = script_of(stage)
    modules = {script, *imported_modules(script)}
    beside = (
        path for module in modules for path in (PROJECT / module.parent).iterdir()
    )
    templates = {
        path.relative_to(PROJECT) for path in beside if path.suffix in TEMPLATES
    }
    return modules | templates


@pytest.mark.parametrize("stage", STAGES)
def test_every_import_of_a_stage_lies_inside_a_dependency(stage: str) -> None:
    """DVC cannot see imports: a module missing here would keep stale results alive.

    See https://github.com/treeverse/dvc/issues/9195. Exempt are the folders that
    `NOT_WATCHED` names, and `__init__.py`, which runs nothing.
    """
    watched = [*STAGES[stage]["deps"], *NOT_WATCHED]

    code = {path for path in code_of(stage) if path.name != "__init__.py"}
    missing = {path for path in code if not any(map(path.is_relative_to, watched))}

    assert not missing, f"add to deps of {stage!r} in dvc.yaml"


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
            case "runtime" | "tracking" | "publish":
                pass  # no tracker, no machine and no publishing decides a result
            case name if name in Params.model_fields:
                keys.add(Params.model_fields[name].alias or name)
    return keys


def test_imports_flow_one_way_and_no_two_rooms_import_each_other() -> None:
    arrows = {
        (room_of(path.as_posix()), room_of(name))
        for path in LIBRARY
        for name in imports_of(PROJECT / path)
    }

    assert not [(a, b) for a, b in arrows if layer_of(b) > layer_of(a)]
    assert not [(a, b) for a, b in arrows if a and b and a < b and (b, a) in arrows]
    in_no_room = {path for path in LIBRARY if path.parent == Path("toygpt")}
    assert in_no_room == {Path("toygpt/__init__.py"), Path("toygpt/__main__.py")}


def room_of(name: str) -> str:
    """Return the folder of toygpt/ that a module or a file is in, or stages."""
    package, _, rest = name.replace("/", ".").partition(".")
    room = package if package == "stages" else rest.partition(".")[0]
    return room if any(room in layer for layer in LAYERS) else ""


def layer_of(room: str) -> int:
    """Return the line of `LAYERS` that a room is in; `__main__` is above them all."""
    layers = [number for number, rooms in enumerate(LAYERS) if room in rooms]
    return layers[0] if layers else len(LAYERS)


def test_a_heavy_package_stays_in_its_place() -> None:
    heavy = {package for packages in HEAVY.values() for package in packages.split()}
    for path in LIBRARY:
        allowed = " ".join(HEAVY[it] for it in HEAVY if path.is_relative_to(it)).split()
        assert packages_of(PROJECT / path) & heavy <= set(allowed), path


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

    needed_by_none = {
        "lightning_fabric",
        "transformers",
        "mlflow",
        "wandb",
        "dvc",
        "datasets",
    }
    assert "pyarrow" in of_data
    assert not of_data & {"torch", *needed_by_none}
    assert "torch" in of_model
    assert not of_model & {"pyarrow", *needed_by_none}


@pytest.mark.parametrize(
    ("module", "packages"),
    [
        ("toygpt/model/gpt.py", "torch"),
        ("toygpt/generation/simple.py", "torch"),
        ("toygpt/training/loop.py", "lightning_fabric numpy torch tqdm"),
        # The trackers, which take seconds to import, come once the run is opened.
        (
            "stages/train.py",
            "filelock lightning_fabric numpy pydantic ruamel safetensors torch tqdm",
        ),
    ],
)
def test_training_and_the_reading_path_start_with_few_packages(
    module: str, packages: str
) -> None:
    """So that they run, and are timed, on a machine where little else is installed."""
    needed = packages_at_start_of(Path(module)) - sys.stdlib_module_names

    assert needed == {"jaxtyping", "toygpt", *packages.split()}


def packages_at_start_of(script: Path) -> set[str]:
    """Return the packages that a file imports, itself or through our modules."""
    modules = {script, *imported_modules(script, at_start=True)}
    found = (packages_of(PROJECT / path, at_start=True) for path in modules)
    return set().union(*found)


def test_the_longest_test_files_exist() -> None:
    assert [name for name in LONGEST_FIRST if not (PROJECT / name).exists()] == []


def test_garbage_is_collected_once_a_stage_works_and_in_every_other_program() -> None:
    """`python -m` leaves "-m" as the script while it looks for the stage's module."""
    program = (
        "import gc, sys; sys.argv[0] = '-m'; import stages; "
        "from toygpt.pipeline.stage import run; "
        "print(gc.isenabled()); run(lambda: print(gc.isenabled()))"
    )

    assert printed_by(program) == ["False", "True"]
    assert printed_by("import gc, stages; print(gc.isenabled())") == ["True"]


@pytest.mark.parametrize(("setting", "is_off"), [({}, True), ({XET: "0"}, False)])
def test_files_of_the_hub_come_over_plain_http_by_default(
    setting: dict[str, str], is_off: bool
) -> None:
    """The hub's client reads the variable once, when it is imported."""
    program = f"""
import sys, stages.download, stages.tokenize
from toygpt.data.hub_client import hub_client
assert "huggingface_hub" not in sys.modules
hub_client()
import huggingface_hub.constants
print(huggingface_hub.constants.{XET})
"""

    assert printed_by(program, **setting) == [str(is_off)]


def test_dvc_changes_the_one_line_of_params_that_it_has_to(tmp_path: Path) -> None:
    """`dvc exp run -S` rewrites the file in its own style: ours is the same."""
    copy = Path(shutil.copy(PROJECT / "params.yaml", tmp_path))

    apply_overrides(copy, ["seed=7"])

    before = (PROJECT / "params.yaml").read_text(encoding="utf-8")
    assert copy.read_text(encoding="utf-8") == before.replace("1337", "7   ", 1)


def printed_by(program: str, **variables: str) -> list[str]:
    """Return the words that a program in Python prints."""
    command, settings = [sys.executable, "-c", program], os.environ | variables
    output = subprocess.check_output(command, cwd=PROJECT, env=settings, text=True)
    return output.split()

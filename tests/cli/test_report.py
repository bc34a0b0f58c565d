"""`toygpt report`: is it better, by how much, is that noise, and what changed."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.cli.conftest import assert_refused
from tests.conftest import Toygpt
from tests.project import UNTRACKED, Workspace, copy_project

EVALUATION = Path("metrics/evaluate.json")
PNG = b"\x89PNG\r\n"


@pytest.fixture(scope="module")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a clone in which nothing was run: Git has all numbers, DVC no file."""
    return copy_project(tmp_path_factory.mktemp("cloned") / "project")


@pytest.fixture
def clone(
    cloned: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Workspace:
    """Stand in a copy of that clone."""
    workspace = cloned.copy_to(tmp_path / "project")
    workspace.enter(monkeypatch)
    return workspace


def replace(path: str | Path, *pairs: tuple[str, str], count: int = -1) -> None:
    """Change a text file."""
    text = Path(path).read_text(encoding="utf-8")
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new, count)
    Path(path).write_text(text, encoding="utf-8")


def set_metrics(**values: float) -> dict[str, float]:
    """Change the test metrics of the workspace, and return those of before."""
    before: dict[str, float] = json.loads(EVALUATION.read_text())
    EVALUATION.write_text(json.dumps(before | values))
    return before


@pytest.mark.parametrize(
    ("now", "error", "verdict"),
    [
        (1.0, 0.04, "Better: 1.000 SAME (-0.250, -20.0%; surely beyond noise)."),
        (1.24, 0.04, "Better: 1.240 SAME (-0.010, -0.8%; not surely beyond noise)."),
        (1.5, 0.04, "Worse: 1.500 SAME (+0.250, +20.0%; surely beyond noise)."),
        (1.25, 0.05, "Equal: 1.250 bits per byte on the same test split."),
    ],
)
def test_the_first_line_says_whether_it_is_better_and_how_sure_that_is(
    clone: Workspace, toygpt: Toygpt, now: float, error: float, verdict: str
) -> None:
    name = "test_bits_per_byte_standard_error"
    set_metrics(test_bits_per_byte=1.25, **{name: 0.03})
    clone.commit("the baseline")
    set_metrics(test_bits_per_byte=now, **{name: error})

    code, page, errors = toygpt("report")

    assert (code, errors) == (0, "")
    commit = clone.run("git", "rev-parse", "--short", "HEAD").stdout.strip()
    title, first, *_ = page.split("\n\n")
    assert title == f"# toyGPT: the workspace against `HEAD` ({commit})"
    same = "bits per byte, before 1.250, on the same test split"
    assert first == f"**{verdict.replace('SAME', same)}**"
    # Twice the hypotenuse of 0.03 and 0.04.
    assert ("a difference of more than 0.100:" in page) == (error == 0.04)
    assert "![" not in page, "there is no file for the picture"


def test_the_page_lists_what_changed_and_nothing_else(
    clone: Workspace, toygpt: Toygpt
) -> None:
    max_tokens = params()["train"]["max_tokens"]
    clone.set_params(
        {
            "train.max_tokens": 2 * max_tokens,
            "generate-samples.prompts": ["a|b`c`"],
            "download.max_documents": 7,
            "tracking.mlflow": False,  # no parameter of a stage
        }
    )
    replace("dvc.lock", (digest_of("toygpt/training"), "0" * 32))
    metrics_before = set_metrics(test_bits_per_byte=1.0)

    _, page, _ = toygpt("report")

    tables = re.findall(r"^\| .*\n\|---.*\n((?:\| .*\n?)*)", page, re.MULTILINE)
    parameters, metrics = (table.splitlines() for table in tables)
    assert parameters[0] == "| `download.max_documents` | - | 7 |  |"
    assert parameters[1].startswith("| `generate-samples.prompts` | `[")
    assert parameters[1].endswith(" | `['a\\|b'c'']` |  |")
    assert parameters[2:] == [
        f"| `train.max_tokens` | {max_tokens:,} | {2 * max_tokens:,} | "
        f"+{max_tokens:,} (+100.0%) |"
    ]
    before = metrics_before["test_bits_per_byte"]
    change = f"{1 - before:.4g} ({1 / before - 1:+.1%})"
    assert metrics == [f"| `test_bits_per_byte` | {before:.4g} | 1 | {change} |"]
    assert "that differ, by the digests in dvc.lock: `toygpt/training`." in page
    assert outdated_stages(page) >= {"download", "train", "evaluate"}


def params() -> dict[str, Any]:
    """Return the parameters of the workspace."""
    found: dict[str, Any] = YAML(typ="safe").load(Path("params.yaml"))
    return found


def outdated_stages(page: str) -> set[str]:
    """Return the stages that a page names as not up to date."""
    found = re.search(r"\*\*Not up to date:\*\* something changed since (.*) ran", page)
    return set(found[1].split(", ")) if found else set()


def digest_of(path: str) -> str:
    """Return the digest that dvc.lock has of a file or a folder."""
    text = Path("dvc.lock").read_text(encoding="utf-8")
    found = re.search(rf"path: {path}\n +hash: md5\n +md5: (\w+)", text)
    assert found
    return found[1]


@pytest.mark.parametrize("change", ["data/splits", "overlap_fraction"])
def test_results_on_another_test_are_not_compared(
    clone: Workspace, toygpt: Toygpt, change: str
) -> None:
    if change == "data/splits":
        replace("dvc.lock", (digest_of("data/splits"), "0" * 32))
    else:
        fraction = params()["evaluate"]["overlap_fraction"]
        replace("dvc.lock", (f"overlap_fraction: {fraction}", "overlap_fraction: 0.99"))
    before = set_metrics(test_bits_per_byte=1.0)["test_bits_per_byte"]

    _, page, _ = toygpt("report")

    first = page.split("\n\n")[1]
    numbers = f"1.000 bits per byte, before {before:.3f}, but not on the same test"
    assert first.startswith(f"**Not comparable: {numbers}")
    assert "noise" not in page


def test_the_curves_and_the_first_sample_stand_below(
    clone: Workspace, toygpt: Toygpt, tmp_path: Path
) -> None:
    for name in ("train", "validation"):
        write_curve(name, [(1, 9.0), (2, 4.5)])
    sample = {"prompt": "def f(", "continuation": "x):\n    ```\n"}
    Path("reports/samples").mkdir()
    Path("reports/samples/samples.jsonl").write_text(f"{json.dumps(sample)}\n{{}}\n")
    out = tmp_path / "new folder" / "a report.md"

    assert toygpt("report", "--out", out) == (0, f"written: {out}\n", "")

    page = out.read_text(encoding="utf-8")
    (link,) = re.findall(r"!\[Training and validation loss\]\((.*)\)", page)
    assert link == "a%20report.png"
    assert (out.parent / "a report.png").read_bytes().startswith(PNG)
    assert "The curves of HEAD are not here" in page
    assert "Given:\n\n```\ndef f(\n```" in page
    assert "Written:\n\n````\nx):\n    ```\n````" in page
    assert page.index("## What changed") < page.index("## The first sample")


SMALL = """
stages:
  train:
    cmd: cp code models/toygpt
    deps: [code]
    params: [size, name]
    outs: [models/toygpt]
  evaluate:
    cmd: cp numbers metrics/evaluate.json
    deps: [models/toygpt, data/splits, numbers]
    metrics: [{metrics/evaluate.json: {cache: false}}]
"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Stand in a project of two quick stages, whose results are up to date."""
    workspace = Workspace(tmp_path)
    workspace.enter(monkeypatch)
    names = ("test_bits_per_byte", "test_bits_per_byte_standard_error")
    for path, text in {
        "code": "",
        "data/splits": "",
        "dvc.yaml": SMALL,
        "metrics/train.json": "",
        "models/.gitignore": "",
        "numbers": json.dumps(dict.fromkeys(names, 1.5)),
        "params.yaml": "size: 1\nname: ''\n",
    }.items():
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text(text)
    workspace.run("git", "init", "--quiet")
    for words in (["init", "--quiet"], ["repro", "--quiet"]):
        workspace.dvc(*words)
    workspace.commit("the baseline")
    return workspace


@pytest.mark.slow
def test_a_commit_for_which_nothing_ran_is_not_up_to_date(
    small: Workspace, toygpt: Toygpt
) -> None:
    pages = []
    for path, text in [
        ("README", "read by no stage"),
        ("code", "other code"),
        ("code", ""),
        ("params.yaml", "size: 1\nname: new\n"),
        ("numbers", "{}"),
    ]:
        Path(path).write_text(text)
        small.commit("only edited")
        pages.append(toygpt("report", "HEAD", "--against", "HEAD~1").out)

    stages = [outdated_stages(page) for page in pages]
    assert stages == [set(), {"train"}, set(), {"train"}, {"train", "evaluate"}]
    same = "Code and data are the same, by the digests in dvc.lock."
    assert all(same in page for page in pages)
    assert '| `name` | `""` | `new` |  |' in pages[3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("params.yaml", "the pipeline of"),
        ("dvc.yaml", "the pipeline of"),
        ("metrics/evaluate.json", "metrics/evaluate.json of"),
    ],
)
def test_a_damaged_revision_is_refused_on_either_side(
    small: Workspace, toygpt: Toygpt, path: str, named: str
) -> None:
    Path(path).write_text("[")
    small.commit("damaged")
    small.run("git", "branch", "damaged")
    small.run("git", "switch", "--quiet", "--detach", "HEAD~1")

    for options in (["damaged"], ["HEAD", "--against", "damaged"]):
        output = toygpt("report", *options)

        assert_refused(output, f"DVC cannot read {named} damaged: ", path)
        assert output.err.count("\n") == 1


def test_results_of_two_measures_are_named(clone: Workspace, toygpt: Toygpt) -> None:
    assert "Two measures" not in toygpt("report").out
    replace("dvc.lock", (digest_of("toygpt/evaluation"), "0" * 32))

    _, page, _ = toygpt("report")

    assert page.split("\n\n")[2].startswith("**Two measures:** the code of `evaluate`")
    assert "`python . report --paired`" in page


def test_samples_of_another_model_are_not_shown(
    clone: Workspace, toygpt: Toygpt
) -> None:
    Path("reports/samples").mkdir(parents=True)
    sample = json.dumps({"prompt": "def f(", "continuation": "x)"})
    Path("reports/samples/samples.jsonl").write_text(sample)
    before, after = Path("dvc.lock").read_text().split("\n  generate-samples:\n")
    after = after.replace(digest_of("models/toygpt"), "0" * 32)
    Path("dvc.lock").write_text(f"{before}\n  generate-samples:\n{after}")

    code, page, _ = toygpt("report")

    assert code == 0
    assert "def f(" not in page
    assert "`dvc repro generate-samples`" in page


def write_curve(name: str, points: list[tuple[int, float]]) -> None:
    """Write the training or the validation loss as `train` does."""
    folder = Path("reports/train")
    folder.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{step},{step},{loss}\n" for step, loss in points)
    (folder / f"{name}.csv").write_text(f"step,tokens_seen,{name}_loss\n{rows}")


def test_without_curves_and_samples_the_page_says_how_to_get_them(
    clone: Workspace, toygpt: Toygpt, tmp_path: Path
) -> None:
    assert toygpt("report", "--out", tmp_path / "report.md").code == 0

    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Each parameter is as before.\n\nCode and data are the same, by" in page
    assert "Each metric is as before." in page
    assert page.count("`dvc pull reports/train`") == 2
    assert "`dvc pull reports/samples`" in page
    assert not (tmp_path / "report.png").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["nowhere"], ["unknown Git revision 'nowhere'", "dvc exp list"]),
        (["--against", "HEAD~99"], ["unknown Git revision 'HEAD~99'"]),
        (["--out", "page.png"], ["--out", "page.png"]),
        (["--out", "."], ["--out", "such as report.md"]),
        (["--paired"], ["data/splits/manifest.json is missing", "dvc repro split"]),
        (["HEAD", "--paired"], ["data/splits of HEAD is neither in DVC's cache nor"]),
        ("no metrics", ["the workspace has no test result", "dvc repro evaluate"]),
        ("emptied", ["the workspace has no test result", "dvc repro evaluate"]),
        ("another model", ["was not measured on models/toygpt", "--single-item eval"]),
        ("no lock", ["the workspace has no dvc.lock"]),
        ("damaged lock", ["dvc.lock is damaged"]),
        ("damaged metrics", ["metrics/evaluate.json of the workspace"]),
        ("damaged pipeline", ["the pipeline of the workspace", "'dvc.yaml'"]),
        ("no Git", ["is not in a Git repository"]),
    ],
)
def test_what_cannot_be_reported_is_refused_in_one_line(
    clone: Workspace, toygpt: Toygpt, options: list[str] | str, named: list[str]
) -> None:
    match options:
        case "no metrics":
            EVALUATION.unlink()
        case "emptied":  # by `train`, in an experiment without evaluation
            EVALUATION.write_text("{}\n")
        case "damaged metrics":
            EVALUATION.write_text("[")
        case "another model":
            replace("dvc.lock", (digest_of("models/toygpt"), "0" * 32), count=1)
        case "no lock":
            Path("dvc.lock").unlink()
        case "damaged lock":
            Path("dvc.lock").write_text("<<<<<<< HEAD\n")
        case "damaged pipeline":
            Path("dvc.yaml").write_text("stages: [\n")
        case "no Git":
            shutil.rmtree(".git")
    arguments = options if isinstance(options, list) else ["--out", "report.md"]

    output = toygpt("report", *arguments)

    assert_refused(output, *named)
    assert output.err.count("\n") == 1
    assert not Path("report.md").exists()


@pytest.mark.slow
def test_an_experiment_is_the_same_by_its_name_and_in_a_clone_after_dvc_pull(
    project: Workspace,
    tmp_path: Path,
    toygpt: Toygpt,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def share(workspace: Workspace, *command: str) -> None:
        remote = str(tmp_path / "remote")
        workspace.dvc("remote", "add", "--local", "--default", "storage", remote)
        workspace.dvc(*command)

    def report(workspace: Workspace, *options: str) -> str:
        workspace.enter(monkeypatch)
        assert toygpt("report", *options, "--out", "out/report.md").code == 0
        assert Path("out/report.png").read_bytes().startswith(PNG)
        return Path("out/report.md").read_text(encoding="utf-8")

    project.set_params(UNTRACKED)
    project.commit("untracked")
    share(project, "push")
    train = ("train", "--name", "faster", "--lr", "4e-3")
    output = project.run("python", ".", *train).stdout
    stages = re.findall(r"Running stage '(.+)'", output)
    assert stages == ["train", "evaluate", "generate-samples"]
    pages = [report(project), report(project, "faster")]
    project.dvc("push")
    project.run("git", "add", "dvc.lock", "params.yaml", "metrics")
    project.commit("faster")
    clone = Workspace(tmp_path / "clone")
    project.run("git", "clone", "--quiet", ".", str(clone.root))
    clone.enter(monkeypatch)
    page = toygpt("report", "--against", "HEAD~1").out
    assert "Not up to date" not in page, "not pulled is not changed"
    share(clone, "pull")
    pages.append(report(clone, "--against", "HEAD~1"))

    (body,) = {page.partition("\n")[2] for page in pages}
    assert "| `train.learning_rate` | 0.002 | 0.004 | +0.002 (+100.0%) |" in body
    assert "not here" not in body
    assert "Not up to date" not in body
    assert pages[1].startswith("# toyGPT: `faster` against `HEAD` (")
    set_metrics(test_bits_per_byte=99.0)  # as another code would have measured
    paired = report(clone, "--against", "HEAD~1", "--paired")
    assert "99.000" not in paired.split("\n\n")[1]
    bound, noise = (
        float(re.findall(r"eyond noise is .* more than ([\d.]+)", page)[0])
        for page in (body, paired)
    )
    assert 0 < noise < bound / 4

"""`toygpt explain`: a page on what a model does with a text."""

import webbrowser
from pathlib import Path

import pytest

from tests.cli.conftest import assert_refused
from tests.conftest import Toygpt
from tests.pages.test_html import findings_in
from tests.project import Workspace, mlflow_runs
from toygpt.explaining.length import NEW_TOKENS
from toygpt.pipeline import paths
from toygpt.pipeline.params_file import load_params


@pytest.mark.slow
def test_a_page_is_written_and_opened(
    toygpt: Toygpt,
    built: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.chdir(tmp_path)
    model = built.root / "models/toygpt"

    output = toygpt(
        "explain", "def f", "--model", model, "--output", "a/b.html", "--open"
    )

    page = (tmp_path / "a/b.html").read_text(encoding="utf-8")
    assert output.code == 0
    assert output.out == f"a/b.html: {len(page) / 1000:.0f} kB, to open in a browser\n"
    assert "".join(text for _, text in findings_in(page)["groups"]).startswith("def f")
    assert opened == [(tmp_path / "a/b.html").as_uri()]


@pytest.mark.slow
def test_without_a_prompt_it_is_the_page_among_the_samples(
    toygpt: Toygpt, project: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte, also of the model in MLflow."""
    (run,) = mlflow_runs(project)
    monkeypatch.chdir(project.root)
    params = load_params(paths.PARAMS).generate_samples
    options = ("--max-new-tokens", min(NEW_TOKENS, params.max_new_tokens))

    for model in ((), ("--model", f"runs:/{run.info.run_id}/model")):
        assert toygpt("explain", *options, *model).code == 0
        page = Path("explain.html").read_bytes()
        assert page == (paths.SAMPLES / "explain.html").read_bytes()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ([""], "PROMPT is empty"),
        (["caf\udce9"], "PROMPT is not text in UTF-8: 'caf\\udce9'"),
        (["a", "--max-new-tokens", "0"], "--max-new-tokens must be positive: 0"),
        (["a"], "models/toygpt holds no model"),
        (["a", "--model", "nowhere"], "nowhere holds no model: nowhere/config.json is"),
        (["a", "--output", "."], "--output names a directory, not a file: ."),
        (["a", "b"], "unrecognized arguments: b"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_written(
    toygpt: Toygpt, folder: Path, options: list[str], named: str
) -> None:
    before = set(folder.iterdir())

    assert_refused(toygpt("explain", *options), named)

    assert set(folder.iterdir()) == before


@pytest.mark.slow
def test_a_prompt_that_is_too_long_is_refused(
    toygpt: Toygpt, built: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = built.root / "models/toygpt"

    assert_refused(toygpt("explain", "x" * 500, "--model", model), "has room for")

    assert not list(tmp_path.iterdir())

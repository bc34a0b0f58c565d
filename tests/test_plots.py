"""The page of `dvc plots show` opens from disk, and asks the network for nothing."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.project import PATIENCE_SECONDS, Workspace, copy_project

# The name of the language that DVC describes plots in; nothing is fetched from there.
SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
OFFLINE = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND"),
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a clone in which nothing was run, but which has curves."""
    project = copy_project(tmp_path_factory.mktemp("project"))
    for path, columns in plotted(project).items():
        names = list(dict.fromkeys(columns))
        rows = [["tokens_seen", *names]]
        # Not measured is not zero; nor is the learning rate of an optimizer not used.
        for tokens, value in (("1", "9"), ("2", "4.5"), ("3", ""), ("4", "nan")):
            rows.append([tokens, *(value for _ in names)])
        (project.root / path).parent.mkdir(parents=True, exist_ok=True)
        (project.root / path).write_text("\n".join(map(",".join, rows)))
    return project


def plotted(project: Workspace) -> dict[str, list[str]]:
    """Return the columns of each file that dvc.yaml has plots of, once per plot."""
    columns: dict[str, list[str]] = {}
    for entry in YAML(typ="safe").load(project.root / "dvc.yaml")["plots"]:
        (plot,) = entry.values()
        for path, names in plot["y"].items():
            several = names if isinstance(names, list) else [names]
            columns.setdefault(path, []).extend(several)
    return columns


@pytest.fixture(scope="module")
def page(project: Workspace) -> Path:
    """Return the path of the page, which DVC prints."""
    shown = project.dvc("plots", "show").stdout
    return Path(shown.strip().removeprefix("file://"))


def test_the_page_names_nothing_to_fetch_and_the_browser_may_fetch_nothing(
    page: Path,
) -> None:
    text = page.read_text(encoding="utf-8")

    assert "vegaEmbed('#" in text
    assert set(re.findall(r"https?://[^\s\"'<>)]+", text)) == {SCHEMA}
    assert not re.search(r"\b(src|href)\s*=|@import|\bimport\(|\bfetch\(", text)
    (policy,) = re.findall(r'"Content-Security-Policy"\s+content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; ")


def test_the_page_draws_every_curve(project: Workspace, page: Path) -> None:
    num_curves = sum(map(len, plotted(project).values()))

    drawn = seen_in_browser(page)

    curves = re.findall(r'<polyline points="([^"]+)"', drawn)
    assert len(curves) == num_curves
    assert all(len(curve.split()) == 2 for curve in curves)
    assert drawn.count('<td class="value">4.5</td>') == num_curves


@pytest.mark.slow
def test_the_page_says_that_there_is_nothing_to_draw(
    project: Workspace, tmp_path: Path
) -> None:
    project.run("git", "clone", "--quiet", str(project.root), str(tmp_path / "clone"))
    Workspace(tmp_path / "clone").dvc("plots", "show")

    drawn = seen_in_browser(tmp_path / "clone/dvc_plots/index.html")

    assert "no data yet" in drawn
    assert "<polyline" not in drawn


def seen_in_browser(page: Path) -> str:
    """Return the document after its scripts have run, without a network."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [CHROMIUM, *OFFLINE, profile, "--dump-dom", page.as_uri()]
    seen = subprocess.check_output(
        command, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_SECONDS
    )
    return re.sub("<script.*?</script>", "", seen, flags=re.DOTALL)

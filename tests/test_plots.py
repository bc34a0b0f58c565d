"""The page of `dvc plots show` opens from disk, and asks the network for nothing."""

import csv
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.pages.browser import CHROMIUM
from tests.project import PATIENCE_SECONDS, Workspace, copy_project

# The name of the language that DVC describes plots in; nothing is fetched from there.
SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
OFFLINE = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND"),
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a clone in which nothing was run, but which has the tables of plots."""
    project = copy_project(tmp_path_factory.mktemp("project"))
    # Not measured is not zero; nor is the learning rate of an optimizer not used.
    points = [["1", "9"], ["2", "4.5"], ["3", ""], ["4", "nan"]]
    bars = [["2", "<b>"], ["8", "long, bar"], ["4", "end"]]
    tables: dict[str, list[list[str]]] = {}
    for plot in plots(project):
        for path, columns in plot["y"].items():
            x, rows = plot["x"], bars if is_of_bars(plot) else points
            x = x[path] if is_of_bars(plot) else x
            table = tables.setdefault(path, [[x], *([row[0]] for row in rows)])
            for column in set(named(columns)) - set(table[0]):
                table[0].append(column)
                for row, values in zip(table[1:], rows, strict=True):
                    row.append(values[1])
    for path, table in tables.items():
        (project.root / path).parent.mkdir(parents=True, exist_ok=True)
        with (project.root / path).open("w", newline="") as file:
            csv.writer(file).writerows(table)
    return project


def plots(project: Workspace) -> list[dict[str, Any]]:
    """Return the plots of dvc.yaml."""
    entries = YAML(typ="safe").load(project.root / "dvc.yaml")["plots"]
    return [plot for entry in entries for plot in entry.values()]


def is_of_bars(plot: dict[str, Any]) -> bool:
    """Return whether a plot has bars, not curves or dots."""
    return plot.get("template", "").startswith("bar")


def named(columns: str | list[str]) -> list[str]:
    """Return the columns that a plot draws of one file."""
    return columns if isinstance(columns, list) else [columns]


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


def test_the_page_draws_every_curve_and_every_bar(
    project: Workspace, page: Path
) -> None:
    """The longest bar comes first, and a name is never markup."""
    of_curves = [plot for plot in plots(project) if not is_of_bars(plot)]
    num_drawn = sum(
        len(named(columns)) for plot in of_curves for columns in plot["y"].values()
    )
    num_dotted = sum(plot.get("template") == "scatter" for plot in of_curves)

    drawn = seen_in_browser(page)

    curves = re.findall(r'<polyline points="([^"]+)"', drawn)
    assert len(curves) == num_drawn - num_dotted
    assert all(len(curve.split()) == 2 for curve in curves)
    assert drawn.count("<circle") == 2 * num_dotted > 0
    assert drawn.count('<td class="value">4.5</td>') == num_drawn
    bars = re.findall(r'<rect height="12" width="(\d+)"', drawn)
    assert bars == ["320", "160", "80"] * (len(plots(project)) - len(of_curves))
    assert "<td>&lt;b&gt;</td>" in drawn
    for plot in plots(project):
        for label in ("title", "x_label", "y_label"):
            assert plot[label] in drawn


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

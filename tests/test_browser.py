"""A real browser opens the link that `titanlab ui` prints, and a person would find what the documentation promises.

The screenshots are kept in test-artifacts/ of the repository.
"""

import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE = 60_000  # milliseconds: the machine may be busy


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        own = started.chromium.executable_path
        found = own if os.path.exists(own) else next(filter(None, map(shutil.which, CHROMIUMS)), None)
        if found is None:
            pytest.skip("there is no Chromium: `playwright install chromium`, or your system's package")
        opened = started.chromium.launch(executable_path=found)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def link(shared_lab, browser):
    """What `titanlab ui` prints for a sweep of two settings and two seeds, with the server running."""
    axes = {"model.memory.keep": [0.5, 0.9], "model.expansion": [1, 2]}
    file = shared_lab.write("In the browser", axes, seeds=2, evaluate_every=5)
    assert shared_lab.run(file, "--executor", "local").returncode == 0
    where = ["--store", str(shared_lab.store)]
    command = [sys.executable, "-m", "titanlab", "ui", str(file), *where, "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=shared_lab.folder)
    yield server.stdout.readline().split(": ", 1)[1].strip()
    server.send_signal(signal.SIGTERM)
    server.communicate(timeout=30)


@pytest.fixture
def page(browser):
    opened = browser.new_page(viewport={"width": 1600, "height": 1300})
    opened.set_default_timeout(PATIENCE)
    yield opened
    opened.close()


@pytest.fixture
def keep(request, page):
    """Takes a screenshot of what a person would see, MLflow's assistant put away."""
    folder = request.config.rootpath / "test-artifacts"
    folder.mkdir(exist_ok=True)

    def take(name):
        assistant = page.get_by_role("button", name="Close", exact=True)
        if page.get_by_text("MLflow Assistant").count() and assistant.count():
            assistant.first.click()
        page.wait_for_timeout(1500)  # plots are drawn bit by bit
        page.screenshot(path=folder / f"{name}.png")

    return take


def text_of(page):
    return page.locator("body").inner_text()


def test_the_link_shows_the_trials_charts_the_objective_first(page, link, keep):
    page.goto(link)
    page.locator(".js-plotly-plot .barlayer .point").first.wait_for()
    keep("charts")
    text = text_of(page)
    assert "8 matching runs" in text
    sections = re.findall(r"^(final|val|train|cost|memory|System metrics)\s*\((\d+)\)", text, re.MULTILINE)
    assert [name for name, _ in sections][:4] == ["final", "val", "train", "cost"]
    assert dict(sections)["final"] == "4" and dict(sections)["val"] == "2"
    assert "No charts" not in text and "Error" not in text and "progress" not in text
    assert {"keep=0.5 expansion=1 seed=0", "keep=0.9 expansion=2 seed=1"} <= set(text.splitlines())
    assert page.get_by_role("button", name="Sort: final/loss").count() == 1
    bars = page.locator(".js-plotly-plot").first.locator(".barlayer .point")
    assert bars.count() == 8
    page.mouse.move(1000, 700)
    page.mouse.wheel(0, 900)
    page.get_by_text("train/loss").first.wait_for()
    page.locator(".js-plotly-plot .scatterlayer .js-line").first.wait_for(state="attached")
    keep("curves")


def columns_of(page) -> list[str]:
    """The table's columns from left to right, which it makes only where it is scrolled to."""
    places: dict[str, int] = {}
    scroll = page.locator(".ag-body-horizontal-scroll-viewport").first
    for left in range(0, 3000, 150):
        scroll.evaluate("(element, left) => { element.scrollLeft = left }", left)
        page.wait_for_timeout(50)
        cells = page.locator(".ag-header-cell[col-id]").evaluate_all(
            "cells => cells.map(cell => [cell.getAttribute('col-id'), Number(cell.getAttribute('aria-colindex'))])"
        )
        places |= dict(cells)
    scroll.evaluate("element => { element.scrollLeft = 0 }")
    return sorted(places, key=lambda name: places[name])


def test_the_trials_are_compared_side_by_side(page, link, keep):
    page.goto(link.replace("compareRunsMode=CHART", "compareRunsMode=TABLE"))
    wanted = ["metrics.`final/loss`", "params.`model.memory.keep`", "params.`model.expansion`", "params.`train.seed`"]
    page.locator(f".ag-header-cell[col-id='{wanted[0]}']").first.wait_for(state="attached")  # comes after the others
    page.get_by_text("keep=0.5 expansion=1 seed=0").wait_for()
    keep("columns")
    assert [name for name in columns_of(page) if name in wanted] == wanted
    page.locator(".ag-header-cell input[type=checkbox]").first.check(force=True)
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("Comparing 8 Runs").wait_for()
    page.locator(".js-plotly-plot").first.wait_for()
    keep("compare")
    text = text_of(page)
    assert "model.memory.keep" in text and "model.expansion" in text and "train.seed" in text
    assert text.count("expansion=2 seed=1") >= 2


def test_the_pages_of_a_run_say_what_it_is(page, link, keep, shared_lab):
    (parent,) = shared_lab.runs("in-the-browser", "sweep")
    runs = link.split("?")[0]
    page.goto(f"{runs}/{parent.info.run_id}")
    page.get_by_text("Conclusion").wait_for()
    keep("sweep")
    text = text_of(page)
    assert "8 of 8 trials complete" in text and "Child runs" in text
    assert "titanlab: what stands below" not in text

    page.get_by_text("keep=0.5 expansion=1 seed=0").first.click()
    page.get_by_text("Parent run").wait_for()
    page.get_by_text("mqar (").first.wait_for()
    keep("trial")
    assert "system/process_memory_megabytes" in text_of(page)
    page.get_by_role("tab", name="System metrics").click()
    page.locator(".js-plotly-plot").first.wait_for()
    keep("system-metrics")
    assert "process_memory_megabytes" in text_of(page)

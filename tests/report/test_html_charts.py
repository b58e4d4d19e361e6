"""The charts of the report as figures, and its page in a browser."""

import re

import pytest

from ..browser import Browser, needs_chromium


def test_charts_are_valid_vega_lite(report):
    import altair

    assert len(report.charts) == len({chart.name for chart in report.charts}) >= 15
    for chart in report.charts:
        altair.Chart.from_dict(chart.spec, validate=True)


def test_figures_are_png_and_pdf(report, tmp_path, monkeypatch):
    for block in report.blocks:
        for section in block.sections:
            monkeypatch.setattr(section, "charts", section.charts[:1])
    files = report.save_figures(tmp_path / "figures")
    assert len(files) == 2 * len(report.charts) >= 8
    starts = {".png": b"\x89PNG", ".pdf": b"%PDF"}
    assert all(path.read_bytes().startswith(starts[path.suffix]) for path in files)


@pytest.fixture(scope="module")
def browser():
    made = Browser()
    yield made
    made.close()


@needs_chromium
def test_the_page_in_a_browser(browser, written):
    browser.open(written.as_uri())
    browser.wait("document.documentElement.dataset.drawn === 'yes'")
    charts = browser.run("return document.querySelectorAll('.chart').length")
    assert charts == browser.run("return document.querySelectorAll('.chart svg').length") >= 8
    # Two clicks lead from a cell to a row with its history and the top tens of two models.
    browser.click("#tables td button.rows")
    assert browser.run("return document.getElementById('panel').open")
    gaps = browser.run("return [...document.querySelectorAll('#panel tr.row th')].map(e => Number(e.textContent))")
    losses = [gap for gap in gaps if gap < 0]
    assert losses == gaps[: len(losses)] == sorted(losses)
    browser.click("#panel tr.row")
    shown = browser.run("return document.getElementById('panel').innerText")
    assert "History" in shown and "clicked item" in shown
    assert browser.run("return document.querySelectorAll('#panel ol').length") == 2
    browser.click("#panel button.close")
    # A header sorts its column, the largest first.
    browser.click("#tables button.sort", 3)
    column = "return [...document.querySelectorAll('#tables table')[0].tBodies[0].rows].map(r => Number(r.cells[3].dataset.value))"
    values = browser.run(column)
    assert values == sorted(values, reverse=True) and len(set(values)) > 1
    assert browser.errors() == []


@needs_chromium
def test_the_page_on_a_phone_and_on_paper(browser, written):
    browser.open(written.as_uri(), 390, 844, phone=True)
    browser.wait("document.documentElement.dataset.drawn === 'yes'")
    wide = "return Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)"
    assert browser.run(wide) <= 390
    browser.click("#tables td button.rows")
    browser.click("#panel tr.row")
    assert browser.run("const p = document.getElementById('panel'); return p.scrollWidth <= p.clientWidth")
    browser.run("document.getElementById('panel').close()")
    printed = browser.pdf()
    assert printed.startswith(b"%PDF") and 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 30
    assert browser.errors() == []

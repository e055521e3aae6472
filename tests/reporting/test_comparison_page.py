"""The page with runs side by side, in a real browser, and its charts."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.compared_runs import copied
from tests.pages import Reader, contrasts, errors, overflow
from vae_fast import compare
from vae_fast.reporting import charts


@pytest.fixture(scope="module")
def page(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "deeper" / "compare.html"
    assert compare.main([str(sweep), "--out", str(file)]) == 0
    return file


def test_the_page_is_complete_and_fetches_nothing(page: Path, sweep: Path, tmp_path: Path) -> None:
    strange = copied(sweep, tmp_path / "<b>&")
    assert compare.main([str(sweep), str(strange), "--out", str(tmp_path / "page.html")]) == 0
    for file in (page, tmp_path / "page.html"):
        reader = Reader()
        reader.feed(file.read_text())
        assert (reader.open, reader.fetched, reader.nameless) == ([], [], [])
    assert "<b>" not in (tmp_path / "page.html").read_text()
    assert "&lt;b&gt;&amp;" in (tmp_path / "page.html").read_text()


def test_a_chart_is_cut_where_a_few_values_would_hide_the_others() -> None:
    def drawn(last: float) -> str:
        line = [(float(x), 100.0 - x) for x in range(20)]
        return charts.overlaid([charts.Bundle([*line, (20.0, last)], [], "", 0, "one")], ("1", "20"), "losses", "name")

    def labels(drawing: str) -> list[float]:
        return [float(text) for text in re.findall(r'text-anchor="end">([\d.]+)</text>', drawing)][:5]

    assert max(labels(drawn(1e6))) < 101
    assert "losses; cut off above 99.00" in drawn(1e6)
    assert max(labels(drawn(105.0))) == 105
    assert "cut off" not in drawn(105.0)


def test_long_runs_are_thinned_to_their_last_epoch() -> None:
    lines = [[(float(x), float(x + n)) for x in range(10_000)] for n in range(20)]
    drawing = charts.overlaid([charts.Bundle(line, [], "", 0, "") for line in lines], ("", ""), "", "name")
    paths = re.findall(r'points="([^"]*)"', drawing)
    assert [path.split()[-1].split(",")[0] for path in paths] == [f"{charts.WIDTH - charts.RIGHT:.1f}"] * 20
    assert max(len(path.split()) for path in paths) <= charts.MOST_POINTS / 20


VISIBLE = """
return Array.from(document.querySelectorAll(arguments[0])).filter((e) => e.getBoundingClientRect().width > 0).length;
"""


def test_charts_and_runs_are_chosen_in_the_page(browser: Any, page: Path) -> None:
    assert overflow(browser, page, 1280) <= 0
    assert browser.execute_script(VISIBLE, ".epochs .run") == 6
    assert browser.execute_script(VISIBLE, ".seconds .run") == 0
    browser.find_element("css selector", ".by-seconds").click()
    assert browser.execute_script(VISIBLE, ".epochs .run") == 0
    assert browser.execute_script(VISIBLE, ".seconds .run") == 6
    first, second, *_ = browser.find_elements("css selector", ".legend input")
    first.click()
    assert browser.execute_script(VISIBLE, '.seconds .run[data-run="0"]') == 0
    assert browser.execute_script(VISIBLE, ".seconds .run") == 5
    browser.execute_script("arguments[0].focus()", second)
    assert browser.execute_script(VISIBLE, ".seconds .run.strong") == 1
    for what, count in (("none", 0), ("all", 6)):
        browser.find_element("css selector", f'[data-show="{what}"]').click()
        assert browser.execute_script(VISIBLE, ".seconds .run") == count
    assert errors(browser) == []


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_its_window(browser: Any, page: Path, width: int) -> None:
    assert overflow(browser, page, width) <= 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_curves_have_enough_contrast(browser: Any, sweep: Path, tmp_path: Path, scheme: str) -> None:
    """Check for the contrasts that WCAG 2.1 requires at level AA: 4.5 of text, 3 of graphics."""
    for i in range(11):
        copied(sweep, tmp_path / "runs" / str(i))
    assert compare.main([str(tmp_path / "runs"), "--out", str(tmp_path / "page.html")]) == 0
    texts = dict.fromkeys(("body", "td", "th", "figcaption", "button", "label", "summary"), "color")
    curves = {f".run.colour{n}": "stroke" for n in range(10)}
    found = contrasts(browser, tmp_path / "page.html", scheme, texts | curves)
    assert min(found[kind] for kind in texts) > 4.5
    assert min(found[kind] for kind in curves) > 3

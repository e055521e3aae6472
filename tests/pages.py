"""What tests of pages share: a reader of their elements, and questions to a real browser."""

import html.parser
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Reader(html.parser.HTMLParser):
    """A parser that collects open tags, images without a text alternative, and what the page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.nameless: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.fetched += [v for k, v in attrs if k in ("src", "href") and v and not v.startswith("data:")]
        if (tag == "img" and not given.get("alt")) or (given.get("role") == "img" and not given.get("aria-label")):
            self.nameless.append(tag)
        if tag not in ("meta", "img", "input", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass  # SVG elements

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def errors(browser: Any) -> list[str]:
    """Return the errors in the console; a warning that this test reads the canvas often is ignored."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def overflow(browser: Any, page: Path, width: int) -> int:
    """Return by how much a page is wider than a window of this width."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    seen, needed = browser.execute_script("return [window.innerWidth, document.documentElement.scrollWidth]")
    assert seen == width
    return int(needed - seen)


def contrasts(browser: Any, page: Path, scheme: str, kinds: Mapping[str, str]) -> dict[str, float]:
    """Return the contrast of elements with the page's paper, as WCAG 2.1 defines it.

    kinds: the property that holds the colour, by the selector of the element. scheme: "light" or "dark".
    """
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page.as_uri())
    paper = luminance(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert (paper > 0.5) == (scheme == "light")
    found = {}
    for kind, name in kinds.items():
        script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
        ink = luminance(browser.execute_script(script, kind, name))
        found[kind] = (max(paper, ink) + 0.05) / (min(paper, ink) + 0.05)
    return found


def luminance(colour: str) -> float:
    """Return the luminance of "rgb(r, g, b)" as WCAG defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

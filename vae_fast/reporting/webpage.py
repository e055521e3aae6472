"""A self-contained web page and its parts: escaped text, tables and pictures. Drawings are in `charts`."""

import base64
import string
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources


def page(title: str, lead: str, sections: Iterable[str], *scripts: str) -> str:
    """Return a page with its style, which needs no network. scripts: whole elements, which come after the sections."""
    return string.Template(asset("page.html")).substitute(
        title=escape(title),
        lead=escape(lead),
        style=asset("page.css"),
        sections="\n".join(sections),
        scripts="\n".join(scripts),
    )


def script(name: str) -> str:
    """Return a script of this package as an element of the page."""
    return f"<script>\n{asset(name)}\n</script>"


def data(identifier: str, json: str) -> str:
    """Return JSON as an element that the page's script finds by its id."""
    return f'<script type="application/json" id="{identifier}">{json}</script>'


def asset(name: str) -> str:
    """Return the text of a file in assets/."""
    return (resources.files("vae_fast.reporting") / "assets" / name).read_text(encoding="utf-8")


def section(title: str, *parts: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def facts(values: Mapping[str, str]) -> str:
    """Return the list of the few figures that matter."""
    items = (f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in values.items())
    return f'<dl class="facts">{"".join(items)}</dl>'


def table(name: str, head: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = False) -> str:
    """Return a table. The first cell of a row is its heading; `name` is the label that screen readers announce."""
    heads = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = [
        f'<tr><th scope="row">{escape(first)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    ]
    kind = ' class="numbers"' if numbers else ""
    top = f"<thead><tr>{heads}</tr></thead>" if head else ""
    scroll = f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}">'
    return f"{scroll}<table{kind}>{top}<tbody>{''.join(lines)}</tbody></table></div>"


def folded(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def picture(png: bytes, description: str) -> str:
    source = base64.b64encode(png).decode("ascii")
    return (
        f'<figure><img src="data:image/png;base64,{source}" alt="{escape(description)}">'
        f"<figcaption>{escape(description)}</figcaption></figure>"
    )

"""Write docs/configuration.md: every setting with its default and range. `python docs/configuration.py`"""

import ast
import inspect
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from vae_fast.config import PATHS, Config, preset_names
from vae_fast.config_rules import RANGES

GROUPS = {  # the first setting of each
    "data": "Data",
    "network": "Network",
    "epochs": "Training",
    "amp": "How steps run",
    "out": "The run",
}
HEAD = """# Configuration

Every setting is a flag of `python -m vae_fast.train` (`--batch-size 64`; switches also as `--no-amp`), a key of a
TOML file (`batch_size = 64`) and an argument of `vf.Config` (`batch_size=64`). Later sources win: the defaults below, a
preset (`--preset {presets}`), a file (`--config FILE`), flags. A run's `config.toml` is such a
file. A command line without `--data`, `--preset`, `--config` and `--resume` starts from the preset `digits`.
`python docs/configuration.py` writes this page from the code."""


def page() -> str:
    texts, hints = descriptions(), get_type_hints(Config)
    lines = [HEAD.format(presets="|".join(preset_names()))]
    for field in fields(Config):
        if field.name in GROUPS:
            lines += ["", f"## {GROUPS[field.name]}", "", "| setting | default | values | meaning |"]
            lines += ["| --- | --- | --- | --- |"]
        cells = (f"`{field.name}`", shown(field.default), values(field.name, hints[field.name]), texts[field.name])
        lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def descriptions() -> dict[str, str]:
    """Return the docstring below each field of Config, by the field's name."""
    (definition,) = ast.parse(inspect.getsource(Config)).body
    assert isinstance(definition, ast.ClassDef)
    return {
        ast.unparse(field.target): " ".join(ast.literal_eval(below.value).split())
        for field, below in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr)
    }


def shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, tuple) else f"{value}"


def values(name: str, hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(hint))
    ranges = [expected for names, _, expected in RANGES if name in names]
    if ranges:
        return ranges[0]
    if hint is bool:
        return "a switch"
    return "a path or name" if name in PATHS else ""


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page(), encoding="utf-8")

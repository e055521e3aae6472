"""JSON without NaN and infinity, wherever the package writes it."""

import json
import re
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch

import vae_fast
from vae_fast import trace
from vae_fast.analysis.trained import Trained
from vae_fast.artifacts import strict_json

# What these write is read by this program alone, or is no JSON but TOML.
EXEMPT = ("checkpoint", "strict_json", "cache", "convert", "decode", "config_rules")


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(nan, None), (-inf, None), (0.1, 0.1), (True, True), ({"a": [1, (inf, "nan")]}, {"a": [1, [None, "nan"]]})],
)
def test_null_stands_for_what_is_not_finite(value: Any, expected: Any) -> None:
    assert json.loads(strict_json.dumps(value), parse_constant=refuse) == expected


def test_the_trace_of_an_overflowing_model_holds_null(trained_run: Path) -> None:
    trained = Trained.open(str(trained_run), "cpu")
    with torch.no_grad():
        next(trained.model.parameters()).fill_(inf)
    found = trace.trace(trained, trained.images("test"), 0, 0)
    assert "NaN" in json.dumps(found)
    assert "null" in strict_json.dumps(found)


def test_no_other_module_writes_json_itself() -> None:
    sources = [path for path in Path(vae_fast.__file__).parent.rglob("*.py") if path.stem not in EXEMPT]
    assert [path.name for path in sources if re.search(r"\bjson\.dumps?\(", path.read_text(encoding="utf-8"))] == []

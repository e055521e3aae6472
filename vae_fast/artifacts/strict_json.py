"""Strictly standard JSON, which has neither NaN nor infinity: null stands for them."""

import json
import math
from typing import Any


def dumps(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON, with null for every number that is not finite."""
    return json.dumps(finite(value), indent=indent, allow_nan=False)


def finite(value: Any) -> Any:
    """Replace every number in dicts, lists and tuples that is not finite with None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""The line that is printed as each benchmark ends: what was measured, and how long the others will take."""

import math
from collections.abc import Mapping
from typing import Any

from benchmarks.reporting.tables import number, with_article


def heading(names: Mapping[str, Any]) -> str:
    """Return the suite and the case, then the contender."""
    place = " ".join(str(names[part]) for part in ("suite", "what", "precision", "batch") if names.get(part))
    return f"{place}, {names['label']}"


def measured(info: Mapping[str, Any]) -> str:
    """Return the medians of a benchmark's `extra_info`, with the number of rounds."""
    time = f"{number(info['ms'])} ms" if info["ms"] < 1000 else f"{number(info['ms'] / 1e3)} s"
    return f"{time} {with_article(info['unit'])}, {info['ratio'][1]:.2f} times eager ({rounds(info)})"


def rounds(info: Mapping[str, Any]) -> str:
    taken, wanted = info["rounds_taken"], info["rounds_wanted"]
    text = f"{taken} of {wanted} rounds" if taken < wanted else f"{taken} rounds"
    return text if wanted > 1 else "1 round"


def time_left(seconds: float) -> str:
    """Return the approximate time left; an empty text where it is unknown."""
    if math.isinf(seconds):
        return ""
    return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {max(0.0, seconds):.0f} s left"


def line(place: int, total: int, text: str, seconds: float) -> str:
    """Return a line such as "[12/58] what was measured; about 5 min left"."""
    left = time_left(seconds) if place < total else ""
    return f"[{place:>{len(str(total))}}/{total}] {text}" + (f"; {left}" if left else "")

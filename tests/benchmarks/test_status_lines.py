"""The line that is printed as each benchmark ends."""

import math
from typing import Any

import pytest

from benchmarks.harness import status_lines

INFO: dict[str, Any] = {"ms": 1.2345, "unit": "step", "ratio": [3.8, 3.914, 4.0], "rounds_taken": 9, "rounds_wanted": 9}


def test_a_heading_names_the_suite_and_the_contender() -> None:
    names = {"suite": "elbo", "what": "forward", "precision": "bf16", "batch": 128, "label": "vae_fast"}
    assert status_lines.heading(names) == "elbo forward bf16 128, vae_fast"
    assert status_lines.heading({**names, "what": None, "batch": None}) == "elbo bf16, vae_fast"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "1.23 ms a step, 3.91 times eager (9 rounds)"),
        ({"rounds_taken": 4}, "1.23 ms a step, 3.91 times eager (4 of 9 rounds)"),
        ({"rounds_taken": 1, "rounds_wanted": 1}, "1.23 ms a step, 3.91 times eager (1 round)"),
        ({"ms": 20_500.0, "unit": "epoch"}, "20.5 s an epoch, 3.91 times eager (9 rounds)"),
    ],
)
def test_the_line_has_the_medians_and_the_number_of_rounds(changes: dict[str, Any], said: str) -> None:
    assert status_lines.measured(INFO | changes) == said


@pytest.mark.parametrize(
    ("place", "seconds", "said"),
    [
        (2, 300.0, "[ 2/58] said; about 5 min left"),
        (57, 42.4, "[57/58] said; about 42 s left"),
        (57, -3.0, "[57/58] said; about 0 s left"),
        (12, math.inf, "[12/58] said"),
        (58, 300.0, "[58/58] said"),
    ],
)
def test_a_line_has_the_count_and_the_time_left(place: int, seconds: float, said: str) -> None:
    assert status_lines.line(place, 58, "said", seconds) == said

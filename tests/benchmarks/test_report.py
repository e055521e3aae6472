"""Benchmark results as tables and charts."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks import report
from benchmarks.reporting.chart_style import apart
from benchmarks.reporting.results import Spread
from tests.benchmarks.sample_results import sample, write
from vae_fast.cli.exit_codes import exit_code


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    report.main(arguments)
    return capsys.readouterr().out


def tables(text: str) -> list[tuple[list[str], list[list[str]]]]:
    """Return each table's head, and its rows with omitted texts filled in."""
    found = []
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()]
        for before, row in pairwise(rows):
            row[:] = [cell or above for cell, above in zip(row, before, strict=True)]
        found.append((head, rows))
    return found


def test_each_table_has_a_column_for_the_floor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [write(tmp_path / f"{i}.json", sample(1 - i / 10)) for i in range(2)]
    found = tables(printed(capsys, *files, "--no-charts"))
    assert len(found) == 6 + 2  # six suites, devices and precisions; ours against others; the two runs
    assert all("of the floor" in head for head, _ in found)
    assert {len(row) - len(head) for head, rows in found for row in rows} == {0}


def test_a_row_shows_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = sample()
    (row,) = (b["extra_info"] for b in content["benchmarks"] if b["name"] == "test_train_step-graph-ops-4096-bf16-cuda")
    row |= {"ms": 0.12345, "ratio": [9.96, 12.34, 15.0], "of_floor": [0.4, 0.456, 0.5], "label": "a | b"}
    row |= {"images_per_second": 33_179_424, "gflop_per_second": 109_000, "peak_memory_mb": 0.0, "loss": 112.344}
    text = printed(capsys, write(tmp_path / "a.json", content), "--no-charts")
    said = "**a \\| b** | 0.123 | 12.3 (10.0-15.0) | 46 % (40-50) | 33,179,424 | 109,000 | 0 | 112.34 |"
    assert said in text


def test_the_header_says_where_the_figures_come_from_and_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = sample()
    for entry in content["benchmarks"]:
        if entry["extra_info"]["contender"] == "jax":
            entry["extra_info"] |= {"threads": 4, "versions": {"jax": "0.10.2"}, "rounds": 5}
    text = printed(capsys, write(tmp_path / "a.json", content), "--no-charts")
    for line in (
        "- machine: AMD EPYC, AVX512",
        "- versions: jax 0.10.2, python 3.11.7, torch 2.13.0",
        "- threads: 2; 4 (JAX, jit of lax.scan)",
        "- revision: 1234abc+",
        "- date: 2026-11-22",
        "- rounds: 5-11",
        "- not installed: pip install 'vae_fast[peers]': pythae (train_step; cpu fp32; batch 128, 1024)",
    ):
        assert f"{line}\n" in text + "\n"


def test_dropped_rounds_and_a_busy_machine_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {**sample(), "busy": 0.634}
    steps = [b["extra_info"] for b in content["benchmarks"] if b["name"].startswith("test_train_step")]
    for info in steps:
        info |= {"rounds_taken": 11, "rounds_wanted": 11}
    steps[0] |= {"rounds": 3, "rounds_taken": 4, "rounds_wanted": 11}  # the cores were in another state once
    why = {"suite": "elbo", "what": "forward", "contender": "fused", "label": "ours", "reason": "no time"}
    content["not_measured"].append({**why, "batch": 128, "precision": "fp32", "device": "cpu"})
    text = printed(capsys, write(tmp_path / "a.json", content), "--no-charts")
    assert "- used by other processes at the start: 63% of the CPUs\n" in text
    count = len(content["benchmarks"])
    assert f"- rounds: 3-11; 1 of {count} benchmarks took fewer than wanted: the budget of time was spent\n" in text
    found = [(head, rows) for head, rows in tables(text) if "rounds" in head]
    ((head, rows),) = found
    assert sorted(row[head.index("rounds")] for row in rows if row[head.index("rounds")] != "-") == ["4 of 11"]
    assert "- no time: ours (elbo forward; cpu fp32; batch 128)" in text


def test_a_table_shows_the_size_of_a_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = sample()
    for entry in content["benchmarks"]:
        info = entry["extra_info"]
        info["units_a_round"] = {"call": 84, "step": 50, "run": 1}[info["unit"]]
    found = tables(printed(capsys, write(tmp_path / "a.json", content), "--no-charts"))
    said = {row[head.index("a round")] for head, rows in found if "a round" in head for row in rows}
    assert said == {"84 calls", "50 steps"}


def test_our_fastest_is_compared_with_each_rival_with_the_wider_spread(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = sample()
    ratios = {"fused-step": [3.9, 4.0, 4.2], "ops": [2.0, 3.0, 5.0], "jax": [1.5, 2.0, 2.6]}
    for entry in content["benchmarks"]:
        info = entry["extra_info"]
        if (info["suite"], info["device"], info["batch"]) == ("train_step", "cpu", 128):
            info["ratio"] = ratios.get(info["contender"], [1, 1, 1])
    found = tables(printed(capsys, write(tmp_path / "a.json", content), "--no-charts"))
    ((_, rows),) = [table for table in found if "against" in table[0]]
    jax = next(row for row in rows if row[:2] == ["train_step, cpu, fp32", "128"] and "JAX" in row[4])
    assert (jax[2], jax[5]) == ("**a step as one operator**", "2.00 (1.50-2.80)")
    assert not [row for row in rows if row[2] == row[4]]


def test_no_rival_is_compared_across_states_of_the_cores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = sample()
    for entry in content["benchmarks"]:
        info = entry["extra_info"]
        info["cores_apart_ns"] = 3 * [210 if info["contender"] == "jax" else 45]
    text = printed(capsys, write(tmp_path / "1.json", content), "--no-charts")
    ((_, rows),) = [table for table in tables(text) if "against" in table[0]]
    jax = next(row for row in rows if row[:2] == ["train_step, cpu, fp32", "128"] and "JAX" in row[4])
    assert jax[5] == "cores 45 / 210 ns apart"


def test_two_runs_agree_where_their_quartiles_overlap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = sample(), sample()
    moved = {"ops": 1.1 * 1.08 / 0.92, "eager-tuned": 1.04 * 1.08 / 0.92, "compile-ops": 0.99 * 1.08 / 0.92}
    for entry in two["benchmarks"]:
        info = entry["extra_info"]
        info["ratio"] = [value * moved.get(info["contender"], 1) for value in info["ratio"]]
    text = printed(capsys, write(tmp_path / "1.json", one), write(tmp_path / "2.json", two), "--no-charts")
    head, rows = tables(text)[-1]
    verdicts = {row[2]: row[head.index("overlap")] for row in rows}
    assert verdicts["**fused operators**"] == "**no**"
    assert verdicts["**torch.compile, fused operators**"] == verdicts["Lightning"] == "yes"
    assert verdicts["eager with good habits: logits, fused Adam, no .item()"] == "within 5%"
    found = [row[head.index("overlap")] for row in rows]
    said = f"The spreads of {found.count('yes')} of {len(rows)} overlap, and {found.count('within 5%')} more are"
    assert said in text
    assert text.count("### train_step, cpu, fp32") == 1  # what ran twice is in one table only


def test_runs_of_cores_in_different_states_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = []
    for distance in (45, 210):
        content = sample()
        (jax,) = (b["extra_info"] for b in content["benchmarks"] if b["name"] == "test_train_step-jax-128-fp32-cpu")
        jax["cores_apart_ns"] = 3 * [distance]
        files.append(write(tmp_path / f"{distance}.json", content))
    text = printed(capsys, *files, "--no-charts")
    head, rows = tables(text)[-1]
    verdicts = {tuple(row[:3]): row[head.index("overlap")] for row in rows}
    assert verdicts.pop(("train_step, cpu, fp32", "128", "JAX, jit of lax.scan")) == "cores 45 / 210 ns apart"
    assert set(verdicts.values()) == {"yes"}
    assert f"The spreads of {len(rows) - 1} of {len(rows) - 1} overlap, and 0 more" in text
    assert "1 cannot be compared" in text


spreads = st.lists(st.floats(0.01, 100), min_size=3, max_size=3).map(lambda values: Spread(*sorted(values)))


@given(spreads, spreads, st.data())
def test_a_quotient_of_spreads_contains_every_quotient(a: Spread, b: Spread, data: st.DataObject) -> None:
    x, y = (data.draw(st.floats(s.low, s.high)) for s in (a, b))
    assert a.over(b).low <= x / y <= a.over(b).high
    assert a.overlaps(b) == b.overlaps(a) == (max(a.low, b.low) <= min(a.high, b.high))


@given(st.lists(st.floats(0, 1), max_size=12).map(sorted))
def test_labels_keep_their_distance_and_stay_in_range(wanted: list[float]) -> None:
    places = apart(wanted, 0.05, 0.0, 1.0)
    assert all(b - a >= 0.05 - 1e-9 for a, b in pairwise(places))
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)
    if all(b - a >= 0.05 for a, b in pairwise(wanted)):
        assert places == pytest.approx(wanted)


def test_the_same_results_give_the_same_charts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = sample()
    content["benchmarks"] = [b for b in content["benchmarks"] if b["extra_info"]["device"] == "cpu"]
    for folder in ("one", "two"):
        printed(capsys, write(tmp_path / "a.json", content), "--out", str(tmp_path / folder))
    names = [f"{chart}-cpu-fp32" for chart in ("roofline", "throughput-train_step", "waterfall-train_step")]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        f"{n}{s}" for n in names for s in (".png", ".svg")
    ]
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    with Image.open(tmp_path / "one" / "roofline-cpu-fp32.png") as picture:
        assert len(picture.getcolors(1 << 20) or []) > 50


def test_no_chart_is_drawn_without_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = sample()
    content["benchmarks"] = [b for b in content["benchmarks"] if b["extra_info"]["suite"] == "startup"]
    printed(capsys, write(tmp_path / "a.json", content), "--out", str(tmp_path / "charts"))
    assert not list((tmp_path / "charts").iterdir())


def edited(**changes: Any) -> dict[str, Any]:
    content = sample()
    content["benchmarks"][3]["extra_info"] |= changes
    return content


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "but No such file or directory"),
        ("{", "but it is not JSON"),
        ("[]", 'with a list "benchmarks"'),
        (
            '{"benchmarks": [{"name": "test_theirs", "extra_info": {}}]}',
            "benchmark test_theirs: expected suite, a text",
        ),
        (edited(ms=-1), "expected ms to be a positive number, found -1"),
        (edited(loss=-0.5), "expected loss to be a number that is not negative, found -0.5"),
        (edited(ratio=[2, 1, 3]), "expected ratio to be [low, median, high]"),
        (edited(of_floor=[0.1, float("nan"), 1]), "expected of_floor to be"),
        (edited(batch=True), "expected batch to be a positive integer, found True"),
        ({**sample(), "benchmarks": sample()["benchmarks"][:1] * 2}, "expected each benchmark once"),
        ({**sample(), "not_measured": [{"suite": "epoch"}]}, "not_measured[0]: expected contender"),
    ],
)
def test_a_file_that_is_not_ours_gives_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any, said: str
) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert exit_code(lambda: report.main([str(path)])) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}: ")
    assert said in line


def test_no_file_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        report.main([])
    assert stopped.value.code == 2
    assert "FILE" in capsys.readouterr().err

"""Which settings of runs differ, and whose losses can be compared."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vae_fast as vf
from tests.compared_runs import as_csv, copied, records
from vae_fast import compare
from vae_fast.analysis.comparison import shortest_names

Small = Callable[..., vf.Config]


def test_settings_of_the_plan_and_of_networks(tmp_path: Path, small: Small, one_thread: None) -> None:
    of_runs: dict[str, dict[str, Any]] = {
        "plain": {},
        "autograd": {"step": "autograd"},
        "bf16": {"amp_dtype": "bf16"},
        "conv": {"network": "conv", "network_options": ("width=4",), "hidden": (400,), "epochs": 1},
    }
    for name, settings in of_runs.items():
        vf.fit(small(**settings, out=str(tmp_path / "runs" / name)))
    found = {row["run"]: row for row in as_csv(tmp_path / "runs")}
    shown = {name: [row[key] for key in ("step", "plan.step", "plan.precision")] for name, row in found.items()}
    assert shown == {
        "plain": ["auto", "fused", "fp32"],
        "autograd": ["autograd", "autograd", "fp32"],
        "bf16": ["auto", "fused", "bf16"],
        "conv": ["auto", "autograd", "fp32"],
    }
    assert {name: row["hidden"] for name, row in found.items()} == {**dict.fromkeys(of_runs, "16"), "conv": ""}
    assert {name: row["network.width"] for name, row in found.items()} == {**dict.fromkeys(of_runs, ""), "conv": "4"}
    assert "latent" not in found["plain"]


def test_runs_whose_losses_are_not_comparable_are_said_so_and_shown(
    tmp_path: Path, small: Small, capsys: pytest.CaptureFixture[str]
) -> None:
    images = vf.load_images("digits").pixels
    np.save(tmp_path / "other.npy", images[:300])
    of_runs: dict[str, dict[str, Any]] = {
        "grey": {},
        "held": {"valid": 100},  # its test images are the same
        "binary": {"binarize": "static"},
        "logistic": {"likelihood": "discretized_logistic"},
        "other": {"data": str(tmp_path / "other.npy")},
    }
    for name, settings in of_runs.items():
        vf.fit(small(**settings, out=str(tmp_path / "runs" / name)))
    capsys.readouterr()
    found = {row["run"]: row for row in as_csv(tmp_path / "runs", "--out", str(tmp_path / "page.html"))}
    assert found["grey"]["group"] == found["held"]["group"] == "A"
    assert {found[name]["group"] for name in ("binary", "logistic", "other")} == {"B", "C", "D"}
    assert list(found)[:2] == sorted(("grey", "held"), key=lambda name: float(found[name]["test_loss"]))
    assert found["held"]["held_out"] == "test"  # as not all of the group hold out images for validation
    printed = capsys.readouterr().out
    (note,) = re.findall("^note: .*$", printed, re.MULTILINE)
    start = "note: losses of different groups cannot be compared: they differ in data ("
    assert note.startswith(start)
    for reason in ("binarization (", "static", "likelihood (", "discretized_logistic", "other.npy", "digits"):
        assert reason in note
    assert "image shape" not in note
    bits = {name: row["bits_per_value"] for name, row in found.items()}
    assert (bits["grey"], bits["other"]) == ("", "")
    for name in ("binary", "logistic"):
        assert float(bits[name]) == pytest.approx(float(found[name]["test_loss"]) / (784 * np.log(2)))
    page = (tmp_path / "page.html").read_text()
    assert re.findall("<h2>(.*)</h2>", page) == ["Runs", *(f"Losses of group {name}" for name in "ABCD")]
    assert note.removeprefix("note: ") in page
    assert str(tmp_path) not in page  # where files are is private


def test_validation_images_decide_where_all_runs_have_them(
    tmp_path: Path, small: Small, capsys: pytest.CaptureFixture[str]
) -> None:
    for beta in (1.0, 4.0):
        vf.fit(small(valid=100, beta=beta, out=str(tmp_path / "runs" / f"beta{beta:g}")))
    capsys.readouterr()
    for row in as_csv(tmp_path / "runs"):
        last = records(tmp_path / "runs" / row["run"])[-1]
        assert (row["held_out"], float(row["held_out_loss"])) == ("valid", last["valid_loss"])
        assert float(row["best_loss"]) == min(r["valid_loss"] for r in records(tmp_path / "runs" / row["run"]))
    notes = re.findall("^note: (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert notes[0] == "nll, kl, bits_per_value and best_loss are those of valid images"
    assert notes[1].startswith("training losses are of different objectives (beta); ")


def test_the_same_images_elsewhere_are_comparable(tmp_path: Path, small: Small) -> None:
    images = vf.load_images("digits").pixels[:200]
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "some.npy", images)
        vf.fit(small(data=str(tmp_path / name / "some.npy"), batch_size=50, out=str(tmp_path / "runs" / name)))
    found = as_csv(tmp_path / "runs")
    assert "group" not in found[0]
    assert {row["run"]: row["data"] for row in found} == {"left": "left/some.npy", "right": "right/some.npy"}


def test_runs_of_the_same_name_are_told_apart_and_counted_once(sweep: Path, tmp_path: Path) -> None:
    for folder in ("x/left", "x/right", "y/right"):
        copied(sweep, tmp_path / folder / "run")
    folders = [tmp_path / "x" / "left", tmp_path / "x" / "left" / "run", *tmp_path.glob("*/right/run")]
    found = compare.compare(folders, "run")
    assert [row["run"] for row in found.rows] == ["left/run", "x/right/run", "y/right/run"]
    assert shortest_names([tmp_path / "a" / ".." / "b"]) == {tmp_path / "a" / ".." / "b": "b"}

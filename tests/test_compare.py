"""The comparison of runs: the table, the CSV, the page in a real browser, and folders that are no runs."""

import csv
import io
import json
import re
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vae_fast as vf
from tests.pages import Reader, contrasts, errors, overflow
from vae_fast import compare, evaluate
from vae_fast.analysis.comparison import shortest_names
from vae_fast.reporting import charts

LATENTS, RATES = (2, 3, 4), (1e-3, 3e-3)
Small = Callable[..., vf.Config]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of six runs of two epochs, which differ in `latent` and `lr`."""
    folder = tmp_path_factory.mktemp("sweep")
    for latent in LATENTS:
        for lr in RATES:
            out = folder / f"z{latent}-lr{lr:g}"
            vf.fit(vf.Config(data="digits", hidden=(16,), latent=latent, lr=lr, epochs=2, out=str(out)))
    return folder


@pytest.fixture
def run(sweep: Path, tmp_path: Path) -> Path:
    """Return a copy of one run of the sweep, for tests that change it."""
    return copied(sweep, tmp_path / "z2")


def copied(sweep: Path, to: Path) -> Path:
    return Path(shutil.copytree(sweep / "z2-lr0.001", to))


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def rewrite(run: Path, **values: Any) -> None:
    """Give all records of a run these values."""
    lines = [json.dumps({**record, **values}) for record in records(run)]
    (run / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def as_csv(folder: Path, *arguments: str) -> list[dict[str, str]]:
    file = folder.parent / f"{folder.name}.csv"
    assert compare.main([str(folder), "--csv", str(file), *arguments]) == 0
    return rows(file.read_text())


@pytest.fixture(scope="module")
def page(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "deeper" / "compare.html"
    assert compare.main([str(sweep), "--out", str(file)]) == 0
    return file


def test_a_sweep_of_six_runs(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([str(sweep), "--csv", str(tmp_path / "a.csv"), "--out", str(tmp_path / "a.html")]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    head, *lines = printed.out.splitlines()
    assert " ".join(head.split()) == (
        "run latent lr epochs_done train_loss test_loss nll kl best_loss images_per_second seconds"
    )
    assert lines[6:] == [f"file  {tmp_path / 'a.csv'}", f"file  {tmp_path / 'a.html'}"]
    found = rows((tmp_path / "a.csv").read_text())
    assert sorted((int(row["latent"]), float(row["lr"])) for row in found) == [(z, lr) for z in LATENTS for lr in RATES]
    for row, line in zip(found, lines, strict=False):
        of = records(sweep / row["run"])
        losses = [record["test_loss"] for record in of]
        assert row["held_out"] == "test"
        for key in ("train_loss", "train_nll", "train_kl", "test_loss", "test_nll", "test_kl"):
            assert float(row[key]) == of[-1][key]
        assert float(row["held_out_loss"]) == float(row["test_loss"]) == losses[-1]
        assert (float(row["nll"]), float(row["kl"])) == (of[-1]["test_nll"], of[-1]["test_kl"])
        assert (float(row["best_loss"]), row["best_epoch"]) == (min(losses), str(losses.index(min(losses)) + 1))
        assert float(row["images_per_second"]) == statistics.median(record["images_per_second"] for record in of)
        assert float(row["seconds"]) == sum(record["seconds"] for record in of)
        assert line.split()[:6] == (
            [row["run"], row["latent"], row["lr"], "2", f"{of[-1]['train_loss']:.2f}", f"{losses[-1]:.2f}"]
        )
    losses = [float(row["held_out_loss"]) for row in found]
    assert losses == sorted(losses)
    text = (tmp_path / "a.html").read_text()
    for row in found:
        assert f'<th scope="row">{row["run"]}</th>' in text
    assert text.count('<polyline class="solid"') == text.count('<polyline class="dashed"') == 2 * 6


@pytest.mark.parametrize(
    "key", ["run", "latent", "lr", "train_loss", "kl", "best_loss", "seconds", "images_per_second"]
)
def test_runs_are_sorted_by_any_column(sweep: Path, key: str) -> None:
    found = [row[key] for row in as_csv(sweep, "--sort", key)]
    values = found if key == "run" else [float(value) for value in found]
    assert values == sorted(values, reverse=key == "images_per_second")
    assert len(set(found)) > 1


def test_a_single_run_is_shown(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([str(run)]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["run", "epochs_done"]  # there are no settings that differ
    assert line.split()[:2] == ["z2", "2"]


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


def test_the_best_estimate_of_the_likelihood_is_shown(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def shown() -> tuple[dict[str, str], str]:
        (row,) = as_csv(run)
        return row, capsys.readouterr().out

    arguments = [str(run), "--device", "cpu"]
    assert evaluate.main([*arguments]) == 0  # without an estimate
    assert "iw_nll" not in shown()[0]
    assert evaluate.main([*arguments, "--iw", "3", "--split", "train"]) == 0
    assert evaluate.main([*arguments, "--iw", "9", "--binarize", "threshold"]) == 0
    assert "iw_nll" not in shown()[0]  # of no held-out images as in the run
    assert evaluate.main([*arguments, "--iw", "7", "--count", "20"]) == 0
    row, text = shown()
    assert (row["iw_samples"], row["iw_images"], row["iw_part"]) == ("7", "20", "test")
    assert "(K = 7, 20 images)" in text
    assert evaluate.main([*arguments, "--iw", "4"]) == 0
    row, text = shown()
    (file,) = run.glob("evaluations/*seed0-iw4.json")
    expected = json.loads(file.read_text())["importance_weighted"]
    assert float(row["iw_nll"]) == expected["nll"]
    assert float(row["iw_standard_error"]) == expected["standard_error"]
    assert f"{expected['nll']:.2f} +- {expected['standard_error']:.2f} (K = 4)" in text
    file.write_text('{"importance_weighted": 3}')
    (run / "evaluations" / "broken.json").write_text("[")
    assert compare.main([str(run)]) == 0
    printed = capsys.readouterr()
    assert "(K = 7, 20 images)" in printed.out
    assert printed.err == "".join(
        f"warning: {path}: it is no result of evaluate and is left out\n"
        for path in sorted((file, run / "evaluations" / "broken.json"))
    )


def test_an_estimate_of_an_earlier_checkpoint_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = min(run.glob("checkpoints/step-*"))
    assert evaluate.main([str(first), "--device", "cpu", "--iw", "2"]) == 0
    capsys.readouterr()
    assert compare.main([str(run)]) == 0
    assert f"(K = 2, step {int(first.name[5:])})" in capsys.readouterr().out


def test_folders_that_cannot_be_shown_get_a_line_each(
    sweep: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, unfinished, headless, spoiled = (tmp_path / name for name in ("empty", "unfinished", "headless", "spoiled"))
    empty.mkdir()
    for copy in (unfinished, headless, spoiled):
        copied(sweep, copy)
    (unfinished / "metrics.jsonl").unlink()
    (headless / "config.toml").unlink()
    (spoiled / "config.toml").write_text("latent = [")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "tra\n\n{"epoch": "4"}\n')
    folders = [empty, tmp_path / "nowhere", run / "config.toml", unfinished, headless, spoiled, run]
    assert compare.main([*map(str, folders), "--csv", str(tmp_path / "a.csv")]) == 0
    said = capsys.readouterr().err.splitlines()
    expected = [
        (run / "metrics.jsonl", "2 lines are no records and are left out"),
        (empty, "expected a run directory, or a folder of them: it holds no config.toml, nor a run"),
        (tmp_path / "nowhere", "expected a run directory, or a folder of them: there is no such directory"),
        (run / "config.toml", "expected a run directory, or a folder of them: it is a file"),
        (unfinished, "expected a run with records, got none: its first epoch is not finished"),
        (headless, "expected a run directory: its config.toml is missing, which says what the run is"),
        (spoiled / "config.toml", "not valid TOML ("),
    ]
    assert len(said) == len(expected)
    for line, (place, message) in zip(said, expected, strict=True):
        assert line.startswith(f"warning: {place}: {message}")
    (row,) = rows((tmp_path / "a.csv").read_text())
    assert (row["run"], row["epochs_done"]) == ("z2", "2")
    assert compare.main([str(empty), str(unfinished)]) == 1
    *warnings, error = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in warnings] == [str(empty), str(unfinished)]
    assert error == "error: RUN: expected at least one run with records, got none in 2 folders"
    assert compare.main([str(empty)]) == 1
    assert capsys.readouterr().err == f"error: {empty}: {expected[1][1]}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "error: the following arguments are required: RUN\n"),
        (["{run}", "--sort", "speed"], 2, "error: --sort: expected one of run, epochs_done, "),
        (["{run}", "--csv", "{run}"], 1, "error: --csv: expected a file, {run} is a directory\n"),
        (["{run}", "--out", "{run}/config.toml/a.html"], 1, "error: --out: {run}/config.toml is a file, expected"),
        (["{run}", "--csv", "{run}/config.toml/a.csv"], 1, "error: --csv: {run}/config.toml is a file, expected"),
        (["{run}", "--csv", "a", "--out", "a"], 2, "error: --csv: expected another file than --out, got a for both\n"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    run: Path, arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare.main([argument.format(run=run) for argument in arguments]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(message.format(run=run))
    assert printed.err.count("\n") == 1


def test_the_example_in_the_help_works(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="0"):
        compare.main(["--help"])
    (example,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("example: "))
    copied(sweep, tmp_path / "runs" / "a")
    monkeypatch.chdir(tmp_path)
    assert example.split()[1:4] == ["python", "-m", "vae_fast.compare"]
    assert compare.main(example.split()[4:]) == 0
    assert (tmp_path / "compare.html").is_file()


def test_runs_of_the_same_name_are_told_apart_and_counted_once(sweep: Path, tmp_path: Path) -> None:
    for folder in ("x/left", "x/right", "y/right"):
        copied(sweep, tmp_path / folder / "run")
    folders = [tmp_path / "x" / "left", tmp_path / "x" / "left" / "run", *tmp_path.glob("*/right/run")]
    found = compare.compare(folders, "run")
    assert [row["run"] for row in found.rows] == ["left/run", "x/right/run", "y/right/run"]
    assert shortest_names([tmp_path / "a" / ".." / "b"]) == {tmp_path / "a" / ".." / "b": "b"}


def test_a_run_that_diverged_comes_last(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    for name in ("a", "b"):
        copied(sweep, runs / name)
    rewrite(runs / "a", test_loss=None, test_nll=None, test_kl=None, train_loss=None, images_per_second=None)
    assert compare.main([str(runs), "--out", str(tmp_path / "page.html")]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines[1:3]] == ["b", "a"]
    cells = dict(zip(lines[0], lines[2], strict=True))
    assert {cells[key] for key in ("train_loss", "test_loss", "nll", "best_loss", "images_per_second")} == {"-"}
    assert (tmp_path / "page.html").read_text().count('<polyline class="solid"') == 2
    assert compare.main([str(runs / "a"), "--out", str(tmp_path / "page.html")]) == 0  # without any curve
    assert "<polyline" not in (tmp_path / "page.html").read_text()


def test_an_unfinished_run_says_of_how_many_epochs(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, *_ = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text(first)
    assert compare.main([str(run), "--out", str(run / "page.html")]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[1:4] == ["1", "of", "2"]
    assert (run / "page.html").read_text().count("<circle") == 4  # one epoch is a point, not a line


def test_some_hundreds_of_runs(sweep: Path, tmp_path: Path) -> None:
    text = (sweep / "z2-lr0.001" / "config.toml").read_text().partition("\n")[2]
    for i in range(300):
        (tmp_path / "runs" / f"r{i}").mkdir(parents=True)
        (tmp_path / "runs" / f"r{i}" / "config.toml").write_text(text.replace("seed = 0", f"seed = {i}"))
        shutil.copy(sweep / "z2-lr0.001" / "metrics.jsonl", tmp_path / "runs" / f"r{i}")
        rewrite(tmp_path / "runs" / f"r{i}", test_loss=500.0 - i)
    found = as_csv(tmp_path / "runs", "--out", str(tmp_path / "page.html"))
    assert [int(row["seed"]) for row in found] == list(range(299, -1, -1))
    page = (tmp_path / "page.html").read_text()
    assert page.count('<polyline class="solid"') == 2 * 300
    assert set(re.findall(r'class="run (\w*)"', page)) == {"", *(f"colour{n}" for n in range(10))}
    assert "290 more, in grey" in page


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

"""The command that compares runs: the table, the CSV, and folders that are no runs."""

import json
import re
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

import vae_fast as vf
from tests.compared_runs import as_csv, copied, records, rewrite, rows
from vae_fast import compare, evaluate

LATENTS, RATES = (2, 3, 4), (1e-3, 3e-3)


@pytest.fixture
def run(sweep: Path, tmp_path: Path) -> Path:
    """Return a copy of one run of the sweep, for tests that change it."""
    return copied(sweep, tmp_path / "z2")


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


def test_an_estimate_of_images_that_are_binarized_at_each_step(tmp_path: Path, small: Callable[..., vf.Config]) -> None:
    """Take that of their static sample, which stands for them; of validation images where there is no other."""
    out = tmp_path / "run"
    vf.fit(small(binarize="dynamic", valid=50, epochs=1, out=str(out)))
    for part in ("valid", "test"):
        assert evaluate.main([str(out), "--device", "cpu", "--iw", "2", "--split", part]) == 0
        (row,) = as_csv(out)
        assert (row["iw_part"], row["iw_images"]) == (part, {"valid": "50", "test": "1000"}[part])


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

"""Requirements on every command for a trained model: a help example that works, and one-line reports of mistakes."""

import argparse
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vae_fast as vf
from vae_fast.__main__ import COMMANDS
from vae_fast.cli import numbers, run_arguments

ON_A_RUN = tuple(name for name in COMMANDS if name not in ("train", "compare", "env"))


def command(name: str) -> Any:
    return importlib.import_module(f"vae_fast.{name}")


@pytest.fixture(scope="module")
def moved_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of few images, moved to another folder, as a machine with many GPUs would have recorded it."""
    folder = tmp_path_factory.mktemp("moved")
    np.save(folder / "few.npy", vf.load_images("digits").pixels[:80])
    few = {"data": str(folder / "few.npy"), "test_fraction": 0.5, "batch_size": 8}
    vf.fit(vf.Config(**few, hidden=(16,), latent=4, epochs=1, out=str(folder / "left")))
    moved = folder / "run"
    (folder / "left").rename(moved)
    config = (moved / "config.toml").read_text().splitlines()
    config = ['device = "cuda:7"' if line.startswith("device =") else line for line in config]
    assert config.count('device = "cuda:7"') >= 2  # the setting, and the plan
    (moved / "config.toml").write_text("\n".join(config))
    return moved


@pytest.mark.parametrize("name", ON_A_RUN)
def test_the_example_in_the_help_works_on_a_run_of_another_device(
    name: str, moved_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="0"):
        command(name).main(["--help"])
    (example,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("example: "))
    _, python, flag, module, run, *arguments = example.split()
    assert (python, flag, module) == ("python", "-m", f"vae_fast.{name}")
    assert run.startswith("runs/")
    monkeypatch.chdir(moved_run.parent)
    assert command(name).main([moved_run.name, *arguments]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("name", ON_A_RUN)
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 1, "error: nowhere: expected a run directory, a checkpoint"),
        (["{run}", "--device", "tpu"], 2, "error: device: "),
    ],
)
def test_mistakes_are_reported_in_one_line(
    name: str, arguments: list[str], code: int, message: str, trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(name).main([argument.format(run=trained_run) for argument in arguments]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(message)
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("name", ON_A_RUN)
def test_every_command_accepts_threads_and_rejects_invalid_arguments_in_one_line(
    name: str, trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_num_threads()
    try:
        assert command(name).main([str(trained_run), "--threads", "3", "--not-a-flag"]) == 2
        assert torch.get_num_threads() == before
        assert command(name).main([str(trained_run), "--threads", "3", "--device", "tpu"]) == 2
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert capsys.readouterr().err.startswith("error: no such argument: --not-a-flag\nerror: device: ")
    assert command(name).main([str(trained_run), "--threads", "5000000000"]) == 2
    assert capsys.readouterr().err == "error: --threads: expected 1 to 4096, got '5000000000'\n"
    assert command(name).main([]) == 2
    assert capsys.readouterr().err == "error: the following arguments are required: RUN\n"


def test_paths_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert run_arguments.path("~/runs/x") == Path("/home/me/runs/x")
    with pytest.raises(argparse.ArgumentTypeError, match=r"expected a path in UTF-8, got 'caf.udce9'"):
        run_arguments.path("caf\udce9")


def test_numbers_on_the_command_line_are_checked() -> None:
    assert numbers.whole_number("0") == 0
    assert numbers.non_negative("0.5") == 0.5
    for parse, text in (
        (numbers.whole_number, "-1"),
        (numbers.positive_number, "0"),
        (numbers.at_least_two, "1"),
        (numbers.non_negative, "nan"),
        (numbers.non_negative, "-0.1"),
        (numbers.non_negative, "x"),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match=f"expected a .*number from ., got '{text}'"):
            parse(text)


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_a_command_ends_quietly_when_its_reader_closes_the_pipe(arguments: list[str], trained_run: Path) -> None:
    """Close the pipe as `head` does, here before the first line."""
    line = [sys.executable, "-m", "vae_fast.trace", str(trained_run), "--device", "cpu", *arguments]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == ""
        assert running.wait() == 141

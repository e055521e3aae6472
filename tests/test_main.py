"""`python -m vae_fast` and `vae-fast`: the list of commands, and running one of them."""

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from vae_fast import __main__ as program
from vae_fast.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
WITHOUT_TORCH = "import runpy, sys; sys.modules['torch'] = None; runpy.run_module('vae_fast', run_name='__main__')"


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["--help"], 0)])
def test_the_list_of_commands_needs_no_torch(arguments: list[str], code: int) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *arguments], capture_output=True, text=True)
    assert done.returncode == code
    printed, nothing = (done.stderr, done.stdout) if code else (done.stdout, done.stderr)
    assert nothing == ""
    for command in COMMANDS:
        (line,) = [line for line in printed.splitlines() if line.startswith(f"  {command} ")]
        assert len(line.split()) > 6, f"{command} has no description"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sampel", "RUN"], "'sampel'; did you mean 'sample'?"),
        (["--epochs", "3"], "'--epochs'; the commands are train, evaluate, "),
        ([""], "''; the commands are train, evaluate, "),
    ],
)
def test_an_unknown_command_is_reported_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: expected a command, got {message}")
    assert error.count("\n") == 1


def test_a_command_gets_its_arguments_and_returns_its_exit_code(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ways = (program.main, lambda given: import_module(f"vae_fast.{given[0]}").main(given[1:]))
    for number, main in enumerate(ways):
        assert main(["sample", str(trained_run), "--count", "2", "--out", str(tmp_path / f"{number}")]) == 0
        assert main(["sample", str(trained_run), "--count", "none"]) == 2
        assert main(["evaluate", "nowhere"]) == 1
    printed = capsys.readouterr()
    first, second = printed.err.splitlines()[:2], printed.err.splitlines()[2:]
    assert first == second
    assert (tmp_path / "0.npy").read_bytes() == (tmp_path / "1.npy").read_bytes()


def test_a_process_started_for_a_command_ends_with_its_exit_code() -> None:
    for line in ([sys.executable, "-m", "vae_fast", "train"], [sys.executable, "-m", "vae_fast.train"]):
        done = subprocess.run([*line, "--epochs", "0"], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "error: epochs: expected at least 1, got 0\n"


def test_the_console_script_is_the_same_program() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, function = scripts["vae-fast"].split(":")
    assert getattr(import_module(module), function) is program.main

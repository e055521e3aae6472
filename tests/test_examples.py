"""Each example runs as its first lines say, and prints what it is meant to show."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Return a function that runs an example in an empty folder and returns what it prints."""

    def run(name: str, *arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_every_example_has_a_test() -> None:
    tested = re.findall(
        r"(?:printed|own_command)\(\"(\w+\.py)\"|EXAMPLES / \"(\w+\.\w+)\"", Path(__file__).read_text(encoding="utf-8")
    )
    assert {name for pair in tested for name in pair if name} == {path.name for path in EXAMPLES.iterdir()}


def test_quickstart(printed) -> None:
    text = printed("quickstart.py", "digits", "2")
    assert 100 < float(re.search(r"^test loss ([\d.]+)", text, re.MULTILINE)[1]) < 300
    assert float(re.search(r"reconstructions ([\d.]+)", text)[1]) < 0.25


def test_own_vae(printed) -> None:
    text = printed("own_vae.py", "6")
    before, after = (float(loss) for loss in re.findall(r"loss ([\d.]+)", text))
    assert before < 200
    assert after == pytest.approx(before, rel=0.03)


def own_command(name: str, *more: str) -> float:
    """Run the command in an example's docstring for two epochs; return the last test loss, which must have fallen."""
    (command,) = re.findall(r"^    python (-m .*)$", (EXAMPLES / name).read_text(encoding="utf-8"), re.MULTILINE)
    words = [sys.executable, *command.split(), "--epochs", "2", "--batch-size", "50", *more]
    done = subprocess.run(words, cwd=EXAMPLES.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = map(float, re.findall(r"test ([\d.]+) \(", done.stdout))
    assert second < first
    return second


def test_own_network(tmp_path: Path) -> None:
    assert own_command("own_network.py", "--out", str(tmp_path / "run")) < 400


def test_own_objective(tmp_path: Path) -> None:
    assert own_command("own_objective.py", "--hidden", "32", "--out", str(tmp_path / "run")) < 550


def test_table(printed, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    assert "breast-cancer.npz: 455 training and 114 test rows of 30 columns" in printed("table.py")
    assert (tmp_path / "breast-cancer.npz").is_file()


def test_own_images(printed, tmp_path: Path) -> None:
    text = printed("own_images.py", "2")
    assert "test part: [200, 3, 16, 16], kept as uint8, given with channels last" in text
    (folder,) = re.findall(r"pictures in (\S+)", text)
    assert (tmp_path / folder / "samples.png").is_file()


def test_emoji(tmp_path: Path) -> None:
    """Check what can be without the package: another file is refused, and nothing is written."""
    (tmp_path / "other.tgz").write_bytes(b"another package")
    command = [sys.executable, EXAMPLES / "emoji.py", "other.tgz"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(
        r"error: other.tgz: expected emoji-datasource-twitter@[\d.]+ with SHA-256 \w+, got \w+\n", done.stderr
    )
    assert [path.name for path in tmp_path.iterdir()] == ["other.tgz"]


def test_analyse_run(printed, trained_run: Path) -> None:
    text = printed("analyse_run.py", str(trained_run))
    elbo, estimate = (float(re.search(rf"{name} +(-[\d.]+)", text)[1]) for name in ("ELBO", r"log p\(x\)"))
    assert elbo < estimate < 0
    assert re.search(r"[1-4] of 4 active", text)
    assert text.endswith("[8, 1, 28, 28]\n")


def test_several_processes(tmp_path: Path) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["sh", EXAMPLES / "several_processes.sh", "digits", "1", "2"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "several" / "checkpoints" / "latest").exists()

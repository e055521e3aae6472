"""Training runs: the files that they leave, and how they fail."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vae_fast as vf
from tests.train_cases import BATCH, TIMINGS, Small, command, killed, model_bytes, records
from vae_fast.errors import RunError
from vae_fast.runtime.environment import cpp_compiler
from vae_fast.train import main
from vae_fast.training.engine import Engine

RECORD_KEYS = [
    *("epoch", "step", "seconds", "images_per_second", "train_loss", "train_nll", "train_kl", "skipped_steps"),
    *("lr", "beta", "entropy", "test_loss", "test_nll", "test_kl"),
]


def test_a_failing_compiler_is_reported_in_one_line_and_leaves_nothing(
    small: Small, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    process = command(
        "-m",
        "vae_fast.train",
        "--data",
        "digits",
        "--step",
        "autograd",
        "--compile",
        "--hidden",
        "13",
        "--out",
        str(tmp_path / "r"),
    )
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith("error: --compile: torch.compile failed: ")
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "r").exists()


def test_a_run_leaves_its_files_and_records(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    run = vf.fit(small(valid=100, epochs=2, batch_size=128))
    files = {str(p.relative_to(run.directory)) for p in run.directory.rglob("*") if p.is_file()}
    assert {f"pictures/{name}.png" for name in ("reconstructions", "samples", "loss")} <= files
    assert {"config.toml", "metrics.jsonl", "checkpoints/step-00000014/model.safetensors"} <= files
    for link in ("latest", "best"):
        assert (run.directory / "checkpoints" / link / "manifest.json").is_file()
    assert not [name for name in files if name.startswith(".") or "/." in name]
    assert records(run.directory) == [{k: v for k, v in m.items() if k not in TIMINGS} for m in run.metrics]
    assert set(run.metrics[0]) == {*RECORD_KEYS, "valid_loss", "valid_nll", "valid_kl"}
    last = run.metrics[-1]
    assert (last["epoch"], last["step"], last["skipped_steps"]) == (2, 14, 0)
    assert last["test_loss"] == last["test_nll"] + last["test_kl"]
    again = vf.load(run.directory)
    assert all(torch.equal(p, q) for p, q in zip(again.parameters(), run.model.parameters(), strict=True))
    out = capsys.readouterr().out
    for expected in (
        "device: cpu", "precision: fp32 (no --amp)", "900 training, 100 validation, 1,000 test images; grey pixels",
        "7 steps of 128 an epoch; 4 images of each epoch are left out", "epoch 2/2", "nll - H(x)",
    ):  # fmt: skip
        assert expected in out
    config = vf.Config.from_toml(run.directory / "config.toml")
    assert config.recorded() == small(valid=100, epochs=2, batch_size=128).recorded()


@pytest.mark.parametrize("binarize", ["static", "threshold", "dynamic"])
def test_binarized_runs_name_their_pixels(small: Small, capsys: pytest.CaptureFixture[str], binarize: str) -> None:
    run = vf.fit(small(binarize=binarize, epochs=1))
    assert run.metrics[-1]["test_loss"] > 0
    out = capsys.readouterr().out
    assert "grey" not in out
    assert "H(x)" not in out


def test_a_set_without_a_test_part_reports_null(small: Small, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((50, 6), dtype=np.float32))
    run = vf.fit(small(data=str(tmp_path / "x.npy"), test_fraction=0, batch_size=10))
    assert [m["test_loss"] for m in run.metrics] == [None, None]
    assert (run.directory / "pictures" / "reconstructions.png").is_file()


@pytest.mark.parametrize(("kept", "binarize"), [("uint8", "none"), ("uint8", "dynamic"), ("k/255", "none")])
def test_every_feed_of_the_images_gives_the_same_run(small: Small, tmp_path: Path, kept: str, binarize: str) -> None:
    """Compare losses, weights and fingerprint with images on the device, in memory and in a file, and resume each."""
    pixels = vf.load_images("digits").pixels[:, 0]
    np.save(tmp_path / "x.npy", (pixels if kept == "uint8" else pixels / 255).numpy())
    runs = {}
    for feed in ("device", "host", "stream"):
        settings = {"data": str(tmp_path / "x.npy"), "feed": feed, "binarize": binarize, "valid": 64}
        first = vf.fit(small(**settings, epochs=1, out=str(tmp_path / feed)))
        runs[feed] = vf.fit(small(**settings, out=None, resume=str(first.directory)))
    moved = vf.fit(small(**settings | {"feed": "host"}, epochs=3, out=None, resume=str(runs["stream"].directory)))
    assert [m["epoch"] for m in moved.metrics] == [1, 2, 3]
    for feed in ("host", "stream"):
        assert records(runs[feed].directory)[:2] == records(runs["device"].directory)
    for feed in ("host",):
        assert model_bytes(runs[feed].directory) == model_bytes(runs["device"].directory)


def test_keep_bounds_the_checkpoints(small: Small) -> None:
    run = vf.fit(small(epochs=5, keep=2))
    kept = {int(p.name[5:]) // 7 for p in (run.directory / "checkpoints").glob("step-*")}
    best = min(run.metrics, key=lambda m: m["test_loss"])["epoch"]
    assert kept == {4, 5, best}


def test_a_dry_run_writes_nothing(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = vf.fit(small(dry_run=True))
    assert list(tmp_path.iterdir()) == []
    assert run.metrics == []
    assert "dry run: one step done, loss 55" in capsys.readouterr().out  # near 784 ln 2 = 543: nothing learned yet


def test_divergence_ends_the_run_and_keeps_the_good_checkpoint(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Engine.advance

    def advance(self: Engine, *args: Any) -> None:
        if 62 < self.step_number < 124:  # in epoch 2
            with torch.no_grad():
                self.model.decoder.logits.bias.fill_(float("nan"))
        real(self, *args)

    monkeypatch.setattr(Engine, "advance", advance)
    config = small(epochs=30, batch_size=BATCH)
    with pytest.raises(RunError, match=r"training diverged: .* Try a lower --lr"):
        vf.fit(config)
    checkpoints = Path(str(config.out)) / "checkpoints"
    assert [p.name for p in checkpoints.glob("step-*")] == ["step-00000062"]
    assert all(p.isfinite().all() for p in vf.load(Path(str(config.out))).parameters())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--data", "nope.npy"], 1, "error: nope.npy: no such file or folder"),
        (["--data", "digits", "--batch-size", "1001"], 1, "error: batch_size: expected at most the 1000 training"),
        (["--data", "digits", "--valid", "1000"], 1, "error: valid: expected fewer than the 1000 training images"),
        (["--device", "tpu"], 2, "error: device: expected auto, cpu, cuda or cuda:N, got 'tpu'"),
        (["--cuda-graphs", "on", "--device", "cpu"], 1, "error: --cuda-graphs on: cannot be had, no CUDA device"),
        (
            ["--resume", "nowhere"],
            1,
            "error: --resume: expected a run directory, got nowhere: there is no such directory",
        ),
        (["--resume", "auto"], 2, "error: --resume auto: needs --out"),
    ],
)
def test_a_users_mistake_is_reported_in_one_line_without_a_traceback(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    assert capsys.readouterr().err.startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_as_a_process(tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ["--data", "digits", "--hidden", "8", "--epochs", "1", "--out", str(out)]
    done = command("-m", "vae_fast.train", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip().endswith(f"{out}/pictures/loss.png")
    again = command("-m", "vae_fast.train", *flags)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == f"error: --out: {out} already holds a run (config.toml); continue it with --resume {out}\n"
    wrong = command("-m", "vae_fast.train", "--epoch", "1")
    assert wrong.returncode == 2
    assert "--epochs" in wrong.stdout + wrong.stderr
    assert "Traceback" not in wrong.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="what a process has loaded is read from /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("moment", ["imports", "start"])
def test_a_signal_before_training_is_reported_in_one_line_and_leaves_nothing(
    moment: str, number: signal.Signals, code: int, tmp_path: Path
) -> None:
    """Send it during the imports, once libtorch is loaded, or when images are read and the step is being compiled."""
    if moment == "start" and cpp_compiler() is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    flags = ["--data", "digits", "--step", "autograd", "--compile", "--hidden", "17", "--out", str(tmp_path / "run")]
    command = [sys.executable, "-u", "-m", "vae_fast.train", *flags]
    cold = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cold")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=cold)
    assert process.stdout is not None
    if moment == "imports":
        while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():  # a second before they end
            assert process.poll() is None
            time.sleep(0.001)
    else:
        assert any(line.startswith("compiling the step") for line in process.stdout)
        time.sleep(0.5)
    process.send_signal(number)
    _, error = process.communicate()
    before = ["training"] if moment == "start" else ["anything began", "training"]  # the latter if the signal came late
    assert process.returncode == code
    assert error in [f"{number.name}: stopped before {what}\n" for what in before]
    assert not (tmp_path / "run").exists()


def test_a_command_called_from_python_restores_the_signal_handlers(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert main(["--threads", "0"]) == 2
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    with ThreadPoolExecutor(1) as pool:  # where no handler can be set
        assert pool.submit(main, ["--threads", "0"]).result() == 2
    assert capsys.readouterr().err == 2 * "error: threads: expected 1 to 4096, got 0\n"


def test_a_package_that_imports_vae_fast_keeps_its_signal_handlers(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "__init__.py").write_text("import vae_fast")
    (tmp_path / "theirs" / "main.py").write_text("import signal; print(signal.getsignal(signal.SIGINT).__name__)")
    done = subprocess.run(
        [sys.executable, "-m", "theirs.main"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("default_int_handler\n", "")


def test_a_second_signal_ends_the_process_at_once(small: Small, tmp_path: Path) -> None:
    """Send a second SIGINT before the save that follows the first: the process does not wait for it."""
    done = killed(small(), "twice", 0, "SIGINT")
    assert (done.returncode, done.stderr.count("\n")) == (130, 1)
    assert "nothing more is saved" in done.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_real_mnist_is_learned(small: Small, mnist_root: Path) -> None:
    """Train one epoch with the recipe of pytorch/examples: 128 nats on test images, within 1 across seeds."""
    run = vf.fit(small(data="mnist", data_root=str(mnist_root), hidden=(400,), latent=20, epochs=1))
    assert run.metrics[0]["test_loss"] < 130

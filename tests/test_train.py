"""The run: what it leaves, how it resumes bit for bit after real signals and kills, and how it fails."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vae_fast as vf
from vae_fast.engine import CHECK_EVERY, Engine
from vae_fast.environment import cpp_compiler
from vae_fast.errors import RunError
from vae_fast.evaluation import Evaluation
from vae_fast.train import main

Small = Callable[..., vf.Config]
TIMINGS = ("seconds", "images_per_second")
BATCH = 16  # 62 steps an epoch of the 1,000 digits
RECORD_KEYS = [
    *("epoch", "step", "seconds", "images_per_second", "train_loss", "train_nll", "train_kl", "skipped_steps"),
    *("lr", "beta", "test_loss", "test_nll", "test_kl"),
]

WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "bf16": {"amp_dtype": "bf16"},
    "compiled": {"step": "autograd", "compile": True},
}
KILLED = Path(__file__).with_name("killed.py")


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=300, check=False)


def killed(config: vf.Config, moment: str, count: int, number: str) -> subprocess.CompletedProcess[str]:
    """The run of `config` as a process of its own, signalled at the given moment."""
    flags = ["--data", config.data, "--hidden", *map(str, config.hidden), "--latent", str(config.latent)]
    flags += ["--epochs", str(config.epochs), "--batch-size", str(config.batch_size), "--out", str(config.out)]
    flags += ["--step", config.step, "--amp-dtype", config.amp_dtype, *(["--compile"] if config.compile else [])]
    return command(str(KILLED), moment, str(count), number, str(config.out), *flags)


def model_bytes(directory: Path) -> bytes:
    return (directory / "checkpoints" / "latest" / "model.safetensors").read_bytes()


def best(directory: Path) -> str:
    return (directory / "checkpoints" / "best").readlink().name


def records(directory: Path) -> list[dict[str, Any]]:
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMINGS} for line in lines]


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> vf.Config:
    """The settings of an uninterrupted run of four epochs, done in one of these ways."""
    if request.param == "compiled" and cpp_compiler() is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    settings = {"hidden": (16,), "latent": 4, "epochs": 4, "batch_size": BATCH, **WAYS[request.param]}
    config = vf.Config(**settings, out=str(tmp_path_factory.mktemp("whole") / "run"))
    vf.fit(config)
    return config


def resumed(config: vf.Config, out: Path) -> Path:
    settings = {**config.recorded(), "out": None, "resume": str(out)}
    return vf.fit(vf.Config(**settings)).directory


def assert_same_run(one: Path, two: Path) -> None:
    assert model_bytes(one) == model_bytes(two)
    assert best(one) == best(two)
    assert records(one) == records(two)


@pytest.mark.parametrize("whole", WAYS, indirect=True)
def test_an_extended_run_is_the_longer_run(whole: vf.Config, tmp_path: Path) -> None:
    out = tmp_path / "run"
    vf.fit(vf.Config(**{**whole.recorded(), "epochs": 2, "out": str(out)}))
    assert_same_run(resumed(whole, out), Path(str(whole.out)))


@pytest.mark.parametrize(
    ("whole", "moment", "count", "number", "code"),
    [
        ("default", "step", 124, "SIGTERM", 143),  # after epoch 2
        ("default", "step", 150, "SIGTERM", 143),  # in the middle of epoch 3
        ("default", "step", 150, "SIGINT", 130),
        ("default", "step", 124, "SIGKILL", -9),
        ("default", "step", 150, "SIGKILL", -9),
        ("default", "save", 4, "SIGKILL", -9),  # in the second save: after the metrics and two of its files
        ("default", "save", 8, "SIGKILL", -9),  # between its rename and the `latest` link
        ("default", "best", 186, "SIGKILL", -9),
        ("default", "evaluate", 248, "SIGTERM", 143),  # the last one
        ("bf16", "step", 150, "SIGTERM", 143),
        ("bf16", "step", 150, "SIGKILL", -9),
        ("compiled", "step", 150, "SIGTERM", 143),
        ("compiled", "save", 4, "SIGKILL", -9),
    ],
    indirect=["whole"],
)
def test_an_interrupted_run_resumes_bit_for_bit(
    whole: vf.Config, tmp_path: Path, moment: str, count: int, number: str, code: int
) -> None:
    out = tmp_path / "run"
    process = killed(vf.Config(**{**whole.recorded(), "out": str(out)}), moment, count, number)
    assert process.returncode == code, process.stderr
    if code > 0:
        assert process.stderr.strip() == f"{number}: saved; go on with --resume {out}"
        saved = int((out / "checkpoints" / "latest").readlink().name.removeprefix("step-"))
        assert saved == count if moment != "step" else count < saved <= count + CHECK_EVERY
    assert_same_run(resumed(whole, out), Path(str(whole.out)))


def test_resume_auto_starts_then_continues_then_is_done(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    first = vf.fit(small(resume="auto", epochs=1))
    second = vf.fit(small(resume="auto"))
    assert [m["epoch"] for m in second.metrics] == [1, 2]
    assert "nothing is left to do" not in capsys.readouterr().out
    third = vf.fit(small(resume="auto"))
    assert "nothing is left to do: all 2 epochs are done" in capsys.readouterr().out
    assert third.metrics == second.metrics
    assert first.directory == third.directory


@pytest.mark.parametrize("whole", ["default"], indirect=True)
def test_an_invalid_checkpoint_is_skipped_with_a_warning(
    whole: vf.Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    vf.fit(vf.Config(**{**whole.recorded(), "epochs": 2, "out": str(out)}))
    (out / "checkpoints" / "latest" / "optimizer.safetensors").write_bytes(b"")
    resumed(whole, out)
    assert "warning: skipped an invalid checkpoint: " in capsys.readouterr().out
    assert_same_run(out, Path(str(whole.out)))
    for path in (out / "checkpoints").glob("step-*"):
        (path / "manifest.json").unlink()
    for _ in range(2):  # with invalid ones, then with none at all: the metrics are not to be lost
        with pytest.raises(RunError, match=f"--resume: {out} holds no valid checkpoint"):
            resumed(whole, out)
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    assert len(records(out)) == 4


def test_a_run_does_not_go_on_with_other_images(small: Small, tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    for count in (50, 120):
        np.save(file, np.random.default_rng(0).random((count, 6), dtype=np.float32))
        if count == 50:
            run = vf.fit(small(data=str(file), batch_size=10))
    with pytest.raises(
        RunError, match=r"data: .*x\.npy no longer has the images of .*run: count \[45, 5\] then, \[108, 12\] now; sha"
    ):
        vf.fit(small(data=str(file), batch_size=10, resume=str(run.directory), out=None, epochs=3))


def test_a_schedule_that_changes_its_span_is_said(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    run = vf.fit(small(lr_schedule="cosine"))
    vf.fit(small(lr_schedule="cosine", resume=str(run.directory), out=None, epochs=3))
    assert "warning: schedules now span 3 epochs, unlike those already done" in capsys.readouterr().out


def test_fewer_epochs_than_are_done_are_refused(small: Small) -> None:
    run = vf.fit(small())
    with pytest.raises(RunError, match=r"--epochs: .* has done 14 steps, 1 epochs have only 7"):
        vf.fit(small(resume=str(run.directory), out=None, epochs=1))


def test_a_resume_takes_the_recorded_plan(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    run = vf.fit(small())
    monkeypatch.setattr("vae_fast.planning.make_plan", lambda config: pytest.fail("measured again"))
    vf.fit(small(resume=str(run.directory), out=None, epochs=3))


def test_best_is_the_lowest_validation_loss_also_across_a_resume(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([3.0, 9.0, 1.0, 8.0, 2.0, 1.0])  # valid, test, valid, ...: the test loss is lowest in epoch 3
    monkeypatch.setattr(Evaluation, "__call__", lambda self: dict.fromkeys(("loss", "nll", "kl"), next(losses)))
    run = vf.fit(small(valid=104, epochs=2))
    vf.fit(small(valid=104, resume=str(run.directory), out=None, epochs=3))
    assert best(run.directory) == "step-00000014"


def test_a_failing_compiler_is_one_line_and_leaves_nothing(
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


def test_what_a_run_leaves(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
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
    for said in (
        "device: cpu", "precision: fp32 (no --amp)", "900 training, 100 validation, 1,000 test images; grey pixels",
        "7 steps of 128 an epoch; 4 images of each epoch are left out", "epoch 2/2", "nll - H(x)",
    ):  # fmt: skip
        assert said in out
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


@pytest.mark.parametrize("binarize", ["none", "dynamic"])
def test_images_from_anywhere_make_the_same_run(small: Small, tmp_path: Path, binarize: str) -> None:
    """On the device, from memory and from a file: the same losses and weights; a resume keeps the feed."""
    np.save(tmp_path / "x.npy", vf.load_images("digits").pixels[:, 0].numpy())
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
        (["--resume", "nowhere"], 1, "error: --resume: expected a run directory, but nowhere holds no config.toml"),
        (["--resume", "auto"], 2, "error: --resume auto: needs --out"),
    ],
)
def test_a_users_mistake_is_one_line_without_a_traceback(
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


def test_a_second_signal_takes_its_usual_course(small: Small, tmp_path: Path) -> None:
    """A SIGINT while the first one's save is still to come: the process does not wait for it."""
    done = killed(small(), "twice", 0, "SIGINT")
    assert (done.returncode, done.stderr.count("\n")) == (130, 1)
    assert "nothing more is saved" in done.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_real_mnist_is_learned(small: Small, mnist_root: Path) -> None:
    """One epoch of the recipe of pytorch/examples, on the first steps' scale: 128 test nats, seeds within 1."""
    run = vf.fit(small(data="mnist", data_root=str(mnist_root), hidden=(400,), latent=20, epochs=1))
    assert run.metrics[0]["test_loss"] < 130

"""A run resumes bit for bit after real signals and kills, with every kind of step; and what a resume refuses."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import vae_fast as vf
from tests.train_cases import BATCH, WAYS, Small, best, killed, model_bytes, records
from vae_fast.errors import RunError
from vae_fast.runtime.environment import cpp_compiler
from vae_fast.training.engine import CHECK_EVERY
from vae_fast.training.validation import Validation


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> vf.Config:
    """Return the settings of an uninterrupted, finished run of four epochs, done in one of WAYS."""
    if request.param == "compiled" and cpp_compiler() is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    hidden = {} if request.param == "network" else {"hidden": (16,)}
    settings = {**hidden, "latent": 4, "epochs": 4, "batch_size": BATCH, **WAYS[request.param]}
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
def test_an_extended_run_equals_a_longer_run(whole: vf.Config, tmp_path: Path) -> None:
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
        ("network", "step", 150, "SIGTERM", 143),
        ("network", "save", 4, "SIGKILL", -9),
        pytest.param("compiled", "save", 4, "SIGKILL", -9, marks=pytest.mark.sweep),
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
    for _ in range(2):  # with invalid checkpoints, then with none: the metrics must not be lost
        with pytest.raises(RunError, match=f"--resume: {out} holds no valid checkpoint"):
            resumed(whole, out)
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    assert len(records(out)) == 4


def test_a_resume_does_what_a_kill_after_the_last_save_left_undone(small: Small) -> None:
    run = vf.fit(small(keep=1)).directory
    shutil.copytree(run / "checkpoints" / "step-00000014", run / "checkpoints" / "step-00000007")
    for link in ("latest", "best"):
        (run / "checkpoints" / link).unlink()
        (run / "checkpoints" / link).symlink_to("step-00000007")
    vf.fit(small(keep=1, resume=str(run), out=None))
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["best", "latest", "step-00000014"]
    assert best(run) == "step-00000014"
    assert (run / "checkpoints" / "latest").readlink().name == "step-00000014"


def test_lost_records_are_reported(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    run = vf.fit(small()).directory
    first, _ = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text(f"{first}\n\0\0\0\n")
    vf.fit(small(resume=str(run), out=None, epochs=3))
    assert f"warning: {run}/metrics.jsonl has lost the records of 1 epochs" in capsys.readouterr().out
    assert [record["epoch"] for record in records(run)] == [1, 3]


def test_a_run_does_not_continue_with_other_images(small: Small, tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    for count in (50, 120):
        np.save(file, np.random.default_rng(0).random((count, 6), dtype=np.float32))
        if count == 50:
            run = vf.fit(small(data=str(file), batch_size=10))
    with pytest.raises(
        RunError, match=r"data: these are not the images of .*x\.npy\): count \[45, 5\] then, \[108, 12\] now; sha"
    ):
        vf.fit(small(data=str(file), batch_size=10, resume=str(run.directory), out=None, epochs=3))


def test_a_run_continues_with_its_images_wherever_they_are(small: Small, tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((50, 6), dtype=np.float32)
    np.save(tmp_path / "x.npy", images)
    run = vf.fit(small(data=str(tmp_path / "x.npy"), batch_size=10)).directory
    (tmp_path / "x.npy").rename(tmp_path / "y.npy")
    for data in (str(tmp_path / "y.npy"), None):  # named once, the new path is recorded
        moved = {"data": data} if data else {}
        settings = {**vf.Config.from_toml(run / "config.toml").recorded(), **moved, "resume": str(run)}
        vf.fit(vf.Config(**{**settings, "epochs": 3 if data else 4}))
    assert [record["epoch"] for record in records(run)] == [1, 2, 3, 4]


def test_a_changed_span_of_a_schedule_is_reported(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    run = vf.fit(small(lr_schedule="cosine"))
    vf.fit(small(lr_schedule="cosine", resume=str(run.directory), out=None, epochs=3))
    assert "warning: schedules now span 3 epochs, unlike those already done" in capsys.readouterr().out


def test_fewer_epochs_than_are_done_are_refused(small: Small) -> None:
    run = vf.fit(small())
    with pytest.raises(RunError, match=r"--epochs: .* has done 14 steps, 1 epochs have only 7"):
        vf.fit(small(resume=str(run.directory), out=None, epochs=1))


def test_the_fused_steps_bits_do_not_depend_on_threads(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    run = vf.fit(small(threads=1)).directory
    vf.fit(small(resume=str(run), out=None, epochs=3, threads=2, compile=True))  # it is compiled anyway
    assert "not bit-exact" not in capsys.readouterr().out
    assert vf.Config.from_toml(run / "config.toml").threads == 2


def test_a_resume_uses_the_recorded_plan(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    run = vf.fit(small())
    monkeypatch.setattr("vae_fast.training.planning.make_plan", lambda config: pytest.fail("measured again"))
    vf.fit(small(resume=str(run.directory), out=None, epochs=3))


def test_best_is_the_lowest_validation_loss_also_across_a_resume(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([3.0, 9.0, 1.0, 8.0, 2.0, 1.0])  # valid, test, valid, ...: the test loss is lowest in epoch 3
    monkeypatch.setattr(Validation, "__call__", lambda self: dict.fromkeys(("loss", "nll", "kl"), next(losses)))
    run = vf.fit(small(valid=104, epochs=2))
    vf.fit(small(valid=104, resume=str(run.directory), out=None, epochs=3))
    assert best(run.directory) == "step-00000014"

"""Tests of the window of a profile, of the files it writes, and that a run learns the same with and without it."""

import gzip
import itertools
import json
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vae_fast as vf
from vae_fast.config_rules import profile_window
from vae_fast.errors import ConfigError, RunError
from vae_fast.runtime import profiler
from vae_fast.runtime.profiler import Profile
from vae_fast.runtime.signals import Interrupted
from vae_fast.train import main

Small = Callable[..., vf.Config]


class Counter:
    """A recorder that notes the steps at which it was started and stopped, as `now` returns them."""

    def __init__(self, now: Callable[[], int] = lambda: 0) -> None:
        self.now, self.seen = now, list[int]()

    def start(self) -> None:
        self.seen.append(self.now())

    def stop(self) -> None:
        self.seen.append(self.now())

    def files(self) -> dict[str, Callable[[Path], object]]:
        return {"seen.txt": lambda path: path.write_text(str(self.seen))}


def profiled(config: vf.Config, recorder: Counter, folder: Path, lines: list[str]) -> Profile:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiler, "_recorder", lambda kind, device: recorder)
        return Profile(config, torch.device("cpu"), folder, lines.append)


@pytest.mark.parametrize("steps", ["5:5", "7:3", "x", "", "5", ":5", "5:", "-1:4", "1:2:3", "1.0:2", " 1:2"])
def test_a_malformed_window_is_an_error_of_one_line(steps: str) -> None:
    with pytest.raises(ConfigError, match=r"^profile_steps: expected A:B with 0 <= A < B, such as 20:40, got "):
        vf.Config(profile="torch", profile_steps=steps)


@given(st.integers(0, 10**12), st.integers(1, 10**12))
def test_a_window_is_read_as_written(first: int, count: int) -> None:
    assert profile_window(f"{first}:{first + count}") == (first, first + count)


def test_a_window_without_a_profile_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^profile_steps: expected --profile with it, got '1:2' alone$"):
        vf.Config(profile_steps="1:2")


@given(
    st.integers(1, 4),
    st.integers(1, 12),
    st.integers(1, 5),
    st.integers(0, 50),
    st.tuples(st.integers(0, 50), st.integers(1, 50)) | st.none(),
)
def test_the_window_is_the_fewest_launches_with_all_steps_asked_for(
    epochs: int, steps: int, together: int, start: int, window: tuple[int, int] | None
) -> None:
    total, together = epochs * steps, min(together, steps)
    start = min(start, total - 1)
    asked = None if window is None else f"{window[0]}:{window[0] + window[1]}"
    done, lines = start, list[str]()
    recorder = Counter(lambda: done)
    config = vf.Config(profile="torch", profile_steps=asked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Counter, "files", lambda self: {})
        with profiled(config, recorder, Path("nowhere"), lines) as profile:
            if window is not None and window[0] >= total:
                with pytest.raises(RunError, match=f"^--profile-steps: expected steps before {total}, the run's last"):
                    profile.begin(start, total, together)
                return
            profile.begin(start, total, together)
            bounds = [start]
            while done < total:
                left = steps - done % steps
                launches = [together] * (left // together) + [1] * (left % together)
                for size in profile.launches(launches, done):
                    done += size
                    bounds.append(done)
    if window is None:
        first = start + min(20 * together, (total - start) // 2)
        last = min(first + 20 * together, total)
    else:
        first, last = max(window[0], start), min(sum(window), total)
    if first >= last:
        assert recorder.seen == []
        assert lines == [f"profile: none, {asked} come before step {start}, where the run continues"]
    else:
        opened = max(bound for bound in bounds if bound <= first)
        closed = min(bound for bound in bounds if bound >= last)
        assert recorder.seen == [opened, closed]
        assert lines[1:] == [f"profiled steps {opened} to {closed}"]


@pytest.mark.parametrize(
    ("begun", "error", "left"),
    [
        (True, RunError("diverged"), ["seen.txt"]),
        (True, Interrupted(15, Path("run")), ["seen.txt"]),
        (True, KeyboardInterrupt(), []),  # a second one: at once
        (False, RunError("other images"), []),  # no run, no files
        (False, torch.OutOfMemoryError(), ["seen.txt"]),
    ],
)
def test_a_profile_is_written_despite_an_error(
    tmp_path: Path, begun: bool, error: BaseException, left: list[str]
) -> None:
    recorder = Counter()
    profile = profiled(vf.Config(profile="torch", profile_steps="0:9"), recorder, tmp_path, [])

    def run() -> None:
        with profile:
            if begun:
                profile.begin(0, 10, 1)
            for _ in profile.launches([1, 1], 0):
                raise error

    with pytest.raises(type(error)):
        run()
    assert [path.name for path in tmp_path.iterdir()] == left
    assert len(recorder.seen) == 2, "a recorder was left running"


def test_the_time_of_profiling_is_not_in_the_metrics(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    spent = [0.0]

    class Slow(Counter):
        def start(self) -> None:
            spent[0] += 1e6

        stop = start

    monkeypatch.setattr(profiler, "_recorder", lambda kind, device: Slow())
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks) + spent[0])
    record = vf.fit(small(profile="torch", epochs=1, batch_size=200)).metrics[0]
    assert spent == [2e6]
    assert 0 < record["seconds"] < 1e5


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> vf.Config:
    """Train a run without a profile and return its settings."""
    out = tmp_path_factory.mktemp("plain") / "run"
    config = vf.Config(hidden=(16,), latent=4, epochs=2, batch_size=200, step="autograd", out=str(out))
    vf.fit(config)
    return config


def trace(folder: Path) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(gzip.decompress((folder / "trace.json.gz").read_bytes()))["traceEvents"]
    return events


@pytest.mark.parametrize("kind", ["torch", "memory"])
def test_a_profiled_run_learns_the_same_and_writes_its_trace(plain: vf.Config, tmp_path: Path, kind: str) -> None:
    from benchmarks import timeline

    config = vf.Config(**plain.recorded(), profile=kind, profile_steps="3:7", out=str(tmp_path / "run"))
    assert config.recorded() == plain.recorded()  # a run does not record its profile
    run = vf.fit(config)
    files = [Path(folder, "checkpoints/latest/model.safetensors") for folder in (run.directory, str(plain.out))]
    assert files[0].read_bytes() == files[1].read_bytes()
    folder = run.directory / "profile"
    assert sorted(path.name for path in folder.iterdir()) == ["table.txt", "trace.json.gz"]
    events = trace(folder)
    names = [event["name"] for event in events]
    ranges = {"step": 4, "forward": 4, "backward": 4, "optimizer": 4, "data": 1, "evaluation": 1, "checkpoint": 1}
    assert {name: names.count(name) for name in ranges} == ranges  # steps 4 to 7, and an epoch's end between them
    table = (folder / "table.txt").read_text()
    for name in ("vae_fast::nll", "vae_fast::sample_posterior"):
        assert names.count(name) >= 4
        assert kind == "memory" or name in table  # the table of memory may list others
    for step in timeline.steps(folder / "trace.json.gz"):  # as docs/profiling.md draws it: no gaps and no overlaps
        spans = [*timeline.spans(step)]
        assert (spans[0][1], spans[-1][2]) == (step.start, step.end)
        assert all(one[2] == two[1] for one, two in itertools.pairwise(spans))
        assert {"our other operators", "matrix products", timeline.BETWEEN} < set(timeline.totals(step))
    assert ("[memory]" in names) == (kind == "memory")
    assert ("Self CPU Mem" in table or "CPU Mem" in table) == (kind == "memory")


def test_a_resume_past_the_window_is_not_profiled(plain: vf.Config, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {**plain.recorded(), "epochs": 2, "resume": str(plain.out)}
    vf.fit(vf.Config(**settings, profile="torch", profile_steps="2:4"))
    assert "profile: none, 2:4 come before step 10, where the run continues" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "code", "line"),
    [
        (["--profile", "nsys", "--device", "cpu"], 1, "error: --profile nsys: cannot be had on cpu, Nsight profiles"),
        (["--profile", "torch", "--profile-steps", "9999:10000"], 1, "error: --profile-steps: expected steps before 5"),
        (["--profile", "torch", "--profile-steps", "5:5"], 2, "error: profile_steps: expected A:B with 0 <= A < B"),
    ],
)
def test_an_impossible_profile_is_an_error_of_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], code: int, line: str
) -> None:
    start = ["--hidden", "8", "--latent", "2", "--epochs", "1", "--batch-size", "200", "--out", str(tmp_path / "run")]
    assert main([*start, *flags]) == code
    (printed,) = capsys.readouterr().err.splitlines()
    assert printed.startswith(line)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    ("kind", "left"), [("nsys", []), ("torch", ["table.txt", "trace.json.gz"]), ("memory", ["memory.pickle"])]
)
def test_each_kind_of_profile_works_on_a_gpu(small: Small, kind: str, left: list[str]) -> None:
    run = vf.fit(small(profile=kind, device="cuda", batch_size=20))
    folder = run.directory / "profile"
    assert sorted(path.name for path in folder.glob("*")) == left
    if kind == "torch":
        assert any(event.get("cat") == "kernel" for event in trace(folder))
    if kind == "memory":
        history = pickle.loads((folder / "memory.pickle").read_bytes())["device_traces"]
        frames = {frame["name"] for trace in history for event in trace for frame in event["frames"]}
        assert "_new_model" in frames or "_placed" in frames, "the record begins after the model was built"

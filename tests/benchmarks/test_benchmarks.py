"""The benchmarks' own rules: turns, ratios, and no times for contenders that train differently from the reference."""

import json
import os
import subprocess
import sys
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.flop_counter
from torch import Tensor

import vae_fast as vf
from benchmarks import cores
from benchmarks.bench_adam import Optimizers
from benchmarks.bench_elbo import elbo, objective
from benchmarks.bench_reparameterize import reparameterize
from benchmarks.bench_time_to_elbo import BATCHES, Training
from benchmarks.contenders import vae_fast_engine
from benchmarks.contenders.network import initial_model
from benchmarks.contenders.registry import STEP, Contender
from benchmarks.harness import floors, operator_runs, rounds
from benchmarks.harness.budget import Budget, Kind, Spent
from benchmarks.harness.metadata import Case
from benchmarks.harness.peak_memory import peak_megabytes
from benchmarks.harness.training_runs import Work, measure
from vae_fast.data.sampler import BatchSampler
from vae_fast.kernels import extension
from vae_fast.training.validation import validate

ROOT = Path(__file__).parents[2]
CASE = Case("cpu", "fp32", 16)


class Pedantic:
    """A stand-in for pytest-benchmark's fixture as `alternate` uses it: setup, target and teardown in every round."""

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}
        self.group = ""

    def pedantic(self, target: Any, setup: Any, teardown: Any, rounds: int, warmup_rounds: int) -> None:
        for _ in range(rounds + warmup_rounds):
            setup()
            target()
            teardown()


def test_turns_alternate_and_a_ratio_belongs_to_its_round(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    lasts = {"ours": count(1), "baseline": count(10, 10), "floor": count(1)}  # ratio 10, drifting together

    def took(run: Any, device: str) -> float:
        run()
        return next(lasts[said[-1]])

    monkeypatch.setattr(rounds, "seconds", took)
    turns = [rounds.Turn(partial(said.append, n), partial(said.append, f"prepare {n}")) for n in lasts]
    times = rounds.alternate(Pedantic(), *turns, pace=rounds.Pace(3))
    assert said == 4 * ["prepare baseline", "baseline", "prepare floor", "floor", "prepare ours", "ours"]
    assert times.contender == [2, 3, 4]  # the first round warms up
    assert times.ratio == [10, 10, 10]
    assert times.of_floor == [1, 1, 1]


def test_quartiles_of_several_values_and_of_one() -> None:
    assert rounds.quartiles([5, 1, 4, 2, 3]) == [2, 3, 4]
    assert rounds.quartiles([7.0]) == [7, 7, 7]


needs_library = pytest.mark.skipif(not extension.load(), reason="the C++ operators are not available")


@needs_library
def test_the_distance_of_the_cores_is_plausible(two_threads: None) -> None:
    known = [distance for distance in (cores.apart() for _ in range(100)) if distance is not None]
    assert all(1 < distance < 1e6 for distance in known)
    if not known and len(os.sched_getaffinity(0)) > 1:
        pytest.skip("other programs use the cores")
    with pytest.raises(ValueError, match="core_latency: count: expected at least 1, got 0"):
        torch.ops.vae_fast.core_latency(0)


@needs_library
def test_a_single_thread_has_no_distance_and_counts_as_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert cores.apart() is None
    assert cores.are_near(None)


@pytest.mark.parametrize(
    ("distances", "kept"),
    [
        ([40.0, 41.0, 210.0, 45.0], [1, 2, 4]),  # of the rounds 1, 2, 3, 4
        ([40.0, 210.0, 210.0, 210.0], [2, 3, 4]),  # too few near ones, but three distant ones
        ([40.0, 210.0, 210.0, 45.0], [1, 2, 3, 4]),
        ([None, None, None, None], [1, 2, 3, 4]),
    ],
)
def test_only_rounds_of_one_state_count(
    distances: list[float | None], kept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "_nearest", 39.0)
    seen = iter([40.0, 40.0, *(distance for distance in distances for _ in range(2))])  # warm-up, before, after
    monkeypatch.setattr(cores, "apart", lambda: next(seen))
    number = count(0)
    monkeypatch.setattr(rounds, "seconds", lambda call, device: float(next(number) // 2))
    nothing = rounds.Turn(lambda: None)
    times = rounds.alternate(Pedantic(), nothing, nothing, None, rounds.Pace(4))
    assert times.contender == kept
    assert times.baseline == kept
    assert times.cores_apart == (None if None in distances else rounds.quartiles([distances[int(i) - 1] for i in kept]))


def test_patience_is_shared_by_all_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    def wait(patience: float) -> float:
        waited.append(patience)
        return patience - 2

    nothing = rounds.Turn(lambda: None)
    with monkeypatch.context() as patch:
        patch.setattr(cores, "wait", wait)
        rounds.alternate(Pedantic(), nothing, nothing, None, rounds.Pace(2, 10))
    assert waited == [10, 8, 6]
    monkeypatch.setattr(cores, "_nearest", 40.0)
    monkeypatch.setattr(cores, "apart", lambda: 210.0)
    assert cores.wait(0.01) == 0
    monkeypatch.setattr(cores, "apart", lambda: 45.0)
    assert 9 < cores.wait(10) <= 10
    assert cores.wait(0) == 0


@pytest.mark.parametrize(("seconds", "taken"), [(None, 9), (10, 4), (5, 1), (3.5, None)])
def test_rounds_without_time_are_dropped(
    seconds: float | None, taken: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulate rounds of two seconds, one for the baseline and one for the contender; the first warms up."""
    now = 0.0

    def took(call: Any, device: str) -> float:
        nonlocal now
        now += 1
        return now

    monkeypatch.setattr(rounds, "seconds", took)
    nothing = rounds.Turn(lambda: None)
    budget = Budget(seconds, lambda: now)
    budget.begin("a", Kind("a"))
    pace = rounds.Pace(9, budget=budget)
    if taken is None:
        with pytest.raises(Spent):
            rounds.alternate(Pedantic(), nothing, nothing, None, pace)
        return
    times = rounds.alternate(Pedantic(), nothing, nothing, None, pace)
    assert times.contender == [4 + 2 * n for n in range(taken)]
    assert times.baseline == [3 + 2 * n for n in range(taken)]
    assert (times.taken, times.wanted) == (taken, 9)


def test_the_baseline_against_itself_takes_few_rounds() -> None:
    assert rounds.Pace(9, 5).of("eager") == rounds.Pace(3, 5)
    assert rounds.Pace(2).of("eager").rounds == 2
    assert rounds.Pace(9).of("fused").rounds == 9


def lazy(model: vf.VAE, pixels: Tensor, batch: int, precision: str, steps: int, **settings: Any) -> Any:
    """Skip every other step."""
    train = vae_fast_engine.build(model, pixels, batch, precision, steps // 2, step="autograd")
    return lambda order: train(order[::2])


def with_less_beta(*arguments: Any) -> Any:
    return vae_fast_engine.build(*arguments, beta=0.5)


def tiring(*arguments: Any) -> Any:
    """Train honestly when checked, and stop after that."""
    train = vae_fast_engine.build(*arguments, step="autograd")
    losses: list[float] = []

    def once(order: Tensor) -> float:
        losses.append(train(order) if not losses else losses[0])
        return losses[0]

    return once


def test_a_contender_that_stops_learning_is_not_timed() -> None:
    pixels = vf.load_images("digits").pixels.flatten(1)
    table = {**STEP, "cheat": Contender("a cheat", tiring, initial_model, ours=True)}
    benchmark = Pedantic()
    with pytest.raises(AssertionError, match="a cheat: its last losses"):
        measure(benchmark, Work("train_step", "step", CASE, pixels, 8, 8), "cheat", table, rounds.Pace(1))
    assert benchmark.extra_info == {}


@pytest.mark.parametrize("build", [lazy, with_less_beta])
def test_a_contender_that_does_less_is_not_timed(build: Any) -> None:
    pixels = vf.load_images("digits").pixels.flatten(1)
    table = {**STEP, "cheat": Contender("a cheat", build, initial_model, ours=True)}
    benchmark = Pedantic()
    with pytest.raises(AssertionError, match=r"a cheat: its first losses: \S+ nats, \S+% from \S+; 0.1% is allowed"):
        measure(benchmark, Work("train_step", "step", CASE, pixels, 8, 8), "cheat", table, rounds.Pace(1))
    assert benchmark.extra_info == {}


@pytest.mark.parametrize("operator", [reparameterize, elbo, objective])
@pytest.mark.parametrize("wrong", ["result", "gradient"])
def test_an_operator_with_wrong_numbers_is_not_timed(operator: Any, wrong: str) -> None:
    right = operator(CASE)
    way = right.ways["fused"]

    def worse(*inputs: Tensor) -> Any:
        results = way(*inputs)
        if wrong == "result":
            return [result * 1.1 + 0.1 for result in results]
        return [result.detach() + 1.01 * (result - result.detach()) for result in results]

    sets = [right.inputs()]
    operator_runs.Calls(way, sets, "cpu").check(right.check)
    with pytest.raises(AssertionError):
        operator_runs.Calls(worse, sets, "cpu").check(right.check)


def test_floors_count_the_work_of_a_step() -> None:
    assert floors.step_flops(1) == 2 * (2 * 784 * 400 + 3 * (400 * 40 + 20 * 400 + 400 * 784))
    weights = 652_824 - 400 - 40 - 400 - 784
    for device, precision, copies in (("cpu", "fp32", 0), ("cpu", "bf16", 4), ("cuda", "bf16", 0)):
        assert floors.step_bytes(0, device, precision) == 24 * 652_824 + copies * weights
    run = floors.products_of_a_step(4, "cpu", "bf16")[1]
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counted:
        run()
    assert counted.get_total_flops() == floors.step_flops(4)
    wanted = 5 * 2 * 1024**3 // 2
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counted:
        floors.large_products(wanted)()
    assert abs(counted.get_total_flops() - wanted) <= 2 * 1024**2  # one row's


@pytest.mark.parametrize(("slower", "batch"), [("bytes", 1), ("products at oneDNN's rate for 1024 x 1024", 4096)])
def test_the_floor_of_bfloat16_on_a_cpu_is_the_slower_one(
    monkeypatch: pytest.MonkeyPatch, slower: str, batch: int
) -> None:
    """Simulate a machine of 1e12 operations and 1e10 bytes a second."""
    monkeypatch.setattr(floors, "copy_of", lambda size, device, times: times * size / 1e10)
    monkeypatch.setattr(floors, "large_products", lambda flops: flops / 1e12)
    monkeypatch.setattr(floors, "seconds", lambda run, device: run)
    assert floors.of_steps(3, batch, "cpu", "bf16")[0] == slower


@pytest.mark.parametrize("name", ["eager", "eager-tuned", "ops"])
def test_all_networks_are_validated_alike_before_and_after_an_epoch(name: str) -> None:
    images = {split: vf.load_images("digits", split).pixels.flatten(1) for split in ("train", "test")}
    sampler = BatchSampler(len(images["train"]), BATCHES[0], seed=0)
    training = Training(name, images, Case("cpu", "fp32", BATCHES[0]), sampler)
    before = validate(initial_model(), images["test"], seed=0)["loss"]
    assert validate(training.model, images["test"], seed=0)["loss"] == pytest.approx(before, rel=1e-6)
    training.epoch()
    assert training.test_loss < 0.9 * before
    assert len(training.seconds) == 1
    assert not training.has_arrived


def test_peak_memory_is_what_is_held_at_once() -> None:
    def run() -> None:
        for _ in range(3):
            torch.ones(1000, 1000)  # 4 MB, freed at once
        kept = [torch.ones(1000, 1000) for _ in range(2)]
        del kept

    assert peak_megabytes(run, "cpu") == pytest.approx(8, abs=0.1)


@pytest.mark.parametrize("name", ["eager", "eager-tuned", "fused"])
def test_the_check_of_adam_fails_for_a_wrong_learning_rate(name: str) -> None:
    right, wrong = Optimizers(name, "cpu"), Optimizers(name, "cpu")
    right.check()
    first: Any = wrong.optimizers[0]
    if name == "fused":
        first.rates.lr.fill_(1.01e-3)
    else:
        first.param_groups[0]["lr"] = 1.01e-3
    with pytest.raises(AssertionError):
        wrong.check()


@needs_library
def test_a_suite_writes_its_figures_and_lists_what_it_could_not_measure(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    test = "benchmarks/bench_train_step.py::test_train_step"
    ids = [f"{test}[cpu-fp32-1024-{name}]" for name in ("fused-step", "graph-ops")]
    options = ["--benchmark-only", "--batch=1024", "--rounds=2", f"--benchmark-json={file}", "-p", "no:cacheprovider"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", *ids, *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())
    assert [(m["contender"], m["reason"]) for m in found["not_measured"]] == [("graph-ops", "no CUDA device")]
    (fused,) = (benchmark["extra_info"] for benchmark in found["benchmarks"])
    low, middle, high = fused["ratio"]
    assert 0 < low <= middle <= high
    assert fused["gflop_per_second"] == pytest.approx(floors.step_flops(1024) / fused["ms"] / 1e6)
    assert fused["images_per_second"] == pytest.approx(1024e3 / fused["ms"])
    assert fused["floor"].startswith("matrix products")
    assert fused["units_a_round"] == 6
    assert (fused["rounds_taken"], fused["rounds_wanted"]) == (2, 2)
    (group,) = (benchmark["group"] for benchmark in found["benchmarks"])
    assert group == "train_step cpu-fp32-1024, in rounds of 6 steps"
    assert "node" not in found["machine_info"]  # the host's name is not recorded


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch", "0"], "argument --batch: expected a whole number from 1, got '0'"),
        (["--rounds=-3"], "argument --rounds: expected a whole number from 1, got '-3'"),
        (["--patience=-1"], "argument --patience: expected a number from 0, got '-1'"),
        (["--budget=-1"], "argument --budget: expected a number from 0, got '-1'"),
        (["--benchmark-json", "nowhere/x.json"], "--benchmark-json: the folder of nowhere/x.json does not exist"),
    ],
)
def test_wrong_options_are_reported_before_anything_runs(options: list[str], said: str) -> None:
    command = [sys.executable, "-m", "pytest", "benchmarks/bench_adam.py", "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 4
    assert said in done.stderr


def test_the_cores_command_needs_two_threads_on_two_cpus() -> None:
    command = [sys.executable, "-m", "benchmarks.cores"]
    as_started = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([*command, "0"], cwd=ROOT, capture_output=True, text=True, env=as_started)
    two = cores.usable_cpus() == 2 and extension.load()  # as many threads as a new process has
    assert done.returncode == (not two), done.stderr
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=alone)
    assert done.returncode == 1
    assert "torch computes on 1 threads" in done.stderr
    assert done.stderr.count("\n") == 1


def test_plain_pytest_runs_no_benchmark(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.getini("testpaths") == ["tests"]

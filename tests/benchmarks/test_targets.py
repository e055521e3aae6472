"""Targets for GPUs: met, missed or not measured, from made-up results."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reporting.results import Run, read
from benchmarks.targets import KERNELS, MET, MISSED, NOT_MEASURED, TARGETS, Verdict, judge, main
from tests.benchmarks.sample_results import entry, write

SEPARATE, WHOLE = KERNELS
FASTER = "images/s against eager, images resident, batch 128"


def on_gpu(suite: str, contender: str, batch: int, ratio: float, ms: float = 0.05, **more: Any) -> Any:
    """Return a benchmark on a GPU, whose ratio's quartiles are 10 % from its median."""
    one = entry(suite, contender, "cuda", batch, ms, ratio, precision="bf16", **more)
    one["extra_info"] |= {"ratio": [0.9 * ratio, ratio, 1.1 * ratio], "label": contender}
    one["extra_info"]["ours"] = contender in ("graph-ops", "ops", "fused")
    return one


def all_there() -> list[Any]:
    """Return results that meet every target for separate kernels, and none for whole-step kernels."""
    loss = {"floor": "copy", "unit": "call"}
    return [
        on_gpu("train_step", "graph-ops", 128, 20.0, ms=0.05),
        on_gpu("train_step", "ops", 128, 3.0, ms=0.3),
        on_gpu("train_step", "reduce-overhead", 128, 10.0),
        on_gpu("train_step", "graph-ops", 4096, 5.0, ms=0.09),
        on_gpu("epoch", "graph-ops", 128, 150.0),
        on_gpu("epoch", "jax", 128, 100.0),
        on_gpu("elbo", "fused", 8192, 3.0, what="forward", of_floor=[0.88, 0.9, 0.91], **loss),
        on_gpu("elbo", "fused", 8192, 3.0, what="backward", of_floor=[0.84, 0.86, 0.91], **loss),
    ]


def results(folder: Path, benchmarks: list[Any], not_measured: Any = ()) -> Run:
    content = {"benchmarks": benchmarks, "not_measured": list(not_measured), "floors": {}, "machine_info": {}}
    return read(Path(write(folder / "results.json", content)))


def verdict(run: Run, target: str, kernels: str = SEPARATE, precision: str = "bf16") -> Verdict:
    (one,) = [v for v in judge(run, precision) if (v.target, v.kernels) == (target, kernels)]
    return one


def test_every_target_is_judged_under_each_of_its_bounds(tmp_path: Path) -> None:
    verdicts = judge(results(tmp_path, all_there()), "bf16")
    assert [v.verdict for v in verdicts if v.kernels == SEPARATE] == [MET] * len(TARGETS)
    assert [v.verdict for v in verdicts if v.kernels == WHOLE] == [MISSED] * 6


def test_the_fastest_of_ours_counts_with_its_spread(tmp_path: Path) -> None:
    run = results(tmp_path, all_there())
    one = verdict(run, FASTER)
    assert (one.low, one.figure, one.high, one.of) == (18.0, 20.0, 22.0, "graph-ops")
    two = verdict(run, 'a step against torch.compile(mode="reduce-overhead"), batch 128')
    assert (two.low, two.figure, two.high) == pytest.approx((18 / 11, 2.0, 22 / 9))
    assert two.of == "graph-ops against reduce-overhead"
    three = verdict(run, "time a step, batch 4096")
    assert (three.low, three.figure, three.high) == pytest.approx((90, 90, 90))
    assert verdict(run, "fused loss 8192 x 784, backward, of a copy").figure == 86


@pytest.mark.parametrize(("ratio", "expected"), [(10.0, MET), (9.99, MISSED), (30.0, MET)])
def test_a_bound_itself_is_met(ratio: float, expected: str, tmp_path: Path) -> None:
    run = results(tmp_path, [on_gpu("train_step", "graph-ops", 128, ratio, ms=0.05)])
    assert verdict(run, FASTER).verdict == expected
    assert verdict(run, FASTER, WHOLE).verdict == (MET if ratio == 30 else MISSED)
    assert verdict(run, "time a step, batch 128").verdict == MET


@pytest.mark.parametrize("index", range(8))
def test_a_target_without_its_result_is_not_measured(index: int, tmp_path: Path) -> None:
    """Remove one of the results: no target is judged by another one, and those that need it say so."""
    rest = all_there()
    gone = rest.pop(index)["extra_info"]
    verdicts = judge(results(tmp_path, rest), "bf16")
    missing = [v for v in verdicts if v.verdict == NOT_MEASURED]
    if gone["contender"] == "ops":  # slower than another of ours
        assert not missing
    elif (gone["contender"], gone["batch"], gone["suite"]) == ("graph-ops", 128, "train_step"):
        assert not missing
        assert {v.of for v in verdicts if v.target == FASTER} == {"ops"}
    else:
        assert missing
        assert all(f"{gone['suite']}" in v.why and "not among the results" in v.why for v in missing)


def test_other_devices_and_precisions_do_not_count(tmp_path: Path) -> None:
    on_cpu = [entry("train_step", "graph-ops", "cpu", 128, 0.01, 50.0, precision="bf16")]
    for run in (results(tmp_path, on_cpu), None):
        assert {v.verdict for v in judge(run, "bf16")} == {NOT_MEASURED}
    assert {v.verdict for v in judge(results(tmp_path, all_there()), "fp16")} == {NOT_MEASURED}


def test_the_reason_comes_from_the_run(tmp_path: Path) -> None:
    jax = {"suite": "epoch", "contender": "jax", "label": "JAX", "reason": "jax is not installed"}
    run = results(tmp_path, [on_gpu("epoch", "graph-ops", 128, 150.0)], [jax])
    assert verdict(run, "an epoch against JAX, batch 128").why.endswith("jax is not installed")


def test_the_command_prints_a_table_and_writes_the_verdicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results(tmp_path, all_there())
    main([str(tmp_path / "results.json"), "--json", str(tmp_path / "verdicts.json")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(TARGETS)
    assert "| **met** (at least 10 times) | **missed** (at least 30 times) | 20 times (18-22) | graph-ops |" in lines[2]
    assert "| 90 us |" in next(line for line in lines if "batch 4096" in line)
    verdicts = json.loads((tmp_path / "verdicts.json").read_text())
    assert len(verdicts) == sum(bound is not None for target in TARGETS for bound in target.bounds)

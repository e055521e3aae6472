"""The comparison of two benchmark runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import compare
from tests.benchmarks.sample_results import entry, sample, write
from vae_fast.cli.exit_codes import exit_code
from vae_fast.kernels import extension

needs_library = pytest.mark.skipif(not extension.load(), reason=extension.status())
JAX = ("train_step", "jax", "cpu", 1024)


@pytest.fixture
def compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Return a function that compares the sample to `new` and returns the exit code, stdout and stderr."""

    def run(new: dict[str, Any], *flags: str) -> tuple[int, str, str]:
        files = write(tmp_path / "old.json", sample()), write(tmp_path / "new.json", new)
        code = exit_code(lambda: compare.main([*files, *flags]))
        return code, *capsys.readouterr()

    return run


def is_jax(benchmark: dict[str, Any]) -> bool:
    info = benchmark["extra_info"]
    return (info["suite"], info["contender"], info["device"], info["batch"]) == JAX


def with_jax(factor: float) -> dict[str, Any]:
    """Return the sample with one ratio multiplied by `factor`."""
    content = sample()
    (info,) = (b["extra_info"] for b in content["benchmarks"] if is_jax(b))
    info["ratio"] = [value * factor for value in info["ratio"]]
    return content


def without_jax() -> dict[str, Any]:
    content = sample()
    content["benchmarks"] = [b for b in content["benchmarks"] if not is_jax(b)]
    return content


@pytest.mark.parametrize(
    ("factor", "flags", "code", "rows"),
    [
        (1, (), 0, 0),
        (0.9, (), 0, 0),
        (0.89, (), 1, 1),
        (1.2, (), 0, 1),
        (0.89, ("--limit", "0.2"), 0, 0),
        (0.97, ("--limit", "0.02"), 1, 1),
    ],
)
def test_only_a_drop_beyond_the_limit_fails(
    compared: Callable[..., tuple[int, str, str]], factor: float, flags: tuple[str, ...], code: int, rows: int
) -> None:
    found, out, err = compared(with_jax(factor), *flags)
    table = [line for line in out.splitlines() if line.startswith("| train_step")]
    assert (found, len(table)) == (code, rows)
    assert err.count("\n") == code
    if rows:
        assert "| 1024 | JAX, jit of lax.scan | 1.72 (1.58-1.85) |" in table[0]
        assert f"{factor - 1:+.1%}" in table[0]


@pytest.mark.parametrize(
    ("distances", "code", "said"),
    [
        ((45, 60), 1, " compared: 1 slower"),
        (
            (45, 210),
            0,
            "not compared: train_step, jax, batch 1024, fp32, cpu: 1.72 (1.58-1.85), cores 45",
        ),
        ((None, 210), 1, "1 slower"),
    ],
)
def test_results_of_cores_in_another_state_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], distances: tuple[float | None, float], code: int, said: str
) -> None:
    runs = []
    for factor, distance in zip((1.0, 0.5), distances, strict=True):
        content = with_jax(factor)
        (info,) = (b["extra_info"] for b in content["benchmarks"] if is_jax(b))
        info["cores_apart_ns"] = distance and 3 * [distance]
        runs.append(write(tmp_path / f"{factor}.json", content))
    assert exit_code(lambda: compare.main(runs)) == code
    assert said in capsys.readouterr().out


def test_it_is_an_error_if_nothing_can_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = []
    for distance in (45, 210):
        content = sample()
        for benchmark in content["benchmarks"]:
            benchmark["extra_info"]["cores_apart_ns"] = 3 * [distance]
        runs.append(write(tmp_path / f"{distance}.json", content))
    assert exit_code(lambda: compare.main(runs)) == 1
    assert "nothing compared: its cores were nowhere as far apart as before" in capsys.readouterr().err


def test_the_baseline_is_not_compared(compared: Callable[..., tuple[int, str, str]]) -> None:
    content = sample()
    content["benchmarks"] = [b for b in content["benchmarks"] if b["extra_info"]["contender"] != "eager"]
    assert compared(content)[0] == 0


def test_a_missing_benchmark_fails_unless_the_new_run_says_why(compared: Callable[..., tuple[int, str, str]]) -> None:
    content = without_jax()
    code, out, err = compared(content)
    assert code == 1
    assert "gone: train_step, jax, batch 1024, fp32, cpu: it was 1.72" in out
    assert "1 are gone" in err
    why = {"suite": "train_step", "contender": "jax", "label": "JAX", "reason": "no wheel", "device": "cpu"}
    content["not_measured"].append({**why, "batch": 128, "precision": "fp32"})
    assert compared(content)[0] == 1  # the reason is for another batch
    content["not_measured"].append({**why, "batch": 1024, "precision": "fp32"})
    code, out, _ = compared(content)
    assert code == 0
    assert "not measured any more: train_step, jax, batch 1024, fp32, cpu: no wheel" in out


def test_a_benchmark_with_too_few_rounds_for_lack_of_time_is_not_compared(
    compared: Callable[..., tuple[int, str, str]],
) -> None:
    content = with_jax(0.5)
    (info,) = (b["extra_info"] for b in content["benchmarks"] if is_jax(b))
    info |= {"rounds": 2, "rounds_taken": 2, "rounds_wanted": 9}
    code, out, _ = compared(content)
    assert code == 0
    assert "train_step, jax, batch 1024, fp32, cpu: 2 rounds only: the budget of time was spent" in out
    info |= {"rounds": 3, "rounds_taken": 3}
    assert compared(content)[0] == 1


def test_a_reason_for_one_part_of_a_suite_does_not_cover_the_others(
    compared: Callable[..., tuple[int, str, str]],
) -> None:
    content = sample()
    gone = [b for b in content["benchmarks"] if b["extra_info"]["what"] == "forward"]
    content["benchmarks"] = [b for b in content["benchmarks"] if b not in gone]
    for what, code in (("backward", 1), ("forward", 0)):
        why = {"suite": "elbo", "what": what, "label": "ours", "reason": "no time"}
        content["not_measured"] += [{**why, "contender": name} for name in ("compile", "fused")]
        assert compared(content)[0] == code


def test_new_benchmarks_are_listed_and_another_machine_gives_a_warning(
    compared: Callable[..., tuple[int, str, str]],
) -> None:
    content = sample()
    content["benchmarks"].append(entry("epoch", "ops", "cpu", 128, 1500.0, 3.0, unit="epoch"))
    content["machine_info"]["machine"] = "another CPU"
    code, out, err = compared(content)
    assert code == 0
    assert "new: epoch, ops, batch 128, fp32, cpu: 3.00 (2.76-3.24)" in out
    assert err == "warning: AMD EPYC before, another CPU now; ratios still compare\n"


def test_runs_with_nothing_in_common_fail(compared: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = compared({**sample(), "benchmarks": []})
    assert code == 1
    assert "expected benchmarks that" in err


@pytest.mark.parametrize("flags", [("--limit", "10"), ("--limit", "a tenth"), ("--twice",)])
def test_wrong_usage_exits_with_2(compared: Callable[..., tuple[int, str, str]], flags: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as stopped:
        compared(sample(), *flags)
    assert stopped.value.code == 2


@needs_library
@pytest.mark.sweep  # two processes of pytest, each with a benchmark
def test_what_got_slower_is_measured_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Keep a real drop, and clear a false one, which is only written into a file here, by measuring again."""
    test = "benchmarks/bench_adam.py::test_adam[cpu-fp32-1-fused]"
    runs = []
    for ratio in (2.0, 0.5):
        content = sample()
        one = entry("adam", "fused", "cpu", None, 1, ratio, what="step") | {"fullname": test}
        content["benchmarks"] = [one]
        runs.append(write(tmp_path / f"{ratio}.json", content))
    assert exit_code(lambda: compare.main([*runs, "--limit", "0.5", "--again"])) == 0
    assert "once more, the 1 that got slower" in capfd.readouterr().out
    content["benchmarks"][0]["extra_info"]["ratio"] = [200.0] * 3
    runs[0] = write(tmp_path / "200.json", content)
    assert exit_code(lambda: compare.main([*runs, "--limit", "0.5", "--again"])) == 1
    assert "1 got slower by more than 50%" in capfd.readouterr().err

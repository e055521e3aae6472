"""The parts of a fused step: they account for all of it, and the floors are those of the work done."""

import pytest

from benchmarks import step_profile
from vae_fast.kernels import extension

pytestmark = pytest.mark.skipif(not extension.load(), reason=extension.status())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_parts_of_a_step_do_not_exceed_the_whole(precision: str) -> None:
    one = step_profile.Profiled(precision, batch=20, hidden=(50,), latent=4)
    one.turn()
    *parts, whole = one.parts[-1]
    assert all(part > 0 for part in parts)
    assert sum(parts) <= whole
    weights = 784 * 50 * 2 + 50 * 8 + 4 * 50
    assert one.flops == [2 * 20 * weights, 2 * 20 * (weights - 784 * 50), 2 * 20 * weights]
    biases = 50 + 8 + 50 + 784
    assert one.moved == 24 * (weights + biases) + (4 * weights if precision == "bf16" else 0)


def test_the_table_has_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    step_profile.main(["--batch", "4", "--hidden", "16", "--latent", "2", "--rounds", "1"])
    out = capsys.readouterr().out
    for name in (*step_profile.PARTS, "all else", "a step", "(products)", "(Adam's bytes)"):
        assert f"| {name} |" in out
    assert "network 784-16-2-16-784" in out


@pytest.mark.parametrize(("share", "warnings"), [(0.63, 1), (0.0, 0)])
def test_a_busy_machine_gives_a_warning(
    share: float, warnings: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_profile.busy, "busy_share", lambda: share)
    step_profile.main(["--batch", "4", "--hidden", "16", "--latent", "2", "--rounds", "1"])
    assert capsys.readouterr().err.count("warning: other processes use 63% of the CPUs: ") == warnings


def test_floors_are_those_of_the_work_done() -> None:
    """Assume 1e9 operations a second, and 2 ms for Adam."""
    one = step_profile.Profiled("bf16", batch=1, hidden=(), latent=1)  # 784 x 2 and 1 x 784 weights
    one.parts = [[0.001, 0.002, 0.004, 0.001, 0.010]]
    rows = {row[1]: row[2:] for row in step_profile.table(one, rate=1e9, adam=2e-3)}
    products = 2 * (784 * 2 + 784) / 1e9
    assert rows["products forward"] == ["1.000", "10%", f"{products * 1e3:.3f}", "0%"]
    assert rows["gradients and Adam"] == ["4.000", "40%", "2.000", "50%"]
    assert rows["all else"] == ["2.000", "20%", "", ""]
    assert rows["a step"] == ["10.000", "100%", "2.000", "20%"]

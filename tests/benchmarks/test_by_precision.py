"""Images a second by batch and precision: what is measured, printed and drawn."""

from pathlib import Path

import pytest

from benchmarks import by_precision
from vae_fast.kernels import bf16_loops, extension

pytestmark = pytest.mark.skipif(not extension.load(), reason=extension.status())


def test_the_table_is_consistent_and_the_chart_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_precision.main(["--batch", "64", "1", "--rounds", "1", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert f"bf16 by {bf16_loops()[0]}\n" in out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("|")][2:]
    assert [row[0] for row in rows] == ["1", "64"]
    takes = "bf16" if bf16_loops()[0] in ("amx", "avx512_bf16") else "fp32"
    assert [row[-1] for row in rows] == ["fp32", takes]
    for _, fp32, bf16, ratio, *_ in rows:
        rates = [float(rate.replace(",", "")) for rate in (fp32, bf16)]
        assert rates[1] / rates[0] == pytest.approx(float(ratio), rel=0.01)
    assert {path.name for path in tmp_path.iterdir()} == {"images-by-batch.png", "images-by-batch.svg"}

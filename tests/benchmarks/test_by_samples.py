"""`python -m benchmarks.by_samples`."""

import re

import pytest

from benchmarks import by_samples
from vae_fast.kernels import extension
from vae_fast.runtime.environment import cpp_compiler


@pytest.mark.skipif(not extension.load(), reason="the C++ library is not built")
@pytest.mark.skipif(cpp_compiler() is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_the_table_is_relative_to_separate_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(by_samples, "IMAGES", 128)
    by_samples.main(["--batch", "64", "--samples", "2", "--rounds", "2"])
    rows = dict(re.findall(r"^\| ([\w ,.]+?) \| ([\d.]+)", capsys.readouterr().out, re.MULTILINE))
    assert float(rows.pop(by_samples.SEPARATE)) == 1
    assert set(rows) == {"iwae", "dreg", by_samples.USUAL}
    assert all(float(ratio) > 0 for ratio in rows.values())

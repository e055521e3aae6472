"""`python -m benchmarks.by_prior`."""

import re

import pytest

from benchmarks import by_prior
from vae_fast.kernels import extension
from vae_fast.runtime.environment import cpp_compiler


@pytest.mark.skipif(not extension.load(), reason="the C++ library is not built")
@pytest.mark.skipif(cpp_compiler() is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_the_table_is_relative_to_the_normal_prior(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(by_prior, "IMAGES", 128)
    monkeypatch.setattr(by_prior, "NETWORK", {"hidden": (16,), "latent": 4})
    by_prior.main(["--batch", "64", "--components", "10", "--rounds", "2"])
    rows = dict(re.findall(r"^\| ([\w ,]+?) \| ([\d.]+)", capsys.readouterr().out, re.MULTILINE))
    assert float(rows.pop(by_prior.NORMAL)) == 1
    assert set(rows) == {*by_prior.PRIORS, by_prior.FUSED}
    assert all(float(ratio) > 0 for ratio in rows.values())

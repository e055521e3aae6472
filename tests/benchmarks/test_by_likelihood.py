"""The comparison of likelihoods runs, and its table has them all."""

import pytest

from benchmarks import by_likelihood
from vae_fast.kernels import extension
from vae_fast.models.likelihood import FAMILIES

pytestmark = pytest.mark.skipif(not extension.load(), reason=extension.status())


def test_the_table_has_every_likelihood(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_likelihood, "IMAGES", 128)
    by_likelihood.main(["--batch", "16", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert all(f"| {name.replace('_', ' ')} |" in printed for name in FAMILIES)

"""NVTX ranges: real ones when asked for, nothing otherwise."""

import sys

import pytest

from vae_fast.errors import RunError
from vae_fast.profiling import ranges


def test_off_means_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvtx", None)
    with ranges(False)("step"):
        pass


def test_on_opens_ranges_of_the_domain() -> None:
    nvtx = pytest.importorskip("nvtx", reason="the extra [nvtx] is not installed")
    opened = ranges(True)("step")
    assert isinstance(opened, nvtx.annotate)
    assert opened.domain is nvtx.get_domain("vae_fast")
    with opened:
        pass


def test_a_missing_package_is_one_line_that_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvtx", None)
    with pytest.raises(
        RunError, match=r"--nvtx: needs the package nvtx; install it with: pip install 'vae_fast\[nvtx\]'"
    ):
        ranges(True)

"""Tests of the ranges of a run: their names and nesting, and that there are none when they are off."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import vae_fast as vf
from vae_fast.errors import RunError
from vae_fast.objectives.elbo import backward
from vae_fast.runtime import nvtx
from vae_fast.runtime.nvtx import COLOURS, in_domain, marks, unmarked
from vae_fast.runtime.plan import make_plan
from vae_fast.training import engine
from vae_fast.training.engine import Engine

Small = Callable[..., vf.Config]


class Domain:
    """A fake nvtx.Domain that records, for each thread, the path of every range in the order of opening."""

    def __init__(self) -> None:
        self.opened: dict[str, list[str]] = {}
        self._path: dict[str, list[str]] = {}

    def get_event_attributes(self, *, message: str, color: int) -> str:
        assert color >> 24 == 0xFF
        return message

    def push_range(self, event: str) -> None:
        thread = threading.current_thread().name
        self._path.setdefault(thread, []).append(event)
        self.opened.setdefault(thread, []).append("/".join(self._path[thread]))

    def pop_range(self) -> None:
        self._path[threading.current_thread().name].pop()

    @property
    def is_closed(self) -> bool:
        return not any(self._path.values())


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> Domain:
    domain = Domain()
    monkeypatch.setattr(nvtx, "_nvtx_domain", lambda: domain)
    return domain


PARTS = ["step", "step/forward", "step/backward", "step/optimizer"]
END = ["evaluation", "checkpoint"]


@pytest.mark.parametrize(
    ("settings", "epoch"),
    [
        ({"step": "autograd"}, ["data", *5 * PARTS, *END]),
        ({"step": "auto"}, ["data", *5 * ["step"], *END]),  # a step is one operator
        ({"step": "autograd", "compile": True}, ["data", *5 * ["step", "step/gradients", "step/optimizer"], *END]),
        ({"step": "autograd", "feed": "host"}, ["data", "data", *5 * PARTS, *END]),  # the order, and one wait
    ],
)
def test_a_run_opens_each_range_where_it_belongs(
    small: Small, domain: Domain, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], epoch: list[str]
) -> None:
    monkeypatch.setattr(engine, "CALL_SECONDS", 0.0)  # otherwise a range covers all steps of an operator call
    config = small(nvtx=True, batch_size=200, **settings)
    if settings.get("step") == "auto" and make_plan(config)[0].step != "fused":
        pytest.skip("the fused step cannot be had")
    vf.fit(config)
    warm_up = [name.removeprefix("step/") for name in dict.fromkeys(epoch) if name.startswith("step/")]
    assert domain.opened.pop("MainThread") == warm_up + 2 * epoch
    reads = [name for names in domain.opened.values() for name in names]  # in the reader's thread
    assert reads == (["data", "data"] if "feed" in settings else [])
    assert domain.is_closed


def test_an_error_closes_the_open_ranges(domain: Domain) -> None:
    mark = in_domain(domain)

    def fail() -> None:
        raise RunError("on purpose")

    with pytest.raises(RunError):
        mark("step", mark("forward", fail))()
    assert domain.is_closed


def test_without_ranges_the_functions_of_a_step_are_not_wrapped(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvtx", None)
    assert marks(False, profiler=False) is unmarked
    config = small(step="autograd")
    step: Any = Engine(vf.VAE(), torch.zeros(8, 784), config, make_plan(config)[0], 1)._train
    assert (step._forward, step._backward.func, step._update) == (step._activations, backward, step._finished)
    vf.fit(config)


def test_the_error_for_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvtx", None)
    with pytest.raises(
        RunError, match=r"--nvtx: needs the package nvtx; install it with: pip install 'vae_fast\[nvtx\]'"
    ):
        marks(True, profiler=False)


def test_a_profiling_tool_sees_registered_names_in_one_domain(tmp_path: Path) -> None:
    pytest.importorskip("nvtx", reason="the extra [nvtx] is not installed")
    if sys.platform != "linux" or (compiler := shutil.which("cc") or shutil.which("gcc")) is None:
        pytest.skip("the tool is built on Linux, by a C compiler")
    source, library = Path(__file__).with_name("nvtx_listener.c"), tmp_path / "listener.so"
    subprocess.run([compiler, "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source], check=True)
    code = f"""
from vae_fast.runtime.nvtx import marks
mark = marks(True, profiler=False)
for name in {list(COLOURS)}:
    mark("step", mark(name, lambda: None))()
"""
    env = os.environ | {"NVTX_INJECTION64_PATH": str(library)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    pairs = [f"push vae_fast:{name} registered" for inner in COLOURS for name in ("step", inner)]
    expected = [line for pair in zip(pairs[::2], pairs[1::2], strict=True) for line in (*pair, *2 * ["pop vae_fast"])]
    assert done.stdout.splitlines() == expected

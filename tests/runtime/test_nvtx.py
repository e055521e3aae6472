"""The ranges of a run: which there are, what is inside what, and that there are none when they are off."""

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
    """As an nvtx.Domain; keeps, for each thread, the paths of the ranges as they were opened."""

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
        ({"step": "auto"}, ["data", *5 * ["step"], *END]),  # one operator
        ({"step": "autograd", "compile": True}, ["data", *5 * ["step", "step/gradients", "step/optimizer"], *END]),
        ({"step": "autograd", "feed": "host"}, ["data", "data", *5 * PARTS, *END]),  # the order, and one wait
    ],
)
def test_a_run_opens_each_range_where_it_belongs(
    small: Small, domain: Domain, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], epoch: list[str]
) -> None:
    monkeypatch.setattr(engine, "CALL_SECONDS", 0.0)  # else a range is of as many steps as an operator makes
    config = small(nvtx=True, batch_size=200, **settings)
    if settings.get("step") == "auto" and make_plan(config)[0].step != "fused":
        pytest.skip("the fused step cannot be had")
    vf.fit(config)
    warm_up = [name.removeprefix("step/") for name in dict.fromkeys(epoch) if name.startswith("step/")]
    assert domain.opened.pop("MainThread") == warm_up + 2 * epoch
    reads = [name for names in domain.opened.values() for name in names]  # in their thread
    assert reads == (["data", "data"] if "feed" in settings else [])
    assert domain.is_closed


def test_an_error_closes_the_ranges_that_it_leaves(domain: Domain) -> None:
    mark = in_domain(domain)

    def fail() -> None:
        raise RunError("as it may")

    with pytest.raises(RunError):
        mark("step", mark("forward", fail))()
    assert domain.is_closed


def test_off_nothing_is_there(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvtx", None)
    assert marks(False, profiler=False) is unmarked
    config = small(step="autograd")
    step: Any = Engine(vf.VAE(), torch.zeros(8, 784), config, make_plan(config)[0], 1)._train
    assert (step._forward, step._backward, step._update) == (step._activations, backward, step._finished)
    vf.fit(config)


def test_a_missing_package_is_one_line_that_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvtx", None)
    with pytest.raises(
        RunError, match=r"--nvtx: needs the package nvtx; install it with: pip install 'vae_fast\[nvtx\]'"
    ):
        marks(True, profiler=False)


def test_a_listening_tool_sees_registered_names_in_one_domain(tmp_path: Path) -> None:
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

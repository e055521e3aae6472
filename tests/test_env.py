"""`python -m vae_fast.env`."""

import sys
from types import SimpleNamespace

import pytest
import torch

from vae_fast import env
from vae_fast.errors import RunError
from vae_fast.kernels import dispatch, extension
from vae_fast.kernels import registration as kernel_operators


def test_the_report_names_versions_devices_and_fast_paths(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["env"])
    env.main()
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("  "))
    assert lines["torch"] == str(torch.__version__)
    assert lines["Python"].endswith(".".join(map(str, sys.version_info[:3])))
    assert {"vae_fast", "triton", "numpy", "system", "torch.compile", "Triton", "AMP"} <= lines.keys()


def test_the_report_names_the_implementation_that_each_device_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare with the choice of the operators themselves: a call on a device does what the report says of it."""
    mu = torch.zeros(2, 4)
    taken = {name: dispatch.chosen(name, "auto", mu, mu) for name in ("reparameterize", "sample_posterior", "nll")}
    assert {env.operators()["CPU"].split()[0].strip(":")} == set(taken.values())

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(kernel_operators, "HAS_TRITON", True)
    monkeypatch.setattr(dispatch, "HAS_C_COMPILER", True)
    assert env.operators()["GPU 0"] == "triton for float32, float16, bfloat16, reference for the rest"
    monkeypatch.setattr(dispatch, "HAS_C_COMPILER", False)
    assert env.operators()["GPU 0"].startswith("reference: Triton needs a C compiler")
    monkeypatch.setattr(dispatch, "HAS_LIBRARY", False)
    assert env.operators()["CPU"] == f"reference: {extension.status()}"


def test_every_fast_path_has_a_reason() -> None:
    paths = env.fast_paths()
    assert f"C++ operators: {paths['C++ operators']}" == extension.status()
    assert paths["AMP"].split()[0] in ("bf16", "fp16", "fp32")
    assert all(len(reason.split()) > 1 for reason in paths.values())


def test_the_report_says_what_torch_compile_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(device: torch.device) -> None:
        raise RunError("no C++ compiler")

    monkeypatch.setattr(env, "require_compiler", refuse)
    assert env.fast_paths()["torch.compile"] == "off: no C++ compiler"


def test_the_report_says_that_triton_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "PACKAGES", ("no-such-package",))
    assert env.versions()["no-such-package"] == "not installed"
    monkeypatch.setattr(env, "_package_version", lambda name: env.NOT_INSTALLED)
    assert env._triton(torch.device("cuda")) == "off: not installed"


def test_the_report_describes_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(name="A GPU", total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpu)
    assert env.devices()["GPU 0"].startswith("A GPU, 80 GiB, compute capability 9.0, driver ")

"""Helpers for the tests of whole runs: starting and killing a run as a process, and reading what it left."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import vae_fast as vf

Small = Callable[..., vf.Config]
TIMINGS = ("seconds", "images_per_second")
BATCH = 16  # 62 steps an epoch of the 1,000 digits
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "bf16": {"amp_dtype": "bf16"},
    "compiled": {"step": "autograd", "compile": True},
    "network": {"network": f"{Path(__file__).with_name('own_networks.py')}:labelled", "conditional": True},
}
KILLED = Path(__file__).with_name("killed.py")


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=300, check=False)


def killed(config: vf.Config, moment: str, count: int, number: str) -> subprocess.CompletedProcess[str]:
    """Run `config` in a separate process that is signalled at the given moment."""
    flags = ["--data", config.data, "--latent", str(config.latent)]
    flags += ["--hidden", *map(str, config.hidden)] if config.network == "mlp" else []
    flags += ["--epochs", str(config.epochs), "--batch-size", str(config.batch_size), "--out", str(config.out)]
    flags += ["--network", config.network] if config.network != "mlp" else []
    flags += ["--network-options", *config.network_options] if config.network_options else []
    flags += ["--conditional"] if config.conditional else []
    flags += ["--step", config.step, "--amp-dtype", config.amp_dtype, *(["--compile"] if config.compile else [])]
    return command(str(KILLED), moment, str(count), number, str(config.out), *flags)


def model_bytes(directory: Path) -> bytes:
    return (directory / "checkpoints" / "latest" / "model.safetensors").read_bytes()


def best(directory: Path) -> str:
    return (directory / "checkpoints" / "best").readlink().name


def records(directory: Path) -> list[dict[str, Any]]:
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMINGS} for line in lines]

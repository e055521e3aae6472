"""The context of a number: its case, the machine, the versions and the state of the repository."""

import os
import platform
import statistics
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.rounds import Rounds
from vae_fast.runtime.environment import environment

ROOT = Path(__file__).absolute().parents[2]  # links are not followed: vae_fast is incomplete where they lead


@dataclass(frozen=True)
class Case:
    """A benchmark's device, precision and batch size: all that identifies it besides its contender."""

    device: str
    precision: str
    batch: int

    def __str__(self) -> str:
        return f"{self.device}-{self.precision}-{self.batch}"


def describe(
    benchmark: Any,
    case: Case,
    times: Rounds,
    *,
    unit: str,
    units: float = 1,
    package: str | None = None,
    floor: str | None = None,
    images: float | None = None,
    flops: float | None = None,
    moved: float | None = None,
    **names: Any,
) -> None:
    """Put everything known about a contender's rounds into the JSON.

    Args:
        unit, units: what `ms` refers to, and how many of them a round has.
        package: a distribution whose version is to be recorded as well.
        floor: the name of what was timed as the floor.
        images, flops, moved: per round: images trained on, floating-point operations, bytes moved.
        names: suite, what, contender, label, ours, shape, and any further entries.
    """
    _group(benchmark, " ".join(str(part) for part in (names["suite"], names["what"], case) if part), unit, units)
    seconds = statistics.median(times.contender)
    known = _facts(case.device)
    if package is not None:
        known = {**known, "versions": {**known["versions"], package: version(package)}}
    benchmark.extra_info |= {
        **known,
        **vars(case),
        "rounds": len(times.contender),
        "rounds_taken": times.taken,
        "rounds_wanted": times.wanted,
        "unit": unit,
        "units_a_round": units,
        "ms": seconds / units * 1e3,
        "cores_apart_ns": times.cores_apart,
        "ratio": times.ratio,
        "floor": floor,
        "of_floor": times.of_floor,
        "flops": flops and flops / units,
        "bytes": moved and moved / units,
        "images_per_second": images and images / seconds,
        "gflop_per_second": flops and flops / seconds / 1e9,
        "gb_per_second": moved and moved / seconds / 1e9,
        **names,
    }


def _group(benchmark: Any, name: str, unit: str, units: float) -> None:
    """Name the benchmark's table in pytest-benchmark's output, which shows the times of rounds."""
    size = "" if units == 1 else f", in rounds of {units:.4g} {unit}s"
    benchmark.group = name + size
    if getattr(benchmark, "stats", None) is not None:  # they hold the group from before the rounds
        benchmark.stats.group = benchmark.group


@cache
def _facts(device: str) -> dict[str, Any]:
    known = environment(torch.device(device))
    versions = {name: known[name] for name in ("vae_fast", "python", "torch")}
    if device == "cuda":
        versions |= {"cuda": torch.version.cuda} | ({"triton": version("triton")} if find_spec("triton") else {})
    return {
        "machine": known["device"],
        "versions": versions,
        "threads": known["threads"],
        "flush_denormals": not bool(torch.tensor(1e-39) * 0.5 > 0),
        "revision": revision(),
    }


@cache
def machine() -> dict[str, Any]:
    """Return the machine for pytest-benchmark's JSON, instead of its own description, which names the host."""
    known = environment(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return {"machine": known.pop("device"), **known, "system": f"{platform.system()} {platform.machine()}"}


@cache
def revision() -> str:
    """Return git's revision, with a + where files differ from it.

    Outside a repository, return the value of VAE_FAST_REVISION, or "unknown".
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("VAE_FAST_REVISION", "unknown")

"""The contenders by name, and why one is not available on this machine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.contenders import peers, pytorch_baselines, vae_fast_engine
from benchmarks.contenders.network import Trainer, initial_model
from benchmarks.contenders.pytorch_baselines import CarefulVAE, CommonVAE
from benchmarks.reporting.results import BASELINE
from vae_fast.errors import ConfigError, RunError
from vae_fast.runtime.environment import require_compiler
from vae_fast.runtime.plan import make_plan


@dataclass(frozen=True)
class Contender:
    """A way to train."""

    label: str
    build: Callable[..., Trainer]
    """makes its trainer from (network on the device, pixels there, batch, precision, steps per call)"""
    network: Callable[[], nn.Module] | None
    """None for a peer, which has its own"""
    ours: bool = False
    compiles: bool = False
    only_on: str | None = None
    """the only kind of device that it runs on; None for all"""
    records: bool = False
    """whether it replays CUDA graphs, whose memory is not allocated when they run"""
    package: str | None = None
    """a peer's distribution, whose version is recorded"""
    own_threads: bool = False
    """whether it computes on a CPU with threads other than PyTorch's, which have to become idle first"""


_COMMON = partial(Contender, network=CommonVAE)
_CAREFUL = partial(Contender, network=CarefulVAE)
_COMPILED = partial(_CAREFUL, compiles=True)
_ENGINE = partial(Contender, network=initial_model, ours=True)
STEP: dict[str, Contender] = {
    BASELINE: _COMMON("eager, images resident: as people write it", pytorch_baselines.build_common),
    "eager-tuned": _CAREFUL("eager, good habits: logits, fused Adam, no .item()", pytorch_baselines.build_careful),
    "compile": _COMPILED("torch.compile, fused Adam", pytorch_baselines.build_compiled),
    "reduce-overhead": _COMPILED(
        'torch.compile(mode="reduce-overhead")', pytorch_baselines.build_reduce_overhead, only_on="cuda", records=True
    ),
    "graph": _COMPILED("torch.compile, captured graph", pytorch_baselines.build_captured, only_on="cuda", records=True),
    "ops": _ENGINE("vae_fast, fused operators", partial(vae_fast_engine.build, step="autograd", cuda_graphs="off")),
    "compile-ops": _ENGINE(
        "vae_fast --step autograd --compile",
        partial(vae_fast_engine.build, step="autograd", compile=True, cuda_graphs="off"),
        compiles=True,
    ),
    "graph-ops": _ENGINE(
        "vae_fast --compile, captured graph",
        partial(vae_fast_engine.build, step="autograd", compile=True, cuda_graphs="on"),
        compiles=True,
        only_on="cuda",
        records=True,
    ),
    "fused-step": _ENGINE(
        "vae_fast, a step as one operator", partial(vae_fast_engine.build, step="fused"), only_on="cpu"
    ),
}
EPOCH: dict[str, Contender] = {
    BASELINE: _COMMON("eager with DataLoader: as people write it", pytorch_baselines.build_loaded),
    "eager-resident": STEP[BASELINE],
    **{name: contender for name, contender in STEP.items() if name != BASELINE},
}
PEERS: dict[str, Contender] = {
    name: Contender(peer.label, peer.build, None, package=peer.package, own_threads=peer.own_threads)
    for name, peer in peers.PEERS.items()
}


def missing(name: str, device: str, precision: str) -> str | None:
    """Return why this contender is not available here, or None."""
    if name in PEERS:
        return peers.reason(name, device, precision)
    contender = EPOCH[name]
    if contender.only_on not in (None, device):
        return "it is for CPUs" if device == "cuda" else "no CUDA device"
    try:
        if contender.compiles:
            require_compiler(torch.device(device))
        if name == "fused-step":
            make_plan(vae_fast_engine.config_of(device, 1, precision, step="fused"))
    except (ConfigError, RunError) as error:
        return str(error)
    return None


def is_missing(params: Mapping[str, Any]) -> bool:
    """Return whether a benchmark's contender is unavailable; for a peer, slow to import, this is not known yet."""
    name, case = params["name"], params["case"]
    return name not in PEERS and missing(name, case.device, case.precision) is not None


def labels(table: Mapping[str, Contender]) -> dict[str, str]:
    return {name: contender.label for name, contender in table.items()}

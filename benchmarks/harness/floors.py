"""The floors that others are compared with: a step's products alone, a copy of as many bytes, a launch, a graph node.

They are the fastest that libraries offer, so code that computes differently, or finds its data in a cache, can beat
them.
"""

import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders.network import D, H, Z
from benchmarks.harness.rounds import Call, seconds
from vae_fast.kernels import matmul
from vae_fast.runtime.plan import DTYPES
from vae_fast.training import cuda_graphs

LAYERS = ((D, H), (H, 2 * Z), (Z, H), (H, D))
COPIED = 2**28  # bytes, more than any cache holds
NODES = 1000
LARGE = 1024
GPU_PASS = 2**31  # bytes; a pass over them takes half a millisecond


def step_flops(batch: int) -> int:
    """Return the operations of a step's eleven matrix products.

    They are the forward products, the weights' gradients, and the inputs' gradients of all layers but the first.
    """
    return sum(2 * batch * n * m * (2 if n == D else 3) for n, m in LAYERS)


def step_bytes(batch: int, device: str, precision: str) -> int:
    """Return the bytes that a step must move: float32 parameters and moments, read and written, and its uint8 images.

    In bfloat16 on a CPU it also moves two copies of each weight, which the forward and backward products read.
    """
    copies = 4 if (device, precision) == ("cpu", "bf16") else 0
    return sum((24 + copies) * n * m + 24 * m for n, m in LAYERS) + batch * D


def of_steps(steps: int, batch: int, device: str, precision: str) -> tuple[str, Call]:
    """Return the name and the floor of some steps: their products or, in bfloat16 on a CPU, their bytes if slower.

    There the products count at the rate of large ones, because libraries are far from that rate at a step's shapes.
    """
    if (device, precision) != ("cpu", "bf16"):
        name, products = products_of_a_step(batch, device, precision)
        return name, lambda: [products() for _ in range(steps)]
    copies = copy_of(step_bytes(batch, device, precision), device, steps)
    floors = {"products at oneDNN's rate for 1024 x 1024": large_products(steps * step_flops(batch)), "bytes": copies}
    times = {name: min(seconds(run, device) for _ in range(3)) for name, run in floors.items()}
    name = max(times, key=lambda name: times[name])
    return name, floors[name]


def large_product(precision: str) -> Call:
    """Return a product of 1024 x 1024 matrices on a CPU by the fastest library available."""
    a, b = (torch.randn(LARGE, LARGE, dtype=DTYPES[precision]) for _ in "ab")
    if precision == "fp32" and matmul.USE_ONEDNN:
        return lambda: torch.ops.vae_fast.product(a, b, None)
    return lambda: torch.mm(a, b)


def large_products(flops: int) -> Call:
    """Return bfloat16 products of 1024 x 1024 matrices with `flops` operations in all; the last one has fewer rows."""
    whole, rest = divmod(flops, 2 * LARGE**3)
    a, b = (torch.randn(LARGE, LARGE, dtype=torch.bfloat16) for _ in "ab")
    rows = [*([LARGE] * whole), round(rest / (2 * LARGE**2))]
    outputs = [torch.empty(n, LARGE, dtype=torch.bfloat16) for n in rows]
    return lambda: [torch.mm(a[: len(out)], b, out=out) for out in outputs]


def products_of_a_step(batch: int, device: str, precision: str) -> tuple[str, Call]:
    """Return the name and the call of a step's eleven products, on existing tensors, by the fastest library."""
    dtype = DTYPES[precision]
    pairs = []
    for n, m in LAYERS:
        shapes = ((batch, n), (m, n), (batch, m))
        x, w, dy = (torch.randn(shape, device=device, dtype=dtype) for shape in shapes)
        pairs += [(x, w), (dy.t(), x.t())]  # a b^T: forward, and the weight's gradient
        if n != D:
            pairs.append((dy, w.t()))
    if device == "cpu" and precision == "fp32" and matmul.USE_ONEDNN:
        product = torch.ops.vae_fast.product
        return "matrix products by oneDNN", lambda: [product(a, b, None) for a, b in pairs]
    outputs = [torch.empty(len(a), len(b), device=device, dtype=dtype) for a, b in pairs]

    def run() -> None:
        for (a, b), out in zip(pairs, outputs, strict=True):
            torch.mm(a, b.t(), out=out)

    return "matrix products by torch.mm", replayed(run) if device == "cuda" else run


def copy_of(size: int, device: str, times: int) -> Call:
    """Return `times` copies that each read and write `size` bytes in all, cycling through more than the caches hold."""
    half = max(1, size // 2)
    count = min(times, max(2, -(-beyond_caches(device) // size)))
    sources, targets = (torch.randint(256, (count, half), dtype=torch.uint8, device=device) for _ in "st")
    pairs = list(zip(sources.unbind(), targets.unbind(), strict=True))

    def run() -> None:
        for n in range(times):
            source, target = pairs[n % count]
            target.copy_(source)

    return replayed(run) if device == "cuda" else run


def replayed(run: Call) -> Call:
    """Record a call on a GPU and return its replay, so that the host's launches do not count."""

    def program() -> None:
        run()

    return cuda_graphs.capture(program).replay


def sweep(device: str) -> Call:
    """Return a call that leaves the caches in the same state before each turn, whoever ran before."""
    if device == "cuda":
        return lambda: None  # its rounds are long, or replay over more than the cache holds
    other = torch.ones(beyond_caches(device), dtype=torch.uint8)
    return lambda: other.bitwise_not_()


def beyond_caches(device: str) -> int:
    """Return a number of bytes so large that none is still in the last cache when its turn comes again.

    On a GPU a pass over them also takes a hundred times as long as the launch of its graph.
    """
    return max(4 * cache_bytes(device), GPU_PASS) if device == "cuda" else 2 * cache_bytes(device)


@cache
def cache_bytes(device: str) -> int:
    """Return the size of the last cache before memory."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    for level in (3, 2):
        file = Path(f"/sys/devices/system/cpu/cpu0/cache/index{level}/size")
        if file.is_file():
            return int(file.read_text().strip().removesuffix("K")) * 1024
    return 2**25


def measure(device: str, batches: list[int]) -> dict[str, Any]:
    """Measure the machine's ceilings for the report's roofline; each is a best time, which needs no medians."""
    copied = min(seconds(copy_of(COPIED, device, 2), device) / 2 for _ in range(5))
    rates = {}
    for batch in batches:
        run = products_of_a_step(batch, device, "fp32")[1]
        rates[str(batch)] = step_flops(batch) / min(seconds(run, device) for _ in range(20)) / 1e9
    on_gpu = device == "cuda"
    return {
        "device": device,
        "copy_gb_per_second": COPIED / copied / 1e9,
        "products_gflop_per_second": rates,
        "empty_launch_us": _empty_launch() if on_gpu else None,
        "empty_graph_node_us": _empty_node() if on_gpu else None,
    }


def _empty_launch() -> float:
    """Return the host's microseconds for a launch by PyTorch that does next to nothing."""
    cell = torch.zeros((), device="cuda")
    best = float("inf")
    for _ in range(5):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(NODES):
            cell.add_(1)
        best = min(best, (time.perf_counter() - began) / NODES)
        torch.cuda.synchronize()
    return best * 1e6


def _empty_node() -> float:
    """Return the device's microseconds for such a kernel as one of many in a graph."""
    cell = torch.zeros((), device="cuda")

    def nodes() -> None:
        for _ in range(NODES):
            cell.add_(1)

    graph = cuda_graphs.capture(nodes)
    return min(seconds(graph.replay, "cuda") for _ in range(5)) / NODES * 1e6


def tensor_bytes(*tensors: Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)

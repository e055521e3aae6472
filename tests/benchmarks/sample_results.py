"""Sample results as benchmarks write them, with times from formulas, for the tests of what reads them."""

import json
from pathlib import Path
from typing import Any

# For each contender: its label, whether it is ours, and how many times as fast as eager it is on a CPU and on a GPU.
CONTENDERS: dict[str, tuple[str, bool, float | None, float | None]] = {
    "eager": ("eager, as people write it; images resident", False, 1, 1),
    "eager-tuned": ("eager with good habits: logits, fused Adam, no .item()", False, 1.74, 6.2),
    "compile": ("torch.compile, fused Adam", False, 1.66, 9.1),
    "reduce-overhead": ("torch.compile, reduce-overhead", False, None, 24),
    "graph": ("captured graph", True, None, 38),
    "ops": ("fused operators", True, 3.02, 7.4),
    "compile-ops": ("torch.compile, fused operators", True, 2.71, 10.3),
    "graph-ops": ("captured graph, fused operators", True, None, 55),
    "fused-step": ("a step as one operator", True, 4.49, None),
    "jax": ("JAX, jit of lax.scan", False, 2.43, 41),
    "lightning": ("Lightning", False, 0.83, 0.7),
}
EAGER_MS = {"cpu": (7.0, 0.034), "cuda": (1.9, 0.00012)}  # ms per step, and per image
FLOOR_MS = {"cpu": (1.1, 0.0092), "cuda": (0.011, 0.0000078)}
STEP_FLOPS = 6 * (2 * 784 * 400 + 60 * 400) - 2 * 784 * 400
WEIGHTS = 652_824


def spread(median: float, width: float = 0.08) -> list[float]:
    return [median * (1 - width), median, median * (1 + width)]


def entry(suite: str, contender: str, device: str, batch: int | None, ms: float, ratio: float, **more: Any) -> Any:
    label, ours = CONTENDERS.get(contender, ("fused operator", True))[:2]
    info = {"suite": suite, "what": None, "contender": contender, "label": label, "ours": ours, "batch": batch}
    info |= {"shape": None if batch is None else [batch, 784], "precision": "fp32", "device": device, "rounds": 11}
    info |= {"unit": "step", "ms": ms, "seconds": ms / 10, "ratio": spread(ratio, 0 if contender == "eager" else 0.08)}
    info |= {"floor": None, "of_floor": None, "images_per_second": None, "gb_per_second": None}
    info |= {"gflop_per_second": None, "bytes": None, "flops": None, "peak_memory_mb": None, "loss": None}
    info |= {"threads": 2, "flush_denormals": False, "versions": {"python": "3.11.7", "torch": "2.13.0"}}
    info |= {"machine": "AMD EPYC", "revision": "1234abc+", **more}
    names = [suite, info["what"], contender, batch, info["precision"], device]
    return {"name": f"test_{'-'.join(str(n) for n in names if n)}", "group": suite, "stats": {}, "extra_info": info}


def step(contender: str, device: str, precision: str, batch: int, scale: float) -> Any:
    """Return a whole step; contenders that save overhead gain less at larger batches."""
    (fixed, each), floor = EAGER_MS[device], FLOOR_MS[device][0] + FLOOR_MS[device][1] * batch
    eager = fixed + each * batch
    gain = CONTENDERS[contender][2 if device == "cpu" else 3]
    assert gain is not None
    ms = max(fixed / gain + each * batch / (1 + 0.5 * max(gain - 1, 0) ** 0.6), floor * 1.05) / scale
    if precision == "bf16":
        ms, eager, floor = ms * 0.7, eager * 0.7, floor * 0.6
    size = 4 if precision == "fp32" else 2
    details = {"floor": "matrix products", "of_floor": spread(floor / ms, 0.05), "images_per_second": batch / ms * 1e3}
    details |= {"flops": STEP_FLOPS * batch, "bytes": 28 * WEIGHTS + size * batch * 4000, "loss": 112.4}
    details |= {"gflop_per_second": STEP_FLOPS * batch / ms / 1e6}
    details |= {"peak_memory_mb": 30 + 0.02 * batch} if device == "cuda" else {}
    return entry("train_step", contender, device, batch, ms, eager / ms, precision=precision, **details)


def operator(suite: str, what: str, contender: str, batch: int, scale: float) -> Any:
    count = {"forward": 5, "backward": 9, "both": 14}[what] * batch * 784
    gain = {"eager": 1.0, "compile": 1.31, "fused": 1.86 * scale}[contender]
    ms = (0.03 + count / 1.5e7) / gain
    details = {
        "what": what,
        "unit": "call",
        "images_per_second": batch * 1e3 / ms,
        "floor": "copy of as many bytes",
        "of_floor": spread(count / 4e7 / ms),
    }
    details |= {"bytes": count, "flops": count * 4, "gb_per_second": count / ms / 1e6}
    details |= {"gflop_per_second": 4 * count / ms / 1e6, "ours": contender == "fused"}
    return entry(suite, contender, "cpu", batch, ms, gain, **details)


def sample(scale: float = 1.0) -> dict[str, Any]:
    """Return operators, steps on a CPU and a GPU in two precisions, and start-up; ours are `scale` times as fast."""
    benchmarks = [
        step(contender, device, precision, batch, scale if ours else 1.0)
        for contender, (_, ours, *gains) in CONTENDERS.items()
        for device, gain, precisions, batches in (
            ("cpu", gains[0], ("fp32",), (128, 1024, 4096)),
            ("cuda", gains[1], ("fp32", "bf16"), (128, 1024, 4096, 8192)),
        )
        if gain is not None
        for precision in precisions
        for batch in batches
    ]
    benchmarks += [
        operator("elbo", what, contender, batch, scale)
        for what in ("forward", "backward", "both")
        for contender in ("eager", "compile", "fused")
        for batch in (128, 4096)
    ]
    benchmarks.append(entry("time_to_elbo", "eager", "cpu", 128, 71_300, 1, unit="run", seconds=71.3, test_loss=106.8))
    benchmarks.append(entry("startup", "fused-step", "cpu", None, 2100, 1.2, what="first step", unit="call"))
    products = {str(b): STEP_FLOPS * b / (FLOOR_MS["cpu"][0] + FLOOR_MS["cpu"][1] * b) / 1e6 for b in (128, 1024, 4096)}
    floors = {"copy_gb_per_second": 40.0, "products_gflop_per_second": products}
    why = "not installed: pip install 'vae_fast[peers]'"
    return {
        "datetime": "2026-11-22T12:00:00+00:00",
        "machine_info": {"machine": "AMD EPYC", "cpu_capability": "AVX512", "threads": 2, "torch": "2.13.0"},
        "benchmarks": benchmarks,
        "floors": {**floors, "empty_launch_us": None, "empty_graph_node_us": None, "device": "cpu"},
        "not_measured": [
            {"suite": "train_step", "contender": "pythae", "label": "pythae", "batch": batch, "reason": why}
            | {"precision": "fp32", "device": "cpu"}
            for batch in (128, 1024)
        ],
    }


def write(path: Path, content: object) -> str:
    path.write_text(json.dumps(content))
    return str(path)

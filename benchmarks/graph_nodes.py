"""The number of nodes of a captured step, on the null GPU: `make nullgpu ARGS="python -m benchmarks.graph_nodes"`

A small node that waits for the one before it takes 1.3 to 2 us on an H100-class GPU, as others report: at small batches
the nodes determine a step's time. Each setting's step is captured once and its nodes are counted by origin; so are the
rivals'. The counts for this torch go to benchmarks/graph_nodes.md.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

import vae_fast as vf
from benchmarks.contenders.network import D
from benchmarks.contenders.pytorch_baselines import CarefulVAE
from benchmarks.nullgpu import log
from benchmarks.nullgpu.log import Call
from benchmarks.reporting.tables import markdown
from vae_fast.data.sampler import BatchSampler
from vae_fast.kernels.triton import elbo, finish_step, nll_with_gradient, philox, reparameterize
from vae_fast.models.build import new_model
from vae_fast.runtime.compile import compiled
from vae_fast.runtime.plan import make_plan, process_settings
from vae_fast.training import cuda_graphs
from vae_fast.training.engine import Engine
from vae_fast.training.validation import Validation

OURS = {
    name
    for module in (elbo, finish_step, nll_with_gradient, philox, reparameterize)
    for name, value in vars(module).items()
    if isinstance(value, triton.JITFunction)
}
TABLE = Path(__file__).with_suffix(".md")
KINDS = ("products", "ours", "Inductor's", "PyTorch's", "copies")
IMAGES = 60_000


@dataclass(frozen=True)
class Setting:
    """A step of this engine: settings of `vf.Config`, its limit of nodes, and the nodes that it once had, by KINDS."""

    most: int | None = None
    before: tuple[int, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)


def _compiled(precision: str, most: int | None, before: tuple[int, ...], **settings: Any) -> Setting:
    amp_dtype = {} if precision == "fp32" else {"amp_dtype": precision}
    return Setting(most, before, {"compile": True, **amp_dtype, **settings})


# Before: at commit 088c1a6, whose step was a compiled forward, its backward, PyTorch's fused Adam and a GradScaler; the
# same with torch 2.11.0 and 2.14.1 (except 106 instead of 109 with 2.14.1).
SETTINGS = {
    "bf16": _compiled("bf16", 26, (11, 4, 24, 28)),
    "bf16, clip": _compiled("bf16", 26, (11, 4, 24, 33), clip=1.0),
    "bf16, schedules": _compiled("bf16", 26, (), lr_schedule="cosine", lr_warmup=1.0, beta_schedule="linear"),
    "bf16, AdamW": _compiled("bf16", 26, (), optimizer="adamw", weight_decay=0.1),
    "bf16, feed host": _compiled("bf16", 26, (), feed="host"),
    "bf16, deterministic": _compiled("bf16", 29, (11, 4, 24, 70), deterministic=True),
    "bf16, free bits": _compiled("bf16", 32, (11, 4, 26, 28), free_bits=0.1),
    "bf16, dynamic binarization": _compiled("bf16", 32, (11, 5, 24, 28), binarize="dynamic"),
    "bf16, SiLU, two hidden layers": _compiled("bf16", None, (), hidden=(512, 256), activation="silu"),
    "bf16, batch 1024": _compiled("bf16", None, (11, 4, 30, 28), batch_size=1024),
    "bf16, batch 4096": _compiled("bf16", None, (11, 4, 30, 28), batch_size=4096),
    "bf16, eager": Setting(None, (11, 4, 0, 70, 2), {"amp_dtype": "bf16"}),
    "fp16": _compiled("fp16", 28, (11, 4, 24, 37, 2)),
    "fp16, clip": _compiled("fp16", 28, (11, 4, 24, 42, 2), clip=1.0),
    "fp32": _compiled("fp32", 24, (11, 4, 12, 28)),
    "fp32, clip": _compiled("fp32", 24, (11, 4, 12, 33), clip=1.0),
    "fp32, eager": Setting(None, (11, 4, 0, 53, 2), {}),
}
EVALUATIONS: dict[str, tuple[int, tuple[int, ...]]] = {  # images, and the nodes before
    "evaluation, 1,000 images": (1_000, ()),
    "evaluation, 10,000 images": (10_000, (40, 20, 0, 151)),
    "evaluation, 60,000 images": (IMAGES, ()),
}
RIVALS = {  # precision, whether images are gathered, whether gradients are clipped
    f"plain model, {precision}{', gather' if gather else ''}{', clip' if clip else ''}": (precision, gather, clip)
    for precision in ("bf16", "fp32")
    for gather, clip in ((False, False), (True, False), (True, True))
}


def engine(settings: dict[str, Any], together: int = 1) -> Engine:
    """Return an engine of 784-400-20 on 60,000 images of zeros, before its warm-up.

    A graph has `together` steps, or with 0 as many as pay off.
    """
    config = vf.Config(**{"device": "cuda", "cuda_graphs": "on", **settings})
    sampler = BatchSampler(IMAGES, config.batch_size, config.seed)
    plan = replace(make_plan(config)[0], steps_per_graph=together)
    data = torch.zeros(IMAGES, D, dtype=torch.uint8, device="cuda" if plan.feed == "device" else "cpu")
    torch._dynamo.reset()
    return Engine(new_model(config, (1, 28, 28)).cuda(), data, config, plan, sampler.steps_per_epoch)


def step_calls(settings: dict[str, Any]) -> list[Call]:
    """Return the calls of a warm-up, which ends in the capture of one step."""
    config = vf.Config(device="cuda", **settings)
    with process_settings(make_plan(config)[0], config):
        e = engine(settings)
        with log.calls() as found:
            e.warm_up()
    return found


def evaluation_calls(images: int) -> list[Call]:
    data = torch.zeros(images, D, dtype=torch.uint8, device="cuda")
    with log.calls() as found:
        Validation(vf.VAE().cuda(), data, 0, cuda_graphs.capture)
    return found


def rival_calls(precision: str, gather: bool, clip: bool) -> list[Call]:
    """Capture the plain model by hand, with torch.compile, autocast and fused Adam; no schedule, skip or metrics."""
    torch._dynamo.reset()
    model = CarefulVAE().cuda()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True, capturable=True)
    data = torch.zeros(IMAGES, D, dtype=torch.uint8, device="cuda")
    batch, rows = torch.zeros(128, D, device="cuda"), torch.zeros(128, dtype=torch.int64, device="cuda")

    def loss_of(rows: Tensor) -> Tensor:
        return model.loss(data.index_select(0, rows).float() / 255 if gather else batch, precision)

    forward = compiled(loss_of)

    def step() -> None:
        optimizer.zero_grad()
        forward(rows).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    with log.calls() as found:
        cuda_graphs.capture(step)
    return found


def kinds(nodes: Sequence[Call]) -> Counter[str]:
    """Count the nodes by origin."""
    return Counter(map(_kind, nodes))


def _kind(node: Call) -> str:
    if node.kind in ("copy", "fill"):
        return "copies"
    if node.kind == "product":
        return "products"
    name = node.what.partition(" ")[0]
    if name.startswith("triton_"):
        return "Inductor's"
    return "ours" if name in OURS else "PyTorch's"


def counted(name: str) -> Counter[str]:
    """Count the nodes of a setting's step, of an evaluation's graphs together, or of a rival's step."""
    if name in SETTINGS:
        captured = log.graphs(step_calls(SETTINGS[name].settings))[:1]
    elif name in EVALUATIONS:
        captured = log.graphs(evaluation_calls(EVALUATIONS[name][0]))
    else:
        captured = log.graphs(rival_calls(*RIVALS[name]))
    return kinds([node for graph in captured for node in graph])


def section(version: str) -> str:
    rows = []
    print("step, nodes, at most", *KINDS, "before, by kind", sep=", ")
    for name in (*SETTINGS, *EVALUATIONS, *RIVALS):
        found = counted(name)
        setting = SETTINGS.get(name, Setting(before=EVALUATIONS.get(name, (0, ()))[1]))
        before = " + ".join(map(str, setting.before))
        known = [str(setting.most or "-"), *(str(found[kind]) for kind in KINDS)]
        rows.append([name, str(found.total()), *known, str(sum(setting.before) or "-"), before or "-"])
        print(*rows[-1], sep="  ", flush=True)
    header = ["step", "nodes", "at most", *KINDS, "before", "by kind"]
    return "\n".join([f"## {version}", "", *markdown(header, rows, 1), ""])


HEAD = """# Nodes of a captured step

784-400-20-400-784, batch 128 unless said, one step with all that it does: gather, schedules, forward, loss, backward,
clipping, Adam, the test that all is finite, step counter, metrics. The rivals are the plain model by torch.compile,
autocast and fused Adam in one capture, with good habits (logits, one product for both halves of the posterior), but
without schedules, skipping and metrics. Counted on a GPU that is not there (`benchmarks/nullgpu`), which shows launches
and no times. A node is a kernel, a product or a copy; an evaluation's are of all its graphs together.

- at most: the limit that `make nullgpu` holds; - for none
- products: cuBLAS's; ours: `kernels/triton`'s; Inductor's: what torch.compile generates; PyTorch's: all other kernels
- before: of commit 088c1a6 with torch 2.11.0, a constant of the script; by kind: its products, ours, Inductor's,
  PyTorch's and copies. With 2.14.1 it had the same, but 106 with `--deterministic`

    make nullgpu [TORCH=2.11.0] ARGS="python -m benchmarks.graph_nodes"
"""


def counts_of(version: str) -> dict[str, int]:
    """Return the table's counts for a version of torch, by the name of the step."""
    part = TABLE.read_text(encoding="utf-8").partition(f"## torch {version}")[2].partition("\n## ")[0]
    return {name: int(count) for name, count in re.findall(r"^\| ([^|]+?) \| (\d+) \|", part, re.M)}


def main() -> None:
    if not log.is_present():
        raise SystemExit('error: this counts on the null GPU: make nullgpu ARGS="python -m benchmarks.graph_nodes"')
    version = f"torch {torch.__version__}, triton {triton.__version__}"
    text = TABLE.read_text(encoding="utf-8") if TABLE.exists() else ""
    parts = {part.partition("\n")[0]: f"## {part}" for part in re.split(r"^## ", text, flags=re.M)[1:]}
    parts[version] = section(version)
    TABLE.write_text("\n".join([HEAD, *(parts[key].strip() + "\n" for key in sorted(parts))]), encoding="utf-8")


if __name__ == "__main__":
    main()

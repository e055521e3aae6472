"""One process of several: several.py compare FOLDER FLAGS..., or several.py strike STEP SIGNAL FLAGS...

"compare" makes steps, also with an engine that has the whole batch, and saves what both saw and made as FOLDER/RANK.pt;
then it trains with FLAGS, and tries to do so once more, which is a mistake.
"strike" trains with FLAGS; before the step after STEP the second process kills itself with SIGKILL, or sends torchrun
any other SIGNAL, unless torchrun has restarted it.
"""

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vae_fast as vf
import vae_fast.training.steps.autograd
from vae_fast import train
from vae_fast.kernels import AdamState, extension, finish_step_, sample_posterior
from vae_fast.models.build import new_model
from vae_fast.objectives import elbo
from vae_fast.runtime.distributed import SINGLE_PROCESS, ProcessGroup, join
from vae_fast.runtime.plan import make_plan
from vae_fast.training import engine
from vae_fast.training.validation import Validation

BATCH, STEPS_PER_EPOCH = 33, 50  # a batch size that two processes cannot divide evenly
CASES: dict[str, tuple[int, dict[str, Any]]] = {  # steps and settings
    "plain": (100, {}),
    "dynamic": (3, {"binarize": "dynamic", "clip": 1.0}),
    "free_bits": (3, {"free_bits": 0.008}),
    "fp16": (20, {"amp_dtype": "fp16"}),
    "compiled": (3, {"free_bits": 0.008, "compile": True}),
    "nan": (3, {}),
    "conv": (3, {"network": "conv", "network_options": {"width": 4}, "conditional": True}),
    "vamp": (3, {"prior": "vamp", "components": 9, "objective": "iwae", "samples": 2, "compile": True}),
    "fused": (100, {"step": "fused"}),
    "fused_bf16": (3, {"step": "fused", "amp_dtype": "bf16"}),
    "fused_dynamic": (3, {"step": "fused", "binarize": "dynamic", "clip": 1.0}),
}
if not extension.load():
    CASES = {name: case for name, case in CASES.items() if not name.startswith("fused")}
DIGITS, LABELS = vf.load_images("digits").pixels.flatten(1), vf.load_images("digits").labels


def steps(group: ProcessGroup, name: str) -> dict[str, Any]:
    """Return what the steps of a case saw and made."""
    count, settings = CASES[name]
    settings = {"step": "autograd", **settings}  # by default autograd, of which the test can observe more
    hidden = {} if name == "conv" else {"hidden": (16,)}
    config = vf.Config(**hidden, latent=4, device="cpu", batch_size=BATCH, seed=0, **settings)
    initial = replace(config, seed=group.rank)  # all processes receive the first one's parameters
    classes, labels = (10, LABELS) if config.conditional else (0, None)
    images = DIGITS if name != "nan" else (DIGITS / 255).index_fill_(0, torch.tensor(40), float("nan"))
    model, plan = new_model(initial, (1, 28, 28), classes), make_plan(config)[0]
    e = engine.Engine(model, images, config, plan, STEPS_PER_EPOCH, labels=labels, group=group)
    e.warm_up()
    seen: dict[str, list[Tensor]] = {"images": [], "noise": [], "gradients": []}

    def draw(stats: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        seen["noise"].append(sample_posterior(torch.zeros_like(stats), *args, **kwargs)[0])
        return sample_posterior(stats, *args, **kwargs)

    e.model.encoder.register_forward_pre_hook(lambda module, inputs: seen["images"].append(inputs[0]))

    def finish(adam: AdamState, gradients: Sequence[Tensor], *args: Any, **kwargs: Any) -> None:
        seen["gradients"].append(torch.cat([g.float().flatten() for g in gradients]))
        finish_step_(adam, gradients, *args, **kwargs)

    vae_fast.training.steps.autograd.finish_step_ = finish
    elbo.sample_posterior = draw
    for step in range(count):
        if step % STEPS_PER_EPOCH == 0:
            generator = torch.Generator().manual_seed(step)
            order = torch.randint(0, 40, (STEPS_PER_EPOCH, BATCH), generator=generator)
            if name == "nan":
                order[1, -1] = 40  # only one process has it
            e.begin_epoch(order)
        e.advance(1)
    elbo.sample_posterior, vae_fast.training.steps.autograd.finish_step_ = sample_posterior, finish_step_
    return {
        **{key: torch.stack(values) for key, values in seen.items() if values},
        "parameters": torch.cat([p.detach().flatten() for p in e.model.parameters()]),
        "terms": e.step_metrics.latest(count, count),
        "evaluation": torch.tensor(list(Validation(e.model, DIGITS[:101], 0, group=group, labels=labels)().values())),
    }


def calls_until_agreed(group: ProcessGroup) -> int:
    """Return how many times this process asked before all agreed on a signal, which only the last one receives."""
    for call in range(1000):
        if number := group.agreed_signal([signal.SIGTERM] if call >= 40 and group.rank == group.size - 1 else []):
            assert number == signal.SIGTERM
            return call
    return -1


def compare(folder: str) -> None:
    group = join()
    found: dict[str, Any] = {"agreed": calls_until_agreed(group)}
    for name in CASES:
        found[name] = steps(group, name), steps(SINGLE_PROCESS, name) if group.is_rank0 else None
    torch.save(found, Path(folder, f"{group.rank}.pt"))


def strike(step: int, number: int) -> None:
    advance = engine.Engine.advance

    def wrapped(self: engine.Engine, count: int, batches: Tensor | None = None) -> None:
        if self.step_number == step and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid() if number == signal.SIGKILL else os.getppid(), number)
        advance(self, count, batches)

    engine.Engine.advance = wrapped


if sys.argv[1] == "compare":
    compare(sys.argv[2])
    assert train.main(sys.argv[3:]) == 0
    sys.exit(train.main(sys.argv[3:]))
else:
    strike(int(sys.argv[2]), getattr(signal, sys.argv[3]))
    sys.exit(train.main(sys.argv[4:]))

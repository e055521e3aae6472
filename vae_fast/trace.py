"""Follow one image through a trained model, and the model through its training: every shape, every value.

raw pixels -> [0, 1] -> encoder -> mu, logvar -> z = mu + sigma eps -> decoder -> image; then the losses epoch by epoch,
and the layers with their parameters, floating-point operations and times.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vae_fast.analysis.diagnosis import nats, observed
from vae_fast.analysis.trained import Selection, Trained
from vae_fast.artifacts import strict_json
from vae_fast.cli import numbers, run_arguments
from vae_fast.cli.exit_codes import exit_code
from vae_fast.config import STANDARDIZED
from vae_fast.data.transforms import floats, pixel_kind
from vae_fast.kernels import kl_per_dimension, streams
from vae_fast.models import mlp
from vae_fast.models.prior import log_density
from vae_fast.objectives.noise import log_posterior, standard_normal
from vae_fast.reporting import terminal
from vae_fast.runtime import pytorch_state

CALLS = 50  # timed calls of each layer
SHOWN = 8  # values of a vector that are printed


@pytorch_state.as_it_starts()
@torch.inference_mode()
def trace(trained: Trained, selection: Selection, index: int = 0, seed: int = 0) -> dict[str, Any]:
    """Return everything that the command shows, as values that JSON can hold.

    Returns:
        model; image: index, label, data, pixels; loss: nll, kl and loss of this image, in nats; stages: raw,
        normalised, mu, logvar, eps, z, decoded, each with name, shape, dtype and values ([H, W] or [C, H, W] for
        images, [Z] for latents); training: the run's records, each with its `observation`; layers: name, kind, in, out
        (shapes), parameters, flops (for one image: of products and convolutions as PyTorch's counter counts them, two
        for a multiplication with its addition; of any other layer one for each value that it gives) and microseconds
        (median, for one image).
    """
    raw = selection.pick([index])  # [1, C, H, W]
    model = trained.model
    x = model.standardize(raw.to(trained.device)).cpu() if model.is_standardized else floats(raw)
    labels = selection.conditions_of([index])
    given = None if labels is None else labels.to(trained.device)
    mu, logvar = model.encode(raw.flatten(1).to(trained.device), given)
    eps = standard_normal(1, model.latent, seed, 0, row_offset=index, stream=streams.EVALUATION, device=trained.device)
    z = mu + (0.5 * logvar).exp() * eps
    logits, seen = model.logits(z, given), model.standardize(raw.to(trained.device))
    nll, mixture = model.likelihood.nll(logits, seen).item(), model.mixture()
    divergence = log_posterior(eps, logvar) - log_density(z, mixture)
    if mixture is None:
        divergence = kl_per_dimension(mu, logvar).sum(-1)
    kl = divergence.item()
    decoded = model.likelihood.mean(logits).view_as(x)  # of a table standardized, like x
    stages = {
        "raw": _plane(raw),
        "normalised": _plane(x),
        "mu": mu[0],
        "logvar": logvar[0],
        "eps": eps[0],
        "z": z[0],
        "decoded": _plane(decoded),
    }
    return {
        "model": trained.title,
        "image": {
            "data": selection.title,
            "index": index,
            "label": selection.label(index) or None,
            "pixels": selection.treatment,
        },
        "stages": [
            {"name": name, "shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch."), "values": t.tolist()}
            for name, t in stages.items()
        ],
        "loss": {"nll": nll, "kl": kl, "loss": nll + kl},
        "training": observed(trained.records()),
        "layers": list(layers(trained, raw, given)),
    }


def _plane(image: Tensor) -> Tensor:
    """Return an image [1, C, H, W] as [H, W] if it has a single channel, else as [C, H, W]."""
    return image[0, 0] if image.shape[1] == 1 else image[0]


def layers(trained: Trained, image: Tensor, labels: Tensor | None = None) -> Iterator[dict[str, Any]]:
    """Yield the measurements of each layer on one image [1, ...], in the order in which the layers are called."""
    called: list[tuple[str, nn.Module, tuple[Tensor, ...]]] = []

    def note(name: str, module: nn.Module) -> Any:
        return module.register_forward_pre_hook(lambda _, inputs: called.append((name, module, inputs)))

    leaves = [(name, m) for name, m in trained.model.named_modules() if not list(m.children())]
    handles = [note(name, m) for name, m in leaves if not isinstance(m, nn.Sequential)]  # skip an empty one
    try:
        trained.model(image.flatten(1).to(trained.device), 0, 0, labels=labels)
    finally:
        for handle in handles:
            handle.remove()
    for name, module, inputs in called:
        y = module(*inputs)
        if not isinstance(y, Tensor):  # a recurrent layer: none of PyTorch's decoders of images is one
            continue
        yield {
            "name": name,
            "kind": type(module).__name__,
            "in": list(inputs[0].shape),
            "out": list(y.shape),
            "parameters": sum(p.numel() for p in module.parameters()),
            "flops": _flops(module, inputs) or y.numel(),
            "microseconds": _median_time(module, inputs) * 1e6,
        }


def _flops(module: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Return what PyTorch's counter counts; it knows PyTorch's own products and convolutions, and nothing else."""
    known = module.plain().to(inputs[0].device) if isinstance(module, mlp.Linear) else module
    with FlopCounterMode(display=False) as counter:
        known(*inputs)
    return int(counter.get_total_flops())


def _median_time(module: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    def once() -> float:
        began = time.perf_counter()
        module(*inputs)
        if inputs[0].is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began

    return statistics.median(once() for _ in range(CALLS))


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that show the trace to people."""
    stages = {stage["name"]: stage for stage in found["stages"]}
    values = {name: torch.tensor(stage["values"], dtype=torch.float32) for name, stage in stages.items()}
    image = found["image"]
    label = f", a {image['label']}" if image["label"] else ""
    yield f"{found['model']}: image {image['index']} of {image['data']}{label}"
    yield f"\n1  raw pixels  {_shape(stages['raw'])}  {image['pixels']}{_drawn(values['raw'])}"
    yield from terminal.image(_grey(values["normalised"]))
    is_table = image["pixels"] == pixel_kind(STANDARDIZED, ())
    yield f"\n2  {'standardized' if is_table else 'normalised to [0, 1]'}  {_shape(stages['normalised'])}"
    if is_table:
        yield "   each column less its mean, over its standard deviation"
    else:
        yield _normalised(values["raw"], values["normalised"], stages["raw"]["dtype"])
    yield f"\n3  encoder: mean and log variance of q(z | x)  {_shape(stages['mu'])} each"
    yield from (f"   {name:<7} {_vector(values[name])}" for name in ("mu", "logvar"))
    yield f"\n4  sampling: z = mu + sigma * eps, sigma = exp(logvar / 2)  {_shape(stages['z'])}"
    yield from (f"   {name:<7} {_vector(values[name])}" for name in ("eps", "z"))
    mu, logvar, eps, z = (values[name][0].item() for name in ("mu", "logvar", "eps", "z"))
    yield f"   the first: {mu:.4f} + exp({logvar:.4f} / 2) * {eps:.4f} = {z:.4f}"
    decoded = values["decoded"]
    span = f"from {decoded.min():.3f} to {decoded.max():.3f}"
    yield f"\n5  decoder: means of the pixels, {span}  {_shape(stages['decoded'])}  the input | decoded"
    left, right = (terminal.image(_grey(values[name]), double=False) for name in ("normalised", "decoded"))
    yield from terminal.side_by_side(left, right)
    yield _loss(found["loss"])
    yield from _training(found["training"])
    yield from _layers(found["layers"])


def _grey(image: Tensor) -> Tensor:
    """Return an image [H, W] or [C, H, W] as [H, W], for a drawing."""
    return image if image.dim() == 2 else image.mean(0)


def _drawn(image: Tensor) -> str:
    return "" if image.dim() == 2 else f", drawn as the mean of {len(image)} channels"


def _loss(loss: dict[str, float]) -> str:
    return (
        f"   loss of this image: {loss['loss']:.2f} nats = nll {loss['nll']:.2f}, -log p(x | z) of its pixels, "
        f"+ kl {loss['kl']:.2f}, KL(q(z | x) || p(z))"
    )


def _normalised(raw: Tensor, x: Tensor, dtype: str) -> str:
    if dtype != "uint8":
        return "   as they are: float pixels"
    position = int((raw - 150).abs().argmin())  # the pixel closest to 150, the well-known example
    place = ", ".join(str(int(i)) for i in torch.unravel_index(torch.tensor(position), raw.shape))
    return f"   pixel [{place}]: {raw.flatten()[position]:.0f} / 255 = {x.flatten()[position]:.3f}"


def _training(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    if not records:
        return
    yield "\ntraining: train loss, nats per image"
    losses = [record["train_loss"] for record in records]
    if any(loss is not None for loss in losses):
        yield from terminal.chart(losses)
    yield f"   {'epoch':>5} {'loss':>8} {'nll':>8} {'kl':>7} {'test':>8}  observation"
    for record in records:
        loss, nll, kl = (nats(record.get(f"train_{key}")) for key in ("loss", "nll", "kl"))
        test = nats(record.get("test_loss"))
        yield f"   {record['epoch']:>5} {loss:>8} {nll:>8} {kl:>7} {test:>8}  {record['observation']}"


def _layers(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "\nlayers, on one image: FLOPs are additions and multiplications, us the median time in microseconds"
    names, kinds, shapes = (
        max((len(text(layer)) for layer in found), default=0)
        for text in (lambda x: x["name"], lambda x: x["kind"], lambda x: max(_size(x["in"]), _size(x["out"]), key=len))
    )
    names, kinds, shapes = max(names, len("together")), max(kinds, len("kind")), max(shapes, len("out"))
    yield (
        f"   {'layer':<{names}} {'kind':<{kinds}} {'in':>{shapes}} {'out':>{shapes}} {'parameters':>11} "
        f"{'FLOPs':>11} {'us':>7}"
    )
    for layer in found:
        yield (
            f"   {layer['name']:<{names}} {layer['kind']:<{kinds}} {_size(layer['in']):>{shapes}} "
            f"{_size(layer['out']):>{shapes}} {layer['parameters']:>11,} {layer['flops']:>11,} "
            f"{layer['microseconds']:>7.1f}"
        )
    parameters, flops = (sum(layer[key] for layer in found) for key in ("parameters", "flops"))
    yield f"   {'together':<{names}} {'':<{kinds}} {'':>{shapes}} {'':>{shapes}} {parameters:>11,} {flops:>11,}"


def _size(shape: Sequence[int]) -> str:
    """Return the shape of what belongs to one image, such as 32x14x14."""
    return "x".join(map(str, shape[1:])) or "1"


def _shape(stage: dict[str, Any]) -> str:
    return f"[{', '.join(map(str, stage['shape']))}] {stage['dtype']}"


def _vector(values: Tensor) -> str:
    shown = " ".join(f"{value:7.3f}" for value in values[:SHOWN].tolist())
    return shown + (f"  ... {len(values) - SHOWN} more" if len(values) > SHOWN else "")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = run_arguments.parser("trace", __doc__, "--index 7")
    parser.add_argument("--index", type=numbers.whole_number, default=0, help="index of the image (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON, with all values, instead")
    return exit_code(lambda: _run(parser.parse_args(arguments)))


def _run(chosen: argparse.Namespace) -> None:
    trained, selection = run_arguments.opened(chosen)
    found = trace(trained, selection, chosen.index, trained.seed)
    print(strict_json.dumps(found, indent=1) if chosen.json else "\n".join(lines(found)))


if __name__ == "__main__":
    sys.exit(main())

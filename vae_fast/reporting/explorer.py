"""The explorer of latents in the report: an MLP's decoder runs in the page, that of other networks is drawn ahead."""

import base64
import io
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vae_fast.analysis import generate, latent_paths
from vae_fast.analysis.latents import Latents
from vae_fast.artifacts import strict_json
from vae_fast.models import mlp
from vae_fast.models.vae import VAE
from vae_fast.reporting import pictures, webpage

SLIDERS, REACH = 12, 3  # number of sliders, or of dimensions drawn, and how far each goes from 0
OUTERMOST = 0.0015  # of a prior of several normals: the share beyond each end, that of N(0, 1) beyond REACH
EMBEDDED_DRAWS = 100  # of such a prior, for the page's random latents
MOST_DRAWN = 4  # starts that are drawn ahead
EXACT = 1 / 255  # largest error of a pixel in half precision; above it the page holds single precision


class Explorer(NamedTuple):
    """The content of the section, and the elements of the page that run it, none if it is drawn ahead."""

    parts: Sequence[str]
    scripts: Sequence[str] = ()


class Starts(NamedTuple):
    """Latents [n, Z] to start from, their names, and their labels, int64 [n], if the model has classes."""

    z: Tensor
    names: Sequence[str]
    labels: Tensor | None


def explorer(model: VAE, found: Latents, starts: Starts, shape: Sequence[int]) -> Explorer:
    """Return the explorer. shape: that of an image, (C, H, W)."""
    if model.network != "mlp" or model.classes or model.is_standardized:
        return Explorer(list(_drawn(model, found, starts, shape)))
    held = webpage.data("model", strict_json.dumps(_embedded(model, starts, shape)))
    return Explorer([_sliders(model, found, starts)], [held, webpage.script("explorer.js")])


def grid(model: VAE, rows: Sequence[Tensor], description: str) -> str:
    """Return rows of images [n, C, H, W] as a picture for the page."""
    content = io.BytesIO()
    pictures.save_grid(rows, content, model=model)
    return webpage.picture(content.getvalue(), description)


def _drawn(model: VAE, found: Latents, starts: Starts, shape: Sequence[int]) -> Iterator[str]:
    dimensions = found.most_active()[:SLIDERS]
    listed = ", ".join(f"z{j} ({found.kl[j]:.2f} nats)" for j in dimensions)
    yield webpage.note(
        f"From each start one dimension a row moves through {_span(model)}, the others stay: {listed}. The decoder "
        f"of {model.title} cannot run in this page, so these are drawn ahead."
    )
    values = torch.stack([torch.linspace(low, high, pictures.COLUMNS) for low, high in _reach(model).tolist()])
    for i, (name, z) in enumerate(zip(starts.names[:MOST_DRAWN], starts.z, strict=False)):
        label = None if starts.labels is None else starts.labels[i]
        images = generate.decode(model, latent_paths.sweeps(z, dimensions, values), label)
        drawing = grid(model, [row.view(-1, *shape) for row in images], f"Traversals from {name}")
        yield drawing if i == 0 else webpage.folded(f"from {name}", drawing)


def _reach(model: VAE) -> Tensor:
    """Return how far each dimension goes, [Z, 2]: from -REACH to REACH, or as far as a prior of several normals."""
    if model.prior.is_normal:
        return torch.tensor([-REACH, REACH], dtype=torch.float32).expand(model.latent, 2)
    return generate.prior_quantiles(model, 2, outermost=OUTERMOST)


def _span(model: VAE) -> str:
    return f"-{REACH} to {REACH}" if model.prior.is_normal else f"{1 - 2 * OUTERMOST:.1%} of the prior"


def _sliders(model: VAE, found: Latents, starts: Starts) -> str:
    reach = _reach(model).tolist()
    rows = "".join(
        f"<label><span>z{j} ({found.kl[j]:.2f} nats)</span>"
        f'<input type="range" min="{reach[j][0]:g}" max="{reach[j][1]:g}" step="0.01" data-dimension="{j}">'
        f"<output></output></label>"
        for j in found.most_active()[:SLIDERS]
    )
    first, *others = (f'<button type="button" data-start="{i}">{name}</button>' for i, name in enumerate(starts.names))
    return (
        webpage.note("The decoder runs in this page. The dimensions that carry most have a slider each.")
        + f'<p>{first}<button type="button" id="random">random</button>{"".join(others)}</p>'
        + '<div class="explorer"><canvas id="picture" width="1" height="1" role="img" '
        + 'aria-label="The image that the decoder makes of the latents"></canvas>'
        + f'<div class="sliders">{rows}</div></div>'
        + "<noscript>The explorer needs JavaScript.</noscript>"
    )


def _embedded(model: VAE, starts: Starts, shape: Sequence[int]) -> dict[str, Any]:
    """Return the decoder and some latents for the page's script; weights are [out, in], then biases, layer by layer."""
    decoder = model.decoder
    assert isinstance(decoder, mlp.Decoder)
    layers = decoder.layers()
    flat = torch.cat([p.detach().flatten().float().cpu() for layer in layers for p in (layer.weight, layer.bias)])
    half = flat.half()
    precise = half_is_enough(model, starts.z)
    return {
        "widths": [model.latent, *(layer.out_features for layer in layers)],
        "activation": model.activation,
        "likelihood": model.likelihood.name,
        "shape": list(shape),
        "precision": "float16" if precise else "float32",
        "weights": base64.b64encode((half if precise else flat).numpy().tobytes()).decode("ascii"),
        "starts": [{"z": z.tolist()} for z in starts.z],
        "draws": [] if model.prior.is_normal else generate.prior(model, EMBEDDED_DRAWS, 0).tolist(),
    }


def half_is_enough(model: VAE, starts: Tensor) -> bool:
    """Return whether no pixel changes by more than EXACT when the decoder's weights are rounded to half precision.

    The images compared are decoded from the starts, from draws of the prior, and from both ends of every slider.
    """
    rounded = VAE(**model.hyperparameters)
    rounded.load_state_dict({name: t.cpu().half().float() for name, t in model.state_dict().items()})
    ends = latent_paths.sweeps(generate.prior_mean(model), range(model.latent), _reach(model)).flatten(0, 1)
    z = torch.cat([starts, generate.prior(model, 64, 0), ends])
    return bool((generate.decode(model, z) - generate.decode(rounded, z)).abs().max() <= EXACT)

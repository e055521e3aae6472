"""Write a page about a trained model: losses, pictures, a map of its latents, and sliders that decode in the browser.

One HTML file that needs no network and no server: RUN/report.html.
"""

import argparse
import base64
import io
import math
import statistics
import string
import sys
from collections.abc import Iterator, Sequence
from html import escape
from importlib import resources
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from vae_fast.analysis import generate, latent_paths, latents
from vae_fast.analysis.diagnosis import nats, observed
from vae_fast.analysis.trained import Selection, Trained
from vae_fast.artifacts import atomic, strict_json
from vae_fast.cli import output, run_arguments
from vae_fast.cli.exit_codes import exit_code
from vae_fast.data.transforms import pixel_kind
from vae_fast.evaluate import evaluate
from vae_fast.models.vae import VAE
from vae_fast.reporting import pictures, webpage
from vae_fast.runtime import pytorch_state

SLIDERS, REACH = 12, 3  # number of sliders, and how far each goes from 0
MAPPED = 2000  # images on the map
STARTS = 6  # images from which the explorer can start
EXACT = 1 / 255  # largest error of a pixel in half precision; above it the page holds single precision


@pytorch_state.as_it_starts()
def report(trained: Trained, selection: Selection) -> str:
    """Return the page as a string of HTML."""
    model = trained.model
    found = latents.survey(model, selection.pixels.flatten(1))
    shown = selection.pick(range(min(48, len(selection.pixels))))
    sections = [
        _summary(trained, selection),
        *_losses(trained),
        webpage.section("Reconstructions", _reconstructions(trained, shown), _drawn_as(trained)),
        webpage.section("Samples", _samples(trained)),
        webpage.section("Traversals", *_traversals(trained, found)),
        webpage.section("Latent map", *_map(trained, selection)),
        webpage.section("Latent explorer", _explorer(found, min(STARTS, len(shown)))),
        *_settings(trained),
    ]
    assets = resources.files("vae_fast.reporting") / "assets"
    title = f"{model.widths}: {selection.data}"
    return string.Template((assets / "report.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        lead=escape(f"{trained.title}; {selection.title}; losses in nats per image"),
        style=(assets / "report.css").read_text(encoding="utf-8"),
        sections="\n".join(sections),
        model=strict_json.dumps(_embedded(model, generate.means(model, shown[:STARTS]), trained.image_shape)),
        script=(assets / "explorer.js").read_text(encoding="utf-8"),
    )


def _summary(trained: Trained, selection: Selection) -> str:
    found = evaluate(trained, selection, seed=trained.seed)
    facts = {
        f"{selection.part} loss": nats(found["loss"]),
        "nll": nats(found["nll"]),
        "KL": nats(found["kl"]),
        **({} if (above := found["nll_minus_entropy"]) is None else {"nll - H(x)": nats(above)}),
        **({} if (bits := found["bits_per_dimension"]) is None else {"bits per value": f"{bits:.3f}"}),
        "active units": f"{found['active_units']} of {trained.model.latent}",
        "parameters": f"{sum(p.numel() for p in trained.model.parameters()):,}",
    }
    note = webpage.note(f"Nats per image, {selection.treatment}, {trained.model.likelihood.title} likelihood.")
    return webpage.section("Summary", webpage.facts(facts), note)


def _losses(trained: Trained) -> Iterator[str]:
    records = trained.records()
    if not records or trained.config is None:
        return
    names = {"train": "train_loss", "valid": "valid_loss", "test": "test_loss"}
    series = {name: [(r["epoch"], r[key]) for r in records if r.get(key) is not None] for name, key in names.items()}
    series = {name: points for name, points in series.items() if points}
    pixels = pixel_kind(trained.config.binarize, trained.image_shape)
    curve = webpage.curves(series, f"Loss by epoch, nats per image, {pixels}") if series else ""
    keys = [f"{part}_{key}" for part in series for key in ("loss", "nll", "kl")]
    observations = observed(records)
    rows = [
        [str(r["epoch"]), *(nats(r.get(key)) for key in keys), nats(r.get("seconds")), r["observation"]]
        for r in observations
    ]
    head = ["epoch", *(key.replace("_", " ") for key in keys), "seconds", "observation"]
    seconds = sum(r.get("seconds") or 0 for r in records)
    speed = statistics.median(r.get("images_per_second") or 0.0 for r in records)
    yield webpage.section(
        "Training",
        curve,
        webpage.note(
            f"{observations[-1]['observation']}; {len(records)} epochs, {seconds:.2f} s of training steps, "
            f"{speed:,.0f} images/s (median epoch)"
        ),
        webpage.folded("every epoch", webpage.table("losses by epoch", head, rows, numbers=True)),
    )


def _settings(trained: Trained) -> Iterator[str]:
    recorded = trained.recorded
    tables = {k.capitalize(): v for k, v in recorded.items() if isinstance(v, dict)}
    if settings := {k: v for k, v in recorded.items() if not isinstance(v, dict)}:
        tables = {"Settings": settings, **tables}
    for title, table in tables.items():
        rows = [[name, _shown(name, value)] for name, value in table.items()]
        yield webpage.section(title, webpage.table(title, [], rows))


def _shown(name: str, value: Any) -> str:
    if name in ("data", "data_root", "labels"):  # where files are on this machine is private
        return PurePath(value).name
    return value if isinstance(value, str) else strict_json.dumps(value)


def _reconstructions(trained: Trained, images: Tensor) -> str:
    decoded = generate.reconstruct(trained.model, images)
    rows = pictures.below_each_other(images, decoded, pictures.COLUMNS)
    return _grid(rows, "Images, and below each row its reconstructions: the decoded means of their posteriors")


def _drawn_as(trained: Trained) -> str:
    remark = pictures.drawn_as(trained.image_shape[0])
    return webpage.note(f"All pictures on this page are {remark}.") if remark else ""


def _samples(trained: Trained) -> str:
    images = generate.sample(trained.model, pictures.COLUMNS * pictures.SAMPLE_ROWS, 0).view(-1, *trained.image_shape)
    return _grid(images.split(pictures.COLUMNS), "Images decoded from draws of N(0, I)")


def _traversals(trained: Trained, found: latents.Latents) -> Iterator[str]:
    dimensions = found.most_active()[:SLIDERS]
    z = latent_paths.sweeps(torch.zeros(trained.model.latent), dimensions, latent_paths.quantiles(pictures.COLUMNS))
    yield webpage.note(
        "Each row sweeps one latent dimension from the prior's 2nd to its 98th percentile, the others at 0."
    )
    for j, row in zip(dimensions, generate.decode(trained.model, z), strict=True):
        yield _grid([row.view(-1, *trained.image_shape)], f"z{j}: {found.kl[j]:.2f} nats")


def _grid(rows: Sequence[Tensor], description: str) -> str:
    content = io.BytesIO()
    pictures.save_grid(rows, content)
    return webpage.picture(content.getvalue(), description)


def _map(trained: Trained, selection: Selection) -> Iterator[str]:
    """Yield a drawing of the posterior means in the plane of their two largest principal components."""
    count = min(MAPPED, len(selection.pixels))
    points = generate.means(trained.model, selection.pixels[:count].to("cpu")).double()
    points = points - points.mean(0)
    _, spread, directions = torch.linalg.svd(points, full_matrices=False)
    plane = points @ directions[:2].T
    share = float(spread[:2].square().sum() / spread.square().sum())
    held = f", which hold {share:.0%} of their variance" if math.isfinite(share) else ": they do not vary"
    labels = None if selection.labels is None else selection.labels[:count].tolist()
    coloured = ", each drawn as its label" if labels else ""
    text = f"Posterior means of {count:,} images along their first two principal components{held}{coloured}"
    flat = torch.nn.functional.pad(plane, (0, 2 - plane.shape[1]))  # if there is a single latent dimension
    yield webpage.scatter([(x, y) for x, y in flat.tolist()], labels, text)


def _explorer(found: latents.Latents, starts: int) -> str:
    rows = "".join(
        f"<label><span>z{j} ({found.kl[j]:.2f} nats)</span>"
        f'<input type="range" min="{-REACH}" max="{REACH}" step="0.01" data-dimension="{j}"><output></output></label>'
        for j in found.most_active()[:SLIDERS]
    )
    buttons = "".join(f'<button type="button" data-start="{i + 1}">image {i}</button>' for i in range(starts))
    return (
        webpage.note("The decoder runs in this page. The dimensions that carry most have a slider each.")
        + '<p><button type="button" data-start="0">prior mean</button>'
        + f'<button type="button" id="random">random</button>{buttons}</p>'
        + '<div class="explorer"><canvas id="picture" width="1" height="1" role="img" '
        + 'aria-label="The image that the decoder makes of the latents"></canvas>'
        + f'<div class="sliders">{rows}</div></div>'
        + "<noscript>The explorer needs JavaScript.</noscript>"
    )


def _embedded(model: VAE, means: Tensor, shape: Sequence[int]) -> dict[str, Any]:
    """Return the decoder and some latents for the page's script; weights are [out, in], then biases, layer by layer."""
    layers = model.decoder.layers()
    flat = torch.cat([p.detach().flatten().float().cpu() for layer in layers for p in (layer.weight, layer.bias)])
    half = flat.half()
    precise = _half_is_enough(model, means)
    return {
        "widths": [model.latent, *(layer.out_features for layer in layers)],
        "activation": model.activation,
        "likelihood": model.likelihood.name,
        "shape": list(shape),
        "precision": "float16" if precise else "float32",
        "weights": base64.b64encode((half if precise else flat).numpy().tobytes()).decode("ascii"),
        "starts": [{"z": z.tolist()} for z in (torch.zeros(model.latent), *means)],
    }


def _half_is_enough(model: VAE, means: Tensor) -> bool:
    """Return whether no pixel changes by more than EXACT when the decoder's weights are rounded to half precision.

    The images compared are decoded from the starts, from draws of the prior, and from both ends of every slider.
    """
    rounded = VAE(**model.hyperparameters)
    rounded.load_state_dict({name: t.cpu().half().float() for name, t in model.state_dict().items()})
    ends = REACH * torch.eye(model.latent)
    z = torch.cat([means, generate.prior(model, 64, 0), ends, -ends])
    return bool((generate.decode(model, z) - generate.decode(rounded, z)).abs().max() <= EXACT)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = run_arguments.parser("report", __doc__, "", out="a file for the page (default: RUN/report.html)")
    return exit_code(lambda: _run(parser.parse_args(arguments)))


def _run(chosen: argparse.Namespace) -> None:
    trained, selection = run_arguments.opened(chosen)
    out = output.file_place(trained, chosen.out, f"report{selection.suffix}.html")
    atomic.replace(out, report(trained, selection).encode())
    print(f"report  {out}")


if __name__ == "__main__":
    sys.exit(main())

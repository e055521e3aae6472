"""Write a page about a trained model: losses, pictures, a map of its latents, and sliders that decode in the browser.

One HTML file that needs no network and no server: RUN/report.html.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from vae_fast.analysis import generate, latent_paths, latents
from vae_fast.analysis.comparison import PATHS
from vae_fast.analysis.diagnosis import nats, observed
from vae_fast.analysis.trained import Selection, Trained
from vae_fast.artifacts import atomic, strict_json
from vae_fast.cli import output, run_arguments
from vae_fast.cli.exit_codes import exit_code
from vae_fast.data.transforms import pixel_kind
from vae_fast.evaluate import evaluate
from vae_fast.models.vae import VAE
from vae_fast.reporting import charts, pictures, webpage
from vae_fast.reporting.explorer import SLIDERS, Starts, explorer, grid
from vae_fast.runtime import pytorch_state

MAPPED = 2000  # images on the map
MOST_SHOWN = 48  # reconstructions
STARTS = 6  # images from which the explorer can start


@pytorch_state.as_it_starts()
def report(trained: Trained, selection: Selection) -> str:
    """Return the page as a string of HTML."""
    model = trained.model
    found = latents.survey(model, selection.as_seen(model), selection.conditions)
    count = min(MOST_SHOWN, len(selection.pixels))
    shown, labels = selection.pick(range(count)), selection.conditions_of(range(count))
    explored = explorer(model, found, _starts(model, selection, shown[:STARTS]), trained.image_shape)
    sections = [
        _summary(trained, selection),
        *_losses(trained),
        webpage.section("Reconstructions", _reconstructions(trained, shown, labels), _drawn_as(trained)),
        webpage.section("Samples", _samples(trained)),
        webpage.section("Traversals", *_traversals(trained, found)),
        webpage.section("Latent map", *_map(trained, selection)),
        webpage.section("Latent explorer", *explored.parts),
        *_settings(trained),
    ]
    title = f"{model.title}: {selection.data}"
    lead = f"{trained.title}; {selection.title}; losses in nats per image"
    return webpage.page(title, lead, sections, *explored.scripts)


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
    pixels = pixel_kind(trained.config.treatment, trained.image_shape)
    curve = charts.curves(series, f"Loss by epoch, nats per image, {pixels}") if series else ""
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
    if name in ("name", *PATHS):  # where files are on this machine is private
        return PurePath(value).name
    return value if isinstance(value, str) else strict_json.dumps(value)


def _starts(model: VAE, selection: Selection, images: Tensor) -> Starts:
    """Return the prior's mean and the posterior means of the first images, with their labels; of the mean, class 0."""
    labels = selection.conditions_of(range(len(images)))
    z = torch.cat([generate.prior_mean(model)[None], generate.means(model, images, labels)])
    names = ["prior mean", *(f"image {i}" for i in range(len(images)))]
    return Starts(z, names, None if labels is None else torch.cat([torch.zeros(1, dtype=torch.int64), labels]))


def _reconstructions(trained: Trained, images: Tensor, labels: Tensor | None) -> str:
    decoded = generate.reconstruct(trained.model, images, labels)
    rows = pictures.below_each_other(images, decoded, pictures.COLUMNS)
    return grid(
        trained.model, rows, "Images, and below each row its reconstructions: the decoded means of their posteriors"
    )


def _drawn_as(trained: Trained) -> str:
    remark = pictures.drawn_as(trained.image_shape[0])
    return webpage.note(f"All pictures on this page are {remark}.") if remark else ""


def _samples(trained: Trained) -> str:
    labels = pictures.sampled_labels(trained.model)
    count = pictures.COLUMNS * pictures.SAMPLE_ROWS if labels is None else len(labels)
    images = generate.sample(trained.model, count, 0, labels).view(-1, *trained.image_shape)
    of = "" if labels is None else ", a row for each class"
    return grid(
        trained.model, images.split(pictures.COLUMNS), f"Images decoded from draws of {trained.model.prior.title}{of}"
    )


def _traversals(trained: Trained, found: latents.Latents) -> Iterator[str]:
    dimensions = found.most_active()[:SLIDERS]
    model = trained.model
    values = generate.prior_quantiles(model, pictures.COLUMNS)
    z = latent_paths.sweeps(generate.prior_mean(model), dimensions, values)
    yield webpage.note(
        "Each row sweeps one latent dimension from the prior's 2nd to its 98th percentile, the others at its mean"
        + (", for the first class." if trained.model.classes else ".")
    )
    label = torch.tensor(0) if trained.model.classes else None
    for j, row in zip(dimensions, generate.decode(trained.model, z, label), strict=True):
        yield grid(trained.model, [row.view(-1, *trained.image_shape)], f"z{j}: {found.kl[j]:.2f} nats")


def _map(trained: Trained, selection: Selection) -> Iterator[str]:
    """Yield a drawing of the posterior means in the plane of their two largest principal components."""
    count = min(MAPPED, len(selection.pixels))
    given = selection.conditions_of(range(count))
    points = generate.means(trained.model, selection.pixels[:count].to("cpu"), given).double()
    centre = points.mean(0)
    points = points - centre
    _, spread, directions = torch.linalg.svd(points, full_matrices=False)
    plane = points @ directions[:2].T
    share = float(spread[:2].square().sum() / spread.square().sum())
    held = f", which hold {share:.0%} of their variance" if math.isfinite(share) else ": they do not vary"
    labels = None if selection.labels is None else selection.labels[:count].tolist()
    coloured = ", each drawn as its label" if labels else ""
    text = f"Posterior means of {count:,} images along their first two principal components{held}{coloured}"
    with torch.inference_mode():
        mixture = trained.model.mixture()
    marks = [] if mixture is None else _flat((mixture.means.cpu() - centre) @ directions[:2].T)
    text += f"; a cross at the mean of each of the {len(marks)} normals of the prior" if marks else ""
    yield charts.scatter(_flat(plane), labels, text, marks)


def _flat(plane: Tensor) -> list[tuple[float, float]]:
    """Return points [n, 2], or [n, 1] if there is a single latent dimension."""
    return [(x, y) for x, y in torch.nn.functional.pad(plane, (0, 2 - plane.shape[1])).tolist()]


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

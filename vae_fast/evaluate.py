"""Evaluate a trained model: ELBO, KL of each latent dimension, importance-weighted likelihood.

The ELBO uses one sample of z per image, the one that the test loss of training uses; -log p(x) uses K, with --iw K. All
values are in nats per image.
"""

import argparse
import math
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from vae_fast.analysis import latents
from vae_fast.analysis.diagnosis import nats
from vae_fast.analysis.resumable import Estimates
from vae_fast.analysis.trained import Selection, Trained
from vae_fast.artifacts import atomic, strict_json
from vae_fast.cli import numbers, output, run_arguments
from vae_fast.cli.exit_codes import exit_code
from vae_fast.data.images import Pixels
from vae_fast.data.transforms import mean_entropy
from vae_fast.models.vae import VAE
from vae_fast.objectives.importance import log_likelihoods
from vae_fast.runtime import pytorch_state
from vae_fast.runtime.printer import Printer
from vae_fast.runtime.signals import Interrupted, collected_signals
from vae_fast.training.validation import validate


@pytorch_state.as_it_starts()
def evaluate(
    trained: Trained,
    selection: Selection,
    *,
    iw: int = 0,
    seed: int = 0,
    threshold: float = latents.ACTIVE,
    partial: Path | None = None,
    printer: Printer | None = None,
) -> dict[str, Any]:
    """Measure a model on some images, and return the results in nats per image.

    Args:
        trained, selection: the model and the images, from `Trained.open` and `Trained.images`.
        iw: K, the number of samples of the importance-weighted estimate; 0 for none.
        seed: the seed of the noise; the run's seed gives the test loss that its training reported.
        threshold: a dimension is active if the variance of its posterior mean is above this.
        partial: a file that keeps the estimates so far, from which the next call continues. The caller removes it once
            the result is saved.
        printer: shows progress.

    Returns:
        Values that JSON can hold: model, images, images_sha256 (of their pixels, a table's before it is standardized),
        binarize, likelihood, prior, loss, nll, kl, nll_minus_entropy (null but for the Bernoulli on grey pixels),
        bits_per_dimension (of the loss; null unless the pixels are discrete), kl_per_dimension (to N(0, 1), whatever
        the prior), mean_variance, active_units, information (see `latents.Information`) and, with iw,
        importance_weighted.
    """
    if iw < 0:
        raise ValueError(f"iw: expected 0 or more, got {iw!r}")
    pixels = selection.as_seen(trained.model)
    labels = selection.conditions
    found = latents.survey(trained.model, pixels, labels)
    result: dict[str, Any] = {
        "model": trained.title,
        "images": selection.title,
        "images_sha256": selection.sha256,
        "binarize": selection.binarize,
        "likelihood": trained.model.likelihood.name,
        "prior": trained.model.prior.name,
        "seed": seed,
        **validate(trained.model, pixels, seed, labels),
        "nll_minus_entropy": None,
        "bits_per_dimension": None,
        "kl_per_dimension": found.kl.tolist(),
        "mean_variance": found.variance.tolist(),
        "active_threshold": threshold,
        "active_units": found.active(threshold),
        "information": asdict(latents.information(trained.model, pixels, seed, labels)),
    }
    result["bits_per_dimension"] = trained.model.likelihood.bits_per_dimension(result["loss"], selection.binarize)
    if trained.model.likelihood.name == "bernoulli" and selection.binarize == "none":
        result["nll_minus_entropy"] = result["nll"] - mean_entropy(pixels)
    if iw:
        result["importance_weighted"] = importance_weighted(trained.model, pixels, iw, seed, partial, printer, labels)
    return result


@pytorch_state.as_it_starts()
def importance_weighted(
    model: VAE,
    pixels: Pixels,
    samples: int,
    seed: int,
    partial: Path | None = None,
    printer: Printer | None = None,
    labels: Tensor | None = None,
) -> dict[str, Any]:
    """Return the mean of -log p(x) over images [N, D] and its standard error; `seconds` covers all calls that it took.

    labels: int64 [N], if the model has classes; the estimate is then of -log p(x | label).

    Raise Interrupted after a signal; `partial`, if given, then holds the estimates so far.
    """
    estimates = Estimates(partial, model, pixels, samples, seed, labels)
    first = len(estimates)
    title, printer = f"-log p(x), {samples:,} samples an image", printer or Printer(quiet=True)
    with collected_signals() as received, printer.bar(title, len(pixels), first, "images") as show:
        for batch in log_likelihoods(model, pixels, samples, seed, labels=labels, first=first):
            estimates.append(batch)
            show(len(estimates), -float(estimates.values.mean()))
            if received:
                estimates.save()
                raise Interrupted(received[0], "run the same command to continue" if estimates.are_kept else None)
    estimates.save()
    values, seconds = estimates.values, estimates.seconds
    return {
        "samples": samples,
        "nll": -values.mean().item(),
        "standard_error": (values.var() / len(values)).sqrt().item() if len(values) > 1 else None,
        "seconds": seconds,
        "images_per_second": len(values) / seconds,
    }


def table(result: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that show the result to people."""
    yield f"model         {result['model']}"
    yield f"images        {result['images']}"
    yield f"loss          {result['loss']:.2f} nats per image (nll {result['nll']:.2f} + kl {result['kl']:.2f})"
    if result["nll_minus_entropy"] is not None:
        yield f"nll - H(x)    {result['nll_minus_entropy']:.2f}"
    if result["bits_per_dimension"] is not None:
        yield f"bits/dim      {result['bits_per_dimension']:.4f}"
    if estimate := result.get("importance_weighted"):
        error, speed, samples = (estimate[key] for key in ("standard_error", "images_per_second", "samples"))
        yield f"-log p(x)     {estimate['nll']:.2f} +- {nats(error)} (standard error), {samples:,} samples an image"
        yield f"              {speed:,.1f} images/s, {speed * samples:,.0f} samples/s"
        if result["nll_minus_entropy"] is not None:
            yield "              (grey pixels have no probability under a Bernoulli: compare with grey pixels only)"
    kl = result["kl_per_dimension"]
    yield (
        f"active units  {result['active_units']} of {len(kl)} (variance of the posterior's mean above "
        f"{result['active_threshold']:g})"
    )
    each = " ".join(f"{value:.2f}" for value in sorted(kl, reverse=True))
    told = result["information"]
    mutual, gap = (f"{told[key]:.2f} +- {nats(told[key + '_error'])}" for key in ("mutual", "gap"))
    yield f"information   I(image; z) {mutual}, at most {math.log(told['images']):.2f}; KL(q(z) || p(z)) {gap}"
    to = "" if result["prior"] == "normal" else "to N(0, 1): "
    yield textwrap.fill(f"{to}{each}", 100, initial_indent="KL of each    ", subsequent_indent=" " * 14)


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_code(lambda: _run(_parser().parse_args(arguments)))


def _run(chosen: argparse.Namespace) -> None:
    trained, selection = run_arguments.opened(chosen)
    if chosen.count is not None:
        selection = selection.first(chosen.count)
    seed = trained.seed if chosen.seed is None else chosen.seed
    first = "" if chosen.count is None else f"-first{chosen.count}"
    name = f"{trained.source.name}-{selection.slug}{first}-seed{seed}{f'-iw{chosen.iw}' * bool(chosen.iw)}.json"
    kept = chosen.out or trained.place()
    out = output.file_place(trained, chosen.out, "evaluations", name) if kept else None
    result = evaluate(
        trained,
        selection,
        iw=chosen.iw,
        seed=seed,
        threshold=chosen.active_threshold,
        partial=None if out is None else _partial(out),
        printer=Printer(stderr=True),
    )
    print(strict_json.dumps(result, indent=1) if chosen.json else "\n".join(table(result)), flush=True)
    if out is not None:  # after printing, so that a full disk loses no result
        atomic.replace(out, strict_json.dumps(result, indent=1).encode())
        _partial(out).unlink(missing_ok=True)


def _partial(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")


def _parser() -> argparse.ArgumentParser:
    parser = run_arguments.parser(
        "evaluate", __doc__, "--iw 5000", out="a file for the result as JSON (default: in RUN/evaluations/)"
    )
    parser.add_argument(
        "--iw", type=numbers.whole_number, default=0, metavar="K", help="importance samples per image for -log p(x)"
    )
    parser.add_argument(
        "--count", type=numbers.positive_number, metavar="N", help="only the first N images (default: all)"
    )
    parser.add_argument(
        "--seed", type=numbers.whole_number, help="seed of the noise (default: the run's, which gives its test loss)"
    )
    parser.add_argument(
        "--active-threshold",
        type=numbers.non_negative,
        default=latents.ACTIVE,
        metavar="V",
        help="variance of the posterior's mean above which a latent dimension counts as active (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    return parser


if __name__ == "__main__":
    sys.exit(main())

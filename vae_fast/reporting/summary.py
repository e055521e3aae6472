"""The last lines of a run: its results, and where everything is."""

from collections.abc import Iterator
from typing import Any

from vae_fast.artifacts.directory import RunDirectory
from vae_fast.config import Config
from vae_fast.data.images import Pixels
from vae_fast.data.transforms import mean_entropy, pixel_kind
from vae_fast.models.likelihood import Likelihood
from vae_fast.reporting.pictures import drawn_as


def summary(
    config: Config,
    metrics: list[dict[str, Any]],
    test: Pixels | None,
    directory: RunDirectory,
    likelihood: Likelihood,
) -> Iterator[str]:
    """Yield the last lines of a run.

    metrics: the records of metrics.jsonl. test: the test images [N, C, H, W], if there are any.
    """
    last = metrics[-1] if metrics else {}
    if test is not None and None not in (last.get("test_loss"), last.get("test_nll")):
        line = f"test loss after epoch {last['epoch']}: {last['test_loss']:.2f} nats per image"
        line += f" ({pixel_kind(config.treatment, test.shape[1:])}"
        if config.likelihood != "bernoulli":
            line += f", {config.likelihood.replace('_', ' ')}"
        if (bits := likelihood.bits_per_dimension(last["test_loss"], config.binarize)) is not None:
            line += f"; {bits:.4f} bits per value"
        if config.likelihood == "bernoulli" and config.binarize == "none":
            line += f"; nll - H(x) {last['test_nll'] - mean_entropy(test.flatten(1)):.2f}"
        yield f"{line})"
    yield f"run          {directory.path}"
    yield f"metrics      {directory.metrics_file}"
    for link in ("latest", "best"):
        if (directory.checkpoints / link).exists():
            yield f"checkpoint   {directory.checkpoints / link}"
    remark = "" if test is None else drawn_as(test.shape[1])
    for name in ("reconstructions", "samples", "loss"):
        yield f"picture      {directory.pictures / name}.png{(remark and name != 'loss' and f'  ({remark})') or ''}"

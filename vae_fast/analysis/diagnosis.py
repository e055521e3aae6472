"""What a run's losses show, epoch by epoch, in words; computed from the records of metrics.jsonl alone."""

from collections.abc import Sequence
from typing import Any

FAST, STILL = 0.02, 0.002  # the share by which an epoch lowers the training loss: above these it falls fast, or still
WORSE = 0.002  # the share by which the test loss has to exceed its lowest value to count as worse
LOST = 0.5  # the share by which the training loss has to exceed its lowest value to count as diverged

Record = dict[str, Any]


def observe(records: Sequence[Record]) -> str:
    """Describe the last of some consecutive records by comparing its losses with the earlier ones.

    Returns "first epoch", "falling fast", "still falling", "levelled off", "rising", "diverged", "back from a
    divergence", "overfitting since epoch N", or "beta changes" if the previous loss was another objective. Shares refer
    to what can be learned: the loss above the entropy of the pixels, if the records contain it; a density's whole loss.
    """
    now, beta = (records[-1].get(key) for key in ("train_loss", "beta"))
    if now is None:
        return "diverged"
    if len(records) > 1 and records[-2].get("beta") != beta:
        return "beta changes"
    records = [record for record in records if record.get("beta") == beta]
    losses = [record.get("train_loss") for record in records]
    finite = [loss for loss in losses if loss is not None]
    if now - min(finite) > LOST * abs(min(finite)):
        return "diverged"
    if len(records) == 1 or losses[-2] is None:
        return "first epoch" if len(records) == 1 else "back from a divergence"
    since = _overfitting_since(records)
    if since is not None:
        return f"overfitting since epoch {since}"
    fall = (losses[-2] - now) / _learnable(records[-2])
    if fall < -STILL:
        return "rising"
    return "falling fast" if fall > FAST else "still falling" if fall > STILL else "levelled off"


def observed(records: Sequence[Record]) -> list[Record]:
    """Return the records of a run, each with its description from `observe` as `observation`."""
    return [{**record, "observation": observe(records[: i + 1])} for i, record in enumerate(records)]


def nats(value: float | None) -> str:
    """Format a value for tables; "-" stands for None, a value that is unknown or not finite."""
    return "-" if value is None else f"{value:.2f}"


def _overfitting_since(records: Sequence[Record]) -> int | None:
    """Return the epoch of the lowest test loss if since then the test loss has risen and the training loss fallen."""
    judged = [record for record in records if record.get("test_loss") is not None]
    if not judged or judged[-1] is not records[-1]:
        return None
    last, lowest = judged[-1], min(judged, key=lambda record: float(record["test_loss"]))
    if lowest.get("train_loss") is None or last["train_loss"] >= lowest["train_loss"]:
        return None
    worse = last["test_loss"] - lowest["test_loss"]
    return int(lowest["epoch"]) if worse > WORSE * _learnable(lowest, "test") else None


def _learnable(record: Record, part: str = "train") -> float:
    """Return the part of the loss above the entropy of the pixels, which no decoder can get below.

    The loss of a density has no such bound, and may be negative: then this is its size. Never 0, to divide by.
    """
    loss, bound = float(record[f"{part}_loss"]), record.get("entropy", 0.0)
    return max(abs(loss) if bound is None else max(loss - bound, 0.01 * loss), 1e-12)

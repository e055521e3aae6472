"""What a run's losses say, epoch by epoch, in words: computed from the records of metrics.jsonl alone."""

from collections.abc import Sequence
from typing import Any

FAST, STILL = 0.02, 0.002  # the share of the training loss that an epoch takes off: above these it falls fast, or still
WORSE = 0.002  # the share by which the test loss lies above its lowest before that counts
LOST = 0.5  # above its lowest, of the training loss

Record = dict[str, Any]


def observe(records: Sequence[Record]) -> str:
    """Of the last of some consecutive records, what its training loss says beside those before.

    "first epoch", "falling fast", "still falling", "levelled off", "rising", "diverged", "back from a divergence",
    "overfitting since epoch N"; "beta changes" where the loss before was another objective. Shares are of what can be
    learned: the loss above the pixels' entropy, where the records have that.
    """
    now, beta = (records[-1].get(key) for key in ("train_loss", "beta"))
    if now is None:
        return "diverged"
    if len(records) > 1 and records[-2].get("beta") != beta:
        return "beta changes"
    records = [record for record in records if record.get("beta") == beta]
    losses = [record.get("train_loss") for record in records]
    finite = [loss for loss in losses if loss is not None]
    if now > (1 + LOST) * min(finite):
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
    """The records of a run, each with what was to be observed at its end, as `observation`."""
    return [{**record, "observation": observe(records[: i + 1])} for i, record in enumerate(records)]


def nats(value: float | None) -> str:
    """For tables; null stands for what is not known or not finite."""
    return "-" if value is None else f"{value:.2f}"


def _overfitting_since(records: Sequence[Record]) -> int | None:
    """The epoch of the lowest test loss, if the test loss has risen since and the training loss fallen."""
    judged = [record for record in records if record.get("test_loss") is not None]
    if not judged or judged[-1] is not records[-1]:
        return None
    last, lowest = judged[-1], min(judged, key=lambda record: float(record["test_loss"]))
    if lowest.get("train_loss") is None or last["train_loss"] >= lowest["train_loss"]:
        return None
    worse = last["test_loss"] - lowest["test_loss"]
    return int(lowest["epoch"]) if worse > WORSE * _learnable(lowest, "test") else None


def _learnable(record: Record, part: str = "train") -> float:
    """The loss above what no decoder can reach."""
    loss: float = record[f"{part}_loss"]
    return max(loss - (record.get("entropy") or 0.0), 0.01 * loss)

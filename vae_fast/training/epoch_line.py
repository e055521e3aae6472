"""The line that a run prints for each epoch."""

import math
from typing import Any


def _terms(loss: float, nll: float, kl: float, beta: float) -> str:
    """Describe the terms of a loss. beta: the one of the epoch's last step; with a schedule, earlier steps differ."""

    def is_weighted_by(weight: float) -> bool:
        return math.isclose(loss, nll + weight * kl, rel_tol=1e-5, abs_tol=0.005)

    if is_weighted_by(1):
        return f"nll {nll:.2f} + kl {kl:.2f}"
    suffix = "" if is_weighted_by(beta) else " at its end"
    return f"nll {nll:.2f}, kl {kl:.2f}, beta {beta:g}{suffix}; -ELBO {nll + kl:.2f}"


def epoch_line(record: dict[str, Any], epochs: int) -> str:
    """Return the record of one epoch from metrics.jsonl as a line of text."""
    parts = [f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}"]
    for name in ("train", "valid", "test"):
        if record.get(f"{name}_loss") is not None:
            loss, nll, kl = (record[f"{name}_{key}"] for key in ("loss", "nll", "kl"))
            parts.append(f"{name} {loss:.2f} ({_terms(loss, nll, kl, record.get('beta', 1.0))})")
    if record["images_per_second"] is not None:
        parts.append(f"{record['images_per_second']:,.0f} images/s")
    if record["skipped_steps"]:
        steps = "step" if record["skipped_steps"] == 1 else "steps"
        parts.append(f"{record['skipped_steps']} {steps} skipped: not finite")
    return "   ".join(parts)

"""What the loss is multiplied by under float16, so that small gradients survive it.

It is torch.amp.GradScaler's, but lives on the device alone. Found by trial, it halves after a step whose gradients are
not finite and doubles after 2,000 others in a row (Micikevicius et al., Mixed Precision Training, 2018, section 3.2).
`vae_fast.kernels.finish_step_` moves it.
"""

from typing import Any

import torch

from vae_fast.kernels import Scale
from vae_fast.kernels.reference import BACKOFF, GROWTH, GROWTH_INTERVAL

FIRST = 2.0**16


class LossScale:
    """The scale of one run, 1 for good unless it is `wanted`.

    Attributes:
        factor: 0-d float32, what to multiply the loss by.
        moved: what `finish_step_` is to move, None if not wanted.
    """

    def __init__(self, wanted: bool, device: torch.device) -> None:
        self.factor = torch.full((), FIRST if wanted else 1.0, device=device)
        self.moved = Scale(self.factor, torch.zeros((), dtype=torch.int32, device=device)) if wanted else None

    def state(self) -> dict[str, Any]:
        """As GradScaler.state_dict() gives it; empty if not wanted. Waits."""
        if self.moved is None:
            return {}
        return {
            "scale": self.factor.item(),
            "growth_factor": GROWTH,
            "backoff_factor": BACKOFF,
            "growth_interval": GROWTH_INTERVAL,
            "_growth_tracker": int(self.moved.growth.item()),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state`, or a GradScaler's state_dict, gave."""
        if self.moved is not None:
            self.moved.factor.fill_(state["scale"])
            self.moved.growth.fill_(state["_growth_tracker"])

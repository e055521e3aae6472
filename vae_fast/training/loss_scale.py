"""The factor on the loss under float16, which keeps small gradients from vanishing.

It follows the rule of torch.amp.GradScaler, but lives on the device alone. It is found by trial: it halves after a step
whose gradients are not finite and doubles after 2,000 finite steps in a row (Micikevicius et al., Mixed Precision
Training, 2018, section 3.2). `vae_fast.kernels.finish_step_` updates it.
"""

from typing import Any

import torch

from vae_fast.kernels import Scale
from vae_fast.kernels.reference import BACKOFF, GROWTH, GROWTH_INTERVAL

FIRST = 2.0**16


class LossScale:
    """The loss scale of one run; it stays 1 unless `wanted`.

    Attributes:
        factor: 0-d float32, the factor on the loss.
        moved: what `finish_step_` has to update, None if not wanted.
    """

    def __init__(self, wanted: bool, device: torch.device) -> None:
        self.factor = torch.full((), FIRST if wanted else 1.0, device=device)
        self.moved = Scale(self.factor, torch.zeros((), dtype=torch.int32, device=device)) if wanted else None

    def state(self) -> dict[str, Any]:
        """Return the state in the format of GradScaler.state_dict(), empty if not wanted. Waits."""
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
        """Restore what `state`, or the state_dict of a GradScaler, returned."""
        if self.moved is not None:
            self.moved.factor.fill_(state["scale"])
            self.moved.growth.fill_(state["_growth_tracker"])

"""Metrics that the steps leave on the device, for the host to read when it needs them.

The columns of a step's terms are `vae_fast.kernels.reference.TERM_NAMES`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from vae_fast.kernels import Record
from vae_fast.kernels.reference import COLUMNS, IMAGES, KL, LOSS, NLL, SKIPPED

LATEST = 256  # steps whose terms are kept individually


class Recent(NamedTuple):
    """A summary of the latest steps that the host knows of."""

    loss: float | None  # per image, over the kept steps that were not skipped
    skips_in_a_row: int


class StepMetrics:
    """The number of steps attempted, sums over the epoch, and a ring buffer of the latest steps."""

    def __init__(self, device: torch.device) -> None:
        self.step = torch.zeros((), dtype=torch.int64, device=device)
        self.sums = torch.zeros(COLUMNS, dtype=torch.float64, device=device)
        self.ring = torch.zeros(LATEST, COLUMNS, dtype=torch.float64, device=device)
        self.record = Record(self.step, self.sums, self.ring)  # what a step writes into
        self._copy = HostCopy(self.ring)
        self._copied_step = 0

    def request(self, step_number: int) -> None:
        """Start copying the ring to the host as it is after `step_number` steps, unless a copy is under way."""
        if self._copy.request():
            self._copied_step = step_number

    def arrived(self, wait: bool = False) -> Recent | None:
        """Return the summary of the requested copy; None if none was requested or, without `wait`, not yet here."""
        ring = self._copy.latest(wait)
        return None if ring is None else _recent(ring, self._copied_step)

    def recent(self, step_number: int) -> Recent:
        """Return the summary after `step_number` steps. Waits."""
        return _recent(self.ring.cpu(), step_number)

    def latest(self, step_number: int, count: int) -> Tensor:
        """Return the terms of the `count` <= LATEST steps before `step_number`: float64 [count, COLUMNS]. Waits."""
        return self.ring.cpu()[(torch.arange(-count, 0) + step_number) % LATEST]

    def finish_epoch(self) -> dict[str, float | int | None]:
        """Return the epoch's averages over the images it learned from and its skipped steps; reset the sums. Waits."""
        sums = self.sums.tolist()
        self.sums.zero_()
        images = sums[IMAGES]
        columns = {"train_loss": LOSS, "train_nll": NLL, "train_kl": KL}
        averages = {name: sums[column] / images if images else None for name, column in columns.items()}
        return {**averages, "skipped_steps": int(sums[SKIPPED])}

    def load(self, step_number: int, sums: list[float], skips_in_a_row: int) -> None:
        """Restore the metrics as they were after `step_number` steps."""
        self.step.fill_(step_number)
        self.sums.copy_(torch.tensor(sums, dtype=torch.float64))
        ring = torch.zeros(self.ring.shape, dtype=torch.float64)
        ring[(step_number - 1 - torch.arange(min(skips_in_a_row, LATEST))) % LATEST, SKIPPED] = 1
        self.ring.copy_(ring)


def _recent(ring: Tensor, step_number: int) -> Recent:
    order = (step_number - 1 - torch.arange(LATEST)) % LATEST  # the latest step first
    taken = (ring[order, SKIPPED] == 0).nonzero()
    loss, images = ring[:, LOSS].sum().item(), ring[:, IMAGES].sum().item()
    return Recent(loss / images if images else None, int(taken[0]) if len(taken) else LATEST)


class HostCopy:
    """A copy of a device tensor on the host, made asynchronously into pinned memory so that nothing has to wait."""

    def __init__(self, source: Tensor) -> None:
        self._source = source
        self._copy = torch.empty_like(source, device="cpu", pin_memory=source.is_cuda)
        self._event = torch.cuda.Event() if source.is_cuda else None
        self._requested = False

    def request(self) -> bool:
        """Start a copy unless one is under way, and return whether it was started."""
        if self._requested:
            return False
        self._copy.copy_(self._source, non_blocking=True)
        if self._event is not None:
            self._event.record()
        self._requested = True
        return True

    def latest(self, wait: bool = False) -> Tensor | None:
        """Return the requested copy once it has arrived, None before that; with `wait`, wait for it."""
        if not self._requested:
            return None
        if self._event is not None and not self._event.query():
            if not wait:
                return None
            self._event.synchronize()
        self._requested = False
        return self._copy

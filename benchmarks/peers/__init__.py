"""What else trains this VAE: other frameworks, each the way its own users write it.

Every module has `build(pixels, batch, precision, steps)`, a trainer on the pixels' device (uint8 [N, 784]), and
`unavailable(device, precision)`, why there can be none. A trainer takes an order, int64 [steps, batch] on the CPU,
trains on the batches whose images are order[s], one optimizer step each, and returns the mean loss of these steps in
nats per image; it goes on from call to call. All train 784-400-20-400-784 from the same weights (`network`) with Adam at
1e-3 on grey pixels. Each module's docstring says what could not be made the same.
"""

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from torch import Tensor

Trainer = Callable[[Tensor], float]


class Peer(NamedTuple):
    """Its name in tables, its module here, and the distribution that it needs."""

    label: str
    module: str
    package: str


PEERS = {
    "jax": Peer("JAX, jit of lax.scan", "jax_scan", "jax"),
    "numpyro": Peer("NumPyro, SVI in lax.fori_loop", "numpyro_svi", "numpyro"),
    "pythae": Peer("pythae, BaseTrainer", "pythae_trainer", "pythae"),
    "lightning": Peer("Lightning, Trainer.fit", "lightning_trainer", "lightning"),
}


def reason(slug: str, device: str, precision: str) -> str | None:
    """Why this peer cannot train on "cpu" or "cuda" in "fp32", "bf16" or "fp16", in one line; None where it can."""
    peer = PEERS[slug]
    try:
        module = import_module(f"benchmarks.peers.{peer.module}")
    except ModuleNotFoundError:
        return "not installed: pip install 'vae_fast[peers]'"
    except (ImportError, AttributeError) as error:  # an old library beside a new one that it builds on
        return f"{peer.package} cannot be imported: {str(error).splitlines()[0]}"
    why: str | None = module.unavailable(device, precision)
    return why


def build(slug: str, pixels: Tensor, batch: int, precision: str, steps: int) -> Trainer:
    """The trainer of a peer for which `reason` gave None."""
    trainer: Trainer = import_module(f"benchmarks.peers.{PEERS[slug].module}").build(pixels, batch, precision, steps)
    return trainer

"""What else trains this VAE: other frameworks, each the way its own users write it.

Every module has `build(pixels, batch, precision, steps)`, a trainer on the device of the pixels (uint8 [N, 784]), and
`unavailable(device, precision)`, why there can be none. All begin with the weights of `benchmarks.contenders.network`
and train with Adam at 1e-3 on grey pixels. Each module's docstring says what could not be made the same.
"""

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from torch import Tensor

from benchmarks.contenders.network import Trainer


@dataclass(frozen=True)
class Peer:
    """A framework: its name in tables, and what is imported only when it is asked for."""

    label: str
    package: str
    """the distribution that brings it, whose version is to be stated"""
    _module: str
    own_threads: bool = False
    """whether it computes on a CPU with other threads than PyTorch's"""

    def build(self, pixels: Tensor, batch: int, precision: str, steps: int) -> Trainer:
        """Its trainer; only where `reason` gives None."""
        trainer: Trainer = self.module().build(pixels, batch, precision, steps)
        return trainer

    def module(self) -> ModuleType:
        return import_module(f"benchmarks.contenders.peers.{self._module}")


PEERS = {
    "jax": Peer("JAX, jit of lax.scan", "jax", "jax_scan", own_threads=True),
    "numpyro": Peer("NumPyro, SVI in lax.fori_loop", "numpyro", "numpyro_svi", own_threads=True),
    "pythae": Peer("pythae, BaseTrainer", "pythae", "pythae_trainer"),
    "lightning": Peer("Lightning, Trainer.fit", "lightning", "lightning_trainer"),
}


def reason(name: str, device: str, precision: str) -> str | None:
    """Why this peer cannot train on "cpu" or "cuda" in "fp32", "bf16" or "fp16", in one line; None where it can."""
    peer = PEERS[name]
    try:
        module = peer.module()
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed: pip install 'vae_fast[peers]'"
    except (ImportError, AttributeError) as error:  # an old library beside a new one that it builds on
        return f"{peer.package} cannot be imported: {str(error).splitlines()[0]}"
    why: str | None = module.unavailable(device, precision)
    return why

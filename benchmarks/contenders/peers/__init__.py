"""Other frameworks that train this VAE, each the way its own users write it.

Every module has `build(pixels, batch, precision, steps)`, which returns a trainer on the device of the pixels (uint8
[N, 784]), and `unavailable(device, precision)`, which returns why there can be none. All start with the weights of
`benchmarks.contenders.network` and train with Adam at 1e-3 on grey pixels. Each module's docstring says what could not
be made the same.
"""

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from torch import Tensor

from benchmarks.contenders.network import Trainer


@dataclass(frozen=True)
class Peer:
    """A framework: its name in tables, and its module, which is imported only on demand."""

    label: str
    package: str
    """the distribution that provides it, whose version is recorded"""
    _module: str
    own_threads: bool = False
    """whether it computes on a CPU with threads other than PyTorch's"""

    def build(self, pixels: Tensor, batch: int, precision: str, steps: int) -> Trainer:
        """Return its trainer; call it only where `reason` returns None."""
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
    """Return, in one line, why this peer cannot train on a device in a precision; None where it can.

    The device is "cpu" or "cuda", the precision "fp32", "bf16" or "fp16".
    """
    peer = PEERS[name]
    try:
        module = peer.module()
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed: pip install 'vae_fast[peers]'"
    except (ImportError, AttributeError) as error:  # an old library with a new one that it builds on
        return f"{peer.package} cannot be imported: {str(error).splitlines()[0]}"
    why: str | None = module.unavailable(device, precision)
    return why

"""The two halves of the network, an MLP that encodes and one that decodes, and an estimate of their memory."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from vae_fast.config import Config
from vae_fast.kernels import linear

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


class Linear(nn.Linear):
    """An nn.Linear that computes with `vae_fast.kernels.linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Encoder(nn.Module):
    """The encoder: [B, D] pixels in [0, 1] -> stats [B, 2 Z], the posterior's mean, then its log variance."""

    def __init__(self, widths: Sequence[int], latent: int, activation: str) -> None:
        super().__init__()
        self.hidden = _mlp(widths, activation)
        self.stats = Linear(widths[-1], 2 * latent)  # one product for both halves

    def forward(self, pixels: Tensor) -> Tensor:
        stats: Tensor = self.stats(self.hidden(pixels))
        return stats

    def plain(self) -> nn.Sequential:
        """Return a copy on the CPU that uses only PyTorch's own modules, which an export can hold."""
        return _plain(self.hidden, self.stats)


class Decoder(nn.Module):
    """The decoder: [B, Z] latents -> [B, D] logits."""

    def __init__(self, widths: Sequence[int], pixels: int, activation: str) -> None:
        super().__init__()
        self.hidden = _mlp(widths, activation)
        self.logits = Linear(widths[-1], pixels)

    def forward(self, z: Tensor) -> Tensor:
        logits: Tensor = self.logits(self.hidden(z))
        return logits

    def plain(self) -> nn.Sequential:
        """Return a copy on the CPU that uses only PyTorch's own modules, which an export can hold."""
        return _plain(self.hidden, self.logits)

    def layers(self) -> list[nn.Linear]:
        """Return the affine layers in order; an activation follows each but the last."""
        return [module for module in self.modules() if isinstance(module, nn.Linear)]

    @property
    def widest(self) -> int:
        """Return the largest number of values that a layer outputs for one image."""
        return max(layer.out_features for layer in self.layers())


def network_memory(config: Config, pixels: int) -> int:
    """Estimate the bytes that weights, gradients, moments and the activations of one batch take, all float32."""
    widths = (pixels, *config.hidden, config.latent)
    parameters = 2 * sum(n * m for n, m in pairwise(widths))
    activations = 4 * config.batch_size * sum(widths)  # values, gradients, encoder and decoder
    return 4 * (4 * parameters + activations)


def _mlp(widths: Sequence[int], activation: str) -> nn.Sequential:
    layers = [(Linear(n, m), ACTIVATIONS[activation]()) for n, m in pairwise(widths)]
    return nn.Sequential(*(module for pair in layers for module in pair))


def _plain(hidden: nn.Sequential, last: nn.Linear) -> nn.Sequential:
    return nn.Sequential(*(_plain_layer(module) for module in (*hidden, last)))


def _plain_layer(layer: nn.Module) -> nn.Module:
    if not isinstance(layer, nn.Linear):
        return type(layer)()  # an activation
    plain = nn.Linear(layer.in_features, layer.out_features)
    plain.load_state_dict({name: t.cpu() for name, t in layer.state_dict().items()})
    return plain

"""Where a VAE's two halves come from: `mlp`, `conv`, `resnet`, or a function of the user's.

Each is a function `make(shape, latent, outputs, **options) -> (encoder, decoder)` that returns plain modules:

encoder(images [B, *shape]) -> stats [B, 2 Z], the posterior's mean, then its log variance
decoder(z [B, Z]) -> logits [B, outputs, H, W] or [B, D]

With classes both are called with labels, int64 [B], as well, and `make` is given the option `classes`.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vae_fast.errors import ConfigError, RunError
from vae_fast.models import conv, mlp, resnet
from vae_fast.runtime import user_code

EXAMINED = 4  # images that a user's network is tried out on
NOT_NEEDED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
Make = Callable[..., tuple[nn.Module, nn.Module]]
BUILT_IN: dict[str, Make] = {"mlp": mlp.make, "conv": conv.make, "resnet": resnet.make}


class Halves(NamedTuple):
    """An encoder and a decoder.

    source: SHA-256 of the file that made them, in hexadecimal; None for those of this package.
    draws: whether they draw random numbers as they train, as dropout does.
    moves: whether training changes their buffers, as it does those of batch normalisation.
    """

    encoder: nn.Module
    decoder: nn.Module
    source: str | None = None
    draws: bool = False
    moves: bool = False


def make(
    network: str, shape: Sequence[int], latent: int, outputs: int, classes: int, options: Mapping[str, Any]
) -> Halves:
    """Make both halves of the network of a name or place, and check a user's.

    Raises ConfigError for an unknown network or option, and RunError for a function that cannot be found or that
    returns something else; what it raises itself is passed on.
    """
    given = {**options, **({"classes": classes} if classes else {})}
    if ":" not in network:
        if network not in BUILT_IN:
            raise ConfigError(
                f"network: expected one of {', '.join(BUILT_IN)}, FILE.py:function or package.module:function, "
                f"got {network!r}"
            )
        _require_options(network, BUILT_IN[network], given)
        try:
            return Halves(*BUILT_IN[network](shape, latent, outputs, **given))
        except ValueError as error:
            raise ConfigError(str(error)) from None
    with user_code.beside(network):
        function, source = user_code.found("network", network)
        _require_options(network, function, given)
        made = function(tuple(shape), latent, outputs, **given)
    if not (isinstance(made, tuple) and len(made) == 2 and all(isinstance(half, nn.Module) for half in made)):
        raise RunError(f"network: expected {network} to return two modules, (encoder, decoder), got {_kind(made)}")
    encoder, decoder = made
    _require_separate(network, encoder, decoder)
    draws, moves = _examine(network, encoder, decoder, tuple(shape), latent, outputs, classes)
    return Halves(encoder, decoder, source, draws, moves)


def _require_options(network: str, function: Make, given: Mapping[str, Any]) -> None:
    parameters = inspect.signature(function).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    if len(positional) < 3 and not any(p.kind is p.VAR_POSITIONAL for p in positional):
        raise RunError(
            f"network: expected {network} to take shape, latent, outputs; it takes {inspect.signature(function)}"
        )
    for parameter in list(parameters)[3:]:
        is_needed = parameter.default is parameter.empty and parameter.kind not in NOT_NEEDED
        if is_needed and parameter.name not in given:
            wish = "--conditional" if parameter.name == "classes" else f"--network-options {parameter.name}=..."
            raise ConfigError(f"network_options: {network} needs {parameter.name!r}; give it by {wish}")
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [parameter.name for parameter in parameters][3:]
    for name in given:
        if name not in known:
            has = ", ".join(each for each in known if each != "classes") or "none"
            if name == "classes":
                raise ConfigError(f"conditional: expected {network} to take 'classes', the number of labels")
            raise ConfigError(f"network_options: {network} takes no {name!r}; its options: {has}")


def _require_separate(network: str, encoder: nn.Module, decoder: nn.Module) -> None:
    if {id(p) for p in encoder.parameters()} & {id(p) for p in decoder.parameters()}:
        raise RunError(f"network: the encoder and the decoder of {network} share parameters, expected their own")
    for half in (encoder, decoder):
        storages = [p.untyped_storage().data_ptr() for p in half.state_dict(keep_vars=True).values() if p.numel()]
        if len(set(storages)) < len(storages):
            raise RunError(f"network: {network} has a parameter under two names, expected each once")
        for name, parameter in half.named_parameters():
            if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
                raise RunError(
                    f"network: expected float32 parameters on the CPU, {network} has {name}, {parameter.dtype} on "
                    f"{parameter.device}"
                )
            if not parameter.is_contiguous():
                raise RunError(f"network: expected contiguous parameters, {network} has {name}, which is not")
            if not parameter.requires_grad:
                raise RunError(f"network: {network} has {name}, which is not trained; expected it as a buffer")


def _examine(
    network: str,
    encoder: nn.Module,
    decoder: nn.Module,
    shape: tuple[int, ...],
    latent: int,
    outputs: int,
    classes: int,
) -> tuple[bool, bool]:
    """Return whether training draws random numbers and changes buffers, after checking the shapes of what comes out.

    It is copies that are called, on a few images, so that the halves stay as they were made.
    """
    labels = (torch.zeros(EXAMINED, dtype=torch.int64),) if classes else ()
    images = torch.rand(EXAMINED, *shape)
    if len(shape) == 3:
        images = images.contiguous(memory_format=torch.channels_last)
    draws = moves = False
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for half, given, expected in (
            (encoder, images, [[EXAMINED, 2 * latent]]),
            (
                decoder,
                torch.randn(EXAMINED, latent),
                [[EXAMINED, outputs, *shape[1:]], [EXAMINED, outputs * prod(shape[1:])]],
            ),
        ):
            copy, name = deepcopy(half), "encoder" if half is encoder else "decoder"
            for trains in (True, False):
                state = torch.get_rng_state()
                out = copy.train(trains)(given, *labels)
                drew = not torch.equal(state, torch.get_rng_state())
                if not isinstance(out, Tensor) or list(out.shape) not in expected:
                    raise RunError(
                        f"network: the {name} of {network} maps {list(given.shape)} to {_kind(out)}, expected "
                        f"{' or '.join(map(str, expected))}"
                    )
                if drew and not trains:
                    raise RunError(
                        f"network: the {name} of {network} draws random numbers even in evaluation; expected that only "
                        f"where self.training is true"
                    )
                if not trains and not torch.allclose(out[:2], copy(given[:2], *(y[:2] for y in labels)), 1e-3, 1e-3):
                    raise RunError(
                        f"network: what the {name} of {network} gives for an image in evaluation depends on the others "
                        f"of its batch; batch normalisation needs running statistics"
                    )
                draws |= drew
            moved = [name for (name, b), a in zip(half.named_buffers(), copy.buffers(), strict=True) if not b.equal(a)]
            if lost := set(moved) - half.state_dict().keys():
                raise RunError(
                    f"network: training changes the buffer {lost.pop()} of {network}, which is not persistent"
                )
            moves |= bool(moved)
    return draws, moves


def _kind(value: object) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__

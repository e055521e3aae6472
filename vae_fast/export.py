"""Export a trained model: safetensors and JSON, torch.export's .pt2, ONNX, a model card. Each is read back and checked.

The encoder takes pixels, float32 [B, C, H, W] in [0, 1] (of a table rows in its own units), and returns mu and logvar,
[B, Z] each; the decoder takes z, [B, Z], and returns logits [B, C, H, W], whose meaning the model card states. Both
also take labels, int64 [B], if the model is conditional. The code of a user's network stays where it was.
"""

import argparse
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vae_fast.analysis.trained import Trained
from vae_fast.artifacts import atomic, checkpoint, npz, strict_json
from vae_fast.cli import output, run_arguments
from vae_fast.cli.exit_codes import exit_code
from vae_fast.data.standardization import Standardization
from vae_fast.errors import RunError
from vae_fast.models.layers import UpConv
from vae_fast.models.mlp import Linear
from vae_fast.models.vae import VAE
from vae_fast.reporting import model_card
from vae_fast.runtime import pytorch_state

OPSET = 18
FORMATS = ("safetensors", "pt2", "onnx")
FILES = {
    "safetensors": "`model.safetensors`: encoder and decoder, float32; `vae_fast.load` of this directory gives the VAE",
    "pt2": "`encoder.pt2`, `decoder.pt2`: `torch.export.load(file).module()`, for any batch",
    "onnx": f"`encoder.onnx`, `decoder.onnx`: opset {OPSET}, for any batch",
}
PRIOR = "prior.npz"
PRIOR_DESCRIPTION = (
    f"`{PRIOR}`: the normals of the prior, `weights` [N], `means` and `deviations` [N, Z]; draw n by its weight, then z"
)
CHECKED = 8  # images in a comparison; not the example's number, because the batch size must be dynamic
TOLERANCE = {
    "safetensors": 0.0,
    "pt2": 1e-4,
    "onnx": 1e-4,
}  # of the largest value: sums in another order, up to 20 deep


class PlainEncoder(nn.Module):
    """The encoder built from PyTorch's own modules alone, so that an export needs nothing from this package."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.stats = plain(model.encoder)
        self.offset: Tensor | None
        self.spread: Tensor | None
        self.register_buffer("offset", model.offset)
        self.register_buffer("spread", model.spread)

    def forward(self, pixels: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.offset is not None and self.spread is not None:
            pixels = Standardization(self.offset, self.spread).apply(pixels)
        given = (pixels,) if labels is None else (pixels, labels)
        mu, logvar = self.stats(*given).chunk(2, dim=-1)
        return mu, logvar


class PlainDecoder(nn.Module):
    """The decoder built from PyTorch's own modules alone, for the same reason."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.logits = plain(model.decoder)
        self.offset: Tensor | None
        self.spread: Tensor | None
        self.register_buffer("offset", model.offset)
        self.register_buffer("spread", model.spread)
        self._shape = model.input_shape

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        logits: Tensor = self.logits(z) if labels is None else self.logits(z, labels)
        if self.offset is not None and self.spread is not None:
            logits = Standardization(self.offset, self.spread).undo(logits)
        return logits.reshape(-1, *self._shape)


def plain(half: nn.Module) -> nn.Module:
    """Return a copy of an encoder or decoder, on the CPU, in which PyTorch's own modules stand for ours."""
    copy = deepcopy(half).cpu().eval()
    for name, module in list(copy.named_modules()):
        if isinstance(module, Linear | UpConv):
            owner, _, attribute = name.rpartition(".")
            setattr(copy.get_submodule(owner), attribute, module.plain())
    return copy


@pytorch_state.as_it_starts()
def export(trained: Trained, directory: Path, formats: Sequence[str] = ("safetensors", "pt2")) -> dict[str, float]:
    """Write the exports and a model card into a new directory, which appears complete or not at all.

    Args:
        trained: the model.
        directory: must not exist.
        formats: any of `FORMATS`; safetensors is always written, so that `vae_fast.load` accepts every export.

    Returns:
        By format, the largest difference from the model after reading it back, relative to the largest value.

    Raises RunError for a directory that exists, a package that is missing, or an export that differs from the model.
    """
    if os.path.lexists(directory):
        raise RunError(f"--out: {directory} exists; remove it or name another")
    model = VAE(**trained.model.hyperparameters).eval()
    model.load_state_dict({name: t.cpu() for name, t in trained.model.state_dict().items()})
    with atomic.new_directory(directory) as temporary:
        found = {name: _checked(name, model, temporary) for name in FORMATS if name in ("safetensors", *formats)}
        files = [
            f"{FILES[name]} (read back: off by at most {off:.1e} of the largest value)" for name, off in found.items()
        ]
        if not model.prior.is_normal:
            _write_prior(model, temporary / PRIOR)
            files.append(PRIOR_DESCRIPTION)
        atomic.write(temporary / "README.md", model_card.model_card(trained, files).encode())
        description = {
            "hyperparameters": model.hyperparameters,
            "formats": found,
            "source": trained.title,
            "seed": trained.seed,
            "binarize": trained.binarize,
            "label_names": trained.label_names,
        }
        atomic.write(temporary / checkpoint.EXPORT, strict_json.dumps(description, indent=1).encode())
    return found


@torch.inference_mode()
def _write_prior(model: VAE, file: Path) -> None:
    """Write the normals of a prior of several, so that others can draw z."""
    mixture = model.mixture()
    assert mixture is not None
    arrays = {"weights": mixture.log_weights.exp(), "means": mixture.means, "deviations": mixture.deviations}
    npz.write(
        file,
        {name: (np.float32, tuple(array.shape)) for name, array in arrays.items()},
        [{name: array.numpy() for name, array in arrays.items()}],
    )


Half = Callable[..., Sequence[Tensor]]  # takes pixels or z, and labels if the model has classes


def _checked(name: str, model: VAE, directory: Path) -> float:
    """Write one format, read it back, and compare both halves with the model's on batches of other sizes.

    Return the largest difference, relative to the largest value.
    """
    encode, decode = WRITERS[name](model, directory)
    worst = 0.0
    generator = torch.Generator().manual_seed(0)
    for count in (1, CHECKED):
        pixels = _drawn(model, count, generator)
        z = torch.randn(count, model.latent, generator=generator)
        labels = (torch.arange(count) % model.classes,) if model.classes else ()
        with torch.no_grad():
            pairs = [
                *zip(model.encode(pixels, *labels), encode(pixels, *labels), strict=True),
                *zip([model.decode(z, *labels)], decode(z, *labels), strict=True),
            ]
            # Of a table each column in its own scale, so that the largest does not hide the others.
            pairs[2:] = [(model.standardize(ours), model.standardize(theirs)) for ours, theirs in pairs[2:]]
        for ours, theirs in pairs:
            off = float((theirs - ours).abs().max() / ours.abs().max())
            if not off <= TOLERANCE[name]:  # true for NaN too
                raise RunError(
                    f"{name}: read back, it is off by {off:.1e} of the largest value; {TOLERANCE[name]:.0e} is allowed"
                )
            worst = max(worst, off)
    return worst


def _drawn(model: VAE, count: int, generator: torch.Generator) -> Tensor:
    """Return random pixels, or rows of a table in its own units."""
    if model.is_standardized:
        return model.restore(torch.randn(count, *model.input_shape, generator=generator))
    return torch.rand(count, *model.input_shape, generator=generator)


def _safetensors(model: VAE, directory: Path) -> tuple[Half, Half]:
    file = directory / checkpoint.MODEL
    atomic.write(file, checkpoint.model_bytes(model, dict(model.state_dict())))
    loaded = checkpoint.load(file)
    return loaded.encode, lambda *given: [loaded.decode(*given)]


def _pt2(model: VAE, directory: Path) -> tuple[Half, Half]:
    loaded = []
    for name, half, example in _halves(model):
        program = torch.export.export(half, example, dynamic_shapes=_any_batch(example))
        file, content = directory / f"{name}.pt2", io.BytesIO()
        torch.export.save(program, content)  # not to the file: if the disk is full, PyTorch ends the process
        atomic.write(file, content.getvalue())
        loaded.append(torch.export.load(file).module())
    encoder, decoder = loaded
    return encoder, lambda *given: [decoder(*given)]


def _onnx(model: VAE, directory: Path) -> tuple[Half, Half]:
    for package in ("onnxscript", "onnxruntime"):  # torch.onnx would report this in pages of text
        if find_spec(package) is None:
            raise RunError(f"--formats onnx: {package} is not installed: pip install 'vae_fast[onnx]'")
    import onnxruntime

    runs = []
    for name, half, example in _halves(model):
        file, names = directory / f"{name}.onnx", [INPUTS[name], "labels"][: len(example)]
        with _quiet(), atomic.naming(file):
            torch.onnx.export(
                half,
                example,
                file,
                opset_version=OPSET,
                input_names=names,
                output_names=OUTPUTS[name],
                dynamic_shapes=_any_batch(example),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        runs.append(partial(_run_onnx, session, names))
    return runs[0], runs[1]


def _run_onnx(session: Any, names: Sequence[str], *given: Tensor) -> list[Tensor]:
    inputs = {name: tensor.numpy() for name, tensor in zip(names, given, strict=True)}
    return [torch.from_numpy(out) for out in session.run(None, inputs)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch.onnx reports about its own code and about packages that it could use."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", "# The axis name: B will not be used")  # two inputs share the batch
            yield
    finally:
        logger.setLevel(level)


INPUTS = {"encoder": "pixels", "decoder": "z"}
OUTPUTS = {"encoder": ["mu", "logvar"], "decoder": ["logits"]}
WRITERS: dict[str, Callable[[VAE, Path], tuple[Half, Half]]] = {"safetensors": _safetensors, "pt2": _pt2, "onnx": _onnx}


def _halves(model: VAE) -> list[tuple[str, nn.Module, tuple[Tensor, ...]]]:
    """Return the name, the module and example inputs of each half."""
    labels = (torch.zeros(2, dtype=torch.int64),) if model.classes else ()
    return [
        ("encoder", PlainEncoder(model).eval(), (torch.rand(2, *model.input_shape), *labels)),
        ("decoder", PlainDecoder(model).eval(), (torch.randn(2, model.latent), *labels)),
    ]


def _any_batch(example: tuple[Tensor, ...]) -> tuple[dict[int, Any], ...]:
    batch = torch.export.Dim("B")
    return tuple({0: batch} for _ in example)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = run_arguments.parser(
        "export", __doc__, "--formats pt2 onnx", out="a new directory (default: RUN/export)", images=False
    )
    parser.add_argument(
        "--formats",
        choices=FORMATS,
        nargs="+",
        default=["safetensors", "pt2"],
        help=f"default: the first two; onnx has opset {OPSET} and a dynamic batch",
    )
    return exit_code(lambda: _run(parser.parse_args(arguments)))


def _run(chosen: argparse.Namespace) -> None:
    trained = Trained.open(chosen.run, chosen.device)
    directory = output.place(trained, chosen.out, "export")
    for name, worst in export(trained, directory, chosen.formats).items():
        print(f"{name:<12} read back, off by at most {worst:.1e} of the largest value")
    print(f"export       {directory}")


if __name__ == "__main__":
    sys.exit(main())

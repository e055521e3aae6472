"""Export a trained model: safetensors and JSON, torch.export's .pt2, ONNX, a model card. Each is read back and checked.

The encoder takes pixels, float32 [B, C, H, W] in [0, 1], and returns mu and logvar, [B, Z] each; the decoder takes
z, [B, Z], and returns logits [B, C, H, W], whose sigmoid is the image.
"""

import argparse
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from vae_fast.analysis.trained import Trained
from vae_fast.artifacts import atomic, checkpoint, strict_json
from vae_fast.cli import output, run_arguments
from vae_fast.cli.exit_codes import exit_code
from vae_fast.errors import RunError
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
CHECKED = 8  # images in a comparison; not the example's number, because the batch size must be dynamic
TOLERANCE = {"safetensors": 0.0, "pt2": 1e-5, "onnx": 1e-4}  # of the largest value: sums in another order


class PlainEncoder(nn.Module):
    """The encoder built from PyTorch's own modules alone, so that an export needs nothing from this package."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.stats = model.encoder.plain()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = self.stats(pixels.flatten(1)).chunk(2, dim=-1)
        return mu, logvar


class PlainDecoder(nn.Module):
    """The decoder built from PyTorch's own modules alone, for the same reason."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.logits = model.decoder.plain()
        self._shape = model.input_shape

    def forward(self, z: Tensor) -> Tensor:
        logits: Tensor = self.logits(z)
        return logits.view(-1, *self._shape)


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
        atomic.write(temporary / "README.md", model_card.model_card(trained, files).encode())
        description = {"hyperparameters": model.hyperparameters, "formats": found, "source": trained.title}
        atomic.write(temporary / checkpoint.EXPORT, strict_json.dumps(description, indent=1).encode())
    return found


Halves = tuple[Callable[[Tensor], Sequence[Tensor]], Callable[[Tensor], Sequence[Tensor]]]


def _checked(name: str, model: VAE, directory: Path) -> float:
    """Write one format, read it back, and compare both halves with the model's on batches of other sizes.

    Return the largest difference, relative to the largest value.
    """
    encode, decode = WRITERS[name](model, directory)
    worst = 0.0
    generator = torch.Generator().manual_seed(0)
    for count in (1, CHECKED):
        pixels = torch.rand(count, *model.input_shape, generator=generator)
        z = torch.randn(count, model.latent, generator=generator)
        with torch.no_grad():
            pairs = [
                *zip(model.encode(pixels), encode(pixels), strict=True),
                *zip([model.decode(z)], decode(z), strict=True),
            ]
        for ours, theirs in pairs:
            off = float((theirs - ours).abs().max() / ours.abs().max())
            if not off <= TOLERANCE[name]:  # true for NaN too
                raise RunError(
                    f"{name}: read back, it is off by {off:.1e} of the largest value; {TOLERANCE[name]:.0e} is allowed"
                )
            worst = max(worst, off)
    return worst


def _safetensors(model: VAE, directory: Path) -> Halves:
    file = directory / checkpoint.MODEL
    atomic.write(file, checkpoint.model_bytes(model, dict(model.state_dict())))
    loaded = checkpoint.load(file)
    return loaded.encode, lambda z: [loaded.decode(z)]


def _pt2(model: VAE, directory: Path) -> Halves:
    loaded = []
    for name, half, example in _halves(model):
        program = torch.export.export(half, (example,), dynamic_shapes=({0: torch.export.Dim("B")},))
        file, content = directory / f"{name}.pt2", io.BytesIO()
        torch.export.save(program, content)  # not to the file: if the disk is full, PyTorch ends the process
        atomic.write(file, content.getvalue())
        loaded.append(torch.export.load(file).module())
    encoder, decoder = loaded
    return encoder, lambda z: [decoder(z)]


def _onnx(model: VAE, directory: Path) -> Halves:
    for package in ("onnxscript", "onnxruntime"):  # torch.onnx would report this in pages of text
        if find_spec(package) is None:
            raise RunError(f"--formats onnx: {package} is not installed: pip install 'vae_fast[onnx]'")
    import onnxruntime

    runs = []
    for name, half, example in _halves(model):
        file = directory / f"{name}.onnx"
        with _quiet(), atomic.naming(file):
            torch.onnx.export(
                half,
                (example,),
                file,
                opset_version=OPSET,
                input_names=[INPUTS[name]],
                output_names=OUTPUTS[name],
                dynamic_shapes=({0: torch.export.Dim("B")},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        runs.append(
            lambda x, session=session, name=name: [
                torch.from_numpy(out) for out in session.run(None, {INPUTS[name]: x.numpy()})
            ]
        )
    return runs[0], runs[1]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch.onnx reports about its own code and about packages that it could use."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


INPUTS = {"encoder": "pixels", "decoder": "z"}
OUTPUTS = {"encoder": ["mu", "logvar"], "decoder": ["logits"]}
WRITERS: dict[str, Callable[[VAE, Path], Halves]] = {"safetensors": _safetensors, "pt2": _pt2, "onnx": _onnx}


def _halves(model: VAE) -> list[tuple[str, nn.Module, Tensor]]:
    """Return the name, the module and an example input of each half."""
    return [
        ("encoder", PlainEncoder(model).eval(), torch.rand(2, *model.input_shape)),
        ("decoder", PlainDecoder(model).eval(), torch.randn(2, model.latent)),
    ]


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

"""The README's Python runs as it stands, on the embedded digits."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import vae_fast as vf

README = Path(__file__).parents[1] / "README.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_training_and_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = [snippet for snippet in SNIPPETS if "vf.fit" in snippet]
    names: dict[str, Any] = {}
    exec(code.replace('"mnist"', '"digits"').replace("epochs=10", "epochs=1"), names)
    assert names["images"].shape == (8, 1, 28, 28)


def test_the_two_functions_in_a_vae_of_ones_own() -> None:
    """A plain loop, its sampling and loss lines as in the README: it learns."""
    (code,) = [snippet for snippet in SNIPPETS if "vf.reparameterize" in snippet]
    torch.manual_seed(0)
    network = torch.nn.Linear(784, 8)
    decoder = torch.nn.Linear(4, 784)
    optimizer = torch.optim.Adam([*network.parameters(), *decoder.parameters()], 1e-2)
    losses: list[float] = []

    def encoder(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return network(x / 255).chunk(2, dim=-1)

    def update(loss: torch.Tensor) -> None:
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())

    names: dict[str, Any] = {
        "batches": vf.load_images("digits").pixels.flatten(1).split(100), "encoder": encoder, "decoder": decoder,
        "seed": 0, "update": update,
    }  # fmt: skip
    for _ in range(3):
        exec(code.replace("    ...", "    update(loss)"), names)
    assert losses[-1] < 0.6 * losses[0]

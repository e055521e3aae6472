"""The Python code in README and docs/api.md runs as written, on the embedded digits; links point to what exists."""

import re
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, variance
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import vae_fast as vf

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")]
SNIPPETS = [
    snippet
    for document in (README, ROOT / "docs" / "api.md")
    for snippet in re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_files_and_modules_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    assert [link for link in links if not (document.parent / link).exists()] == []
    modules = re.findall(r"python3? -m ((?:vae_fast|benchmarks)(?:\.\w+)*)", text)
    assert [name for name in modules if find_spec(name) is None] == []
    suites = re.findall(r"\bbenchmarks/bench_\w+\.py", text)
    assert [suite for suite in suites if not (ROOT / suite).exists()] == []


def test_the_example_of_training_and_loading_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = [snippet for snippet in SNIPPETS if "vf.load(" in snippet]
    names: dict[str, Any] = {}
    exec(code.replace('"mnist"', '"digits"').replace("epochs=10", "epochs=1"), names)
    assert names["images"].shape == (8, 1, 28, 28)


def test_the_example_with_a_trained_model_runs(trained_run: Path) -> None:
    (code,) = [snippet for snippet in SNIPPETS if "Trained.open" in snippet]
    names: dict[str, Any] = {}
    exec(code.replace("runs/20261122T150000Z-mnist", str(trained_run)), names)
    assert names["numbers"]["importance_weighted"]["nll"] < names["numbers"]["loss"]


def test_the_two_functions_train_a_custom_vae() -> None:
    """Check that a plain loop learns with the sampling and loss lines of the README."""
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


def test_the_two_functions_for_an_encoder_with_one_output() -> None:
    """Compare the loss with that of the other two functions."""
    (code,) = [snippet for snippet in SNIPPETS if "sample_posterior" in snippet]
    torch.manual_seed(0)
    stats, x, decoder = torch.randn(5, 8), torch.rand(5, 6), torch.nn.Linear(4, 6)
    names: dict[str, Any] = {"stats": stats, "x": x, "decoder": decoder, "seed": 1, "step": 2}
    exec(code, names)
    mu, logvar = stats.chunk(2, dim=1)
    expected = vf.elbo_loss(decoder(vf.reparameterize(mu, logvar, 1, 2)), x, mu, logvar).loss
    torch.testing.assert_close(names["loss"], expected)


class UsersVAE(torch.nn.Module):
    """A typical VAE, whose sampling line and loss line are to be replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Sequential(torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 20))
        self.decoder = torch.nn.Sequential(torch.nn.Linear(10, 128), torch.nn.ReLU(), torch.nn.Linear(128, 784))

    def loss(self, x: torch.Tensor, seed: int | None, step: int) -> torch.Tensor:
        mu, logvar = self.encoder(x).chunk(2, dim=-1)
        if seed is None:
            z = mu + (logvar / 2).exp() * torch.randn_like(mu)
            nll = F.binary_cross_entropy(self.decoder(z).sigmoid(), x, reduction="sum")
            return (nll - 0.5 * (1 + logvar - mu.square() - logvar.exp()).sum()) / len(x)
        z = vf.reparameterize(mu, logvar, seed, step)
        return vf.elbo_loss(self.decoder(z), x, mu, logvar).loss


def last_loss(seed: int, fused: bool) -> float:
    """Return the mean training loss of the last of 12 epochs on the embedded digits."""
    torch.manual_seed(seed)
    model, step, total = UsersVAE(), 0, 0.0
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    x = vf.load_images("digits").pixels.flatten(1) / 255
    for epoch in range(12):
        for rows in torch.randperm(1000).split(50):
            loss = model.loss(x[rows], seed if fused else None, step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            total += loss.item() if epoch == 11 else 0.0
    return total / 20


@pytest.mark.sweep  # examples/own_vae.py is run by default
@pytest.mark.usefixtures("one_thread")
def test_a_custom_vae_learns_as_before() -> None:
    """Replace the two lines: the loss differs by no more than it does between seeds."""
    plain, ours = ([last_loss(seed, fused) for seed in range(5)] for fused in (False, True))
    noise = mean((variance(plain), variance(ours))) ** 0.5
    assert noise < 4
    assert mean(plain) < 155
    assert abs(mean(ours) - mean(plain)) < 3 * noise * (2 / 5) ** 0.5, (plain, ours)  # 3 standard errors


def test_the_example_with_images_in_memory_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = [snippet for snippet in SNIPPETS if "faces.npy" in snippet]
    digits = vf.load_images("digits")
    np.save("faces.npy", digits.pixels.numpy())
    names: dict[str, Any] = {}
    exec(code.replace("epochs=10", "epochs=1"), names)
    assert names["run"].metrics[-1]["test_loss"] is not None

"""`python -m vae_fast.trace`: the path of one image, with the numbers that the model computes."""

import json
from pathlib import Path

import pytest
import torch

import vae_fast as vf
from vae_fast import trace as command
from vae_fast.reporting.terminal import CHART_ROWS


def test_the_stages_are_those_of_the_model(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(trained_run), "--index", "5", "--json", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    stages = {stage["name"]: torch.tensor(stage["values"]) for stage in found["stages"]}
    model, raw = vf.load(trained_run), vf.load_images("digits", "test").pixels[5:6]
    with torch.no_grad():
        mu, logvar = model.encode(raw)
        z = vf.reparameterize(mu, logvar, 0, 0, row_offset=5, stream=1)
        image = model.decode(z).sigmoid()
    torch.testing.assert_close(stages["raw"], raw[0, 0].long())
    torch.testing.assert_close(stages["normalised"], raw[0, 0] / 255)
    for name, value in (("mu", mu[0]), ("logvar", logvar[0]), ("z", z[0]), ("decoded", image[0, 0])):
        torch.testing.assert_close(stages[name], value, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        loss = vf.elbo_loss(model.decode(z), raw, mu, logvar)
    assert found["loss"] == pytest.approx({"nll": loss.nll.item(), "kl": loss.kl.item(), "loss": loss.loss.item()})
    torch.testing.assert_close(stages["mu"] + (stages["logvar"] / 2).exp() * stages["eps"], stages["z"])
    assert [record["epoch"] for record in found["training"]] == [1, 2]
    assert found["training"][0]["observation"] == "first epoch"
    assert sum(layer["parameters"] for layer in found["layers"]) == sum(p.numel() for p in model.parameters())
    flops = {layer["name"]: layer["flops"] for layer in found["layers"] if layer["kind"] == "Linear"}
    assert sorted(flops.values()) == sorted(2 * n * m for n, m in ((784, 64), (64, 8), (4, 64), (64, 784)))


def test_the_trace_is_printed_and_drawn(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(trained_run), "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert max(map(len, lines)) <= 120
    for step in (
        "1  raw pixels  [28, 28] uint8  grey pixels",
        "2  normalised",
        "3  encoder",
        "4  sampling",
        "5  decoder",
    ):
        assert step in text
    assert "encoder.stats" in text
    assert "nats per image" in text
    raw = lines.index("1  raw pixels  [28, 28] uint8  grey pixels")
    assert all(len(line) == 56 for line in lines[raw + 1 : raw + 29])
    assert any("@" in line for line in lines[raw + 1 : raw + 29])
    chart = next(i for i, line in enumerate(lines) if line.startswith("training"))
    assert sum("|" in line for line in lines[chart + 1 : chart + 1 + CHART_ROWS]) == CHART_ROWS


def test_pixel_150_is_normalised_to_0_588(trained_run: Path) -> None:
    raw = torch.tensor([[0.0, 151.0, 150.0]])
    assert command._normalised(raw, raw / 255, "uint8").strip() == "pixel [0, 2]: 150 / 255 = 0.588"

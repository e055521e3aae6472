"""The report page on a trained model, in a real browser."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vae_fast as vf
from tests.pages import Reader, contrasts, errors, overflow
from vae_fast import report
from vae_fast.analysis import generate
from vae_fast.analysis.trained import Trained
from vae_fast.models.layers import ACTIVATIONS
from vae_fast.reporting import charts, model_card


@pytest.fixture(scope="module")
def page(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    assert report.main([str(trained_run), "--out", str(file), "--device", "cpu"]) == 0
    return file


def test_a_damaged_record_does_not_prevent_the_report(trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = Trained.open(trained_run, "cpu")
    monkeypatch.setattr(Trained, "records", lambda _: [{"epoch": 1}, {"epoch": 2, "test_loss": 9.0}])
    assert "Training" in "".join(report._losses(trained))
    assert "After epoch 2" in model_card.model_card(trained, [])


def test_the_page_is_complete_and_fetches_nothing(page: Path, trained_run: Path) -> None:
    text = page.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    assert (reader.open, reader.fetched, reader.nameless) == ([], [], [])
    assert not re.search(r"https?://(?!www\.w3\.org)", text)
    for title in ("Summary", "Training", "Reconstructions", "Samples", "Traversals", "Latent map", "Latent explorer"):
        assert f"<h2>{title}</h2>" in text
    assert "grey pixels" in text
    assert "overfitting" in text or "falling" in text


def test_every_curve_has_a_style(tmp_path: Path, small: Callable[..., vf.Config]) -> None:
    trained = Trained.open(vf.fit(small(valid=100, epochs=1)).directory, "cpu")
    text = report.report(trained, trained.images())
    style = text[text.index("<style>") : text.index("</style>")]
    classes = set(re.findall(r'<polyline class="curve (\w+)"', text))
    assert classes == {"train", "valid", "test"}
    assert all(f".{name} {{ stroke:" in style for name in classes)
    assert text.count('<circle class="curve') == 3  # one epoch is a point, not a line
    assert "valid kl" in text


@pytest.mark.parametrize("losses", [(105.0, 105.2, 105.1), (300.0, 90.0, 80.0), (1e-4, 2e-4, 3e-4)])
def test_grid_lines_of_a_chart_have_distinct_labels(losses: tuple[float, ...]) -> None:
    drawn = charts.curves({"train": list(enumerate(losses, start=1))}, "losses")
    labels = re.findall(r'text-anchor="end">([\d.]+)</text>', drawn)
    assert len(labels) == len(set(labels)) == 5


def test_a_decoder_that_half_precision_would_spoil_is_stored_in_single_precision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = vf.VAE(hidden=(32,), latent=3).eval()
    pages = []
    for factor in (1.0, 300.0):
        model.decoder.logits.weight.data *= factor
        trained = Trained(model, tmp_path / "model.safetensors", None, None)
        pages.append(report.report(trained, trained.images(data="digits")))
    assert [re.search(r'"precision": "(\w+)"', page)[1] for page in pages] == ["float16", "float32"]


def test_text_is_escaped(trained_run: Path, tmp_path: Path) -> None:
    name = tmp_path / "<b>&.npz"
    images = vf.load_images("digits").pixels[:100, 0].numpy()
    np.savez(name, train=images, test=images)
    trained = Trained.open(trained_run, "cpu")
    text = report.report(trained, trained.images(data=str(name)))
    assert "<b>&" not in text
    assert "&lt;b&gt;&amp;" in text


def test_a_report_on_a_model_with_one_dimension_and_no_run(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = vf.VAE(hidden=(), latent=1)
    images = vf.load_images("digits")
    trained = Trained(model.eval(), tmp_path / "model.safetensors", None, None)
    assert "Latent explorer" in report.report(trained, trained.images(data="digits"))
    assert len(images) == 1000


PIXELS = """
const canvas = document.getElementById("picture");
return Array.from(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data);
"""
MOVE = """
const slider = document.querySelector(`[data-dimension="${arguments[0]}"]`);
slider.value = arguments[1];
slider.dispatchEvent(new Event("input"));
"""


def picture(browser: Any) -> torch.Tensor:
    return torch.tensor(browser.execute_script(PIXELS)).view(28, 28, 4)[..., 0] / 255


def expected(model: vf.VAE, z: torch.Tensor) -> torch.Tensor:
    return generate.decode(model, z[None])[0, 0]


def test_the_sliders_decode_like_pytorch(browser: Any, page: Path, trained_run: Path) -> None:
    model = vf.load(trained_run)
    browser.get(page.as_uri())
    z = torch.zeros(4)
    assert (picture(browser) - expected(model, z)).abs().max() <= 2 / 255
    for dimension, value in ((0, 1.5), (3, -2.25), (0, -0.75)):
        before = picture(browser)
        browser.execute_script(MOVE, dimension, value)
        z[dimension] = value
        assert (picture(browser) - before).abs().max() > 0.01
        assert (picture(browser) - expected(model, z)).abs().max() <= 2 / 255
    browser.find_element("css selector", '[data-start="1"]').click()
    mean = generate.means(model, vf.load_images("digits", "test").pixels[:1])[0]
    assert (picture(browser) - expected(model, mean)).abs().max() <= 2 / 255
    browser.find_element("id", "random").click()
    assert (picture(browser) - expected(model, mean)).abs().max() > 0.01
    assert errors(browser) == []


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_runs_in_the_page(browser: Any, activation: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = vf.VAE(hidden=(32, 16), latent=3, activation=activation).eval()
    trained = Trained(model, tmp_path / "model.safetensors", None, None)
    file = tmp_path / "report.html"
    file.write_text(report.report(trained, trained.images(data="digits")), encoding="utf-8")
    browser.get(file.as_uri())
    z = torch.tensor([2.0, -1.0, 0.5])
    for dimension, value in enumerate(z.tolist()):
        browser.execute_script(MOVE, dimension, value)
    assert (picture(browser) - expected(model, z)).abs().max() <= 2 / 255
    assert errors(browser) == []


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_its_window(browser: Any, page: Path, width: int) -> None:
    assert overflow(browser, page, width) <= 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(browser: Any, page: Path, scheme: str) -> None:
    """Check for the least contrast of text that WCAG 2.1 requires at level AA: 4.5."""
    kinds = dict.fromkeys(("body", ".note", "figcaption", "button", "dd"), "color")
    assert min(contrasts(browser, page, scheme, kinds).values()) > 4.5


def test_the_map_of_posterior_means_that_do_not_vary(trained_run: Path) -> None:
    trained = Trained.open(str(trained_run), "cpu")
    with torch.no_grad():
        for parameter in trained.model.encoder.parameters():
            parameter.zero_()
    text = "".join(report._map(trained, trained.images("test")))
    assert "principal components: they do not vary" in text
    assert "nan" not in text

"""The report page on a trained model, in a real browser."""

import html.parser
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vae_fast as vf
from vae_fast import report
from vae_fast.analysis import generate
from vae_fast.analysis.trained import Trained
from vae_fast.models.layers import ACTIVATIONS
from vae_fast.reporting import charts, model_card

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


class Reader(html.parser.HTMLParser):
    """A parser that collects open tags, images without a text alternative, and what the page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.nameless: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.fetched += [v for k, v in attrs if k in ("src", "href") and v and not v.startswith("data:")]
        if (tag == "img" and not given.get("alt")) or (given.get("role") == "img" and not given.get("aria-label")):
            self.nameless.append(tag)
        if tag not in ("meta", "img", "input", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass  # SVG elements

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("chromium and chromedriver (Debian's chromium-driver) are not installed")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


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


def errors(browser: Any) -> list[str]:
    """Return the errors in the console; a warning that this test reads the canvas often is ignored."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


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
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    seen, needed = browser.execute_script("return [window.innerWidth, document.documentElement.scrollWidth]")
    assert seen == width
    assert needed <= seen


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(browser: Any, page: Path, scheme: str) -> None:
    """Check for the least contrast of text that WCAG 2.1 requires at level AA: 4.5."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page.as_uri())
    paper = luminance(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert (paper > 0.5) == (scheme == "light")
    colours = browser.execute_script("""
        return ["body", ".note", "figcaption", "button", "dd"].map(
            (kind) => getComputedStyle(document.querySelector(kind)).color);
    """)
    for ink in map(luminance, colours):
        assert (max(paper, ink) + 0.05) / (min(paper, ink) + 0.05) > 4.5


def luminance(colour: str) -> float:
    """Return the luminance of "rgb(r, g, b)" as WCAG defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_the_map_of_posterior_means_that_do_not_vary(trained_run: Path) -> None:
    trained = Trained.open(str(trained_run), "cpu")
    with torch.no_grad():
        for parameter in trained.model.encoder.parameters():
            parameter.zero_()
    text = "".join(report._map(trained, trained.images("test")))
    assert "principal components: they do not vary" in text
    assert "nan" not in text

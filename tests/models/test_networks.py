"""Networks other than the MLP: their layers, whole runs of them, and those of users, with users' mistakes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vae_fast as vf
from vae_fast import export, report, trace
from vae_fast.analysis.trained import Trained
from vae_fast.config_rules import NETWORKS
from vae_fast.errors import ConfigError, DataError, RunError, UserError
from vae_fast.evaluate import evaluate
from vae_fast.models import sizes
from vae_fast.models.build import new_model
from vae_fast.models.layers import UpConv
from vae_fast.models.networks import BUILT_IN
from vae_fast.reporting.model_card import model_card
from vae_fast.runtime.environment import cpp_compiler
from vae_fast.runtime.plan import make_plan
from vae_fast.sample import sample
from vae_fast.training.engine import Engine

OWN = Path(__file__).parents[1] / "own_networks.py"
Small = Callable[..., vf.Config]


@given(b=st.integers(1, 3), c=st.integers(1, 5), out=st.integers(1, 4), h=st.integers(1, 9), w=st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_an_enlarging_convolution_is_what_it_says(b: int, c: int, out: int, h: int, w: int) -> None:
    """Compare values and gradients with PyTorch's Upsample and Conv2d."""
    torch.manual_seed(0)
    ours = UpConv(c, out).double()
    plain = ours.plain().double()
    x = torch.randn(b, c, h, w, dtype=torch.float64, requires_grad=True)
    found = []
    for layer, weights in ((ours, [ours.weight, ours.bias]), (plain, list(plain[1].parameters()))):
        y = layer(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, *weights])])
    torch.testing.assert_close(*found)


def test_every_network_is_a_setting() -> None:
    assert set(NETWORKS) == set(BUILT_IN)


@pytest.mark.parametrize("network", ["conv", "resnet"])
@pytest.mark.parametrize("shape", [(1, 5, 9), (3, 31, 16), (2, 28, 28)])
def test_any_size_and_number_of_channels_works(network: str, shape: tuple[int, ...]) -> None:
    model = vf.VAE(shape, latent=3, network=network, options={"width": 6}, classes=4)
    x, labels = torch.rand(5, *shape), torch.arange(5) % 4
    out = model(x, 1, 2, labels=labels)
    assert out.logits.shape == x.shape
    assert torch.equal(model.decode(out.z, labels), out.logits)
    torch.testing.assert_close(model.encode((255 * x).byte(), labels), model.encode((255 * x).byte() / 255, labels))
    assert not torch.equal(model.encode(x, labels)[0], model.encode(x, labels.flip(0))[0])
    rebuilt = vf.VAE(**model.hyperparameters)
    rebuilt.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match=r"labels: expected \[5\], since the VAE has 4 classes, got None"):
        model.encode(x)
    widest = max(map(max, sizes.layer_sizes(model).values()))
    assert widest >= x[0].numel()
    assert sizes.rows_at_once(model, 7 * 4 * widest) == 7


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a file with the first digits, at half their size."""
    arrays = {}
    for part, count in (("train", 160), ("test", 60)):
        images = vf.load_images("digits", part)
        arrays |= {part: images.pixels[:count, :, ::2, ::2].numpy(), f"{part}_labels": images.labels[:count].numpy()}
    file = tmp_path_factory.mktemp("few") / "few.npz"
    np.savez(file, **arrays)
    return str(file)


COMBINATIONS: dict[str, dict[str, Any]] = {
    "conv": {"network": "conv", "network_options": {"width": 8}, "feed": "stream", "valid": 40},
    "conv bf16": {"network": "conv", "network_options": {"width": 4}, "amp_dtype": "bf16", "conditional": True},
    "conv compiled": {"network": "conv", "network_options": {"width": 4}, "compile": True, "conditional": True},
    "resnet": {"network": "resnet", "network_options": {"width": 4}, "likelihood": "gaussian", "feed": "host"},
    "mlp with labels": {"conditional": True, "likelihood": "discretized_logistic", "feed": "host"},
    "own": {"network": f"{OWN}:labelled", "conditional": True, "amp_dtype": "bf16", "free_bits": 0.1},
    "own, and its objective": {
        "network": f"{OWN}:labelled",
        "conditional": True,
        "objective": f"{OWN.with_name('own_objectives.py')}:noisy",
    },
}
MORE: dict[str, dict[str, Any]] = {  # which take long
    "conv fp16": {"network": "conv", "network_options": {"width": 4}, "amp_dtype": "fp16", "binarize": "dynamic"},
    "own linear": {"network": f"{OWN}:linear", "network_options": {"bias": False}, "clip": 1.0},
    "own compiled": {"network": f"{OWN}:labelled", "conditional": True, "compile": True},
    "resnet compiled": {"network": "resnet", "network_options": {"width": 4}, "compile": True, "amp_dtype": "bf16"},
}


@pytest.mark.parametrize("name", [*COMBINATIONS, *(pytest.param(name, marks=pytest.mark.sweep) for name in MORE)])
def test_a_run_with_any_network_does_all_that_runs_do(
    name: str, tmp_path: Path, few: str, request: pytest.FixtureRequest
) -> None:
    chosen = {**COMBINATIONS, **MORE}[name]
    if chosen.get("compile"):
        if cpp_compiler() is None:
            pytest.skip("torch.compile needs a C++ compiler on a CPU")
        request.getfixturevalue("two_threads")  # with which sums may vary
    if chosen.get("feed") == "stream":
        np.save(tmp_path / "few.npy", np.load(few)["train"])
        chosen = {**chosen, "data": str(tmp_path / "few.npy")}
    hidden = {} if "network" in chosen else {"hidden": (16,)}
    config = vf.Config(**{"data": few, "latent": 4, "epochs": 2, "batch_size": 20, "lr": 2e-3, **hidden, **chosen})
    run = vf.fit(vf.Config(**{**config.recorded(), "out": str(tmp_path / "run")}))
    losses = [record["test_loss"] for record in run.metrics]
    assert losses[1] < losses[0]
    again = vf.fit(vf.Config(**{**config.recorded(), "epochs": 1, "out": str(tmp_path / "again")})).directory
    resumed = vf.fit(vf.Config(**{**config.recorded(), "resume": str(again)}))
    for key, value in run.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], value), key
    trained = Trained.open(run.directory, "cpu")
    selection = trained.images("test")
    assert evaluate(trained, selection, iw=5, seed=trained.seed)["loss"] == pytest.approx(losses[-1], rel=1e-4)
    assert sample(trained, 3).shape == (3, *trained.model.input_shape)
    export.export(trained, tmp_path / "export", ["pt2"])
    assert torch.equal(vf.load(tmp_path / "export").state_dict()[key], value)
    assert "Latent explorer" in report.report(trained, selection)
    found = trace.trace(trained, selection, 3)
    assert sum(layer["parameters"] for layer in found["layers"]) == sum(
        p.numel() for half in (trained.model.encoder, trained.model.decoder) for p in half.parameters()
    )
    assert "together" in "\n".join(trace.lines(found))


@pytest.mark.parametrize(
    ("settings_", "error", "message"),
    [
        ({"network": "cnv"}, ConfigError, r"network: expected mlp, conv, resnet, FILE.py:function .* got 'cnv'"),
        ({"network": "conv", "hidden": (9,)}, ConfigError, "hidden: belongs to the MLP, the network is conv"),
        ({"network_options": {"width": 3}}, ConfigError, "network_options: expected none with the MLP, got width=3"),
        ({"network": "conv", "network_options": ("width",)}, ConfigError, "expected key=value, such as width=64"),
        (
            {"network": "conv", "network_options": {"depth": 3}},
            ConfigError,
            "conv takes no 'depth'; its options: width",
        ),
        (
            {"network": "conv", "network_options": {"width": 0}},
            ConfigError,
            "width: expected a positive integer, got 0",
        ),
        ({"network": "conv", "network_options": ("x={a=1}",)}, ConfigError, "expected numbers, strings or a list"),
        ({"network": "conv", "network_options": {"name": 1}}, ConfigError, "expected another name than name"),
        ({"network": f"{OWN}:labelled"}, ConfigError, "needs 'classes'; give it by --conditional"),
        ({"network": f"{OWN}:twice"}, RunError, "has a parameter under two names"),
        ({"network": f"{OWN}:by_batch"}, RunError, "depends on the others of its batch"),
        ({"network": "conv", "step": "fused"}, RunError, "the fused step is the MLP's, the network is conv"),
        ({"network": "gone.py:make"}, RunError, r"gone.py: there is no such file, expected one with a function make"),
        ({"network": "no_such_package.nets:make"}, RunError, "there is no module 'no_such_package'"),
        ({"network": f"{OWN}:nothing"}, RunError, "has no function 'nothing'; its functions: labelled, linear"),
        ({"network": f"{OWN}:shared"}, RunError, "share parameters"),
        ({"network": f"{OWN}:double"}, RunError, "expected float32 parameters on the CPU"),
        ({"network": f"{OWN}:frozen"}, RunError, "is not trained; expected it as a buffer"),
        ({"network": f"{OWN}:swapped"}, RunError, r"maps \[4, 1, 28, 28\] to \[4, 4\], expected \[4, 8\]"),
        ({"network": f"{OWN}:single"}, RunError, r"to return two modules, \(encoder, decoder\), got Sequential"),
        ({"network": f"{OWN}:noisy"}, RunError, "draws random numbers even in evaluation"),
        ({"network": f"{OWN}:broken"}, ZeroDivisionError, "of the user's own"),
        (
            {"network": f"{OWN}:linear", "conditional": True},
            ConfigError,
            "conditional: expected .*linear to take 'classes'",
        ),
    ],
)
def test_mistakes_are_named(settings_: dict[str, Any], error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        vf.fit(vf.Config(**{"data": "digits", "latent": 4, "out": str(tmp_path / "run"), **settings_}))
    assert not (tmp_path / "run" / "config.toml").exists()


def test_a_condition_needs_labels(small: Small) -> None:
    images = vf.load_images("digits").pixels[:100]
    for given_, message in (
        ({}, "memory has no labels for its images"),
        ({"labels": torch.full((100,), -1)}, r"expected train labels of 0 to 9999, memory has -1 to -1"),
        ({"labels": torch.arange(100)}, r"expected training images of every class of the test images, there are none"),
        ({"labels": torch.arange(100), "whole": True}, None),
    ):
        whole = {"test_fraction": 0.0} if given_.pop("whole", False) else {}
        if message is None:
            config = small(data="memory", conditional=True, batch_size=10, epochs=1, **whole)
            run = vf.fit(config, images=images, **given_)
            assert run.model.classes == 100
        else:
            with pytest.raises(DataError, match=f"conditional: {message}"):
                vf.fit(small(data="memory", conditional=True, batch_size=10), images=images, **given_)


def test_a_skipped_step_leaves_the_buffers_as_they_were(tmp_path: Path) -> None:
    """Train on images of which some are NaN, in the model's first weights; batch normalisation must not keep it."""
    config = vf.Config(network=f"{OWN}:labelled", conditional=True, latent=4, batch_size=20, device="cpu")
    model = new_model(config, (1, 28, 28), 10)
    images = vf.load_images("digits").pixels[:40].flatten(1).float() / 255
    images[0] = torch.nan
    engine = Engine(model, images, config, make_plan(config)[0], 2, labels=torch.arange(40) % 10)
    engine.begin_epoch(torch.arange(40).view(2, 20))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    engine.advance(1)
    assert engine.step_metrics.recent(1).skips_in_a_row == 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    engine.advance(1)
    moved = {name for name, value in model.named_buffers() if not torch.equal(value, before[name])}
    assert moved == {f"encoder.inner.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}


def test_labels_of_other_data_are_matched_by_name(tmp_path: Path) -> None:
    images = vf.load_images("digits").pixels[:120].numpy()
    names = np.array(["ant", "bee", "cat"])[np.arange(120) % 3]
    np.savez(tmp_path / "all.npz", train=images, train_labels=names)
    np.savez(tmp_path / "some.npz", train=images[names != "ant"], train_labels=names[names != "ant"])
    np.savez(tmp_path / "other.npz", train=images, train_labels=np.where(names == "ant", "dog", names))
    config = vf.Config(data=str(tmp_path / "all.npz"), conditional=True, latent=4, batch_size=20, epochs=1)
    run = vf.fit(vf.Config(**{**config.recorded(), "out": str(tmp_path / "run")})).directory
    trained = Trained.open(run, "cpu")
    assert trained.images("test", data=str(tmp_path / "some.npz")).conditions.unique().tolist() == [1, 2]
    assert trained.class_of("cat") == 2
    assert "labels, int64 [B]: 0 `ant`, 1 `bee`, 2 `cat`" in model_card(trained, [])
    with pytest.raises(DataError, match="has classes ant, bee, cat; other has 'dog'"):
        trained.images("test", data=str(tmp_path / "other.npz"))


def test_a_users_network_is_found_again_and_a_change_is_noticed(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = shutil.copy(OWN, tmp_path / "mine.py")
    monkeypatch.chdir(tmp_path)
    given_ = {"data": "digits", "latent": 4, "batch_size": 100, "network": "mine.py:linear"}
    run = vf.fit(vf.Config(**given_, epochs=1, out="run")).directory.absolute()
    monkeypatch.chdir("/")
    vf.load(run)
    with Path(file).open("a") as out:
        out.write("\n# changed\n")
    with pytest.warns(UserWarning, match=rf"{file}:linear has changed since {run}"):
        vf.load(run)
    vf.fit(vf.Config(**{**vf.Config.from_toml(run / "config.toml").recorded(), "epochs": 2, "resume": str(run)}))
    assert "not bit-exact with the start of the run: network_sha256 was" in capsys.readouterr().out
    Path(file).unlink()
    with pytest.raises(UserError, match=r"mine\.py: there is no such file"):
        vf.load(run)

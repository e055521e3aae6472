"""Objectives of the user's: the gradients, whole runs, and mistakes."""

import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

import vae_fast as vf
from tests.own_objectives import as_usual, sampled
from vae_fast import report
from vae_fast.analysis.diagnosis import observe
from vae_fast.analysis.trained import Trained
from vae_fast.errors import ConfigError, RunError
from vae_fast.kernels import Rates, reparameterize
from vae_fast.models.vae import VAE
from vae_fast.objectives.elbo import Noise, backward, forward
from vae_fast.objectives.own import OwnObjective
from vae_fast.runtime.environment import cpp_compiler
from vae_fast.runtime.plan import make_plan, process_settings
from vae_fast.training.planning import require_shareable

OWN = Path(__file__).parents[1] / "own_objectives.py"


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_gradients_are_those_of_the_whole_loss(likelihood: str) -> None:
    """Compare with autograd through all of it, and for the ELBO with the step's own backward pass."""
    torch.manual_seed(0)
    model = VAE((1, 4, 4), hidden=(9,), latent=3, likelihood=likelihood)
    x, scale, rates = torch.rand(5, 16), torch.tensor(8.0), Rates(torch.tensor(1e-3), torch.tensor(0.7))
    noise = Noise(torch.tensor(3), torch.tensor(4), 0)
    for function in (sampled, as_usual):
        objective = OwnObjective(f"{OWN}:{function.__name__}", model)
        terms, gradients = objective.backward(
            model, model.likelihood, x, noise, forward(model, x, noise), rates, scale, images=10
        )
        mu, logvar = model.stats(x).chunk(2, dim=-1)
        z = reparameterize(mu, logvar, 3, 4)
        images = x.view(5, 1, 4, 4)
        nll, kl = function(images, model.logits(z).view_as(images), mu, logvar, z, model.likelihood)
        expected = torch.autograd.grad((8 / 10 * (nll + 0.7 * kl)).sum(), list(model.parameters()))
        torch.testing.assert_close((terms.nll, terms.kl), (nll, kl))
        torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-5)
    usual = backward(model, model.likelihood, x, noise, forward(model, x, noise), rates, scale, images=10)
    torch.testing.assert_close(gradients, usual[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("more", [{}, {"amp_dtype": "bf16"}, {"compile": True, "likelihood": "gaussian"}])
def test_the_elbo_as_a_users_objective_trains_as_usual(more: dict[str, Any], tmp_path: Path) -> None:
    if more.get("compile") and cpp_compiler() is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    settings = {"hidden": (16,), "latent": 4, "epochs": 1, "step": "autograd", **more}
    usual, own = (
        vf.fit(vf.Config(objective=objective, out=str(tmp_path / name), **settings)).metrics[-1]
        for name, objective in (("usual", "elbo"), ("own", f"{OWN}:as_usual"))
    )
    for name in ("train_nll", "train_kl", "test_nll"):
        assert own[name] == pytest.approx(usual[name], rel=1e-3 if "amp_dtype" in more else 1e-5, abs=1e-2)


def test_a_run_draws_what_it_drew_when_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OWN.read_text())
    settings = {"hidden": (16,), "latent": 4, "objective": f"{file}:noisy"}
    run = vf.fit(vf.Config(out=str(tmp_path / "run"), epochs=2, **settings))
    first = vf.fit(vf.Config(out=str(tmp_path / "first"), epochs=1, **settings))
    resumed = vf.fit(vf.Config.from_toml(first.directory / "config.toml", resume=str(first.directory), epochs=2))
    assert all(map(torch.equal, run.model.state_dict().values(), resumed.model.state_dict().values()))
    assert run.metrics[-1]["test_loss"] == run.metrics[-1]["test_nll"] + run.metrics[-1]["test_kl"]
    assert "not bit-exact" not in capsys.readouterr().out
    file.write_text(file.read_text() + "\n")
    vf.fit(vf.Config.from_toml(first.directory / "config.toml", resume=str(first.directory), epochs=3))
    assert re.search(
        r"not bit-exact with the start of the run: objective_sha256 was \w{64}, is", capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("place", "error", "message"),
    [
        (f"{OWN}:nothing", RunError, "has no function 'nothing'; its functions: as_usual, sampled"),
        (
            "nowhere.py:loss",
            RunError,
            "objective: nowhere.py: there is no such file, expected one with a function loss",
        ),
        ("nowhere:loss", RunError, "objective: nowhere:loss: there is no module 'nowhere'"),
        (f"{OWN}:single", RunError, r"own_objectives.py:single to return two tensors, \(nll, kl\), got Tensor"),
        (f"{OWN}:mean", RunError, r"expected nll of .* as float32 \[4\] for 4 images, got torch.float32 \[\]"),
        (f"{OWN}:blind", RunError, "does not depend on the logits: no network could learn"),
        (f"{OWN}:broken", ZeroDivisionError, "of the user's own"),
        (f"{OWN}:few", RunError, r"expected .*:few to take x, logits, mu, logvar, z, likelihood; it takes \(x"),
        (f"{OWN}:otherwise_noisy", RunError, "gave two results for the same images and seed; expected random numbers"),
    ],
)
def test_mistakes_are_refused(place: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        OwnObjective(place, VAE((1, 4, 4)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"objective": "elbow"},
            "objective: expected elbo, iwae, dreg, FILE.py:function or package.module:function, got",
        ),
        (
            {"objective": ".m:f"},
            "objective: expected elbo, iwae, dreg, FILE.py:function or package.module:function, got",
        ),
        (
            {"network": ":f"},
            "network: expected mlp, conv, resnet, FILE.py:function or package.module:function, got ':f'",
        ),
        (
            {"objective": "a.py:b", "free_bits": 0.1},
            "free_bits: expected 0 unless the objective is elbo with one sample, got 0.1",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        vf.Config(**settings)


def test_the_fused_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="--step fused: cannot be had, the fused step has no objectives of your own"):
        vf.fit(vf.Config(objective=f"{OWN}:as_usual", step="fused", out=str(tmp_path / "run")))


def test_a_branch_on_a_value_does_not_compile_in_one_line(tmp_path: Path) -> None:
    if cpp_compiler() is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    with pytest.raises(RunError, match=r"--compile: torch.compile failed: .*tracing tensor"):
        vf.fit(vf.Config(objective=f"{OWN}:branching", compile=True, hidden=(16,), out=str(tmp_path / "run")))


def test_a_compiled_step_of_any_objective_is_deterministic() -> None:
    config = vf.Config(objective=f"{OWN}:noisy", compile=True, device="cpu")
    with process_settings(make_plan(config)[0], config):
        assert torch.are_deterministic_algorithms_enabled()


def test_a_report_judges_no_unit_it_does_not_know_and_keeps_the_folder_to_itself(tmp_path: Path) -> None:
    run = vf.fit(vf.Config(objective=f"{OWN}:squared", hidden=(16,), epochs=2, out=str(tmp_path / "run")))
    assert [record["entropy"] for record in run.metrics] == [None, None]
    trained = Trained.open(run.directory, "cpu")
    page = report.report(trained, trained.images("test"))
    assert "own_objectives.py:squared" in page
    assert str(OWN.parent) not in page
    records = [{"epoch": epoch, "train_loss": 0.0, "entropy": None} for epoch in (1, 2)]
    assert observe(records) == "levelled off"


@pytest.mark.parametrize(
    ("name", "obstacle"),
    [
        ("as_usual", None),
        ("squared", None),
        ("noisy", "draws random"),
        ("compared", "compares"),
        ("slightly_compared", "compares"),
    ],
)
def test_what_cannot_be_shared_is_refused(name: str, obstacle: str | None) -> None:
    model = VAE((1, 4, 4))
    refused = pytest.raises(RunError, match=f"objective: .*:{name} {obstacle}.*expected one process, got 2")
    with nullcontext() if obstacle is None else refused:
        require_shareable(model, OwnObjective(f"{OWN}:{name}", model), 2)

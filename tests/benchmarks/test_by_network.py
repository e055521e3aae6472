"""The comparison of networks: JAX and plain PyTorch compute what this engine's network does, and the table has all."""

import pytest
import torch

import vae_fast as vf
from benchmarks import by_network
from benchmarks.by_network import BASELINE, CASES, PlainVAE, main
from vae_fast.runtime.environment import cpp_compiler


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Allow for float32 sums in another order, through some twenty layers."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("case", CASES)
def test_the_contenders_compute_the_same(case: str) -> None:
    network, shape, _ = CASES[case]
    torch.manual_seed(0)
    model = vf.VAE(shape, latent=4, network=network, options={"width": 4})
    plain, x, z = PlainVAE(model), torch.rand(2, *shape), torch.randn(2, 4)
    with torch.no_grad():
        stats, logits = model.stats(x), model.logits(z)
        assert_same(plain.encoder(x), stats)
        assert_same(plain.decoder(z).flatten(1), logits)
    jnp = pytest.importorskip("jax.numpy", reason="JAX is not installed: pip install 'vae_fast[peers]'")
    from benchmarks.contenders.peers.jax_convolutions import apply

    for half, given, expected in ((plain.encoder, x.permute(0, 2, 3, 1), stats), (plain.decoder, z, logits)):
        weights = {f"half.{name}": jnp.asarray(p.detach().numpy()) for name, p in half.named_parameters()}
        found = torch.from_numpy(apply(half, "half", weights, jnp.asarray(given.numpy())).__array__().copy())
        shaped = found.permute(0, 3, 1, 2).flatten(1) if found.dim() == 4 else found
        assert_same(shaped, expected)


@pytest.mark.sweep
@pytest.mark.skipif(cpp_compiler() is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_the_table_has_every_contender(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(by_network.CASES, "conv 28x28x1", ("conv", (1, 28, 28), 1))
    main(["--cases", "conv 28x28x1", "--batch", "8", "--width", "2", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in (BASELINE, "torch.compile", "vae_fast", "vae_fast --compile"))

"""Training objectives of the user's: a function that returns the two terms of the loss for each image.

    objective(x, logits, mu, logvar, z, likelihood) -> (nll, kl)

x and logits are float32 [B, *input_shape], mu, logvar and z float32 [B, Z]; likelihood is the model's, whose
`nll(logits, x)` is the usual first term. The loss is mean_b (nll_b + beta kl_b), in whatever unit the function takes.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, autograd

from vae_fast.errors import RunError
from vae_fast.kernels import Rates, Terms, sample_posterior_gradient
from vae_fast.models.likelihood import Likelihood
from vae_fast.models.vae import VAE
from vae_fast.objectives.elbo import Learned, Noise, Pass, gradients_of
from vae_fast.runtime import user_code

EXAMINED = 4  # images that a user's function is tried out on
ARGUMENTS = ("x", "logits", "mu", "logvar", "z", "likelihood")
Function = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Likelihood], tuple[Tensor, Tensor]]


class OwnObjective:
    """An objective of the user's for one model, found at its place and tried out.

    Attributes:
        place: FILE.py:function or package.module:function.
        source: SHA-256 of the file, in hexadecimal.
        draws: whether it draws random numbers.
        mixes: whether its value for an image depends on the others of the batch.

    Raises RunError for a function that cannot be found or that returns something else; what it raises itself is passed
    on.
    """

    def __init__(self, place: str, model: VAE) -> None:
        self.place, self._shape = place, model.input_shape
        with user_code.beside(place):
            self._function: Function
            self._function, self.source = user_code.found("objective", place)
            self._require_arguments()
            self.draws, self.mixes = self._examine(model)

    def backward(
        self,
        model: VAE,
        likelihood: Likelihood,
        x: Tensor,
        noise: Noise,
        done: Pass,
        rates: Rates,
        scale: Tensor,
        *,
        images: int,
    ) -> Learned:
        """Return the terms over x, and the gradients of the loss, as `elbo.backward` does with the same arguments."""
        stats, z = done.stats.detach().requires_grad_(), done.z.detach().requires_grad_()
        logits = done.logits.detach().float().requires_grad_()
        scales = list(likelihood.parameters())
        with torch.enable_grad():
            nll, kl = self._terms(x, logits, stats, z, likelihood)
            loss = scale / images * (nll + rates.beta * kl).sum()
            by_logits, by_stats, by_z, *of_likelihood = gradients_of(loss, [logits, stats, z, *scales])
        through_decoder, *of_decoder = gradients_of(
            done.logits, [done.z, *model.decoder.parameters()], by_logits.to(done.logits.dtype)
        )
        no_kl = torch.zeros_like(scale)
        by_stats = by_stats + sample_posterior_gradient(
            through_decoder + by_z, no_kl, done.stats, noise.seed, noise.step, row_offset=noise.row_offset
        )
        of_encoder = gradients_of(done.stats, list(model.encoder.parameters()), by_stats)
        return Terms(nll.detach(), kl.detach(), None), (*of_encoder, *of_decoder, *of_likelihood)

    def _terms(
        self, x: Tensor, logits: Tensor, stats: Tensor, z: Tensor, likelihood: Likelihood
    ) -> tuple[Tensor, Tensor]:
        pixels = x / 255 if x.dtype == torch.uint8 else x
        shaped = (len(x), *self._shape)
        mu, logvar = stats.float().chunk(2, dim=-1)
        return self._function(pixels.view(shaped), logits.view(shaped), mu, logvar, z.float(), likelihood)

    def _examine(self, model: VAE) -> tuple[bool, bool]:
        """Return whether the function draws random numbers and mixes images, after checking what it returns."""
        with torch.random.fork_rng(devices=[]):
            x, logits = torch.rand(2, EXAMINED, model.pixels)
            stats, z = torch.randn(EXAMINED, 2 * model.latent), torch.randn(EXAMINED, model.latent)
            leaves = [t.requires_grad_() for t in (logits, stats, z)]
            state = torch.get_rng_state()
            whole = self._terms(x, logits, stats, z, model.likelihood)
            draws = not torch.equal(state, torch.get_rng_state())
            self._require_terms(whole, logits)
            torch.set_rng_state(state)
            again = self._terms(x, logits, stats, z, model.likelihood)
            if not all(map(torch.equal, whole, again)):
                raise RunError(
                    f"objective: {self.place} gave two results for the same images and seed; expected random numbers "
                    f"from PyTorch's default generator alone"
                )
            torch.set_rng_state(state)
            part = self._terms(x[:2], logits[:2], stats[:2], z[:2], model.likelihood)
            alone = all(len(t) == 2 and torch.allclose(t, w[:2], 1e-5, 0) for t, w in zip(part, whole, strict=True))
            of_first = gradients_of((whole[0] + whole[1])[:2].sum(), leaves)  # exactly 0 by images of no influence
            return draws, not alone or any(bool(gradient[2:].any()) for gradient in of_first)

    def _require_arguments(self) -> None:
        try:
            signature = inspect.signature(self._function)
            signature.bind(*ARGUMENTS)
        except TypeError:
            raise RunError(
                f"objective: expected {self.place} to take {', '.join(ARGUMENTS)}; it takes {signature}"
            ) from None

    def _require_terms(self, terms: Any, logits: Tensor) -> None:
        if not (isinstance(terms, tuple) and len(terms) == 2 and all(isinstance(t, Tensor) for t in terms)):
            raise RunError(f"objective: expected {self.place} to return two tensors, (nll, kl), got {_kind(terms)}")
        for name, term in zip(("nll", "kl"), terms, strict=True):
            if list(term.shape) != [EXAMINED] or term.dtype != torch.float32:
                raise RunError(
                    f"objective: expected {name} of {self.place} as float32 [{EXAMINED}] for {EXAMINED} images, got "
                    f"{term.dtype} {list(term.shape)}"
                )
        loss = (terms[0] + terms[1]).sum()
        if not loss.requires_grad or autograd.grad(loss, logits, allow_unused=True, retain_graph=True)[0] is None:
            raise RunError(
                f"objective: what {self.place} returns does not depend on the logits: no network could learn"
            )


def _kind(value: object) -> str:
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, tuple) else type(value).__name__

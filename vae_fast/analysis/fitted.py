"""A mixture of Gaussians fitted to the posteriors of a trained model, to sample from instead of the prior.

Where the posteriors together differ from the prior, decoded draws of the prior look unlike any image; draws of a
density fitted afterwards look better. (Ghosh et al.: From Variational to Deterministic Autoencoders, ICLR 2020.)
"""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from vae_fast.analysis.generate import components_of
from vae_fast.analysis.latents import posteriors
from vae_fast.data.images import Pixels
from vae_fast.errors import RunError
from vae_fast.kernels import streams
from vae_fast.models.vae import VAE
from vae_fast.objectives.noise import standard_normal

COMPONENTS = 10
MOST_IMAGES = 60_000


class Fitted(NamedTuple):
    """A mixture of Gaussians: log weights [N], means [N, Z], and Cholesky factors of their covariances [N, Z, Z]."""

    log_weights: Tensor
    means: Tensor
    factors: Tensor

    def draw(self, count: int, seed: int) -> Tensor:
        """Draw latents [count, Z]; row i does not depend on `count`."""
        chosen = components_of(self.log_weights, count, seed)
        eps = standard_normal(count, self.means.shape[1], seed, 0, stream=streams.SAMPLING)
        return self.means[chosen] + torch.einsum("bij,bj->bi", self.factors[chosen], eps)


def fit(
    model: VAE, images: Pixels, components: int = COMPONENTS, seed: int = 0, labels: Tensor | None = None
) -> Fitted:
    """Fit a mixture to a sample of z of each of the first MOST_IMAGES images, with scikit-learn's GaussianMixture.

    Args:
        model: the VAE.
        images: [N, D] as its network sees them; labels: int64 [N], if it has classes.
        components: the number of Gaussians, with full covariances; at most that of the images.
        seed: of the noise, and of the initial guess.

    Raises RunError if scikit-learn is not installed, or if there are too few images.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture
    except ImportError:
        raise RunError("--from mixture: scikit-learn is not installed: pip install 'vae_fast[mixture]'") from None
    images = images[:MOST_IMAGES]
    if len(images) < max(2, components):
        raise RunError(
            f"--components: expected at most the {len(images)} images to fit to, and 2 of them or more; got "
            f"{components}"
        )
    mu, logvar = (torch.cat(each) for each in zip(*posteriors(model, images, labels, is_seen=True), strict=True))
    z = mu + (0.5 * logvar).exp() * standard_normal(len(mu), model.latent, seed, 0, stream=streams.EVALUATION)
    found = GaussianMixture(components, max_iter=200, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a fit that could still be better serves as well
        found.fit(z.double().numpy())
    factors = torch.linalg.cholesky(torch.from_numpy(found.covariances_))
    weights, means = torch.from_numpy(found.weights_).log(), torch.from_numpy(found.means_)
    return Fitted(weights.float(), means.float(), factors.float())

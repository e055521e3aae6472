"""What a decoder's output says about an image: the likelihood p(x | z) of its pixels."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Likelihood:
    """A distribution of pixels, of which the decoder gives the parameters.

    name: as `vae_fast.elbo_loss` knows it, and the report's script.
    title: its name in a sentence.
    image: how the decoder's output becomes an image, in a sentence whose subject is the logits.
    mean: the same as a function: logits [...] -> means of the pixels [...], in [0, 1].
    """

    name: str
    title: str
    image: str
    mean: Callable[[Tensor], Tensor]


BERNOULLI = Likelihood("bernoulli", "Bernoulli", "their sigmoid is the image", torch.sigmoid)

"""The meaning of a decoder's output: the likelihood p(x | z) of an image's pixels."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Likelihood:
    """A distribution of pixels whose parameters the decoder outputs.

    name: the name by which `vae_fast.elbo_loss` and the report's script know it.
    title: its name in a sentence.
    image: a sentence, with the logits as its subject, that says how the decoder's output becomes an image.
    mean: the same as a function: logits [...] -> means of the pixels [...], in [0, 1].
    """

    name: str
    title: str
    image: str
    mean: Callable[[Tensor], Tensor]


BERNOULLI = Likelihood("bernoulli", "Bernoulli", "their sigmoid is the image", torch.sigmoid)

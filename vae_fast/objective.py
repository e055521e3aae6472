"""What training minimises: mean_b nll_b + beta * KL, with beta on a schedule and, if asked for, free bits."""

from torch import Tensor

from vae_fast.config import Config
from vae_fast.kernels import Elbo, elbo_loss, kl_per_dimension
from vae_fast.model import VAEOutput


def objective(output: VAEOutput, target: Tensor, beta: Tensor, free_bits: float = 0.0) -> Elbo:
    """The loss of one batch, with its nll and KL per image.

    Args:
        output: of the VAE for the batch.
        target: the images, [B, D] or [B, *input_shape], uint8 or float in [0, 1].
        beta: the weight of the KL term, 0-d.
        free_bits: lambda of Kingma et al. 2016 (Improving Variational Inference with Inverse Autoregressive Flow,
            appendix C.8), in nats: the KL term becomes sum_j max(lambda, mean_b kl_bj).

    Returns:
        Elbo(loss, nll, kl): loss 0-d, nll and kl [B]; kl is the true KL whatever free_bits says.
    """
    _, mu, logvar, _ = output
    elbo = elbo_loss(output.logits, target, mu, logvar, beta=beta)
    if free_bits == 0:
        return elbo
    pressed = kl_per_dimension(mu, logvar).mean(0).clamp(min=free_bits).sum()
    return elbo._replace(loss=elbo.nll.mean() + beta * pressed)


def beta_at(step: int, config: Config, steps_per_epoch: int) -> float:
    """beta of a step (counted from 0): constant, a linear warm-up, or cyclical annealing.

    Cyclical: in each of `beta_cycles` equal parts of the run, beta rises linearly over the first half and stays there
    (Fu et al.: Cyclical Annealing Schedule, 2019).
    """
    if config.beta_schedule == "constant":
        return config.beta
    if config.beta_schedule == "linear":
        return config.beta * min(1.0, step / (config.beta_warmup * steps_per_epoch))
    cycle = config.epochs * steps_per_epoch / config.beta_cycles
    return config.beta * min(1.0, 2 * (step % cycle) / cycle)

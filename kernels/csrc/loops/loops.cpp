// Compiled for each instruction set, with VAE_FAST_TABLE as the name of its table.
#include "loops.h"

#include "adam.h"
#include "elbo.h"
#include "mlp.h"
#include "noise.h"

namespace vae_fast {

namespace {

constexpr MlpLoops mlp_loops{
    .gather = gather,
    .activate = activate,
    .times_slopes = times_slopes,
    .posterior = posterior,
    .posterior_gradient = posterior_gradient,
    .multiply = multiply,
    .by_image = by_image,
    .bernoulli_panel = bernoulli_panel,
    .layer_gradient = layer_gradient,
};

}  // namespace

extern const Loops VAE_FAST_TABLE;
const Loops VAE_FAST_TABLE{
    .draw_bits = draw_bits,
    .reparameterize = reparameterize,
    .reparameterize_backward = reparameterize_backward,
    .kl = kl,
    .kl_backward = kl_backward,
    .nll = nll,
    .nll_backward = nll_backward,
    .sum_of_squares = sum_of_squares,
    .adam = adam,
    .mlp = &mlp_loops,
};

}  // namespace vae_fast

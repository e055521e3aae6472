// The table of loops, compiled once for each instruction set, with VAE_FAST_TABLE as the table's name.
#include "loops.h"

#include "adam.h"
#include "amx_emulated.h"
#include "elbo.h"
#include "layer_gradient.h"
#include "likelihood_panel.h"
#include "mixture.h"
#include "mlp.h"
#include "multisample.h"
#include "noise.h"
#include "norm.h"
#include "pair_product.h"
#include "sample_pixels.h"
#include "tile_gradient.h"

namespace vae_fast {

namespace {

constexpr MlpLoops mlp_loops{
    .sample_pixels = sample_pixels,
    .gather = gather,
    .activate = activate,
    .times_slopes = times_slopes,
    .posterior = posterior,
    .posterior_gradient = posterior_gradient,
    .multiply = multiply,
    .by_image = by_image,
    .likelihood_panel = likelihood_panel,
    .draw_samples = draw_samples,
    .weigh_samples = weigh_samples,
    .share_gradients = share_gradients,
    .samples_gradient = samples_gradient,
    .lay_out_normals = lay_out_normals,
    .mixture_joint = mixture_joint,
    .scale_terms = scale_terms,
    .scale_gradient = scale_gradient,
    .layer_gradient = layer_gradient,
    .bf16 = {pack_input, pack_gradient, pack_weight, tile_gradient},
    .multiply_pairs = multiply_pairs,
    .multiply_in_tile_order = multiply_in_tile_order,
    .multiply_emulated = multiply_emulated,
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

// Compiled for each instruction set, with VAE_FAST_TABLE as the name of its table.
#include "loops.h"

#include "adam.h"
#include "elbo.h"
#include "noise.h"

namespace vae_fast {

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
};

}  // namespace vae_fast

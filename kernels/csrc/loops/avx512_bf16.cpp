// Products by `vdpbf16ps`, compiled for CPUs that have it and for no others.
#include "pair_product.h"

namespace vae_fast {

void multiply_avx512_bf16(const TileProduct& by) { multiply_pairs(by); }

}  // namespace vae_fast

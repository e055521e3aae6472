// Products by `vdpbf16ps`, and stages that round by `vcvtneps2bf16`, compiled only for CPUs that have both.
#include "pair_product.h"
#include "tile_gradient.h"

namespace vae_fast {

extern const Bf16Stages stages_avx512_bf16;
const Bf16Stages stages_avx512_bf16{pack_input, pack_gradient, pack_weight, tile_gradient};

void multiply_avx512_bf16(const TileProduct& by) { multiply_pairs(by); }

}  // namespace vae_fast

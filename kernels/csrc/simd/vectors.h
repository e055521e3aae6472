// Vectors of floats of the instruction set's full width, and the sizes of tiles that fit into its registers.
#pragma once

#include "mlp_loops.h"

namespace vae_fast {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kWidest = 4;  // panels in a tile
#elif defined(__AVX__)
constexpr int kLanes = 8;
constexpr int kWidest = 1;
#else
constexpr int kLanes = 4;
constexpr int kWidest = 1;
#endif

using Vector = float __attribute__((vector_size(kLanes * sizeof(float))));
constexpr int kVectors = kPanel / kLanes;  // in a panel
constexpr int64_t kDepth = 128;            // rows of b that stay in the L1 cache: 16 kB to 32 kB
constexpr int64_t kPairRun = kDepth / kTileDepth * 2;  // tiles of b that stay in the L1 cache: 16 kB to 32 kB

// The number of rows of a tile: all that fit into the registers next to a row of b and one value of a.
constexpr int rows_of_tile(int panels) {
  if (kLanes == 16) return panels == 4 ? 6 : panels == 3 ? 8 : 12;
  return kLanes == 8 ? 6 : 2;
}

VAE_FAST_INLINE Vector* vectors(float* values) { return reinterpret_cast<Vector*>(values); }
VAE_FAST_INLINE const Vector* vectors(const float* values) { return reinterpret_cast<const Vector*>(values); }

// x - 0 is x for every x, and costs nothing; x + 0 is not x for -0.
VAE_FAST_INLINE Vector broadcast(float x) { return x - Vector{}; }

}  // namespace
}  // namespace vae_fast

// An emulation of AMX's tile registers for CPUs without them, so that the code for AMX is tested everywhere.
#pragma once

#include "amx_product.h"
#include "flush.h"

#include <cstring>

namespace vae_fast {
namespace {

// Intel SDM, TDPBF16PS.
class EmulatedTiles {
 public:
  template <int Register>
  void zero() {
    std::memset(tiles_[Register], 0, sizeof tiles_[Register]);
  }

  template <int Register>
  void load(const void* from, int64_t stride) {
    for (int64_t i = 0; i < kTileRows; ++i)
      std::memcpy(tiles_[Register][i], static_cast<const char*>(from) + i * stride, sizeof tiles_[Register][i]);
  }

  template <int Register>
  void store(void* to, int64_t stride) {
    for (int64_t i = 0; i < kTileRows; ++i)
      std::memcpy(static_cast<char*>(to) + i * stride, tiles_[Register][i], sizeof tiles_[Register][i]);
  }

  template <int C, int A, int B>
  void multiply() {
    for (int64_t m = 0; m < kTileRows; ++m) {
      alignas(64) float first[kPanel] = {}, second[kPanel] = {};
      for (int64_t k = 0; k < kTilePairs; ++k) {
        const PackedPair a = tiles_[A][m][k];
        const PackedPair* const b = tiles_[B][k];
#pragma omp simd
        for (int64_t n = 0; n < kPanel; ++n) {
          first[n] += first_of(a) * first_of(b[n]);
          second[n] += second_of(a) * second_of(b[n]);
        }
      }
      PackedPair* const c = tiles_[C][m];
#pragma omp simd
      for (int64_t n = 0; n < kPanel; ++n)
        c[n] = std::bit_cast<uint32_t>(std::bit_cast<float>(c[n]) + (first[n] + second[n]));
    }
  }

 private:
  alignas(64) PackedPair tiles_[8][kTileRows][kTilePairs];
};

void multiply_emulated(const TileProduct& by) {
  const FlushDenormals flushed;
  EmulatedTiles unit;
  multiply_by_tiles(unit, by);
}

}  // namespace
}  // namespace vae_fast

// The layout of the operands of bfloat16 products: tiles of 1 kB, each in the layout of one register of AMX. Two
// neighbouring values along the sum form a pair, which every instruction for such products processes at once.
//
//   left-hand, a [M, K]:   tiles [M/16][K/32], each [16 of M][16 pairs of K]
//   right-hand, b [K, N]:  tiles [N/16][K/32], each [16 pairs of K][16 of N]
//
// So a tile of one operand is, by pairs, the transpose of a tile of the other. Values past K are zero in both.
#pragma once

#include "philox.h"  // VAE_FAST_INLINE

#include <bit>
#include <cstdint>

namespace vae_fast {

using PackedPair = uint32_t;  // of bfloat16, the first in the low half

constexpr int64_t kTileRows = 16;
constexpr int64_t kTilePairs = 16;
constexpr int64_t kTileDepth = 2 * kTilePairs;
constexpr int64_t kTile = kTileRows * kTilePairs;  // in pairs
constexpr int64_t kHalfOfPairs = kTilePairs / 2;   // pairs of images: a panel of images fills half a tile

constexpr int64_t depth_tiles(int64_t depth) { return (depth + kTileDepth - 1) / kTileDepth; }

// c [rows, 16 panels] = bias + a b. Whole tiles of c may be written, even past `rows`.
struct TileProduct {
  const PackedPair* a;
  int64_t a_rows;        // pairs from 16 rows to the next 16
  const PackedPair* b;
  int64_t b_panel;       // pairs from 16 columns to the next 16
  float* c;
  int64_t c_row, c_panel;
  const float* bias;     // of every row, or null
  int64_t rows, depth, panels;  // the depth in tiles
};

// The order of a sum along K. It starts at the bias, every operation is rounded to nearest even, denormal inputs and
// results are treated as 0, and products are fused with additions if the CPU can:
//   by pairs: for each pair the second product and then the first are fused into the sum (Intel SDM, VDPBF16PS)
//   by tiles: for each tile the first and the second products are summed separately, each fused from 0; then the two
//          are added together, and the result is added to the sum (Intel SDM, TDPBF16PS)
using Multiply = void(const TileProduct&);

VAE_FAST_INLINE float first_of(PackedPair pair) { return std::bit_cast<float>(pair << 16); }
VAE_FAST_INLINE float second_of(PackedPair pair) { return std::bit_cast<float>(pair & 0xFFFF0000U); }

// Returns the bits of the bfloat16 nearest to a float, in the upper half: NaN stays NaN, a denormal number becomes zero
// (Intel SDM, VCVTNEPS2BF16).
VAE_FAST_INLINE uint32_t rounded_bits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), magnitude = bits & 0x7FFFFFFFU;
  const uint32_t rounded = bits + 0x7FFFU + ((bits >> 16) & 1U);
  const uint32_t number = magnitude < 0x00800000U ? bits & 0x80000000U : rounded;
  return (magnitude > 0x7F800000U ? bits | 0x00400000U : number) & 0xFFFF0000U;
}

VAE_FAST_INLINE PackedPair pair_of(float first, float second) { return rounded_bits(first) >> 16 | rounded_bits(second); }

}  // namespace vae_fast

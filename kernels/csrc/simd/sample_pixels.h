// Bernoulli samples of an image's pixels, as vae_fast/data/transforms.py defines them: on if u < pixel, with
// u = (bits >> 8) 2^-24.
#pragma once

#include "loops.h"

namespace vae_fast {
namespace {

constexpr int64_t kSampled = 64;  // pixels sampled at a time

// The bits of `kSampled` columns from a multiple of four on.
VAE_FAST_INLINE void draw_columns(const Draw& draw, int64_t row, int64_t column, uint32_t* __restrict bits) {
  alignas(64) uint32_t words[kWords][kSampled / kWords];
#pragma omp simd
  for (int64_t i = 0; i < kSampled / kWords; ++i) {
    const auto block = static_cast<uint32_t>(column / kWords + i);
    const Words drawn =
        philox4x32({block, static_cast<uint32_t>(row) + draw.row_offset, draw.step, draw.stream}, draw.key);
    for (int64_t word = 0; word < kWords; ++word) words[word][i] = drawn.word[word];
  }
  for (int64_t i = 0; i < kSampled; ++i) bits[i] = words[i % kWords][i / kWords];
}

void sample_pixels(const Draw& draw, int64_t row, const Values& image, int64_t begin, int64_t end, uint8_t* to) {
  for (int64_t column = begin; column < end; column += kSampled) {
    alignas(64) uint32_t bits[kSampled];
    draw_columns(draw, row, column, bits);
    const int64_t count = end - column < kSampled ? end - column : kSampled;
    if (image.type == Type::uint8) {  // u < k / 255, both times 255 2^24: integers below 2^32
      const uint8_t* const __restrict from = static_cast<const uint8_t*>(image.data) + column;
      for (int64_t i = 0; i < count; ++i) to[column + i] = (bits[i] >> 8) * 255U < uint32_t{from[i]} << 24 ? 255 : 0;
    } else {
      const float* const __restrict from = static_cast<const float*>(image.data) + column;
      for (int64_t i = 0; i < count; ++i)
        to[column + i] = static_cast<float>(bits[i] >> 8) < from[i] * 0x1p24F ? 255 : 0;
    }
  }
}

}  // namespace
}  // namespace vae_fast

// Random bits and the normals made from them; the specification is kernels/philox.py.
#pragma once

#include "loops.h"
#include "values.h"
#include "vector_math.h"

#include <cmath>

namespace vae_fast {
namespace {

constexpr int64_t kChunk = 64;  // counters processed at a time, in vectors that extend across the ends of short rows

void draw_bits(const Draw& draw, int64_t begin, int64_t end, int64_t* out) {
  const auto words_of = [&draw](int64_t row, int64_t block) {
    return philox4x32(
        {static_cast<uint32_t>(block), draw.row_offset + static_cast<uint32_t>(row), draw.step, draw.stream}, draw.key);
  };
  while (begin < end) {
    const int64_t row = begin / draw.blocks;
    const int64_t first = begin % draw.blocks;
    const int64_t last = smaller(draw.blocks, first + end - begin);
    const int64_t last_whole = smaller(last, draw.columns / kWords);
    int64_t* const row_out = out + row * draw.columns;
    for (int64_t block = first; block < last_whole; ++block) {
      const Words words = words_of(row, block);
      for (int64_t word = 0; word < kWords; ++word) row_out[kWords * block + word] = words.word[word];
    }
    if (last_whole < last) {
      const Words words = words_of(row, last_whole);
      for (int64_t word = 0; word < draw.columns - kWords * last_whole; ++word)
        row_out[kWords * last_whole + word] = words.word[word];
    }
    begin += last - first;
  }
}

// Returns two normals in float, within 1e-6 max(1, |eps|) of the specification, which uses float64: u1 and the reduced
// angle are exact, so the only errors are a few roundings of the radius (at most 5.8), the cosine and the sine.
VAE_FAST_INLINE Pair normals(uint32_t r0, uint32_t r1) {
  const float u1 = static_cast<float>(static_cast<int32_t>((r0 >> 8) + 1)) * 0x1p-24F;
  const float radius = std::sqrt(-2.0F * log_f(u1));
  const auto [cosine, sine] = cos_sin_turn(r1 >> 8);
  return {radius * cosine, radius * sine};
}

// The part of one row that one chunk covers.
struct Segment {
  int64_t row;
  int64_t column;   // the first column
  int64_t columns;  // the number of columns
  int64_t at;       // the position of the first value in the chunk
};

// Calls work(segment) for each row that the counters [begin, end), numbered row by row, touch.
template <typename Work>
VAE_FAST_INLINE void for_segments(const Draw& draw, int64_t begin, int64_t end, const Work& work) {
  for (int64_t counter = begin; counter < end;) {
    const int64_t row = counter / draw.blocks;
    const int64_t first = counter % draw.blocks;
    const int64_t blocks = smaller(draw.blocks - first, end - counter);
    const int64_t column = kWords * first;
    work(Segment{row, column, smaller(kWords * blocks, draw.columns - column), kWords * (counter - begin)});
    counter += blocks;
  }
}

// Computes exp(logvar / 2) eps for one chunk of counters, in their order: four values each, even if the row needs
// fewer.
VAE_FAST_INLINE void scaled_noise(const Draw& draw, const Matrix& logvar, int64_t begin, int64_t end, float* out) {
  // Counters and log variances past the end of the chunk or of a row are processed as well; their results are not read.
  alignas(64) uint32_t block[kChunk] = {};
  alignas(64) uint32_t row[kChunk] = {};
  alignas(64) float deviation[kWords * kChunk] = {};
  for_segments(draw, begin, end, [&](const Segment& segment) {
    const int64_t first = segment.at / kWords;
    const int64_t blocks = (segment.columns + kWords - 1) / kWords;
    for (int64_t i = 0; i < blocks; ++i) {
      block[first + i] = static_cast<uint32_t>(segment.column / kWords + i);
      row[first + i] = static_cast<uint32_t>(segment.row) + draw.row_offset;
    }
    const float* const from = logvar.row(segment.row) + segment.column;
    for (int64_t i = 0; i < segment.columns; ++i) deviation[segment.at + i] = from[i];
  });
#pragma omp simd
  for (int64_t i = 0; i < kWords * kChunk; ++i) deviation[i] = exp_f(0.5F * deviation[i]);
  for (int64_t i = 0; i < kChunk; ++i) {
    const Words words = philox4x32({block[i], row[i], draw.step, draw.stream}, draw.key);
    const auto [eps0, eps1] = normals(words.word[0], words.word[1]);
    const auto [eps2, eps3] = normals(words.word[2], words.word[3]);
    out[kWords * i] = eps0;
    out[kWords * i + 1] = eps1;
    out[kWords * i + 2] = eps2;
    out[kWords * i + 3] = eps3;
  }
#pragma omp simd
  for (int64_t i = 0; i < kWords * kChunk; ++i) out[i] *= deviation[i];
}

// Calls work(segment, noise) for every segment of the counters [begin, end); noise is exp(logvar / 2) eps there.
template <typename Work>
VAE_FAST_INLINE void for_noise(const Draw& draw, const Matrix& logvar, int64_t begin, int64_t end, const Work& work) {
  alignas(64) float noise[kWords * kChunk];
  for (int64_t first = begin; first < end; first += kChunk) {
    const int64_t last = smaller(first + kChunk, end);
    scaled_noise(draw, logvar, first, last, noise);
    for_segments(draw, first, last,
                 [&](const Segment& segment) { work(segment, noise + segment.at); });
  }
}

void reparameterize(const Draw& draw, const Matrix& mu, const Matrix& logvar, int64_t begin, int64_t end, float* z) {
  for_noise(draw, logvar, begin, end, [&](const Segment& segment, const float* noise) {
    const float* const from = mu.row(segment.row) + segment.column;
    float* const to = z + segment.row * draw.columns + segment.column;
    for (int64_t i = 0; i < segment.columns; ++i) to[i] = from[i] + noise[i];
  });
}

void reparameterize_backward(const Draw& draw, const Matrix& mu, const Matrix& logvar,
                             const PosteriorGradients& gradients, int64_t begin, int64_t end) {
  for_noise(draw, logvar, begin, end, [&](const Segment& segment, const float* noise) {
    const float* const __restrict by_z = gradients.z.row(segment.row) + segment.column;
    const int64_t to = segment.row * gradients.out_stride + segment.column;
    float* const __restrict for_mu = gradients.mu + to;
    float* const __restrict for_logvar = gradients.logvar + to;
    for (int64_t i = 0; i < segment.columns; ++i) {
      for_mu[i] = by_z[i];
      for_logvar[i] = 0.5F * by_z[i] * noise[i];
    }
    if (gradients.kl == nullptr) return;
    // A separate loop: in a sum of two products the compiler may fuse either one with the addition, possibly a
    // different one in vectors than in the rest of a row, and results would depend on where a thread begins.
    const float by_kl = gradients.kl[segment.row * gradients.kl_stride];
    const float half = 0.5F * by_kl;
    const float* const __restrict mean = mu.row(segment.row) + segment.column;
    const float* const __restrict spread = logvar.row(segment.row) + segment.column;
#pragma omp simd
    for (int64_t i = 0; i < segment.columns; ++i) {
      for_mu[i] += by_kl * mean[i];
      for_logvar[i] += half * (exp_f(spread[i]) - 1.0F);
    }
  });
}

}  // namespace
}  // namespace vae_fast

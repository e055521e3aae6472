// The log densities of the normals of a mixture; the specification is kernels/reference.py (mixture_joint). Normals are
// processed in panels of 16, the lanes of a vector, beside a few rows of z.
#pragma once

#include "mlp_loops.h"
#include "values.h"
#include "vector_math.h"
#include "vectors.h"

namespace vae_fast {
namespace {

constexpr int kMixtureRows = kLanes == 16 ? 8 : 4;  // rows of z whose sums fit into the registers

// Lays out normals [first, first + 16) as the inverses of their deviations [Z][16], their means times those [Z][16], and
// the logs of their weights and norms [16]; lanes without a normal become 0.
void lay_out_normals(const Normals& from, int64_t first, float* to) {
  const int64_t lanes = smaller(kPanel, from.count - first);
  alignas(64) float logvar[kPanel] = {}, mean[kPanel] = {}, sum[kPanel] = {};
  for (int64_t j = 0; j < from.latent; ++j) {
    for (int64_t i = 0; i < lanes; ++i) {
      const float* const stats = from.stats + (first + i) * 2 * from.latent;
      mean[i] = stats[j];
      logvar[i] = stats[from.latent + j];
    }
    float* const __restrict inverse = to + j * kPanel;
    float* const __restrict scaled = inverse + from.latent * kPanel;
#pragma omp simd
    for (int64_t i = 0; i < kPanel; ++i) {
      inverse[i] = exp_f(-0.5F * logvar[i]);
      scaled[i] = mean[i] * inverse[i];
      sum[i] += logvar[i] + 1.8378770664F;  // log 2 pi
    }
  }
  float* const constant = to + 2 * from.latent * kPanel;
  for (int64_t i = 0; i < kPanel; ++i) constant[i] = i < lanes ? from.log_weights[first + i] - 0.5F * sum[i] : 0.0F;
}

template <int Rows>
VAE_FAST_INLINE void joint_tile(const float* const* z, const float* panel, int64_t latent, float (*to)[kPanel]) {
  Vector sum[Rows][kVectors];
#pragma GCC unroll 16
  for (int row = 0; row < Rows; ++row) {
#pragma GCC unroll 16
    for (int i = 0; i < kVectors; ++i) sum[row][i] = Vector{};
  }
  for (int64_t j = 0; j < latent; ++j) {
    const Vector* const inverse = vectors(panel + j * kPanel);
    const Vector* const scaled = vectors(panel + (latent + j) * kPanel);
#pragma GCC unroll 16
    for (int row = 0; row < Rows; ++row) {
      const Vector at = broadcast(z[row][j]);
#pragma GCC unroll 16
      for (int i = 0; i < kVectors; ++i) {
        const Vector distance = at * inverse[i] - scaled[i];
        sum[row][i] += distance * distance;
      }
    }
  }
  const Vector* const constant = vectors(panel + 2 * latent * kPanel);
#pragma GCC unroll 16
  for (int row = 0; row < Rows; ++row) {
#pragma GCC unroll 16
    for (int i = 0; i < kVectors; ++i) vectors(to[row])[i] = constant[i] - broadcast(0.5F) * sum[row][i];
  }
}

// Writes rows [begin, end) of the joint log densities [B, N].
void mixture_joint(const MixtureRows& by, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row += kMixtureRows) {
    const int64_t rows = smaller(kMixtureRows, end - row);
    const float* z[kMixtureRows];
    for (int64_t i = 0; i < kMixtureRows; ++i) z[i] = by.z + (row + smaller(i, rows - 1)) * by.latent;
    for (int64_t first = 0; first < by.count; first += kPanel) {
      alignas(64) float tile[kMixtureRows][kPanel];
      joint_tile<kMixtureRows>(z, by.panels + first / kPanel * by.panel_stride, by.latent, tile);
      for (int64_t i = 0; i < rows; ++i)
        copy(tile[i], smaller(kPanel, by.count - first), by.joint + (row + i) * by.count + first);
    }
  }
}

}  // namespace
}  // namespace vae_fast

// vae_fast::reparameterize and its backward on the CPU. The schemas stand in kernels/operators.py, the specification in
// kernels/reference.py and kernels/philox.py: z = mu + exp(logvar / 2) eps. eps is drawn again in backward, never stored.
#include "draw.h"
#include "rows.h"
#include "vector_math.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>

namespace vae_fast {
namespace {

constexpr int64_t kGrain = 2048;  // counters that are worth a thread: about 20 us
constexpr int64_t kChunk = 64;    // counters worked on at a time, in vectors that run across the ends of short rows

// Normals in float from one counter, within 1e-6 max(1, |eps|) of the specification, which takes float64: u1 and the
// reduced angle are exact, so what remains is a few roundings of the radius (at most 5.8), the cosine and the sine.
VAE_FAST_INLINE Pair normals(uint32_t r0, uint32_t r1) {
  const float u1 = static_cast<float>(static_cast<int32_t>((r0 >> 8) + 1)) * 0x1p-24F;
  const float radius = std::sqrt(-2.0F * log_f(u1));
  const auto [cosine, sine] = cos_sin_turn(r1 >> 8);
  return {radius * cosine, radius * sine};
}

// The part of one row that one chunk covers.
struct Segment {
  int64_t row;
  int64_t column;   // its first
  int64_t columns;  // how many
  int64_t at;       // where its first value lies in the chunk
};

// Calls work(segment) for each row that the counters [begin, end), numbered row by row, touch.
template <typename Work>
VAE_FAST_INLINE void for_segments(const Draw& draw, int64_t begin, int64_t end, const Work& work) {
  for (int64_t counter = begin; counter < end;) {
    const int64_t row = counter / draw.blocks;
    const int64_t first = counter % draw.blocks;
    const int64_t blocks = std::min(draw.blocks - first, end - counter);
    const int64_t column = kWords * first;
    work(Segment{row, column, std::min(kWords * blocks, draw.columns - column), kWords * (counter - begin)});
    counter += blocks;
  }
}

// exp(logvar / 2) eps for one chunk of counters, laid out as the counters are: four values each, whatever the row needs.
VAE_FAST_FLOAT_CLONES void scaled_noise(const Draw& draw, const Rows<float>& logvar, int64_t begin, int64_t end,
                                        float* out) {
  // Counters and log variances past the end of the chunk or of a row are worked on as well; nobody reads the results.
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
    std::copy_n(logvar.row(segment.row) + segment.column, segment.columns, deviation + segment.at);
  });
#pragma omp simd
  for (int64_t i = 0; i < kWords * kChunk; ++i) deviation[i] = exp_f(0.5F * deviation[i]);
  for (int64_t i = 0; i < kChunk; ++i) {
    const auto [r0, r1, r2, r3] = philox4x32({block[i], row[i], draw.step, draw.stream}, draw.key);
    const auto [eps0, eps1] = normals(r0, r1);
    const auto [eps2, eps3] = normals(r2, r3);
    out[kWords * i] = eps0;
    out[kWords * i + 1] = eps1;
    out[kWords * i + 2] = eps2;
    out[kWords * i + 3] = eps3;
  }
#pragma omp simd
  for (int64_t i = 0; i < kWords * kChunk; ++i) out[i] *= deviation[i];
}

// Calls work(segment, noise) for every segment of all rows, in parallel; noise is exp(logvar / 2) eps there.
template <typename Work>
void for_noise(const Draw& draw, const Rows<float>& logvar, int64_t rows, const Work& work) {
  at::parallel_for(0, rows * draw.blocks, kGrain, [&](int64_t begin, int64_t end) {
    alignas(64) float noise[kWords * kChunk];
    for (int64_t first = begin; first < end; first += kChunk) {
      const int64_t last = std::min(first + kChunk, end);
      scaled_noise(draw, logvar, first, last, noise);
      for_segments(draw, first, last, [&](const Segment& segment) { work(segment, noise + segment.at); });
    }
  });
}

void check_shapes(const char* op, const char* name, const at::Tensor& first, const at::Tensor& logvar) {
  check_float(first, op, name);
  check_float(logvar, op, "logvar");
  TORCH_CHECK_VALUE(logvar.dim() > 0 && first.sizes() == logvar.sizes(), op, ": ", name,
                    " and logvar: expected the same shape [..., Z], got ", first.sizes(), " and ", logvar.sizes());
}

at::Tensor reparameterize(const at::Tensor& mu, const at::Tensor& logvar, const at::Tensor& seed,
                          const at::Tensor& step, int64_t row_offset, int64_t stream) {
  check_shapes("reparameterize", "mu", mu, logvar);
  const int64_t columns = mu.size(-1);
  const Draw draw = make_draw("reparameterize", seed, step, columns, row_offset, stream);
  auto z = at::empty(mu.sizes(), mu.options());
  if (z.numel() == 0) return z;

  const auto mu_rows = rows_of<float>(mu, columns);
  auto* const out = z.mutable_data_ptr<float>();
  for_noise(draw, rows_of<float>(logvar, columns), z.numel() / columns, [&](const Segment& segment, const float* noise) {
    const float* const from = mu_rows.row(segment.row) + segment.column;
    float* const to = out + segment.row * columns + segment.column;
    for (int64_t i = 0; i < segment.columns; ++i) to[i] = from[i] + noise[i];
  });
  return z;
}

std::tuple<at::Tensor, at::Tensor> reparameterize_backward(const at::Tensor& grad_z, const at::Tensor& logvar,
                                                           const at::Tensor& seed, const at::Tensor& step,
                                                           int64_t row_offset, int64_t stream) {
  check_shapes("reparameterize_backward", "grad_z", grad_z, logvar);
  const int64_t columns = logvar.size(-1);
  const Draw draw = make_draw("reparameterize_backward", seed, step, columns, row_offset, stream);
  auto grad_mu = at::empty(logvar.sizes(), logvar.options());
  auto grad_logvar = at::empty(logvar.sizes(), logvar.options());
  if (grad_mu.numel() == 0) return {grad_mu, grad_logvar};

  const auto grad_rows = rows_of<float>(grad_z, columns);
  auto* const for_mu = grad_mu.mutable_data_ptr<float>();
  auto* const for_logvar = grad_logvar.mutable_data_ptr<float>();
  for_noise(draw, rows_of<float>(logvar, columns), grad_mu.numel() / columns,
            [&](const Segment& segment, const float* noise) {
              const float* const from = grad_rows.row(segment.row) + segment.column;
              const int64_t to = segment.row * columns + segment.column;
              std::copy_n(from, segment.columns, for_mu + to);
              for (int64_t i = 0; i < segment.columns; ++i) for_logvar[to + i] = 0.5F * from[i] * noise[i];
            });
  return {grad_mu, grad_logvar};
}

}  // namespace

TORCH_LIBRARY_IMPL(vae_fast, CPU, m) {
  m.impl("reparameterize", reparameterize);
  m.impl("reparameterize_backward", reparameterize_backward);
}

}  // namespace vae_fast

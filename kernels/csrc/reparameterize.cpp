// vae_fast::reparameterize, vae_fast::sample_posterior and their backward on the CPU. The schemas are in
// kernels/registration.py, the specification is in kernels/reference.py and kernels/philox.py:
// z = mu + exp(logvar / 2) eps. eps is drawn again in backward, never stored.
#include "noise.h"
#include "rows.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <tuple>

namespace vae_fast {
namespace {

constexpr int64_t kCounters = 2048;  // counters that are worth a thread: about 20 us
constexpr int64_t kValues = 16384;   // values of a KL that are worth a thread: about 10 us

void check_shapes(const char* op, const char* name, const at::Tensor& first, const at::Tensor& logvar) {
  check_floating(first, op, name);
  check_floating(logvar, op, "logvar");
  TORCH_CHECK_VALUE(logvar.dim() > 0 && first.sizes() == logvar.sizes(), op, ": ", name,
                    " and logvar: expected the same shape [..., Z], got ", first.sizes(), " and ", logvar.sizes());
}

// Checks stats [B, 2 Z] and returns Z.
int64_t check_stats(const char* op, const at::Tensor& stats) {
  check_floating(stats, op, "stats");
  TORCH_CHECK_VALUE(stats.dim() == 2 && stats.size(1) % 2 == 0, op, ": stats: expected [B, 2 Z], got ", stats.sizes());
  return stats.size(1) / 2;
}

int64_t rows_per_thread(int64_t columns) { return std::max<int64_t>(1, kValues / std::max<int64_t>(1, columns)); }

at::Tensor draw_z(const Draw& draw, const Matrix& mu, const Matrix& logvar, int64_t rows, at::IntArrayRef shape,
                  const at::TensorOptions& options) {
  auto z = at::empty(shape, options.dtype(at::kFloat));
  auto* const out = z.mutable_data_ptr<float>();
  at::parallel_for(0, rows * draw.blocks, kCounters, [&](int64_t begin, int64_t end) {
    loops().reparameterize(draw, mu, logvar, begin, end, out);
  });
  return z.to(options.dtype());
}

void draw_gradients(const Draw& draw, const Matrix& mu, const Matrix& logvar, const PosteriorGradients& gradients,
                    int64_t rows) {
  at::parallel_for(0, rows * draw.blocks, kCounters, [&](int64_t begin, int64_t end) {
    loops().reparameterize_backward(draw, mu, logvar, gradients, begin, end);
  });
}

at::Tensor reparameterize(const at::Tensor& mu, const at::Tensor& logvar, const at::Tensor& seed,
                          const at::Tensor& step, int64_t row_offset, int64_t stream) {
  check_shapes("reparameterize", "mu", mu, logvar);
  const int64_t columns = mu.size(-1);
  const Draw draw = make_draw("reparameterize", seed, step, columns, row_offset, stream);
  const auto mu_rows = float_rows_of(mu, columns), logvar_rows = float_rows_of(logvar, columns);
  const int64_t rows = columns == 0 ? 0 : mu.numel() / columns;
  return draw_z(draw, mu_rows.matrix, logvar_rows.matrix, rows, mu.sizes(), mu.options());
}

std::tuple<at::Tensor, at::Tensor> reparameterize_backward(const at::Tensor& grad_z, const at::Tensor& logvar,
                                                           const at::Tensor& seed, const at::Tensor& step,
                                                           int64_t row_offset, int64_t stream) {
  check_shapes("reparameterize_backward", "grad_z", grad_z, logvar);
  const int64_t columns = logvar.size(-1);
  const Draw draw = make_draw("reparameterize_backward", seed, step, columns, row_offset, stream);
  auto for_mu = at::empty(logvar.sizes(), logvar.options().dtype(at::kFloat));
  auto for_logvar = at::empty_like(for_mu);
  const auto by_z = float_rows_of(grad_z, columns), logvar_rows = float_rows_of(logvar, columns);
  const PosteriorGradients gradients{
      .z = by_z.matrix,
      .kl = nullptr,
      .kl_stride = 0,
      .mu = for_mu.mutable_data_ptr<float>(),
      .logvar = for_logvar.mutable_data_ptr<float>(),
      .out_stride = columns,
  };
  const int64_t rows = columns == 0 ? 0 : logvar.numel() / columns;
  draw_gradients(draw, logvar_rows.matrix, logvar_rows.matrix, gradients, rows);
  return {for_mu.to(logvar.scalar_type()), for_logvar.to(logvar.scalar_type())};
}

// mu and logvar as the two halves of the rows of stats.
struct Halves {
  Matrix mu;
  Matrix logvar;
};

Halves halves(const FloatRows& stats, int64_t latent) {
  return {stats.matrix, {stats.matrix.data + latent, stats.matrix.stride}};
}

std::tuple<at::Tensor, at::Tensor> sample_posterior(const at::Tensor& stats, const at::Tensor& seed,
                                                    const at::Tensor& step, int64_t row_offset, int64_t stream) {
  const int64_t latent = check_stats("sample_posterior", stats), rows = stats.size(0);
  const Draw draw = make_draw("sample_posterior", seed, step, latent, row_offset, stream);
  const auto stats_rows = float_rows_of(stats, 2 * latent);
  const auto [mu, logvar] = halves(stats_rows, latent);
  auto z = draw_z(draw, mu, logvar, rows, {rows, latent}, stats.options());
  auto kl = at::empty({rows}, stats.options().dtype(at::kFloat));
  auto* const out = kl.mutable_data_ptr<float>();
  at::parallel_for(0, rows, rows_per_thread(latent), [&, mu = mu, logvar = logvar](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) out[row] = loops().kl(mu.row(row), logvar.row(row), latent);
  });
  return {z, kl};
}

at::Tensor sample_posterior_backward(const std::optional<at::Tensor>& grad_z, const std::optional<at::Tensor>& grad_kl,
                                     const at::Tensor& stats, const at::Tensor& seed, const at::Tensor& step,
                                     int64_t row_offset, int64_t stream) {
  constexpr const char* op = "sample_posterior_backward";
  const int64_t latent = check_stats(op, stats), rows = stats.size(0);
  const Draw draw = make_draw(op, seed, step, latent, row_offset, stream);
  const auto stats_rows = float_rows_of(stats, 2 * latent);
  const auto [mu, logvar] = halves(stats_rows, latent);
  if (grad_kl) {
    check_float(*grad_kl, op, "grad_kl");
    TORCH_CHECK_VALUE(grad_kl->dim() == 1 && grad_kl->size(0) == rows, op, ": grad_kl: expected [", rows, "], got ",
                      grad_kl->sizes());
  }
  const float* const by_kl = grad_kl ? grad_kl->const_data_ptr<float>() : nullptr;
  const int64_t kl_stride = grad_kl ? grad_kl->stride(0) : 0;
  auto for_stats = at::empty(stats.sizes(), stats.options().dtype(at::kFloat));
  auto* const out = for_stats.mutable_data_ptr<float>();
  if (grad_z) {
    check_floating(*grad_z, op, "grad_z");
    TORCH_CHECK_VALUE(grad_z->dim() == 2 && grad_z->size(0) == rows && grad_z->size(1) == latent, op,
                      ": grad_z: expected [", rows, ", ", latent, "], got ", grad_z->sizes());
    const auto by_z = float_rows_of(*grad_z, latent);
    draw_gradients(draw, mu, logvar, {by_z.matrix, by_kl, kl_stride, out, out + latent, 2 * latent}, rows);
  } else {
    TORCH_CHECK_VALUE(grad_kl.has_value(), op, ": expected grad_z or grad_kl, got neither");
    at::parallel_for(0, rows, rows_per_thread(latent), [&, mu = mu, logvar = logvar](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        float* const to = out + row * 2 * latent;
        loops().kl_backward(by_kl[row * kl_stride], mu.row(row), logvar.row(row), latent, to, to + latent);
      }
    });
  }
  return for_stats.to(stats.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(vae_fast, CPU, m) {
  m.impl("reparameterize", reparameterize);
  m.impl("reparameterize_backward", reparameterize_backward);
  m.impl("sample_posterior", sample_posterior);
  m.impl("sample_posterior_backward", sample_posterior_backward);
}

}  // namespace vae_fast

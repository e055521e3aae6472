// vae_fast::elbo and its backward on the CPU. The schemas stand in kernels/operators.py, the specification in
// kernels/reference.py; the terms are written as there, so that inf and NaN come out as they do there.
#include "rows.h"
#include "vector_math.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <tuple>

namespace vae_fast {
namespace {

constexpr int64_t kGrain = 16384;  // values that are worth a thread: about 10 us
constexpr int64_t kBlock = 1024;   // values summed in float; blocks are added in double, so that long rows lose nothing

// The pixels of a block: floats as they are, bytes put into the buffer. In the loops below the change of width would cost
// twice the time of all the rest (g++ 12).
VAE_FAST_INLINE const float* pixels(const float* target, int64_t, float*) { return target; }
VAE_FAST_INLINE const float* pixels(const uint8_t* target, int64_t count, float* __restrict buffer) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) buffer[i] = static_cast<float>(target[i]) * (1.0F / 255);
  return buffer;
}

VAE_FAST_INLINE float bernoulli(float logit, float x) {
  const float log_sigmoid = (logit < 0.0F ? logit : 0.0F) - log1p_f(exp_f(-std::fabs(logit)));
  return (1.0F - x) * logit - log_sigmoid;
}

VAE_FAST_INLINE float sigmoid(float logit) {
  const float small = exp_f(-std::fabs(logit));
  return (logit < 0.0F ? small : 1.0F) / (1.0F + small);
}

VAE_FAST_INLINE float divergence(float mu, float logvar) {
  return -0.5F * (1.0F + logvar - mu * mu - exp_f(logvar));
}

template <typename Pixel>
VAE_FAST_INLINE float nll_row(const float* logits, const Pixel* target, int64_t columns) {
  alignas(64) float buffer[kBlock];
  double total = 0;
  for (int64_t begin = 0; begin < columns; begin += kBlock) {
    const int64_t count = std::min(kBlock, columns - begin);
    const float* const x = pixels(target + begin, count, buffer);
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; ++i) sum += bernoulli(logits[begin + i], x[i]);
    total += sum;
  }
  return static_cast<float>(total);
}

template <typename Pixel>
VAE_FAST_INLINE void nll_row_backward(float gradient, const float* __restrict logits, const Pixel* __restrict target,
                                      int64_t columns, float* __restrict out) {
  alignas(64) float buffer[kBlock];
  for (int64_t begin = 0; begin < columns; begin += kBlock) {
    const int64_t count = std::min(kBlock, columns - begin);
    const float* const x = pixels(target + begin, count, buffer);
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) out[begin + i] = gradient * (sigmoid(logits[begin + i]) - x[i]);
  }
}

// Clones can be made of functions, not of templates.
VAE_FAST_FLOAT_CLONES float nll(const float* logits, const uint8_t* target, int64_t columns) {
  return nll_row(logits, target, columns);
}

VAE_FAST_FLOAT_CLONES float nll(const float* logits, const float* target, int64_t columns) {
  return nll_row(logits, target, columns);
}

VAE_FAST_FLOAT_CLONES void nll_backward(float gradient, const float* logits, const uint8_t* target, int64_t columns,
                                        float* out) {
  nll_row_backward(gradient, logits, target, columns, out);
}

VAE_FAST_FLOAT_CLONES void nll_backward(float gradient, const float* logits, const float* target, int64_t columns,
                                        float* out) {
  nll_row_backward(gradient, logits, target, columns, out);
}

VAE_FAST_FLOAT_CLONES float kl(const float* mu, const float* logvar, int64_t columns) {
  double total = 0;
  for (int64_t begin = 0; begin < columns; begin += kBlock) {
    const int64_t count = std::min(kBlock, columns - begin);
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < begin + count; ++i) sum += divergence(mu[i], logvar[i]);
    total += sum;
  }
  return static_cast<float>(total);
}

VAE_FAST_FLOAT_CLONES void kl_backward(float gradient, const float* __restrict mu, const float* __restrict logvar,
                                       int64_t columns, float* __restrict for_mu, float* __restrict for_logvar) {
#pragma omp simd
  for (int64_t i = 0; i < columns; ++i) {
    for_mu[i] = gradient * mu[i];
    for_logvar[i] = 0.5F * gradient * (exp_f(logvar[i]) - 1.0F);
  }
}

// Calls work(row, target of the row) for every row in parallel, and the target as bytes or floats, whichever it is.
template <typename Work>
void for_rows(const at::Tensor& target, int64_t rows, int64_t columns, const Work& work) {
  const auto all = [&](const auto& target_rows) {
    at::parallel_for(0, rows, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, columns)),
                     [&](int64_t begin, int64_t end) {
                       for (int64_t row = begin; row < end; ++row) work(row, target_rows.row(row));
                     });
  };
  if (target.scalar_type() == at::kByte) {
    all(rows_of<uint8_t>(target, columns));
  } else {
    all(rows_of<float>(target, columns));
  }
}

void check_likelihood(const char* op, std::string_view likelihood) {
  TORCH_CHECK_NOT_IMPLEMENTED(likelihood == "bernoulli", op, ": likelihood: expected 'bernoulli', got '", likelihood,
                              "'");
}

// Checks the four inputs; returns B, D and Z.
std::tuple<int64_t, int64_t, int64_t> sizes(const char* op, const at::Tensor& logits, const at::Tensor& target,
                                            const at::Tensor& mu, const at::Tensor& logvar) {
  check_float(logits, op, "logits");
  check_float(mu, op, "mu");
  check_float(logvar, op, "logvar");
  TORCH_CHECK_TYPE(target.scalar_type() == at::kByte || target.scalar_type() == at::kFloat, op,
                   ": target: expected uint8 or float32, got ", target.scalar_type());
  TORCH_CHECK_VALUE(logits.dim() >= 2, op, ": logits: expected [B, ...], got ", logits.sizes());
  const int64_t rows = logits.size(0);
  TORCH_CHECK_VALUE(target.dim() >= 2 && target.size(0) == rows && target.numel() == logits.numel(), op,
                    ": target: expected as many rows and values as the logits' ", logits.sizes(), ", got ",
                    target.sizes());
  TORCH_CHECK_VALUE(mu.dim() == 2 && mu.size(0) == rows && mu.sizes() == logvar.sizes(), op,
                    ": mu and logvar: expected [", rows, ", Z] each, got ", mu.sizes(), " and ", logvar.sizes());
  return {rows, rows == 0 ? 0 : logits.numel() / rows, mu.size(1)};
}

std::tuple<at::Tensor, at::Tensor> elbo(const at::Tensor& logits, const at::Tensor& target, const at::Tensor& mu,
                                        const at::Tensor& logvar, const std::optional<at::Tensor>&,
                                        std::string_view likelihood) {
  check_likelihood("elbo", likelihood);
  const auto [rows, columns_, latent_] = sizes("elbo", logits, target, mu, logvar);
  const int64_t columns = columns_, latent = latent_;  // names that a lambda may capture
  auto nll_out = at::empty({rows}, logits.options());
  auto kl_out = at::empty({rows}, logits.options());
  const auto logit_rows = rows_of<float>(logits, columns);
  const auto mu_rows = rows_of<float>(mu, latent), logvar_rows = rows_of<float>(logvar, latent);
  auto* const nll_data = nll_out.mutable_data_ptr<float>();
  auto* const kl_data = kl_out.mutable_data_ptr<float>();
  for_rows(target, rows, columns, [&](int64_t row, const auto* target_row) {
    nll_data[row] = nll(logit_rows.row(row), target_row, columns);
    kl_data[row] = kl(mu_rows.row(row), logvar_rows.row(row), latent);
  });
  return {nll_out, kl_out};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> elbo_backward(
    const at::Tensor& grad_nll, const at::Tensor& grad_kl, const at::Tensor& logits, const at::Tensor& target,
    const at::Tensor& mu, const at::Tensor& logvar, const std::optional<at::Tensor>&, std::string_view likelihood) {
  constexpr const char* op = "elbo_backward";
  check_likelihood(op, likelihood);
  const auto [rows, columns_, latent_] = sizes(op, logits, target, mu, logvar);
  const int64_t columns = columns_, latent = latent_;
  for (const auto* gradient : {&grad_nll, &grad_kl}) {
    check_float(*gradient, op, "grad_nll and grad_kl");
    TORCH_CHECK_VALUE(gradient->dim() == 1 && gradient->size(0) == rows, op, ": grad_nll and grad_kl: expected [", rows,
                      "] each, got ", grad_nll.sizes(), " and ", grad_kl.sizes());
  }
  auto for_logits = at::empty(logits.sizes(), logits.options());
  auto for_mu = at::empty(mu.sizes(), mu.options());
  auto for_logvar = at::empty(mu.sizes(), mu.options());
  const auto logit_rows = rows_of<float>(logits, columns);
  const auto mu_rows = rows_of<float>(mu, latent), logvar_rows = rows_of<float>(logvar, latent);
  const auto* const nll_data = grad_nll.const_data_ptr<float>();
  const auto* const kl_data = grad_kl.const_data_ptr<float>();
  const int64_t nll_stride = grad_nll.stride(0), kl_stride = grad_kl.stride(0);  // 0 for the gradient of a mean
  auto* const logits_data = for_logits.mutable_data_ptr<float>();
  auto* const mu_data = for_mu.mutable_data_ptr<float>();
  auto* const logvar_data = for_logvar.mutable_data_ptr<float>();
  for_rows(target, rows, columns, [&](int64_t row, const auto* target_row) {
    nll_backward(nll_data[row * nll_stride], logit_rows.row(row), target_row, columns, logits_data + row * columns);
    kl_backward(kl_data[row * kl_stride], mu_rows.row(row), logvar_rows.row(row), latent, mu_data + row * latent,
                logvar_data + row * latent);
  });
  return {for_logits, for_mu, for_logvar, at::empty({0}, logits.options())};
}

}  // namespace

TORCH_LIBRARY_IMPL(vae_fast, CPU, m) {
  m.impl("elbo", elbo);
  m.impl("elbo_backward", elbo_backward);
}

}  // namespace vae_fast

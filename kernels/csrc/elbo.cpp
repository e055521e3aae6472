// vae_fast::elbo, vae_fast::nll and their backward on the CPU. The schemas are in kernels/registration.py, the
// specification is in kernels/reference.py; the terms are written as there, so that inf and NaN arise in the same
// cases.
#include "likelihood.h"
#include "rows.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <tuple>
#include <vector>

namespace vae_fast {
namespace {

constexpr int64_t kElboGrain = 16384;  // values that are worth a thread: about 10 us
constexpr int64_t kRun = 32;           // rows whose gradients by the scale are added up by one thread

using OptionalTensor = std::optional<at::Tensor>;

// The logits, images and scale, checked.
class Batch {
 public:
  Batch(const char* op, const at::Tensor& logits, const at::Tensor& target, const OptionalTensor& log_scale,
        std::string_view likelihood)
      : likelihood_(likelihood_of(op, likelihood)) {
    check_floating(logits, op, "logits");
    if (target.scalar_type() != at::kByte) check_floating(target, op, "target");
    TORCH_CHECK_VALUE(logits.dim() >= 2, op, ": logits: expected [B, ...], got ", logits.sizes());
    rows_ = logits.size(0);
    TORCH_CHECK_VALUE(target.dim() >= 2 && target.size(0) == rows_ && target.numel() == logits.numel(), op,
                      ": target: expected as many rows and values as the logits' ", logits.sizes(), ", got ",
                      target.sizes());
    columns_ = rows_ == 0 ? 0 : logits.numel() / rows_;
    logits_ = rows_of(logits, columns_);
    target_ = rows_of(target, columns_);
    const bool wanted = has_scale(likelihood_);
    TORCH_CHECK_VALUE(log_scale.has_value() == wanted, op, ": log_scale: expected ", wanted ? "a tensor" : "none",
                      " with likelihood '", likelihood, "'");
    if (!wanted) return;
    check_floating(*log_scale, op, "log_scale");
    TORCH_CHECK_VALUE(log_scale->dim() == 0 || rows_ == 0 || (log_scale->dim() == 1 && log_scale->size(0) == columns_),
                      op, ": log_scale: expected [] or [", columns_, "], got ", log_scale->sizes());
    log_scale_ = log_scale->to(at::kFloat).contiguous();
  }

  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  bool is_scaled() const { return log_scale_.defined(); }

  Image image(int64_t row) const {
    return {.likelihood = likelihood_,
            .logits = logits_.row(row),
            .target = target_.row(row),
            .log_scale = is_scaled() ? log_scale_.const_data_ptr<float>() : nullptr,
            .one_scale = is_scaled() && log_scale_.dim() == 0,
            .columns = columns_};
  }

 private:
  Likelihood likelihood_;
  int64_t rows_ = 0, columns_ = 0;
  Rows logits_, target_;
  at::Tensor log_scale_;
};

// mu and logvar [B, Z], checked.
struct Posterior {
  Posterior(const char* op, const at::Tensor& mu, const at::Tensor& logvar, int64_t rows) : latent(mu.size(-1)) {
    check_floating(mu, op, "mu");
    check_floating(logvar, op, "logvar");
    TORCH_CHECK_VALUE(mu.dim() == 2 && mu.size(0) == rows && mu.sizes() == logvar.sizes(), op,
                      ": mu and logvar: expected [", rows, ", Z] each, got ", mu.sizes(), " and ", logvar.sizes());
    mu_rows = float_rows_of(mu, latent);
    logvar_rows = float_rows_of(logvar, latent);
  }

  int64_t latent;
  FloatRows mu_rows, logvar_rows;
};

// A gradient [B] by a term; its stride is 0 if it comes from a mean.
class RowGradient {
 public:
  RowGradient(const char* op, const char* name, const at::Tensor& tensor, int64_t rows) {
    check_float(tensor, op, name);
    TORCH_CHECK_VALUE(tensor.dim() == 1 && tensor.size(0) == rows, op, ": ", name, ": expected [", rows, "], got ",
                      tensor.sizes());
    data_ = tensor.const_data_ptr<float>();
    stride_ = tensor.stride(0);
  }

  float operator[](int64_t row) const { return data_[row * stride_]; }

 private:
  const float* data_;
  int64_t stride_;
};

// Calls work(run) for every run of `height` rows, in parallel.
template <typename Work>
void for_runs(const Batch& batch, int64_t height, const Work& work) {
  const int64_t values = std::max<int64_t>(1, height * batch.columns());
  at::parallel_for(0, (batch.rows() + height - 1) / height, std::max<int64_t>(1, kElboGrain / values),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t run = begin; run < end; ++run) work(run);
                   });
}

template <typename Work>
void for_rows(const Batch& batch, const Work& work) {
  for_runs(batch, 1, work);
}

// Returns the gradient by the log of the scale from its sums over runs [runs, D], added in their order.
at::Tensor sum_of_runs(const at::Tensor& runs, const at::Tensor& log_scale) {
  const auto* data = runs.const_data_ptr<float>();
  const int64_t columns = runs.size(1), outputs = log_scale.numel();
  std::vector<double> sums(static_cast<size_t>(outputs));
  for (int64_t run = 0; run < runs.size(0); ++run)
    for (int64_t i = 0; i < columns; ++i) sums[static_cast<size_t>(outputs == 1 ? 0 : i)] += *data++;
  auto result = at::empty(log_scale.sizes(), log_scale.options().dtype(at::kFloat));
  std::copy(sums.begin(), sums.end(), result.mutable_data_ptr<float>());
  return result.to(log_scale.scalar_type());
}

// Returns the gradients by logits and scale; also calls beside(row) on the thread that processes the row.
template <typename Work>
std::tuple<at::Tensor, at::Tensor> pixel_gradients(const Batch& batch, const RowGradient& by_nll,
                                                   const at::Tensor& logits, const OptionalTensor& log_scale,
                                                   const Work& beside) {
  auto for_logits = at::empty(logits.sizes(), logits.options());
  auto* const data = static_cast<std::byte*>(for_logits.mutable_data_ptr());
  const Type type = type_of(logits);
  const int64_t bytes = batch.columns() * static_cast<int64_t>(logits.element_size());
  const int64_t height = batch.is_scaled() ? kRun : 1;
  const int64_t runs = (batch.rows() + height - 1) / height;
  const auto sums = at::zeros({batch.is_scaled() ? runs : 0, batch.columns()}, logits.options().dtype(at::kFloat));
  auto* const sums_data = sums.mutable_data_ptr<float>();
  for_runs(batch, height, [&](int64_t run) {
    for (int64_t row = run * height; row < std::min((run + 1) * height, batch.rows()); ++row) {
      float* const for_scale = batch.is_scaled() ? sums_data + run * batch.columns() : nullptr;
      loops().nll_backward(by_nll[row], batch.image(row), {data + row * bytes, type}, for_scale);
      beside(row);
    }
  });
  return {for_logits, log_scale ? sum_of_runs(sums, *log_scale) : at::empty({0}, logits.options())};
}

at::Tensor nll(const at::Tensor& logits, const at::Tensor& target, const OptionalTensor& log_scale,
               std::string_view likelihood) {
  const Batch batch("nll", logits, target, log_scale, likelihood);
  auto nll = at::empty({batch.rows()}, logits.options().dtype(at::kFloat));
  auto* const out = nll.mutable_data_ptr<float>();
  for_rows(batch, [&](int64_t row) { out[row] = loops().nll(batch.image(row)); });
  return nll;
}

std::tuple<at::Tensor, at::Tensor> nll_backward(const at::Tensor& grad_nll, const at::Tensor& logits,
                                                const at::Tensor& target, const OptionalTensor& log_scale,
                                                std::string_view likelihood) {
  constexpr const char* op = "nll_backward";
  const Batch batch(op, logits, target, log_scale, likelihood);
  const RowGradient by_nll(op, "grad_nll", grad_nll, batch.rows());
  return pixel_gradients(batch, by_nll, logits, log_scale, [](int64_t) {});
}

std::tuple<at::Tensor, at::Tensor> elbo(const at::Tensor& logits, const at::Tensor& target, const at::Tensor& mu,
                                        const at::Tensor& logvar, const OptionalTensor& log_scale,
                                        std::string_view likelihood) {
  const Batch batch("elbo", logits, target, log_scale, likelihood);
  const Posterior posterior("elbo", mu, logvar, batch.rows());
  auto nll = at::empty({batch.rows()}, logits.options().dtype(at::kFloat));
  auto kl = at::empty_like(nll);
  auto* const nll_out = nll.mutable_data_ptr<float>();
  auto* const kl_out = kl.mutable_data_ptr<float>();
  for_rows(batch, [&](int64_t row) {
    nll_out[row] = loops().nll(batch.image(row));
    kl_out[row] = loops().kl(posterior.mu_rows.matrix.row(row), posterior.logvar_rows.matrix.row(row),
                             posterior.latent);
  });
  return {nll, kl};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> elbo_backward(
    const at::Tensor& grad_nll, const at::Tensor& grad_kl, const at::Tensor& logits, const at::Tensor& target,
    const at::Tensor& mu, const at::Tensor& logvar, const OptionalTensor& log_scale, std::string_view likelihood) {
  constexpr const char* op = "elbo_backward";
  const Batch batch(op, logits, target, log_scale, likelihood);
  const Posterior posterior(op, mu, logvar, batch.rows());
  const RowGradient by_nll(op, "grad_nll", grad_nll, batch.rows()), by_kl(op, "grad_kl", grad_kl, batch.rows());
  auto for_mu = at::empty(mu.sizes(), mu.options().dtype(at::kFloat));
  auto for_logvar = at::empty_like(for_mu);
  auto* const mu_out = for_mu.mutable_data_ptr<float>();
  auto* const logvar_out = for_logvar.mutable_data_ptr<float>();
  auto [for_logits, for_scale] = pixel_gradients(batch, by_nll, logits, log_scale, [&](int64_t row) {
    loops().kl_backward(by_kl[row], posterior.mu_rows.matrix.row(row), posterior.logvar_rows.matrix.row(row),
                        posterior.latent, mu_out + row * posterior.latent, logvar_out + row * posterior.latent);
  });
  return {for_logits, for_mu.to(mu.scalar_type()), for_logvar.to(logvar.scalar_type()), for_scale};
}

}  // namespace

TORCH_LIBRARY_IMPL(vae_fast, CPU, m) {
  m.impl("nll", nll);
  m.impl("nll_backward", nll_backward);
  m.impl("elbo", elbo);
  m.impl("elbo_backward", elbo_backward);
}

}  // namespace vae_fast

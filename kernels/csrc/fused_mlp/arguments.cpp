#include "arguments.h"

#include "../likelihood.h"
#include "../rows.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <algorithm>

namespace vae_fast {

float scalar(const at::Tensor& value, const char* op, const char* name) {
  check_float(value, op, name);
  TORCH_CHECK_VALUE(value.dim() == 0, op, ": ", name, ": expected a 0-d tensor, got ", value.sizes());
  return *value.const_data_ptr<float>();
}

namespace {

Bound bound_of(const char* op, std::string_view name) {
  constexpr std::pair<std::string_view, Bound> known[] = {
      {"elbo", Bound::elbo}, {"iwae", Bound::iwae}, {"dreg", Bound::dreg}};
  for (const auto& [known_name, bound] : known)
    if (name == known_name) return bound;
  TORCH_CHECK_VALUE(false, op, ": objective: got the unknown '", name, "'");
}

void check_samples(const char* op, int64_t samples, double free_bits, std::string_view bound) {
  TORCH_CHECK_VALUE(0 < samples && samples <= kMostSamples, op, ": samples: expected 1 to ", kMostSamples, ", got ",
                    samples);
  TORCH_CHECK_VALUE(free_bits <= 0 || (samples == 1 && bound == "elbo"), op,
                    ": free_bits: expected 0 unless the objective is elbo with one sample, got ", free_bits);
}

}  // namespace

Objective objective_of(const char* op, const Network& network, std::string_view activation, const at::Tensor& seed,
                       const at::Tensor& step, float beta, double free_bits, int64_t row_offset, int64_t stream,
                       double weight, std::string_view likelihood, std::optional<double> log_scale,
                       std::string_view bound, int64_t samples) {
  const Likelihood kind = likelihood_of(op, likelihood);
  TORCH_CHECK_VALUE(has_scale(kind) == (log_scale.has_value() || network.scales > 0) &&
                        !(log_scale.has_value() && network.scales > 0),
                    op, ": log_scale: expected ", has_scale(kind) ? "one, or a learned one" : "none",
                    " with likelihood '", likelihood, "'");
  std::optional<float> fixed;
  if (log_scale) fixed = static_cast<float>(*log_scale);
  check_samples(op, samples, free_bits, bound);
  return {.draw = make_draw(op, seed, step, samples * network.latent(), row_offset, stream),
          .activation = activation_of(op, activation),
          .beta = beta,
          .free_bits = static_cast<float>(free_bits),
          .weight = static_cast<float>(weight),
          .likelihood = kind,
          .log_scale = fixed,
          .bound = bound_of(op, bound),
          .samples = samples};
}

Images images_of(const char* op, const at::Tensor& images, int64_t pixels) {
  if (images.scalar_type() != at::kByte) {
    TORCH_CHECK_TYPE(images.scalar_type() == at::kFloat, op, ": images: expected uint8 or float32, got ",
                     images.scalar_type());
  }
  TORCH_CHECK_VALUE(images.dim() == 2 && images.size(1) == pixels && images.is_contiguous(), op,
                    ": images: expected contiguous [N, ", pixels, "], got ", images.sizes(), " with strides ",
                    images.strides());
  TORCH_CHECK_VALUE(images.size(0) > 0, op, ": images: expected at least one image, got none");
  return {images.const_data_ptr(), type_of(images), nullptr, images.size(0), {}};
}

const int64_t* order_of(const char* op, const at::Tensor& order, int64_t images, int64_t first, int64_t count) {
  TORCH_CHECK_TYPE(order.scalar_type() == at::kLong, op, ": order: expected int64, got ", order.scalar_type());
  TORCH_CHECK_VALUE(order.dim() == 2 && order.is_contiguous() && order.numel() > 0, op,
                    ": order: expected contiguous [steps, B], neither of them 0, got ", order.sizes(),
                    " with strides ", order.strides());
  const auto* const rows = order.const_data_ptr<int64_t>();
  const int64_t steps = order.size(0), batch = order.size(1);
  for (int64_t step = first; step < first + std::min(count, steps); ++step) {
    for (int64_t i = 0; i < batch; ++i) {
      const int64_t row = rows[step % steps * batch + i];
      TORCH_CHECK_INDEX(0 <= row && row < images, op, ": order: expected values in [0, ", images, "), got ", row);
    }
  }
  return rows;
}

float* aligned(const char* op, const at::Tensor& workspace, const Layout& layout) {
  check_float(workspace, op, "workspace");
  TORCH_CHECK_VALUE(workspace.dim() == 1 && workspace.is_contiguous() &&
                        workspace.size(0) >= layout.size + kAlignment,
                    op, ": workspace: expected contiguous [", layout.size + kAlignment, "] or more for ",
                    at::get_num_threads(), " threads, got ", workspace.sizes());
  const auto address = reinterpret_cast<uintptr_t>(workspace.mutable_data_ptr<float>());
  constexpr uintptr_t bytes = kAlignment * sizeof(float);
  return reinterpret_cast<float*>((address + bytes - 1) / bytes * bytes);
}

PackedPair* pairs_of(const char* op, const at::Tensor& copies, const Network& network) {
  TORCH_CHECK_TYPE(copies.scalar_type() == at::kInt, op, ": copies: expected int32, got ", copies.scalar_type());
  TORCH_CHECK_VALUE(copies.dim() == 1 && copies.is_contiguous() && copies.size(0) == copies_size(network), op,
                    ": copies: expected contiguous [", copies_size(network), "], got ", copies.sizes(),
                    " with strides ", copies.strides());
  auto* const pairs = reinterpret_cast<PackedPair*>(copies.mutable_data_ptr<int32_t>());
  TORCH_CHECK_VALUE(reinterpret_cast<uintptr_t>(pairs) % (kAlignment * sizeof(float)) == 0, op,
                    ": copies: expected memory aligned to 64 bytes");
  return pairs;
}

PackedPair* pairs_of(const char* op, const OptionalTensor& copies, const Network& network, std::string_view products) {
  TORCH_CHECK_VALUE(copies.has_value() == (products != kFloat32), op,
                    ": copies: expected for products in bfloat16 and for no others, got ",
                    copies ? "them" : "none", " for ", products);
  return copies ? pairs_of(op, *copies, network) : nullptr;
}

double* terms_of(const char* op, const char* name, const at::Tensor& terms) {
  TORCH_CHECK_TYPE(terms.scalar_type() == at::kDouble, op, ": ", name, ": expected float64, got ",
                   terms.scalar_type());
  TORCH_CHECK_VALUE(terms.dim() == 1 && terms.size(0) == kTerms && terms.is_contiguous(), op, ": ", name,
                    ": expected contiguous [", kTerms, "], got ", terms.sizes());
  return terms.mutable_data_ptr<double>();
}

double* ring_of(const char* op, const at::Tensor& ring) {
  TORCH_CHECK_TYPE(ring.scalar_type() == at::kDouble, op, ": ring: expected float64, got ", ring.scalar_type());
  TORCH_CHECK_VALUE(ring.dim() == 2 && ring.size(0) > 0 && ring.size(1) == kTerms && ring.is_contiguous(), op,
                    ": ring: expected contiguous [latest, ", kTerms, "], got ", ring.sizes());
  return ring.mutable_data_ptr<double>();
}

double* seconds_of(const char* op, const at::Tensor& seconds) {
  TORCH_CHECK_TYPE(seconds.scalar_type() == at::kDouble, op, ": seconds: expected float64, got ",
                   seconds.scalar_type());
  TORCH_CHECK_VALUE(seconds.dim() == 2 && seconds.size(0) >= at::get_num_threads() &&
                        seconds.size(1) == kTimedParts && seconds.is_contiguous(),
                    op, ": seconds: expected contiguous [", at::get_num_threads(), ", ", kTimedParts, "], got ",
                    seconds.sizes());
  return seconds.mutable_data_ptr<double>();
}

void check_like(const char* op, const char* name, at::TensorList tensors, at::TensorList parameters) {
  TORCH_CHECK_VALUE(tensors.size() == parameters.size(), op, ": ", name, ": expected ", parameters.size(),
                    " tensors, got ", tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    check_float(tensors[i], op, name);
    TORCH_CHECK_VALUE(tensors[i].sizes() == parameters[i].sizes() && tensors[i].is_contiguous(), op, ": ", name,
                      ": expected contiguous ", parameters[i].sizes(), ", got ", tensors[i].sizes(), " with strides ",
                      tensors[i].strides());
  }
}

}  // namespace vae_fast

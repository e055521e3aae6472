// vae_fast::mlp_step_ and vae_fast::mlp_gradients on the CPU: forward, backward and Adam of an MLP VAE in one parallel
// region. The schemas and what they promise stand in kernels/mlp.py.
#include "adam.h"
#include "draw.h"
#include "mlp_pass.h"
#include "rows.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string_view>

namespace vae_fast {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

constexpr int64_t kAlignment = 16;    // floats
constexpr double kSafeGradient = 1e16;  // 8192 squares of such gradients, as adam_ adds them in float, stay finite

// Calls work(thread, threads) on every thread of PyTorch's pool, or here alone if this is one of them.
template <typename Work>
void on_all_threads(const Work& work) {
#ifdef _OPENMP
  if (!at::in_parallel_region()) {
#pragma omp parallel num_threads(at::get_num_threads())
    work(omp_get_thread_num(), omp_get_num_threads());
    return;
  }
#endif
  work(0, 1);
}

float scalar(const at::Tensor& value, const char* op, const char* name) {
  check_float(value, op, name);
  TORCH_CHECK_VALUE(value.dim() == 0, op, ": ", name, ": expected a 0-d tensor, got ", value.sizes());
  return *value.const_data_ptr<float>();
}

Images images_of(const char* op, const at::Tensor& images, const OptionalTensor& rows, int64_t pixels) {
  if (images.scalar_type() != at::kByte) {
    TORCH_CHECK_TYPE(images.scalar_type() == at::kFloat, op, ": images: expected uint8 or float32, got ",
                     images.scalar_type());
  }
  TORCH_CHECK_VALUE(images.dim() == 2 && images.size(1) == pixels && images.is_contiguous(), op,
                    ": images: expected contiguous [N, ", pixels, "], got ", images.sizes(), " with strides ",
                    images.strides());
  Images result{images.const_data_ptr(), type_of(images), nullptr, images.size(0)};
  if (rows) {
    TORCH_CHECK_TYPE(rows->scalar_type() == at::kLong, op, ": rows: expected int64, got ", rows->scalar_type());
    TORCH_CHECK_VALUE(rows->dim() == 1 && rows->is_contiguous(), op, ": rows: expected contiguous [B], got ",
                      rows->sizes(), " with strides ", rows->strides());
    result.rows = rows->const_data_ptr<int64_t>();
    result.batch = rows->size(0);
    for (int64_t i = 0; i < result.batch; ++i) {
      TORCH_CHECK_INDEX(0 <= result.rows[i] && result.rows[i] < images.size(0), op,
                        ": rows: expected values in [0, ", images.size(0), "), got ", result.rows[i]);
    }
  }
  TORCH_CHECK_VALUE(result.batch > 0, op, ": expected at least one image, got none");
  return result;
}

Objective objective_of(const char* op, const Network& network, std::string_view activation, const at::Tensor& seed,
                       const at::Tensor& step, const at::Tensor& beta, double free_bits, int64_t row_offset,
                       int64_t stream, double weight) {
  return {.draw = make_draw(op, seed, step, network.latent(), row_offset, stream),
          .activation = activation_of(op, activation),
          .beta = scalar(beta, op, "beta"),
          .free_bits = static_cast<float>(free_bits),
          .weight = static_cast<float>(weight)};
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

double* terms_of(const char* op, const at::Tensor& terms) {
  TORCH_CHECK_TYPE(terms.scalar_type() == at::kDouble, op, ": terms: expected float64, got ", terms.scalar_type());
  TORCH_CHECK_VALUE(terms.dim() == 1 && terms.size(0) == 5 && terms.is_contiguous(), op,
                    ": terms: expected contiguous [5], got ", terms.sizes());
  return terms.mutable_data_ptr<double>();
}

void write_terms(double* terms, const Losses& losses, int64_t batch, bool taken) {
  const auto count = static_cast<double>(batch);
  const double values[] = {losses.loss * count, losses.nll, losses.kl, count, 0};
  for (int i = 0; i < 5; ++i) terms[i] = taken ? values[i] : i == 4;
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

Layout layout_of(const Network& network, int64_t batch, double free_bits) {
  return {network, batch, at::get_num_threads(), free_bits > 0};
}

int64_t mlp_workspace(at::TensorList parameters, int64_t batch, double free_bits) {
  constexpr const char* op = "mlp_workspace";
  TORCH_CHECK_VALUE(batch > 0, op, ": batch: expected at least 1, got ", batch);
  return layout_of(network_of(op, parameters), batch, free_bits).size + kAlignment;
}

// Where a layer's gradient goes, or what Adam works on.
struct Target {
  float *weight, *bias;
};

// Raw pointers of weights and biases, taken before the threads start.
std::vector<Target> targets_of(at::TensorList tensors) {
  std::vector<Target> targets;
  for (size_t i = 0; i < tensors.size(); i += 2)
    targets.push_back({tensors[i].mutable_data_ptr<float>(), tensors[i + 1].mutable_data_ptr<float>()});
  return targets;
}

void fill(const LayerGradient& by, float value) {
  std::fill(by.weight + by.begin * by.in, by.weight + by.end * by.in, value);
  std::fill(by.bias + by.begin, by.bias + by.end, value);
}

void mlp_step_(at::TensorList parameters, at::TensorList means, at::TensorList squares, const at::Tensor& count,
               const at::Tensor& images, const OptionalTensor& rows, const at::Tensor& seed, const at::Tensor& step,
               const at::Tensor& lr, const at::Tensor& beta, std::string_view activation, double beta1, double beta2,
               double epsilon, double weight_decay, double max_norm, double free_bits, int64_t row_offset,
               int64_t stream, double weight, const at::Tensor& workspace, const at::Tensor& terms) {
  constexpr const char* op = "mlp_step_";
  const Network network = network_of(op, parameters);
  check_like(op, "means", means, parameters);
  check_like(op, "squares", squares, parameters);
  const double done = scalar(count, op, "count");
  const Images batch = images_of(op, images, rows, network.pixels());
  const Objective objective =
      objective_of(op, network, activation, seed, step, beta, free_bits, row_offset, stream, weight);
  const Layout layout = layout_of(network, batch.batch, free_bits);
  float* const memory = aligned(op, workspace, layout);
  double* const out = terms_of(op, terms);
  const AdamSettings settings{scalar(lr, op, "lr"), beta1, beta2, epsilon, weight_decay, max_norm};
  const AdamStep adam = adam_step(settings, done + 1, 0);
  const auto weights = targets_of(parameters), first = targets_of(means), second = targets_of(squares);

  const Pass pass(network, layout, batch, objective, memory);
  Losses losses;
  bool at_once = false;  // whether Adam took the gradients as they came
  on_all_threads([&](int64_t thread, int64_t threads) {
    const Place place(thread, threads, layout.panels);
    const Losses mine = pass.run(place);
    // Adam need not wait for the norm where it is finite for certain and clips nothing.
    const bool sure = mine.largest_gradient < kSafeGradient && max_norm == std::numeric_limits<double>::infinity();
    for (size_t i = 0; i < network.layers.size() && mine.is_finite; ++i) {
      LayerGradient by = pass.layer_gradient(place, i);
      if (sure) {
        by.adam = &adam;
        by.weight = weights[i].weight, by.weight_mean = first[i].weight, by.weight_square = second[i].weight;
        by.bias = weights[i].bias, by.bias_mean = first[i].bias, by.bias_square = second[i].bias;
      } else {
        by.weight = memory + layout.gradients[i];
        by.bias = by.weight + by.out * by.in;
      }
      loops().mlp->layer_gradient(by);
    }
    if (thread == 0) {
      losses = mine;
      at_once = sure;
    }
  });

  bool taken = losses.is_finite;
  if (taken && at_once) *count.mutable_data_ptr<float>() += 1;
  if (taken && !at_once) {
    std::vector<at::Tensor> gradients;
    for (size_t i = 0; i < network.layers.size(); ++i) {
      const auto at = layout.gradients[i] + (memory - workspace.const_data_ptr<float>());
      const auto size = network.layers[i].out * network.layers[i].in;
      gradients.push_back(workspace.narrow(0, at, size).view(parameters[2 * i].sizes()));
      gradients.push_back(workspace.narrow(0, at + size, network.layers[i].out));
    }
    taken = std::isfinite(static_cast<float>(
        adam_update(op, parameters, means, squares, count, gradients, settings)));
  }
  write_terms(out, losses, batch.batch, taken);
}

void mlp_gradients(at::TensorList parameters, at::TensorList gradients, const at::Tensor& images,
                   const OptionalTensor& rows, const at::Tensor& seed, const at::Tensor& step, const at::Tensor& beta,
                   std::string_view activation, double free_bits, int64_t row_offset, int64_t stream, double weight,
                   const at::Tensor& workspace, const at::Tensor& terms) {
  constexpr const char* op = "mlp_gradients";
  const Network network = network_of(op, parameters);
  check_like(op, "gradients", gradients, parameters);
  const Images batch = images_of(op, images, rows, network.pixels());
  const Objective objective =
      objective_of(op, network, activation, seed, step, beta, free_bits, row_offset, stream, weight);
  const Layout layout = layout_of(network, batch.batch, free_bits);
  float* const memory = aligned(op, workspace, layout);
  double* const out = terms_of(op, terms);
  const auto targets = targets_of(gradients);

  const Pass pass(network, layout, batch, objective, memory);
  Losses losses;
  on_all_threads([&](int64_t thread, int64_t threads) {
    const Place place(thread, threads, layout.panels);
    const Losses mine = pass.run(place);
    for (size_t i = 0; i < network.layers.size(); ++i) {
      LayerGradient by = pass.layer_gradient(place, i);
      by.weight = targets[i].weight, by.bias = targets[i].bias;
      if (mine.is_finite) loops().mlp->layer_gradient(by);
      if (!mine.is_finite) fill(by, std::numeric_limits<float>::quiet_NaN());
    }
    if (thread == 0) losses = mine;
  });
  write_terms(out, losses, batch.batch, losses.is_finite);
}

bool set_flush_denormal(bool on) {
  bool done = at::globalContext().setFlushDenormal(on);
  on_all_threads([&](int64_t thread, int64_t) {
    if (thread > 0) at::globalContext().setFlushDenormal(on);
  });
  return done;
}

}  // namespace

TORCH_LIBRARY_IMPL(vae_fast, CPU, m) {
  m.impl("mlp_step_", mlp_step_);
  m.impl("mlp_gradients", mlp_gradients);
  m.impl("mlp_workspace", mlp_workspace);
}

TORCH_LIBRARY_IMPL(vae_fast, CompositeExplicitAutograd, m) { m.impl("set_flush_denormal", set_flush_denormal); }

}  // namespace vae_fast

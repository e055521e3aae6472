// A whole training step of an MLP VAE on the CPU: forward, backward and Adam in one parallel region. The schemas and
// the specification are in kernels/fused_mlp.py.
#include "../adam.h"
#include "arguments.h"
#include "../rows.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

namespace vae_fast {
namespace {

constexpr double kSafeGradient = 1e16;  // 8192 squares of such gradients, which adam_ adds in float, stay finite

// Calls work(thread, threads) on every thread of PyTorch's pool, or only on this thread if it is one of them.
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

// The products and the workspace layout of a step.
struct Setup {
  Setup(const Setup&) = delete;  // the products refer to the layout
  Setup& operator=(const Setup&) = delete;
  Setup(const char* op, const Network& network, int64_t batch, int64_t samples, double free_bits,
        std::string_view products, PackedPair* copies)
      : layout(network, batch, at::get_num_threads(), samples, free_bits > 0, products == kFloat32),
        products(products == kFloat32 ? float32_products(network, layout)
                                      : bf16_products(network, layout, copies, bf16_loop(op, products))) {}

  Layout layout;
  std::unique_ptr<Products> products;
};

int64_t mlp_workspace(at::TensorList parameters, int64_t batch, double free_bits, std::string_view products,
                      int64_t samples) {
  constexpr const char* op = "mlp_workspace";
  TORCH_CHECK_VALUE(samples > 0, op, ": samples: expected at least 1, got ", samples);
  TORCH_CHECK_VALUE(batch > 0, op, ": batch: expected at least 1, got ", batch);
  const Network network = network_of(op, parameters);
  return Setup(op, network, batch, samples, free_bits, products, nullptr).layout.size + kAlignment;
}

int64_t mlp_copies_size(at::TensorList parameters) { return copies_size(network_of("mlp_copies_size", parameters)); }

void copy_weights(const Network& network, PackedPair* copies) {
  const auto pack_weight = bf16_loops().front().stages->pack_weight;  // all loops round to the same bits
  on_all_threads([&](int64_t thread, int64_t threads) {
    for (size_t i = 0; i < network.layers.size(); ++i) {
      const Layer& layer = network.layers[i];
      const int64_t units = depth_tiles(layer.out);
      pack_weight(layer.weight,
                  {.out = layer.out,
                   .in = layer.in,
                   .begin = units * thread / threads * kTileDepth,
                   .end = std::min(layer.out, units * (thread + 1) / threads * kTileDepth)},
                  copies_of(network, i, copies));
    }
  });
}

void mlp_copy_(at::TensorList parameters, const at::Tensor& copies) {
  constexpr const char* op = "mlp_copy_";
  const Network network = network_of(op, parameters);
  copy_weights(network, pairs_of(op, copies, network));
}

void write_terms(double* terms, const Losses& losses, int64_t batch, bool taken) {
  std::fill_n(terms, kTerms, 0.0);
  if (!taken) {
    terms[kSkipped] = 1;
    return;
  }
  const auto count = static_cast<double>(batch);
  terms[kLoss] = losses.loss * count;
  terms[kNll] = losses.nll;
  terms[kKl] = losses.kl;
  terms[kImages] = count;
}

std::vector<std::string> step_terms() { return {kTermNames.begin(), kTermNames.end()}; }

// The destination of a layer's gradient, or the tensors that Adam updates.
struct Target {
  float *weight, *bias;
};

// Raw pointers of weights and biases, taken before the threads start.
std::vector<Target> targets_of(at::TensorList tensors) {
  std::vector<Target> targets;
  for (size_t i = 0; i + 1 < tensors.size(); i += 2)
    targets.push_back({tensors[i].mutable_data_ptr<float>(), tensors[i + 1].mutable_data_ptr<float>()});
  return targets;
}

// The learned scale's tensor in a list like the parameters', or null.
float* scale_in(at::TensorList tensors) {
  return tensors.size() % 4 == 1 ? tensors[tensors.size() - 1].mutable_data_ptr<float>() : nullptr;
}

void fill(const LayerUpdate& by, float value) {
  std::fill(by.weight + by.begin * by.in, by.weight + by.end * by.in, value);
  std::fill(by.bias + by.begin, by.bias + by.end, value);
}

// The tensors that Adam updates, with their addresses.
struct Optimizer {
  const char* op;
  at::TensorList parameters, means, squares;
  const at::Tensor& count;
  AdamSettings settings;
  PackedPair* copies;
  std::vector<Target> weights, first, second;  // the parameters and their two moments
};

// Computes the gradient by the learned scales, and uses it by Adam at once if `adam` is given.
void learn_scales(const Pass& pass, const Network& network, float* gradient, const Optimizer& optimizer,
                  const AdamStep* adam) {
  pass.scale_gradient(gradient);
  if (adam != nullptr) {
    loops().adam(*adam, {scale_in(optimizer.parameters), scale_in(optimizer.means), scale_in(optimizer.squares),
                         gradient, network.scales});
  }
}

// Runs forward, backward and Adam; returns whether the step was taken.
bool learn(const Network& network, const Setup& with, const Images& images, const Objective& objective,
           const Optimizer& optimizer, const at::Tensor& workspace, Losses& losses) {
  const Pass pass(network, with.layout, *with.products, images, objective);
  const AdamStep adam = adam_step(optimizer.settings, *optimizer.count.const_data_ptr<float>() + 1.0, 0);
  bool at_once = false;  // whether Adam used the gradients as soon as they were computed
  float* const by_scale = with.layout.memory + with.layout.scale_gradient;
  pass.set_scales();
  on_all_threads([&](int64_t thread, int64_t threads) {
    const Place place(thread, threads, with.layout.panels);
    with.products->begin(thread);
    const Losses mine = pass.run(place);
    // Adam need not wait for the norm if it is certain to be finite and nothing is clipped.
    const bool sure =
        mine.largest_gradient < kSafeGradient && optimizer.settings.max_norm == std::numeric_limits<double>::infinity();
    for (size_t i = 0; i < network.layers.size() && mine.is_finite; ++i) {
      LayerUpdate by = pass.update(place, i);
      if (sure) {
        const Target &weights = optimizer.weights[i], &means = optimizer.first[i], &squares = optimizer.second[i];
        by.adam = &adam;
        by.weight = weights.weight, by.weight_mean = means.weight, by.weight_square = squares.weight;
        by.bias = weights.bias, by.bias_mean = means.bias, by.bias_square = squares.bias;
      } else {
        by.weight = with.layout.memory + with.layout.gradients[i];
        by.bias = by.weight + by.out * by.in;
      }
      with.products->gradient(i, by);
    }
    with.products->end();
    if (thread == 0) {
      if (network.scales > 0 && mine.is_finite)
        learn_scales(pass, network, by_scale, optimizer, sure ? &adam : nullptr);
      losses = mine;
      at_once = sure;
    }
  });
  if (!losses.is_finite) return false;
  if (at_once) {
    *optimizer.count.mutable_data_ptr<float>() += 1;
    return true;
  }
  std::vector<at::Tensor> gradients;
  for (size_t i = 0; i < network.layers.size(); ++i) {
    const auto at = with.layout.gradients[i] + (with.layout.memory - workspace.const_data_ptr<float>());
    const auto size = network.layers[i].out * network.layers[i].in;
    gradients.push_back(workspace.narrow(0, at, size).view(optimizer.parameters[2 * i].sizes()));
    gradients.push_back(workspace.narrow(0, at + size, network.layers[i].out));
  }
  if (network.scales > 0) {
    gradients.push_back(workspace.narrow(0, by_scale - workspace.const_data_ptr<float>(), network.scales));
  }
  const double norm = adam_update(optimizer.op, optimizer.parameters, optimizer.means, optimizer.squares,
                                  optimizer.count, gradients, optimizer.settings);
  const bool taken = std::isfinite(static_cast<float>(norm));
  if (taken && optimizer.copies != nullptr) copy_weights(network, optimizer.copies);
  return taken;
}

void mlp_steps_(at::TensorList parameters, at::TensorList means, at::TensorList squares, const at::Tensor& count,
                const OptionalTensor& copies, const at::Tensor& images, const OptionalTensor& order,
                const at::Tensor& schedule, const at::Tensor& seed, const at::Tensor& step, const at::Tensor& sums,
                const at::Tensor& ring, int64_t steps, std::string_view activation, double beta1, double beta2,
                double epsilon, double weight_decay, double max_norm, double free_bits, bool binarize,
                int64_t row_offset, int64_t stream, double weight, std::string_view products,
                std::string_view likelihood, std::optional<double> log_scale, std::string_view bound, int64_t samples,
                const at::Tensor& workspace, const OptionalTensor& seconds) {
  constexpr const char* op = "mlp_steps_";
  TORCH_CHECK_VALUE(steps > 0, op, ": steps: expected at least 1, got ", steps);
  const Network network = network_of(op, parameters);
  check_like(op, "means", means, parameters);
  check_like(op, "squares", squares, parameters);
  scalar(count, op, "count");
  check_float(schedule, op, "schedule");
  TORCH_CHECK_VALUE(schedule.dim() == 2 && schedule.size(0) > 0 && schedule.size(1) == 2 && schedule.is_contiguous(), op,
                    ": schedule: expected contiguous [steps of an epoch, 2], got ", schedule.sizes());
  const int64_t period = schedule.size(0), first = counter_scalar(step, op, "step");
  check_range(first, std::numeric_limits<int64_t>::max() - steps, op, "step");
  Images batch = images_of(op, images, network.pixels());
  const int64_t* rows = nullptr;
  if (order) {
    TORCH_CHECK_VALUE(order->size(0) == period, op, ": order: expected as many rows as the schedule's ", period,
                      ", got ", order->sizes());
    rows = order_of(op, *order, batch.batch, first, steps);
    batch.batch = order->size(1);
  } else {
    TORCH_CHECK_VALUE(batch.batch % steps == 0, op, ": images: expected ", steps, " batches of one size, got ",
                      batch.batch, " images");
    batch.batch /= steps;
  }
  const int64_t bytes = batch.batch * network.pixels() * static_cast<int64_t>(images.element_size());
  PackedPair* const pairs = pairs_of(op, copies, network, products);
  Setup with(op, network, batch.batch, samples, free_bits, products, pairs);
  if (seconds) with.products = timed_products(std::move(with.products), seconds_of(op, *seconds));
  with.layout.memory = aligned(op, workspace, with.layout);
  double* const total = terms_of(op, "sums", sums);
  double* const entries = ring_of(op, ring);
  auto* const number = step.mutable_data_ptr<int64_t>();
  const auto* const rates = schedule.const_data_ptr<float>();
  Optimizer optimizer{op, parameters, means, squares, count, {}, pairs,
                      targets_of(parameters), targets_of(means), targets_of(squares)};
  for (int64_t i = 0; i < steps; ++i) {
    const int64_t position = *number % period;
    const Objective objective = objective_of(op, network, activation, seed, step, rates[2 * position + 1], free_bits,
                                             row_offset, stream, weight, likelihood, log_scale, bound, samples);
    optimizer.settings = {rates[2 * position], beta1, beta2, epsilon, weight_decay, max_norm};
    if (rows != nullptr) batch.rows = rows + position * batch.batch;
    if (binarize) batch.sample = make_draw(op, seed, step, network.pixels(), row_offset, kBinarization);
    Losses losses;
    const bool taken = learn(network, with, batch, objective, optimizer, workspace, losses);
    double* const entry = entries + *number % ring.size(0) * kTerms;
    write_terms(entry, losses, batch.batch, taken);
    for (int64_t term = 0; term < kTerms; ++term) total[term] += entry[term];
    *number += 1;
    if (rows == nullptr) batch.data = static_cast<const std::byte*>(batch.data) + bytes;
  }
}

void mlp_gradients(at::TensorList parameters, at::TensorList gradients, const OptionalTensor& copies,
                   const at::Tensor& images, const OptionalTensor& rows, const at::Tensor& seed, const at::Tensor& step,
                   const at::Tensor& beta, std::string_view activation, double free_bits, bool binarize,
                   int64_t row_offset, int64_t stream, double weight, std::string_view products,
                   std::string_view likelihood, std::optional<double> log_scale, std::string_view bound,
                   int64_t samples, const at::Tensor& workspace, const at::Tensor& terms) {
  constexpr const char* op = "mlp_gradients";
  const Network network = network_of(op, parameters);
  check_like(op, "gradients", gradients, parameters);
  Images batch = images_of(op, images, network.pixels());
  if (rows) {
    batch.rows = order_of(op, rows->unsqueeze(0), batch.batch, 0, 1);
    batch.batch = rows->size(0);
  }
  if (binarize) batch.sample = make_draw(op, seed, step, network.pixels(), row_offset, kBinarization);
  const Objective objective = objective_of(op, network, activation, seed, step, scalar(beta, op, "beta"), free_bits,
                                           row_offset, stream, weight, likelihood, log_scale, bound, samples);
  Setup with(op, network, batch.batch, samples, free_bits, products, pairs_of(op, copies, network, products));
  with.layout.memory = aligned(op, workspace, with.layout);
  double* const out = terms_of(op, "terms", terms);
  const auto targets = targets_of(gradients);
  float* const by_scale = scale_in(gradients);

  const Pass pass(network, with.layout, *with.products, batch, objective);
  pass.set_scales();
  Losses losses;
  on_all_threads([&](int64_t thread, int64_t threads) {
    const Place place(thread, threads, with.layout.panels);
    with.products->begin(thread);
    const Losses mine = pass.run(place);
    for (size_t i = 0; i < network.layers.size(); ++i) {
      LayerUpdate by = pass.update(place, i);
      by.weight = targets[i].weight, by.bias = targets[i].bias;
      if (mine.is_finite) with.products->gradient(i, by);
      if (!mine.is_finite) fill(by, std::numeric_limits<float>::quiet_NaN());
    }
    with.products->end();
    if (thread == 0) {
      if (by_scale != nullptr && mine.is_finite) pass.scale_gradient(by_scale);
      if (by_scale != nullptr && !mine.is_finite)
        std::fill_n(by_scale, network.scales, std::numeric_limits<float>::quiet_NaN());
      losses = mine;
    }
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
  m.impl("mlp_steps_", mlp_steps_);
  m.impl("mlp_gradients", mlp_gradients);
  m.impl("mlp_workspace", mlp_workspace);
  m.impl("mlp_copies_size", mlp_copies_size);
  m.impl("mlp_copy_", mlp_copy_);
}

TORCH_LIBRARY_IMPL(vae_fast, CompositeExplicitAutograd, m) {
  m.impl("set_flush_denormal", set_flush_denormal);
  m.impl("step_terms", step_terms);
}

}  // namespace vae_fast

// vae_fast::adam_ on the CPU: the norm of all gradients, then Adam over all parameters, each in one parallel pass.
// The schema and the specification are in kernels/adam.py.
#include "adam.h"
#include "rows.h"

#include <ATen/Parallel.h>
#include <ATen/ops/scalar_tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

namespace vae_fast {
namespace {

constexpr int64_t kChunk = 8192;  // values processed at a time: their squares are summed in float, chunks in double
constexpr int64_t kAdamGrain = 2;  // chunks that are worth a thread: about 5 us

// The chunks of all tensors, which the constructor checks for equal shapes.
class Chunks {
 public:
  Chunks(const char* op, at::TensorList parameters, at::TensorList means, at::TensorList squares,
         at::TensorList gradients) {
    const size_t count = parameters.size();
    TORCH_CHECK_VALUE(means.size() == count && squares.size() == count && gradients.size() == count,
                      op, ": expected as many means, squares and gradients as parameters, got ", means.size(), ", ",
                      squares.size(), " and ", gradients.size(), " for ", count);
    for (size_t i = 0; i < count; ++i) {
      gradients_.push_back(gradients[i].contiguous());
      add(checked(op, parameters[i], parameters[i], "parameters"), checked(op, means[i], parameters[i], "means"),
          checked(op, squares[i], parameters[i], "squares"), checked(op, gradients_.back(), parameters[i], "gradients"));
    }
  }

  size_t count() const { return chunks_.size(); }

  // Calls work(index, chunk) for all chunks, in parallel.
  template <typename Work>
  void for_each(const Work& work) const {
    at::parallel_for(0, static_cast<int64_t>(count()), kAdamGrain, [&](int64_t begin, int64_t end) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) work(i, chunks_[i]);
    });
  }

 private:
  static const at::Tensor& checked(const char* op, const at::Tensor& tensor, const at::Tensor& like, const char* name) {
    check_float(tensor, op, name);
    TORCH_CHECK_VALUE(tensor.sizes() == like.sizes() && tensor.is_contiguous(), op, ": ", name,
                      ": expected contiguous ", like.sizes(), ", got ", tensor.sizes(), " with strides ",
                      tensor.strides());
    return tensor;
  }

  void add(const at::Tensor& parameter, const at::Tensor& mean, const at::Tensor& square, const at::Tensor& gradient) {
    for (int64_t begin = 0; begin < parameter.numel(); begin += kChunk) {
      chunks_.push_back({.parameter = parameter.mutable_data_ptr<float>() + begin,
                         .mean = mean.mutable_data_ptr<float>() + begin,
                         .square = square.mutable_data_ptr<float>() + begin,
                         .gradient = gradient.const_data_ptr<float>() + begin,
                         .count = std::min(kChunk, parameter.numel() - begin)});
    }
  }

  std::vector<at::Tensor> gradients_;  // keeps copies alive if any were made
  std::vector<Chunk> chunks_;
};

double norm_of(const Chunks& chunks) {
  std::vector<double> sums(chunks.count());
  chunks.for_each([&](size_t i, const Chunk& chunk) { sums[i] = loops().sum_of_squares(chunk.gradient, chunk.count); });
  double sum = 0;  // in the order of the chunks, whatever thread each was on
  for (const double part : sums) sum += part;
  return std::sqrt(sum);
}

at::Tensor adam_(at::TensorList parameters, at::TensorList means, at::TensorList squares, const at::Tensor& count,
                 at::TensorList gradients, const at::Tensor& lr, double beta1, double beta2, double epsilon,
                 double weight_decay, double max_norm, const std::optional<at::Tensor>& loss) {
  check_float(lr, "adam_", "lr");
  TORCH_CHECK_VALUE(lr.dim() == 0, "adam_: lr: expected a 0-d tensor, got ", lr.sizes());
  bool is_finite = true;
  if (loss) {
    TORCH_CHECK_TYPE(loss->scalar_type() == at::kDouble, "adam_: loss: expected float64, got ", loss->scalar_type());
    TORCH_CHECK_VALUE(loss->dim() == 0, "adam_: loss: expected a 0-d tensor, got ", loss->sizes());
    is_finite = std::isfinite(*loss->const_data_ptr<double>());
  }
  const AdamSettings settings{*lr.const_data_ptr<float>(), beta1, beta2, epsilon, weight_decay, max_norm};
  const double norm = adam_update("adam_", parameters, means, squares, count, gradients, settings, is_finite);
  return at::scalar_tensor(norm, count.options());
}

}  // namespace

AdamStep adam_step(const AdamSettings& by, double count, double norm) {
  return {
      .decay = static_cast<float>(1 - by.lr * by.weight_decay),
      .scale = static_cast<float>(std::min(1.0, by.max_norm / (norm + 1e-6))),
      .mean_rate = static_cast<float>(1 - by.beta1),
      .square_rate = static_cast<float>(1 - by.beta2),
      .step_size = static_cast<float>(by.lr / (1 - std::pow(by.beta1, count))),
      .correction = static_cast<float>(1 / std::sqrt(1 - std::pow(by.beta2, count))),
      .epsilon = static_cast<float>(by.epsilon),
  };
}

double adam_update(const char* op, at::TensorList parameters, at::TensorList means, at::TensorList squares,
                   const at::Tensor& count, at::TensorList gradients, const AdamSettings& settings, bool is_finite) {
  check_float(count, op, "count");
  TORCH_CHECK_VALUE(count.dim() == 0, op, ": count: expected a 0-d tensor, got ", count.sizes());
  const Chunks chunks(op, parameters, means, squares, gradients);
  const double norm = norm_of(chunks);
  if (is_finite && std::isfinite(norm)) {
    const AdamStep step = adam_step(settings, *count.mutable_data_ptr<float>() += 1, norm);
    chunks.for_each([&](size_t, const Chunk& chunk) { loops().adam(step, chunk); });
  }
  return norm;
}

TORCH_LIBRARY_IMPL(vae_fast, CPU, m) { m.impl("adam_", adam_); }

}  // namespace vae_fast

// Checks of the arguments of a whole MLP's step. All raise TypeError, ValueError or IndexError, naming `op`.
#pragma once

#include "../noise.h"
#include "../step_terms.h"
#include "pass.h"

#include <ATen/core/Tensor.h>

#include <optional>
#include <string_view>

namespace vae_fast {

using OptionalTensor = std::optional<at::Tensor>;

constexpr int64_t kAlignment = 16;  // floats
constexpr int64_t kBinarization = 3;  // the stream's number in kernels/streams.py
constexpr int64_t kMostSamples = 1 << 16;
constexpr std::string_view kFloat32 = "float32";

float scalar(const at::Tensor& value, const char* op, const char* name);

Objective objective_of(const char* op, const Network& network, std::string_view activation, const at::Tensor& seed,
                       const at::Tensor& step, float beta, double free_bits, int64_t row_offset, int64_t stream,
                       double weight, std::string_view likelihood, std::optional<double> log_scale,
                       std::string_view bound, int64_t samples);

// Images [N, D] that are the whole batch.
Images images_of(const char* op, const at::Tensor& images, int64_t pixels);

// The rows of an epoch's order, int64 [steps, B], which are indices of images. Checks `count` rows from `first` on,
// wrapping around.
const int64_t* order_of(const char* op, const at::Tensor& order, int64_t images, int64_t first, int64_t count);

// Returns the workspace from its first aligned float on.
float* aligned(const char* op, const at::Tensor& workspace, const Layout& layout);

// The weights' copies, which exist unless products are in float32.
PackedPair* pairs_of(const char* op, const at::Tensor& copies, const Network& network);
PackedPair* pairs_of(const char* op, const OptionalTensor& copies, const Network& network, std::string_view products);

// The terms of a step, float64 [5], and of several steps, float64 [N, 5].
double* terms_of(const char* op, const char* name, const at::Tensor& terms);
double* ring_of(const char* op, const at::Tensor& ring);

// The times of a step's parts, float64 [threads, kTimedParts].
double* seconds_of(const char* op, const at::Tensor& seconds);

void check_like(const char* op, const char* name, at::TensorList tensors, at::TensorList parameters);

}  // namespace vae_fast

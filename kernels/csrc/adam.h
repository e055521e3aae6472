// Adam over all parameters, for the operators that end with it.
#pragma once

#include "simd/loops.h"

#include <ATen/core/Tensor.h>

namespace vae_fast {

struct AdamSettings {
  double lr, beta1, beta2, epsilon, weight_decay, max_norm;
};

// Returns the factors of step number `count` (from 1) for gradients of this norm.
AdamStep adam_step(const AdamSettings& settings, double count, double norm);

// Returns the norm of all gradients. Unless it or the loss is not finite, parameters, moments and the 0-d float32 count
// are updated in place.
// Raises TypeError or ValueError, naming `op`, for tensors that do not fit.
double adam_update(const char* op, at::TensorList parameters, at::TensorList means, at::TensorList squares,
                   const at::Tensor& count, at::TensorList gradients, const AdamSettings& settings,
                   bool is_finite = true);

}  // namespace vae_fast

// The likelihoods by their names in Python.
#pragma once

#include "simd/loops.h"

#include <c10/util/Exception.h>

#include <string_view>

namespace vae_fast {

inline Likelihood likelihood_of(const char* op, std::string_view name) {
  if (name == "bernoulli") return Likelihood::bernoulli;
  if (name == "continuous_bernoulli") return Likelihood::continuous_bernoulli;
  if (name == "gaussian") return Likelihood::gaussian;
  TORCH_CHECK_VALUE(name == "discretized_logistic", op, ": likelihood: got the unknown '", name, "'");
  return Likelihood::discretized_logistic;
}

constexpr bool has_scale(Likelihood likelihood) {
  return likelihood == Likelihood::gaussian || likelihood == Likelihood::discretized_logistic;
}

}  // namespace vae_fast

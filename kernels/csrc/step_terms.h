// The columns of a step's terms, float64 [5]. A test compares them with those of kernels/reference.py.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace vae_fast {

enum StepTerm : std::size_t { kLoss, kNll, kKl, kImages, kSkipped };
constexpr std::array<std::string_view, 5> kTermNames = {"loss", "nll", "kl", "images", "skipped"};
constexpr int64_t kTerms = kTermNames.size();

}  // namespace vae_fast

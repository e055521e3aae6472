// Conversions of float16 and bfloat16 to float and back, rounding to nearest even, for loops that the compiler
// vectorises. The compiler's own half type is not used because g++ 12 converts it value by value, nor is PyTorch's,
// because its functions are compiled for one instruction set.
#pragma once

#include "loops.h"

#include <bit>

namespace vae_fast {

VAE_FAST_INLINE float from_bfloat16(uint16_t value) { return std::bit_cast<float>(uint32_t{value} << 16); }

VAE_FAST_INLINE uint16_t to_bfloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
  return static_cast<uint16_t>((bits & 0x7FFFFFFFU) > 0x7F800000U ? 0x7FC0U : rounded);  // NaN stays NaN
}

// The exponent of float16 is 112 less than float's. Inf and NaN need that offset twice; the integers below the smallest
// normal value become floats with one fixed exponent, from which the first float with that exponent is then subtracted
// (exactly).
VAE_FAST_INLINE float from_float16(uint16_t value) {
  constexpr uint32_t bias = 112U << 23, least = 113U << 23;
  const uint32_t magnitude = (value & 0x7FFFU) << 13;
  const uint32_t special = magnitude >= 0x7C00U << 13 ? bias : 0U;
  const float normal = std::bit_cast<float>(magnitude + bias + special);
  const float tiny = std::bit_cast<float>(magnitude + least) - std::bit_cast<float>(least);
  const uint32_t bits = std::bit_cast<uint32_t>(magnitude < 0x0400U << 13 ? tiny : normal);
  return std::bit_cast<float>(bits | (uint32_t{value} & 0x8000U) << 16);
}

VAE_FAST_INLINE uint16_t to_float16(float value) {
  constexpr uint32_t bias = 112U << 23, least = 113U << 23, beyond = 143U << 23;  // 2^-14 and 2^16
  constexpr uint32_t rounder = 126U << 23;  // 0.5: added, it leaves a multiple of 2^-24 in the low bits
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7FFFFFFFU;
  const uint32_t tiny =
      std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + std::bit_cast<float>(rounder)) - rounder;
  const uint32_t normal = (magnitude - bias + 0xFFFU + ((magnitude >> 13) & 1U)) >> 13;
  const uint32_t special = magnitude > 0x7F800000U ? 0x7E00U : 0x7C00U;
  const uint32_t finite = magnitude < least ? tiny : normal;
  return static_cast<uint16_t>((magnitude >= beyond ? special : finite) | ((bits >> 16) & 0x8000U));
}

}  // namespace vae_fast

// The two terms of the negative ELBO, a row at a time. Values of any type are converted to floats a block at a time.
#pragma once

#include "likelihoods.h"
#include "loops.h"
#include "narrow.h"

namespace vae_fast {
namespace {

constexpr int64_t kBlock = 1024;  // values summed in float; blocks are added in double, so that long rows lose nothing

VAE_FAST_INLINE float divergence(float mu, float logvar) {
  return -0.5F * (1.0F + logvar - mu * mu - exp_f(logvar));
}

float kl(const float* mu, const float* logvar, int64_t columns) {
  double total = 0;
  for (int64_t begin = 0; begin < columns; begin += kBlock) {
    const int64_t end = begin + kBlock < columns ? begin + kBlock : columns;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) sum += divergence(mu[i], logvar[i]);
    total += sum;
  }
  return static_cast<float>(total);
}

void kl_backward(float gradient, const float* __restrict mu, const float* __restrict logvar, int64_t columns,
                 float* __restrict for_mu, float* __restrict for_logvar) {
#pragma omp simd
  for (int64_t i = 0; i < columns; ++i) {
    for_mu[i] = gradient * mu[i];
    for_logvar[i] = 0.5F * gradient * (exp_f(logvar[i]) - 1.0F);
  }
}

template <typename Narrow, typename Convert>
VAE_FAST_INLINE const float* widened(const void* data, int64_t begin, int64_t count, float* __restrict buffer,
                                     const Convert& convert) {
  const Narrow* const __restrict from = static_cast<const Narrow*>(data) + begin;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) buffer[i] = convert(from[i]);
  return buffer;
}

// Returns a block as floats: in place, or converted in the buffer. The conversion is a separate loop because within the
// others it would cost twice the time of everything else (g++ 12).
VAE_FAST_INLINE const float* floats(const Values& values, int64_t begin, int64_t count, float* buffer) {
  switch (values.type) {
    case Type::float16:
      return widened<uint16_t>(values.data, begin, count, buffer, from_float16);
    case Type::bfloat16:
      return widened<uint16_t>(values.data, begin, count, buffer, from_bfloat16);
    case Type::uint8:
      return widened<uint8_t>(values.data, begin, count, buffer,
                              [](uint8_t k) { return static_cast<float>(k) * (1.0F / 255); });
    case Type::float32:
      break;
  }
  return static_cast<const float*>(values.data) + begin;
}

template <typename Convert>
VAE_FAST_INLINE void narrowed(const float* __restrict from, int64_t count, uint16_t* __restrict to,
                              const Convert& convert) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] = convert(from[i]);
}

VAE_FAST_INLINE void store(const float* from, int64_t count, const Output& out, int64_t begin) {
  uint16_t* const to = static_cast<uint16_t*>(out.data) + begin;
  if (out.type == Type::float16) narrowed(from, count, to, to_float16);
  if (out.type == Type::bfloat16) narrowed(from, count, to, to_bfloat16);
}

// Returns the log scales of a block: in place, or the single one repeated in the buffer.
VAE_FAST_INLINE const float* log_scales(const Image& image, int64_t begin, int64_t count, float* buffer) {
  if (!image.one_scale) return image.log_scale + begin;
  for (int64_t i = 0; i < count; ++i) buffer[i] = *image.log_scale;
  return buffer;
}

template <typename Model>
float nll_of(const Image& image) {
  alignas(64) float logit_buffer[kBlock], pixel_buffer[kBlock], scale_buffer[kBlock];
  double total = 0;
  for (int64_t begin = 0; begin < image.columns; begin += kBlock) {
    const int64_t count = image.columns - begin < kBlock ? image.columns - begin : kBlock;
    const float* const __restrict logit = floats(image.logits, begin, count, logit_buffer);
    const float* const __restrict x = floats(image.target, begin, count, pixel_buffer);
    const float* const __restrict s = Model::scaled ? log_scales(image, begin, count, scale_buffer) : x;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; ++i) sum += Model::value(logit[i], x[i], s[i]);
    total += sum;
  }
  return static_cast<float>(total);
}

template <typename Model>
void nll_backward_of(float gradient, const Image& image, const Output& for_logits, float* for_scale) {
  alignas(64) float logit_buffer[kBlock], pixel_buffer[kBlock], scale_buffer[kBlock], out_buffer[kBlock];
  const bool narrow = for_logits.type != Type::float32;
  for (int64_t begin = 0; begin < image.columns; begin += kBlock) {
    const int64_t count = image.columns - begin < kBlock ? image.columns - begin : kBlock;
    const float* const __restrict logit = floats(image.logits, begin, count, logit_buffer);
    const float* const __restrict x = floats(image.target, begin, count, pixel_buffer);
    float* const __restrict out = narrow ? out_buffer : static_cast<float*>(for_logits.data) + begin;
    if constexpr (Model::scaled) {
      const float* const __restrict s = log_scales(image, begin, count, scale_buffer);
      float* const __restrict sums = for_scale + begin;
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) {
        const Derivatives derivatives = Model::derivatives(logit[i], x[i], s[i]);
        out[i] = gradient * derivatives.by_logit;
        sums[i] += gradient * derivatives.by_scale;
      }
    } else {
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) out[i] = gradient * Model::derivatives(logit[i], x[i], 0.0F).by_logit;
    }
    if (narrow) store(out_buffer, count, for_logits, begin);
  }
}

float nll(const Image& image) {
  switch (image.likelihood) {
    case Likelihood::continuous_bernoulli:
      return nll_of<ContinuousBernoulli>(image);
    case Likelihood::gaussian:
      return nll_of<Gaussian>(image);
    case Likelihood::discretized_logistic:
      return nll_of<DiscretizedLogistic>(image);
    case Likelihood::bernoulli:
      break;
  }
  return nll_of<Bernoulli>(image);
}

void nll_backward(float gradient, const Image& image, const Output& for_logits, float* for_scale) {
  switch (image.likelihood) {
    case Likelihood::continuous_bernoulli:
      return nll_backward_of<ContinuousBernoulli>(gradient, image, for_logits, for_scale);
    case Likelihood::gaussian:
      return nll_backward_of<Gaussian>(gradient, image, for_logits, for_scale);
    case Likelihood::discretized_logistic:
      return nll_backward_of<DiscretizedLogistic>(gradient, image, for_logits, for_scale);
    case Likelihood::bernoulli:
      break;
  }
  nll_backward_of<Bernoulli>(gradient, image, for_logits, for_scale);
}

}  // namespace
}  // namespace vae_fast

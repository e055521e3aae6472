// The arithmetic of the CPU operators, as functions over ranges that one thread processes. loops.cpp is compiled once
// for each instruction set and fills a table each time; cpu_dispatch.cpp picks the table for the machine at run time.
// So the library needs no -march=native. Code compiled for a particular CPU includes nothing from PyTorch or the
// standard library that the linker might choose for use on every CPU.
#pragma once

#include "philox.h"

#include <cstdint>

namespace vae_fast {

enum class Type { float32, float16, bfloat16, uint8 };  // a byte k stands for the pixel k / 255
enum class Likelihood { bernoulli, continuous_bernoulli, gaussian, discretized_logistic };

// Contiguous values.
struct Values {
  const void* data;
  Type type;
};

struct Output {
  void* data;
  Type type;
};

// Rows of contiguous floats.
struct Matrix {
  const float* data;
  int64_t stride;

  const float* row(int64_t index) const { return data + index * stride; }
};

// One image, and the log of the scale: one for every pixel, one for all, or none.
struct Image {
  Likelihood likelihood;
  Values logits;
  Values target;
  const float* log_scale;
  bool one_scale;
  int64_t columns;
};

// The gradients that a posterior's backward pass reads and writes.
struct PosteriorGradients {
  Matrix z;
  const float* kl;  // of every row, or null
  int64_t kl_stride;
  float* mu;  // both in rows of out_stride
  float* logvar;
  int64_t out_stride;
};

// Contiguous values of one parameter, with their moments and gradients.
struct Chunk {
  float* parameter;
  float* mean;
  float* square;
  const float* gradient;
  int64_t count;
};

// The factors that one step of Adam applies to every value.
struct AdamStep {
  float decay;        // 1 - lr weight_decay
  float scale;        // of the gradient: at most 1
  float mean_rate;    // 1 - beta1
  float square_rate;  // 1 - beta2
  float step_size;    // lr / (1 - beta1^t)
  float correction;   // 1 / sqrt(1 - beta2^t)
  float epsilon;
};

struct MlpLoops;  // mlp_loops.h

struct Loops {
  // Noise for the counters [begin, end), numbered row by row, so that threads share the work evenly whether rows are
  // many and short or few and long.
  void (*draw_bits)(const Draw&, int64_t begin, int64_t end, int64_t* out);
  void (*reparameterize)(const Draw&, const Matrix& mu, const Matrix& logvar, int64_t begin, int64_t end, float* z);
  void (*reparameterize_backward)(const Draw&, const Matrix& mu, const Matrix& logvar, const PosteriorGradients&,
                                  int64_t begin, int64_t end);
  // One row.
  float (*kl)(const float* mu, const float* logvar, int64_t columns);
  void (*kl_backward)(float gradient, const float* mu, const float* logvar, int64_t columns, float* for_mu,
                      float* for_logvar);
  float (*nll)(const Image&);
  // Adds the gradient by the log of the scale to `for_scale`, one value per pixel, if there is a scale.
  void (*nll_backward)(float gradient, const Image&, const Output& for_logits, float* for_scale);
  // One chunk.
  float (*sum_of_squares)(const float* values, int64_t count);
  void (*adam)(const AdamStep&, const Chunk&);
  const MlpLoops* mlp;
};

// Returns the table for this machine; ATEN_CPU_CAPABILITY forces a lower one, as it does for PyTorch.
const Loops& loops();

}  // namespace vae_fast

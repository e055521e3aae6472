// The matrix products of a step. A pass provides each layer's input and the gradient by its output as floats by
// feature; here they are converted to the operands of the products, in float32 or in bfloat16.
#pragma once

#include "bf16_loops.h"
#include "network.h"

#include <memory>

namespace vae_fast {

// `count` panels of the batch from `panel` on, the first of them in `slot`, and their features [begin, end).
struct Part {
  int64_t panel, slot, count;
  int64_t begin, end;
};

// Memory for the squares [16 images][16 features] of a panel's pixels, `stride` apart.
struct Squares {
  float* first;
  int64_t stride;
};

class Products {
 public:
  virtual ~Products() = default;

  // Called on every thread before and after its part of a step.
  virtual void begin([[maybe_unused]] int64_t thread) const {}
  virtual void end() const {}

  // Returns where the pixels of a panel are written, by image.
  virtual Squares pixels(int64_t panel, int64_t slot) const = 0;
  // `values` points to a whole first panel, of which only the part's features are set.
  virtual void keep_input(size_t layer, const Part& part, const float* values) const = 0;
  virtual void keep_gradient(size_t layer, const Part& part, const float* values) const = 0;

  // Compute the part's features of a layer's output from its whole input, and of the gradient by its input from the
  // gradient by its output.
  virtual void forward(size_t layer, const Part& part, const float* input, float* output) const = 0;
  virtual void backward(size_t layer, const Part& part, const float* by_output, float* by_input) const = 0;

  // The unit of rows by which threads divide a layer's gradient, and the gradient by some rows.
  virtual int64_t rows() const = 0;
  virtual void gradient(size_t layer, const LayerUpdate& update) const = 0;
};

// Both reserve memory in the layout.
std::unique_ptr<Products> float32_products(const Network& network, Layout& layout);
// `copies` are the weights' copies, `copies_size` pairs.
std::unique_ptr<Products> bf16_products(const Network& network, Layout& layout, PackedPair* copies,
                                        const Bf16Loop& loop);

// Wraps products so that they add the time of each thread's calls to its row of [threads][kTimedParts]: seconds of
// forward, backward, gradient, storing operands, and from begin to end.
constexpr int64_t kTimedParts = 5;
std::unique_ptr<Products> timed_products(std::unique_ptr<Products> products, double* seconds);

int64_t copies_size(const Network& network);
WeightTiles copies_of(const Network& network, size_t layer, PackedPair* copies);

}  // namespace vae_fast

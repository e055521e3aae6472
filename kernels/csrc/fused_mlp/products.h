// The matrix products of a step. A pass hands over each layer's input and the gradient by its output as it has computed
// them, floats by feature; here they become what the products multiply, in float32 or in bfloat16.
#pragma once

#include "bf16_loops.h"
#include "network.h"

#include <memory>

namespace vae_fast {

// Panels of the batch from `panel` on, of which the first lies in `slot`, and features of them.
struct Part {
  int64_t panel, slot, count;
  int64_t begin, end;
};

// Room for the squares [16 images][16 features] of a panel's pixels, `stride` apart.
struct Squares {
  float* first;
  int64_t stride;
};

class Products {
 public:
  virtual ~Products() = default;

  // On every thread, before and after its part of a step.
  virtual void begin([[maybe_unused]] int64_t thread) const {}
  virtual void end() const {}

  // Where the pixels of a panel pass through, by image.
  virtual Squares pixels(int64_t panel, int64_t slot) const = 0;
  // Values are those of a whole first panel; of them the part's features are there.
  virtual void keep_input(size_t layer, const Part& part, const float* values) const = 0;
  virtual void keep_gradient(size_t layer, const Part& part, const float* values) const = 0;

  // The part's features of a layer's output, from its whole input; and of the gradient by its input, from the one by its
  // output.
  virtual void forward(size_t layer, const Part& part, const float* input, float* output) const = 0;
  virtual void backward(size_t layer, const Part& part, const float* by_output, float* by_input) const = 0;

  // By how many rows threads divide a layer's gradient; and the gradient by some of them.
  virtual int64_t rows() const = 0;
  virtual void gradient(size_t layer, const LayerUpdate& update) const = 0;
};

// Both take room in the layout.
std::unique_ptr<Products> float32_products(const Network& network, Layout& layout);
// `copies` are the weights' own, `copies_size` of pairs.
std::unique_ptr<Products> bf16_products(const Network& network, Layout& layout, PackedPair* copies,
                                        const Bf16Loop& loop);

// The same, which add what each thread's calls take to its row of [threads][kTimedParts]: seconds of forward, backward,
// gradient, the keeping of operands, and from begin to end.
constexpr int64_t kTimedParts = 5;
std::unique_ptr<Products> timed_products(std::unique_ptr<Products> products, double* seconds);

int64_t copies_size(const Network& network);
WeightTiles copies_of(const Network& network, size_t layer, PackedPair* copies);

}  // namespace vae_fast

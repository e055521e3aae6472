// Forward and backward of a whole VAE, executed together by all threads of a parallel region.
#pragma once

#include "products.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace vae_fast {

struct Objective {
  Draw draw;  // of the noise
  Activation activation;
  float beta;
  float free_bits;
  float weight;  // the factor of the batch's mean
  Likelihood likelihood;
  std::optional<float> log_scale;  // the log of a fixed scale
  Bound bound;
  int64_t samples;  // of z for each image

  bool is_multisample() const { return samples > 1 || bound != Bound::elbo; }
};

struct Images {
  const void* data;
  Type type;            // uint8 or float32
  const int64_t* rows;  // null if the batch is all images
  int64_t batch;
  std::optional<Draw> sample;  // the noise of binary pixels; each is on with the probability that its value gives
};

struct Range {
  int64_t begin, end;
};

// One of `parts` parts of [0, count), with boundaries at multiples of `unit`.
Range part_of(int64_t count, int64_t unit, int64_t part, int64_t parts);

struct Losses {
  double loss = 0, nll = 0, kl = 0;  // sums over the batch, except for the loss, which is the mean
  bool is_finite = false;            // whether the loss is finite in float32
  double largest_gradient = 0;       // an upper bound of the gradients by the parameters; NaN or inf if unknown
};

// The part of one thread: `teams` divide the batch among themselves, the threads of a team divide the features.
struct Place {
  Place(int64_t thread, int64_t threads, int64_t panels);

  int64_t thread, threads;
  int64_t teams, team;        // team == teams for a surplus thread
  int64_t members, member;
  int64_t first, last;        // panels
  int64_t groups;             // the same number in every team, so that all reach the barriers; some may be empty
  int64_t most;               // panels in a group
};

// Waits for the threads that work on the same images.
void wait_for_team(const Place& place);

// Panels that are processed together.
struct Group {
  int64_t first, count;
  int64_t slot;  // of the first panel

  Part part(const Range& features) const { return {first, slot, count, features.begin, features.end}; }
};

class Pass {
 public:
  Pass(const Network& network, const Layout& layout, const Products& products, const Images& images,
       const Objective& objective);

  // Computes everything up to the gradients by every layer's output. All threads of a region must call it; each gets
  // the losses.
  Losses run(const Place& place) const;

  // Computes what the loss needs of the scales, on one thread before `run`.
  void set_scales() const;

  // Writes the gradient by the log of the learned scales, [scales], on one thread after `run`.
  void scale_gradient(float* to) const;

  // Returns this thread's rows of a layer's gradient; the caller fills in their destination.
  LayerUpdate update(const Place& place, size_t layer) const;

 private:
  void encode(const Place& place, const Group& group) const;
  void gather(const Place& place, const Group& group) const;
  void sample_pixels(const int64_t* images, int64_t lanes, int64_t first, const Range& pixels, uint8_t* to) const;
  void sample(const Place& place, const Group& group) const;
  void hidden(const Place& place, const Group& group, size_t layer) const;
  void decode(const Place& place, const Group& group) const;
  void lose(const Place& place, const Group& group) const;
  void encoder_backward(const Place& place, const Group& group) const;
  void decoder_backward(const Place& place, const Group& group) const;
  void backward(const Place& place, const Group& group, size_t layer) const;
  void sample_backward(const Place& place, const Group& group) const;
  void set_kl_factors(const Place& place) const;
  double mean_kl(int64_t j) const;

  // multisample.cpp; `one` is a group of all samples of one panel of images.
  void draw_samples(const Place& place, const Group& group) const;
  void decode_samples(const Place& place, const Group& group) const;
  void lose_samples(const Place& place, const Group& one) const;
  void weigh(const Group& one) const;
  void share(const Place& place, const Group& one) const;
  void samples_backward(const Place& place, const Group& group) const;
  void sum_samples(Losses& result) const;
  float* sample_nll(int64_t slot) const {
    return at(layout_.sample_nll) + slot * loss_blocks(network_.pixels()) * kPanel;
  }
  float* slopes_by_scale(int64_t slot, int64_t row) const {
    return network_.scales == 0 ? nullptr : at(layout_.sample_slopes) + (slot * network_.pixels() + row) * kPanel;
  }

  double panel_loss(const Place& place, const float* pixels, float* logits, int64_t row, int64_t rows,
                    int64_t panel) const;
  ScaleTerms scale_terms(int64_t pixel) const;
  void saw_input(const Place& place, uint32_t magnitude) const;
  void saw_gradient(const Place& place, uint32_t magnitude) const;
  Losses losses(const Place& place) const;

  int64_t lanes_of(int64_t image_panel) const { return std::min(kPanel, images_.batch - image_panel * kPanel); }
  float* at(int64_t offset) const { return layout_.memory + offset; }
  double* doubles(int64_t offset) const { return reinterpret_cast<double*>(at(offset)); }
  float* panel(int64_t offset, int64_t features, int64_t index) const {
    return at(offset) + index * feature_stride(features);
  }
  float* input(size_t layer, const Group& group) const;
  float* by_output(size_t layer, const Group& group) const;
  float scale() const { return objective_.weight / static_cast<float>(images_.batch); }

  const Network& network_;
  const Layout& layout_;
  const Products& products_;
  const Images& images_;
  const Objective& objective_;
  const MlpLoops& loops_;
};

}  // namespace vae_fast

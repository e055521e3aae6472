// A VAE of two MLPs as described by its list of parameters, and the layout of its step's workspace.
#pragma once

#include "../simd/mlp_loops.h"

#include <ATen/core/Tensor.h>

#include <string_view>
#include <vector>

namespace vae_fast {

constexpr int64_t kLossRows = 48;  // rows of the logits whose loss is one sum in float for each lane

constexpr int64_t loss_blocks(int64_t pixels) { return (pixels + kLossRows - 1) / kLossRows; }

constexpr float kLeastLogScale = -6;  // a learned scale is at least e^-6; see models/likelihood.py

struct Layer {
  int64_t in, out;
  const float* weight;  // [out, in]
  const float* bias;    // [out]
};

struct Network {
  std::vector<Layer> layers;  // encoder's hidden, stats, decoder's hidden, logits
  size_t stats;               // which layer
  const float* log_scale = nullptr;  // learned, [scales], or null
  int64_t scales = 0;         // 1, or one for each run of pixels / scales pixels

  int64_t pixels() const { return layers.front().in; }
  int64_t latent() const { return layers[stats].out / 2; }
  bool is_hidden(size_t layer) const { return layer != stats && layer + 1 != layers.size(); }
};

// Raises TypeError or ValueError, naming `op`, for a list that is not a VAE's.
Network network_of(const char* op, at::TensorList parameters);
Activation activation_of(const char* op, std::string_view name);

// The workspace: offsets in floats, all multiples of 64 bytes. Panels of features are feature_stride apart.
struct Layout {
  // `all_at_once`: the buffers of a group of panels have room for the whole batch. `keeps_gradients`: so do the
  // gradients by the layers' outputs. With several samples an image, the decoder has `samples` panels, one after the
  // other, for each panel of images.
  Layout(const Network& network, int64_t batch, int64_t threads, int64_t samples, bool all_at_once,
         bool keeps_gradients);

  int64_t panels_of(size_t layer) const { return layer > stats_layer ? panels * samples : panels; }
  int64_t slots_of(size_t layer) const { return layer > stats_layer ? slots * samples : slots; }
  // The number of images of a layer; between those of the decoder there may be empty lanes.
  int64_t images_of(size_t layer) const {
    return samples > 1 && layer > stats_layer ? panels_of(layer) * kPanel : batch;
  }

  int64_t take(int64_t floats);

  float* memory = nullptr;  // set once the size is known
  int64_t batch, panels, samples;
  size_t stats_layer;
  int64_t slots;                    // the number of panels that fit into the buffers of a group
  bool keeps_gradients;
  std::vector<int64_t> input;       // of every layer: [slots][in][16]
  int64_t sampled;                  // binary pixels, bytes: [slots][16][pixels]
  std::vector<int64_t> by_output;   // the loss's gradient: [panels or slots][out][16]
  std::vector<int64_t> slopes;      // of hidden layers: [slots][out][16]
  std::vector<int64_t> gradients;   // by weight and bias of every layer, for Adam if it has to wait for the norm
  int64_t stats, noise, by_z;       // [slots][2 Z or Z][16]; of noise and by_z one for each sample
  int64_t below, shares;            // [slots][samples][16]: see Weights
  int64_t sample_nll;               // [slots][samples][pixels / kLossRows][16]
  int64_t sample_slopes;            // [slots][samples][pixels][16]: by the log of learned scales
  int64_t mean_nll, bound;          // [panels], doubles
  int64_t kl;                       // [panels][Z], doubles
  int64_t nll;                      // [pixels / kLossRows][panels], doubles
  int64_t by_kl;                    // [threads][Z]
  int64_t scale_terms;              // [3][pixels]: see ScaleTerms
  int64_t log_scale;                // [pixels]
  int64_t by_scale;                 // [panels, of each sample][pixels]: by the log of a learned scale
  int64_t scale_gradient;           // [scales]: its sums
  int64_t magnitudes;               // [threads][16]: of inputs and gradients
  int64_t size = 0;
};

}  // namespace vae_fast

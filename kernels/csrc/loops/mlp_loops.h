// What the loops of a whole MLP's step work on. Activations lie in panels of 16, so that a vector of any instruction set
// runs along the batch: "by feature" is [B/16][features][16], lanes are images; "by image" is [features/16][B][16], lanes
// are features. Both are the right-hand side of a product, for which a panel is a run of vectors that lie together.
#pragma once

#include "loops.h"

#include <cstdint>

namespace vae_fast {

enum class Activation { relu, leaky_relu, elu, silu, gelu, softplus, tanh };

constexpr int64_t kPanel = 16;
constexpr int64_t kGroup = 4;  // panels that are worked on together: what one tile of AVX-512 is wide

constexpr int64_t panels_for(int64_t count) { return (count + kPanel - 1) / kPanel; }

// How far panels lie apart, by feature and by image: an odd number of lines or of squares, because at powers of two all
// would meet in the same few sets of a cache.
constexpr int64_t feature_stride(int64_t features) { return (features | 1) * kPanel; }
constexpr int64_t image_stride(int64_t images) { return (panels_for(images) | 1) * kPanel * kPanel; }

// c [rows, 16 panels] = bias + a b, each sum in the order of k. a lies in runs of 16 k.
struct Product {
  const float* a;
  int64_t a_row, a_k, a_run;  // strides
  const float* b;             // [panels][depth][16], panels b_panel apart
  int64_t b_panel;
  float* c;
  int64_t c_row, c_panel;
  const float* bias;  // of every row, or null
  int64_t rows, depth, panels;
};

// One panel of images: 16 rows of a matrix, some of which may be the same.
struct Gather {
  const void* images;
  Type type;             // uint8 or float32
  int64_t columns;       // of an image
  const int64_t* rows;   // of the panel's 16 images
  int64_t begin, end;    // which runs of 16 columns
  float* by_image;       // of the panel: runs of [16][16], `stride` apart
  int64_t stride;
  float* by_feature;     // [columns][16]
};

// One panel of a posterior; lanes from `lanes` on belong to no image.
struct PosteriorPanel {
  const Draw* draw;
  const uint32_t* rows;  // 16, of the noise
  int64_t lanes;
  const float* stats;    // [2 Z][16]
  float* noise;          // [Z][16]: exp(logvar / 2) eps
  float* z;              // [Z][16]
  double* kl;            // [Z], sums over the images
};

struct PosteriorGradient {
  int64_t latent, lanes;
  const float* stats;
  const float* noise;
  const float* by_z;     // [Z][16]
  const float* by_kl;    // [Z], the factor before every image's kl
  float* by_stats;       // [2 Z][16]
};

// A layer's gradient by weight [out, in] and bias [out], rows [begin, end) of them: stored, or taken by Adam at once.
struct LayerGradient {
  const float* by_output;  // by feature, [B/16][out][16]; zero where there is no image
  const float* input;      // by image, [in/16][images rounded up][16]
  int64_t out, in, images, begin, end;
  const AdamStep* adam;    // or null: then `weight` and `bias` are where the gradients go
  float *weight, *weight_mean, *weight_square;
  float *bias, *bias_mean, *bias_square;
};

struct MlpLoops {
  // The first five return the bits of the largest magnitude among what they write, where NaN is larger than inf.
  uint32_t (*gather)(const Gather&);
  uint32_t (*activate)(Activation, float* values, float* slopes, int64_t count);
  uint32_t (*times_slopes)(const float* slopes, float* gradients, int64_t count);
  uint32_t (*posterior)(const PosteriorPanel&);
  uint32_t (*posterior_gradient)(const PosteriorGradient&);
  void (*multiply)(const Product&);
  // Of one panel [features][16], runs [begin, end) of 16 features, to squares [16][16], `stride` apart.
  void (*by_image)(const float* from, int64_t features, int64_t begin, int64_t end, float* to, int64_t stride);
  double (*bernoulli_panel)(const float* pixels, float* logits, int64_t rows, int64_t lanes, float scale);
  void (*layer_gradient)(const LayerGradient&);
};

}  // namespace vae_fast

// The operands of the loops of a whole MLP's step. Activations are stored in panels of 16, so that a vector of any
// instruction set runs along the batch: "by feature" is [B/16][features][16], lanes are images; "by image" is
// [features/16][B][16], lanes are features. Both are right-hand sides of products, for which a panel is a run of
// contiguous vectors.
#pragma once

#include "loops.h"
#include "tiles.h"

#include <cstdint>

namespace vae_fast {

// What a step minimises; see objectives/multisample.py.
enum class Bound { elbo, iwae, dreg };

enum class Activation { relu, leaky_relu, elu, silu, gelu, softplus, tanh };

constexpr int64_t kPanel = 16;
constexpr int64_t kGroup = 4;  // panels that are processed together: the width of one tile of AVX-512

constexpr int64_t panels_for(int64_t count) { return (count + kPanel - 1) / kPanel; }

// The distance between panels, by feature and by image: an odd number of lines or of squares, because with powers of
// two all would map to the same few sets of a cache.
constexpr int64_t feature_stride(int64_t features) { return (panels_for(features) * kPanel | 1) * kPanel; }
constexpr int64_t image_stride(int64_t images) { return (panels_for(images) | 1) * kPanel * kPanel; }

// c [rows, 16 panels] = bias + a b, each sum in the order of k. a is stored in runs of 16 k.
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
  int64_t begin, end;    // the runs of 16 columns
  float* by_image;       // of the panel: runs of [16][16], `stride` apart
  int64_t stride;
  float* by_feature;     // [columns][16]
};

// One panel of a posterior; lanes from `lanes` on belong to no image.
struct PosteriorPanel {
  const Draw* draw;
  const uint32_t* rows;  // the noise's rows, 16
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
  const float* by_kl;    // [Z], the factor of every image's kl
  float* by_stats;       // [2 Z][16]
};

// What the loss of a pixel needs of its scale.
struct ScaleTerms {
  float* inverse;   // e^-s, s being the log of the scale
  float* constant;  // the part of the loss (Gaussian) or of the log of the mass (logistic) that depends on s alone
  float* by_width;  // the derivative by s of the logistic's
};

// Features of one panel, and the gradients of their loss. Those by a scale are either of each image or their sum.
struct LikelihoodPanel {
  const float* pixels;  // [rows][16]
  float* logits;        // the same, replaced by `scale` times the derivative by them
  ScaleTerms terms;     // of each row, if the likelihood has a scale
  int64_t rows, lanes;
  float scale;
  float* by_scale;      // of each row, `scale` times the derivative by the log of its scale, summed; or null
  float* slopes;        // the same of each image, [rows][16]; or null
  float* nll;           // [16], sums over the rows; or null
};

struct PanelLoss {
  double nll;              // summed over features and images
  uint32_t largest_slope;  // the bits of the largest magnitude in by_scale
};

// One panel of a posterior of which several samples are drawn; what is of sample k begins `stride` floats after what is
// of sample k - 1.
struct SamplesPanel {
  const Draw* draw;
  const uint32_t* rows;  // the noise's rows, 16
  int64_t samples, latent, lanes, stride;
  const float* stats;    // [2 Z][16]
  float* noise;          // [K][Z][16]: exp(logvar / 2) eps
  float* z;              // [K][Z][16]
  float* below;          // [K][16]: log q(z | x) - log p(z)
  double* kl;            // [Z], sums over the images of the KL in closed form
};

// The weights of the samples of one panel of images.
struct Weights {
  Bound kind;
  int64_t samples, blocks, lanes;
  float beta;
  const float* nll;     // [K][blocks][16]
  const float* below;   // [K][16]
  float* shares;        // [K][16]: each sample's part of the sum of an image's weights; 1 / K for the ELBO
  double *mean_nll, *bound;  // sums over the images
};

struct Shares {
  int64_t rows;
  const float* shares;  // [16]
  float* logits;        // [rows][16], multiplied by them
  const float* slopes;  // [rows][16], or null
  float* by_scale;      // of each row, the sum of its slopes times the shares
};

struct SamplesGradient {
  Bound kind;
  int64_t samples, latent, lanes, stride;
  float beta, scale;
  const float *stats, *noise, *z, *by_z;  // as in SamplesPanel
  const float* shares;                    // [K][16]
  float* by_stats;                        // [2 Z][16]
};

// The normals of a mixture: means and log variances in the halves of stats [N, 2 Z], log weights [N].
struct Normals {
  const float *stats, *log_weights;
  int64_t count, latent;
};

struct MixtureRows {
  const float* z;       // [B, Z]
  const float* panels;  // of `lay_out_normals`, panel_stride apart
  int64_t panel_stride, count, latent;
  float* joint;         // [B, N]
};

// Rows [begin, end) of a layer's weight [out, in].
struct WeightRows {
  int64_t out, in, begin, end;
};

// The use of the gradients of these rows and of the same rows of the bias [out]: they are stored, or used by Adam at
// once.
struct LayerUpdate : WeightRows {
  const AdamStep* adam;  // if null, the gradients are stored in `weight` and `bias`
  float *weight, *weight_mean, *weight_square;
  float *bias, *bias_mean, *bias_square;
};

struct LayerGradient {
  const float* by_output;  // by feature, [B/16][out][16]; zero in lanes without an image
  const float* input;      // by image, [in/16][images rounded up][16]
  int64_t images;
};

// A layer's weight as the left-hand operand of the products forward and, transposed, backward.
struct WeightTiles {
  PackedPair* forward;   // [out/16][in/32] tiles
  PackedPair* backward;  // [in/16][out/32] tiles
};

constexpr int64_t weight_pairs(int64_t out, int64_t in) { return 2 * depth_tiles(out) * depth_tiles(in) * kTile; }

struct TileGradient {
  const PackedPair* by_output;  // left-hand with the images along the sum: [out/16][B/32] tiles
  const PackedPair* input;      // right-hand, the same: [in/16][B/32] tiles
  const float* sums;      // of the gradient by the output over a panel's images, [panels][out]
  int64_t depth, stride;  // tiles along the sum, and pairs from 16 features to the next 16
  int64_t panels;         // of images
  WeightTiles copies;     // updated along with the weights
  Multiply* multiply;
};

// The packing of one panel of images, floats [features][16] of which rows [begin, end) are set, into the operands of
// two products.
struct Packing {
  const float* values;
  int64_t features, begin, end;
  PackedPair* by_feature;  // right-hand with the features along the sum: [features/32] tiles
  PackedPair* by_image;    // these images' half of tiles with the images along the sum, `stride` apart
  int64_t stride;
  bool is_last;      // no images follow in the other half, which becomes zero
};

// The stages of a step in bfloat16 around its products, compiled again for CPUs that have an instruction for rounding
// to bfloat16.
struct Bf16Stages {
  void (*pack_input)(const Packing&);
  void (*pack_gradient)(const Packing&, float* sums);  // also computes the sums of its rows
  void (*pack_weight)(const float* weight, const WeightRows&, const WeightTiles&);
  void (*tile_gradient)(const TileGradient&, const LayerUpdate&);
};

struct MlpLoops {
  // Samples pixels [begin, end) of one image, `begin` being a multiple of 4: 255 with the probability that the pixel's
  // value gives, else 0.
  void (*sample_pixels)(const Draw&, int64_t row, const Values& image, int64_t begin, int64_t end, uint8_t* to);
  // The next five return the bits of the largest magnitude among what they write, where NaN is larger than inf.
  uint32_t (*gather)(const Gather&);
  uint32_t (*activate)(Activation, float* values, float* slopes, int64_t count);
  uint32_t (*times_slopes)(const float* slopes, float* gradients, int64_t count);
  uint32_t (*posterior)(const PosteriorPanel&);
  uint32_t (*posterior_gradient)(const PosteriorGradient&);
  void (*multiply)(const Product&);
  // Copies runs [begin, end) of 16 features of one panel [features][16] to squares [16][16], `stride` apart.
  void (*by_image)(const float* from, int64_t features, int64_t begin, int64_t end, float* to, int64_t stride);
  PanelLoss (*likelihood_panel)(Likelihood, const LikelihoodPanel&);
  uint32_t (*draw_samples)(const SamplesPanel&);
  void (*weigh_samples)(const Weights&);
  uint32_t (*share_gradients)(const Shares&);
  uint32_t (*samples_gradient)(const SamplesGradient&);
  void (*lay_out_normals)(const Normals&, int64_t first, float* to);
  void (*mixture_joint)(const MixtureRows&, int64_t begin, int64_t end);
  void (*scale_terms)(Likelihood, const float* log_scale, int64_t count, const ScaleTerms& to);
  void (*scale_gradient)(const float* by_scale, int64_t panels, int64_t stride, int64_t pixels, float* to);
  void (*layer_gradient)(const LayerGradient&, const LayerUpdate&);
  Bf16Stages bf16;
  Multiply* multiply_pairs;
  Multiply* multiply_in_tile_order;
  Multiply* multiply_emulated;
};

}  // namespace vae_fast

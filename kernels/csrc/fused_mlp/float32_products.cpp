// Products in float32: weights and activations are multiplied in place, without copies.
#include "products.h"

namespace vae_fast {
namespace {

constexpr int64_t kRowsOfTile = 6;  // the number of rows of most tiles

class Float32Products final : public Products {
 public:
  Float32Products(const Network& network, Layout& layout)
      : network_(network), layout_(layout), loops_(*loops().mlp) {
    for (size_t i = 0; i < network.layers.size(); ++i)
      by_image_.push_back(layout.take(panels_for(network.layers[i].in) * image_stride(layout.images_of(i))));
  }

  Squares pixels(int64_t panel, int64_t) const override { return {square(0, panel), image_stride(layout_.batch)}; }

  void keep_input(size_t layer, const Part& part, const float* values) const override {
    if (layer == 0) return;  // the pixels were written to the squares already
    const int64_t features = network_.layers[layer].in;
    for (int64_t i = 0; i < part.count; ++i) {
      loops_.by_image(values + i * feature_stride(features), features, part.begin / kPanel, panels_for(part.end),
                      square(layer, part.panel + i), image_stride(layout_.images_of(layer)));
    }
  }

  void keep_gradient(size_t, const Part&, const float*) const override {}

  void forward(size_t layer, const Part& part, const float* input, float* output) const override {
    const Layer& by = network_.layers[layer];
    loops_.multiply({.a = by.weight + part.begin * by.in,
                     .a_row = by.in,
                     .a_k = 1,
                     .a_run = kPanel,
                     .b = input,
                     .b_panel = feature_stride(by.in),
                     .c = output + part.begin * kPanel,
                     .c_row = kPanel,
                     .c_panel = feature_stride(by.out),
                     .bias = by.bias + part.begin,
                     .rows = part.end - part.begin,
                     .depth = by.in,
                     .panels = part.count});
  }

  void backward(size_t layer, const Part& part, const float* by_output, float* by_input) const override {
    const Layer& by = network_.layers[layer];
    loops_.multiply({.a = by.weight + part.begin,
                     .a_row = 1,
                     .a_k = by.in,
                     .a_run = kPanel * by.in,
                     .b = by_output,
                     .b_panel = feature_stride(by.out),
                     .c = by_input + part.begin * kPanel,
                     .c_row = kPanel,
                     .c_panel = feature_stride(by.in),
                     .bias = nullptr,
                     .rows = part.end - part.begin,
                     .depth = by.out,
                     .panels = part.count});
  }

  int64_t rows() const override { return kRowsOfTile; }

  void gradient(size_t layer, const LayerUpdate& update) const override {
    loops_.layer_gradient({.by_output = layout_.memory + layout_.by_output[layer],
                           .input = layout_.memory + by_image_[layer],
                           .images = layout_.images_of(layer)},
                          update);
  }

 private:
  // The first square of a panel of a layer's input by image.
  float* square(size_t layer, int64_t panel) const {
    return layout_.memory + by_image_[layer] + panel * kPanel * kPanel;
  }

  const Network& network_;
  const Layout& layout_;
  const MlpLoops& loops_;
  std::vector<int64_t> by_image_;  // of every layer: [in/16] runs of the batch's squares, image_stride apart
};

}  // namespace

std::unique_ptr<Products> float32_products(const Network& network, Layout& layout) {
  return std::make_unique<Float32Products>(network, layout);
}

}  // namespace vae_fast

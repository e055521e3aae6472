// Products in bfloat16: activations are rounded once, into the tiles that the products read; Adam maintains two copies
// of each weight.
#include "products.h"

namespace vae_fast {
namespace {

class Bf16Products final : public Products {
 public:
  Bf16Products(const Network& network, Layout& layout, PackedPair* copies, const Bf16Loop& loop)
      : network_(network), layout_(layout), copies_(copies), loop_(loop) {
    squares_ = layout.take(layout.slots * panels_for(network.pixels()) * kPanel * kPanel);
    for (size_t i = 0; i < network.layers.size(); ++i) {
      const Layer& layer = network.layers[i];
      offsets_.push_back({.input = layout.take(layout.slots_of(i) * depth_tiles(layer.in) * kTile),
                          .by_output = layout.take(layout.slots_of(i) * depth_tiles(layer.out) * kTile),
                          .input_by_image = layout.take(panels_for(layer.in) * stride(i)),
                          .by_output_by_image = layout.take(2 * depth_tiles(layer.out) * stride(i)),
                          .sums = layout.take(layout.panels_of(i) * layer.out)});
    }
  }

  void begin(int64_t) const override {
    if (loop_.begin != nullptr) loop_.begin();
  }

  void end() const override {
    if (loop_.end != nullptr) loop_.end();
  }

  Squares pixels(int64_t, int64_t slot) const override {
    constexpr int64_t square = kPanel * kPanel;
    return {layout_.memory + squares_ + slot * panels_for(network_.pixels()) * square, square};
  }

  void keep_input(size_t layer, const Part& part, const float* values) const override {
    const int64_t features = network_.layers[layer].in;
    for (int64_t i = 0; i < part.count; ++i) {
      const int64_t panel = part.panel + i;
      loop_.stages->pack_input(
          {.values = values + i * feature_stride(features),
           .features = features,
           .begin = part.begin,
           .end = part.end,
           .by_feature = input(layer, part.slot + i),
           .by_image = pairs(offsets_[layer].input_by_image) + panel / 2 * kTile + panel % 2 * kHalfOfPairs * kPanel,
           .stride = stride(layer),
           .is_last = is_last(layer, panel)});
    }
  }

  void keep_gradient(size_t layer, const Part& part, const float* values) const override {
    const int64_t features = network_.layers[layer].out;
    for (int64_t i = 0; i < part.count; ++i) {
      const int64_t panel = part.panel + i;
      loop_.stages->pack_gradient(
          {.values = values + i * feature_stride(features),
           .features = features,
           .begin = part.begin,
           .end = part.end,
           .by_feature = by_output(layer, part.slot + i),
           .by_image = pairs(offsets_[layer].by_output_by_image) + panel / 2 * kTile + panel % 2 * kHalfOfPairs,
           .stride = stride(layer),
           .is_last = is_last(layer, panel)},
          layout_.memory + offsets_[layer].sums + panel * features);
    }
  }

  void forward(size_t layer, const Part& part, const float*, float* output) const override {
    const Layer& by = network_.layers[layer];
    multiply(copies_of(network_, layer, copies_).forward, by.in, by.out, input(layer, part.slot), part, by.bias, output);
  }

  void backward(size_t layer, const Part& part, const float*, float* by_input) const override {
    const Layer& by = network_.layers[layer];
    multiply(copies_of(network_, layer, copies_).backward, by.out, by.in, by_output(layer, part.slot), part, nullptr,
             by_input);
  }

  int64_t rows() const override { return kTileDepth; }

  void gradient(size_t layer, const LayerUpdate& update) const override {
    const Offsets& at = offsets_[layer];
    loop_.stages->tile_gradient(
        {.by_output = pairs(at.by_output_by_image),
         .input = pairs(at.input_by_image),
         .sums = layout_.memory + at.sums,
         .depth = depth_tiles(layout_.images_of(layer)),
         .stride = stride(layer),
         .panels = layout_.panels_of(layer),
         .copies = copies_of(network_, layer, copies_),
         .multiply = loop_.multiply},
        update);
  }

 private:
  struct Offsets {
    int64_t input;               // right-hand with the features along the sum: [slots][in/32] tiles
    int64_t by_output;           // the same: [slots][out/32] tiles
    int64_t input_by_image;      // right-hand with the images along the sum: [in/16] runs of tiles, `stride` apart
    int64_t by_output_by_image;  // left-hand, otherwise the same: [out/16] runs
    int64_t sums;                // of the gradient by the output over a panel's images: [panels][out]
  };

  void multiply(const PackedPair* weight, int64_t depth, int64_t rows, const PackedPair* panels, const Part& part,
                const float* bias, float* to) const {
    const int64_t weight_rows = depth_tiles(depth) * kTile;
    loop_.multiply({.a = weight + part.begin / kTileRows * weight_rows,
                    .a_rows = weight_rows,
                    .b = panels,
                    .b_panel = depth_tiles(depth) * kTile,
                    .c = to + part.begin * kPanel,
                    .c_row = kPanel,
                    .c_panel = feature_stride(rows),
                    .bias = bias == nullptr ? nullptr : bias + part.begin,
                    .rows = part.end - part.begin,
                    .depth = depth_tiles(depth),
                    .panels = part.count});
  }

  bool is_last(size_t layer, int64_t panel) const { return panel + 1 == layout_.panels_of(layer) && panel % 2 == 0; }

  // The number of pairs from 16 features to the next, of operands with the images along the sum.
  int64_t stride(size_t layer) const { return (depth_tiles(layout_.images_of(layer)) | 1) * kTile; }

  PackedPair* pairs(int64_t offset) const { return reinterpret_cast<PackedPair*>(layout_.memory + offset); }
  PackedPair* input(size_t layer, int64_t slot) const {
    return pairs(offsets_[layer].input) + slot * depth_tiles(network_.layers[layer].in) * kTile;
  }
  PackedPair* by_output(size_t layer, int64_t slot) const {
    return pairs(offsets_[layer].by_output) + slot * depth_tiles(network_.layers[layer].out) * kTile;
  }

  const Network& network_;
  const Layout& layout_;
  PackedPair* copies_;
  const Bf16Loop& loop_;
  int64_t squares_;
  std::vector<Offsets> offsets_;
};

}  // namespace

std::unique_ptr<Products> bf16_products(const Network& network, Layout& layout, PackedPair* copies,
                                        const Bf16Loop& loop) {
  return std::make_unique<Bf16Products>(network, layout, copies, loop);
}

int64_t copies_size(const Network& network) {
  int64_t size = 0;
  for (const Layer& layer : network.layers) size += 2 * weight_pairs(layer.out, layer.in);
  return size;
}

WeightTiles copies_of(const Network& network, size_t layer, PackedPair* copies) {
  for (size_t i = 0; i < layer; ++i) copies += 2 * weight_pairs(network.layers[i].out, network.layers[i].in);
  return {copies, copies + weight_pairs(network.layers[layer].out, network.layers[layer].in)};
}

}  // namespace vae_fast

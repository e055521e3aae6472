#include "mlp_pass.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace vae_fast {
namespace {

struct Range {
  int64_t begin, end;
};

// One of `parts` parts of [0, count), which are cut at multiples of `unit`.
Range part_of(int64_t count, int64_t unit, int64_t part, int64_t parts) {
  const int64_t units = (count + unit - 1) / unit;
  return {std::min(count, units * part / parts * unit), std::min(count, units * (part + 1) / parts * unit)};
}

// A step that one thread takes alone may lie within a region of others, who would not come to its barrier.
void wait_for_all([[maybe_unused]] const Place& place) {
#ifdef _OPENMP
  if (place.threads > 1) {
#pragma omp barrier
  }
#endif
}

void wait_for_team(const Place& place) {
  if (place.members > 1) wait_for_all(place);
}

constexpr int64_t kTileRows = 6;  // by which threads divide gradients: what most tiles have

}  // namespace

// The division of the batch and of features that leaves the busiest thread the least to do.
Place::Place(int64_t thread, int64_t threads, int64_t panels) : thread(thread), threads(threads), teams(1) {
  const auto work = [&](int64_t teams) {
    return static_cast<double>((panels + teams - 1) / teams) / static_cast<double>(threads / teams);
  };
  for (int64_t n = 2; n <= std::min(threads, panels); ++n)
    if (work(n) <= work(teams)) teams = n;
  members = threads / teams;
  team = std::min(thread / members, teams);
  member = thread % members;
  first = std::min(panels, panels * team / teams);
  last = std::min(panels, panels * (team + 1) / teams);
  groups = ((panels + teams - 1) / teams + kGroup - 1) / kGroup;
}

// Panels that are worked on together.
struct Pass::Group {
  int64_t first, count;
  int64_t slot;  // of the first
};

Pass::Pass(const Network& network, const Layout& layout, const Images& images, const Objective& objective,
           float* workspace)
    : network_(network),
      layout_(layout),
      images_(images),
      objective_(objective),
      loops_(*loops().mlp),
      workspace_(workspace) {}

Losses Pass::run(const Place& place) const {
  auto* const magnitudes = at(layout_.magnitudes) + place.thread * kPanel;
  magnitudes[0] = 1.0F;  // what a bias is multiplied with; and the largest pixel, if they are bytes
  magnitudes[1] = scale();
  const bool all_at_once = layout_.slots == layout_.panels;
  const auto group = [&](int64_t i) {
    const Range range = part_of(place.last - place.first, 1, i, place.groups);
    const int64_t first = place.first + range.begin;
    return Group{first, range.end - range.begin, all_at_once ? first : kGroup * place.team};
  };
  const bool waits = objective_.free_bits > 0;  // for the mean over the batch
  if (!waits) set_kl_factors(place);
  for (int64_t i = 0; i < place.groups; ++i) {
    encode(place, group(i));
    if (!waits) decode(place, group(i));
  }
  if (waits) {
    wait_for_all(place);
    set_kl_factors(place);
    for (int64_t i = 0; i < place.groups; ++i) decode(place, group(i));
  }
  wait_for_all(place);
  return losses(place);
}

void Pass::encode(const Place& place, const Group& group) const {
  gather(place, group);
  wait_for_team(place);
  for (size_t layer = 0; layer < network_.stats; ++layer) hidden(place, group, layer);
  forward(place, group, network_.stats, panel(layout_.stats, 2 * network_.latent(), group.slot));
  wait_for_team(place);
  if (place.member == 0) sample(place, group);
  wait_for_team(place);
}

// The last panel is filled up with its last image, not with zeros: on the way forward nothing can then overflow that does
// not in the batch itself. On the way back these lanes are zero.
void Pass::gather(const Place& place, const Group& group) const {
  const Range runs = part_of(panels_for(network_.pixels()), 1, place.member, place.members);
  for (int64_t i = 0; i < group.count; ++i) {
    int64_t rows[kPanel];
    for (int64_t lane = 0; lane < kPanel; ++lane) {
      const int64_t image = std::min((group.first + i) * kPanel + lane, images_.batch - 1);
      rows[lane] = images_.rows == nullptr ? image : images_.rows[image];
    }
    saw_input(place, loops_.gather({.images = images_.data,
                                    .type = images_.type,
                                    .columns = network_.pixels(),
                                    .rows = rows,
                                    .begin = runs.begin,
                                    .end = runs.end,
                                    .by_image = square(0, group.first + i),
                                    .stride = image_stride(images_.batch),
                                    .by_feature = panel(layout_.input[0], network_.pixels(), group.slot + i)}));
  }
}

void Pass::forward(const Place& place, const Group& group, size_t layer, float* out) const {
  const Layer& by = network_.layers[layer];
  const Range rows = part_of(by.out, kLossRows, place.member, place.members);
  loops_.multiply({.a = by.weight + rows.begin * by.in,
                   .a_row = by.in,
                   .a_k = 1,
                   .a_run = kPanel,
                   .b = panel(layout_.input[layer], by.in, group.slot),
                   .b_panel = feature_stride(by.in),
                   .c = out + rows.begin * kPanel,
                   .c_row = kPanel,
                   .c_panel = feature_stride(by.out),
                   .bias = by.bias + rows.begin,
                   .rows = rows.end - rows.begin,
                   .depth = by.in,
                   .panels = group.count});
}

void Pass::hidden(const Place& place, const Group& group, size_t layer) const {
  const int64_t out = network_.layers[layer].out;
  forward(place, group, layer, panel(layout_.input[layer + 1], out, group.slot));
  const Range rows = part_of(out, kLossRows, place.member, place.members);
  for (int64_t i = 0; i < group.count; ++i) {
    float* const values = panel(layout_.input[layer + 1], out, group.slot + i);
    float* const slopes = panel(layout_.slopes[layer], out, group.slot + i);
    saw_input(place, loops_.activate(objective_.activation, values + rows.begin * kPanel,
                                     slopes + rows.begin * kPanel, (rows.end - rows.begin) * kPanel));
    loops_.by_image(values, out, rows.begin / kPanel, panels_for(rows.end), square(layer + 1, group.first + i),
                    image_stride(images_.batch));
  }
  wait_for_team(place);
}

void Pass::sample(const Place& place, const Group& group) const {
  const int64_t latent = network_.latent();
  for (int64_t i = 0; i < group.count; ++i) {
    const int64_t begin = (group.first + i) * kPanel;
    uint32_t rows[kPanel];
    for (int64_t lane = 0; lane < kPanel; ++lane)
      rows[lane] = objective_.draw.row_offset + static_cast<uint32_t>(std::min(begin + lane, images_.batch - 1));
    float* const z = panel(layout_.input[network_.stats + 1], latent, group.slot + i);
    saw_input(place, loops_.posterior({.draw = &objective_.draw,
                                       .rows = rows,
                                       .lanes = std::min(kPanel, images_.batch - begin),
                                       .stats = panel(layout_.stats, 2 * latent, group.slot + i),
                                       .noise = panel(layout_.noise, latent, group.slot + i),
                                       .z = z,
                                       .kl = doubles(layout_.kl) + (group.first + i) * latent}));
    loops_.by_image(z, latent, 0, panels_for(latent), square(network_.stats + 1, group.first + i),
                    image_stride(images_.batch));
  }
}

void Pass::decode(const Place& place, const Group& group) const {
  for (size_t layer = network_.stats + 1; layer + 1 < network_.layers.size(); ++layer) hidden(place, group, layer);
  lose(place, group);
  wait_for_team(place);
  backward(place, group);
}

void Pass::lose(const Place& place, const Group& group) const {
  const int64_t pixels = network_.pixels();
  forward(place, group, network_.layers.size() - 1, panel(layout_.by_output.back(), pixels, group.first));
  const Range rows = part_of(pixels, kLossRows, place.member, place.members);
  for (int64_t i = 0; i < group.count; ++i) {
    const float* const images = panel(layout_.input[0], pixels, group.slot + i);
    float* const logits = panel(layout_.by_output.back(), pixels, group.first + i);
    const int64_t lanes = std::min(kPanel, images_.batch - (group.first + i) * kPanel);
    for (int64_t row = rows.begin; row < rows.end; row += kLossRows) {
      doubles(layout_.nll)[row / kLossRows * layout_.panels + group.first + i] =
          loops_.bernoulli_panel(images + row * kPanel, logits + row * kPanel,
                                 std::min(kLossRows, rows.end - row), lanes, scale());
    }
  }
}

void Pass::backward(const Place& place, const Group& group) const {
  const size_t stats = network_.stats;
  const int64_t latent = network_.latent();
  for (size_t layer = network_.layers.size() - 1; layer > stats + 1; --layer) backward(place, group, layer, nullptr);
  backward(place, group, stats + 1, panel(layout_.by_z, latent, group.slot));
  if (place.member == 0) {
    for (int64_t i = 0; i < group.count; ++i) {
      saw_gradient(place, loops_.posterior_gradient(
                              {.latent = latent,
                               .lanes = std::min(kPanel, images_.batch - (group.first + i) * kPanel),
                               .stats = panel(layout_.stats, 2 * latent, group.slot + i),
                               .noise = panel(layout_.noise, latent, group.slot + i),
                               .by_z = panel(layout_.by_z, latent, group.slot + i),
                               .by_kl = at(layout_.by_kl) + place.thread * panels_for(latent) * kPanel,
                               .by_stats = panel(layout_.by_output[stats], 2 * latent, group.first + i)}));
    }
  }
  wait_for_team(place);
  for (size_t layer = stats; layer > 0; --layer) backward(place, group, layer, nullptr);
}

// The gradient by a layer's input: to `out`, or, times the activation's slopes, to the gradient by the output of the layer
// before.
void Pass::backward(const Place& place, const Group& group, size_t layer, float* out) const {
  const Layer& by = network_.layers[layer];
  float* const to = out != nullptr ? out : panel(layout_.by_output[layer - 1], by.in, group.first);
  const Range rows = part_of(by.in, kLossRows, place.member, place.members);
  const int64_t count = rows.end - rows.begin;
  loops_.multiply({.a = by.weight + rows.begin,
                   .a_row = 1,
                   .a_k = by.in,
                   .a_run = kPanel * by.in,
                   .b = panel(layout_.by_output[layer], by.out, group.first),
                   .b_panel = feature_stride(by.out),
                   .c = to + rows.begin * kPanel,
                   .c_row = kPanel,
                   .c_panel = feature_stride(by.in),
                   .bias = nullptr,
                   .rows = count,
                   .depth = by.out,
                   .panels = group.count});
  for (int64_t i = 0; out == nullptr && i < group.count; ++i) {
    saw_gradient(place, loops_.times_slopes(
                            panel(layout_.slopes[layer - 1], by.in, group.slot + i) + rows.begin * kPanel,
                            to + i * feature_stride(by.in) + rows.begin * kPanel, count * kPanel));
  }
  wait_for_team(place);
}

double Pass::mean_kl(int64_t j) const {
  double sum = 0;
  for (int64_t panel = 0; panel < layout_.panels; ++panel)
    sum += doubles(layout_.kl)[panel * network_.latent() + j];
  return sum / static_cast<double>(images_.batch);
}

// With free bits lambda the KL term is the sum over j of max(lambda, mean_b kl_bj).
void Pass::set_kl_factors(const Place& place) const {
  float* const by_kl = at(layout_.by_kl) + place.thread * panels_for(network_.latent()) * kPanel;
  for (int64_t j = 0; j < network_.latent(); ++j) {
    const bool counts = objective_.free_bits <= 0 || !(static_cast<float>(mean_kl(j)) < objective_.free_bits);
    by_kl[j] = counts ? objective_.beta * scale() : 0.0F;
  }
}

void Pass::saw_input(const Place& place, uint32_t magnitude) const {
  auto& largest = at(layout_.magnitudes)[place.thread * kPanel];
  largest = std::bit_cast<float>(std::max(magnitude, std::bit_cast<uint32_t>(largest)));
}

void Pass::saw_gradient(const Place& place, uint32_t magnitude) const {
  auto& largest = at(layout_.magnitudes)[place.thread * kPanel + 1];
  largest = std::bit_cast<float>(std::max(magnitude, std::bit_cast<uint32_t>(largest)));
}

// Every thread adds up the same numbers in the same order.
Losses Pass::losses(const Place& place) const {
  const auto batch = static_cast<double>(images_.batch);
  const int64_t blocks = (network_.pixels() + kLossRows - 1) / kLossRows;
  Losses result;
  for (int64_t i = 0; i < blocks * layout_.panels; ++i) result.nll += doubles(layout_.nll)[i];
  double pressed = 0;
  for (int64_t j = 0; j < network_.latent(); ++j) {
    const double mean = mean_kl(j);
    result.kl += mean * batch;
    pressed += mean < objective_.free_bits ? static_cast<double>(objective_.free_bits) : mean;
  }
  result.loss = result.nll / batch + objective_.beta * (objective_.free_bits > 0 ? pressed : result.kl / batch);
  result.is_finite = std::isfinite(static_cast<float>(result.loss));
  uint32_t input = 0, gradient = 0;
  for (int64_t thread = 0; thread < place.threads; ++thread) {
    const float* const magnitudes = at(layout_.magnitudes) + thread * kPanel;
    input = std::max(input, std::bit_cast<uint32_t>(magnitudes[0]));
    gradient = std::max(gradient, std::bit_cast<uint32_t>(magnitudes[1]));
  }
  result.largest_gradient = batch * std::bit_cast<float>(input) * std::bit_cast<float>(gradient);
  return result;
}

LayerGradient Pass::layer_gradient(const Place& place, size_t layer) const {
  const Layer& by = network_.layers[layer];
  const Range rows = part_of(by.out, kTileRows, place.thread, place.threads);
  LayerGradient result{};
  result.by_output = at(layout_.by_output[layer]);
  result.input = at(layout_.input_by_image[layer]);
  result.out = by.out;
  result.in = by.in;
  result.images = images_.batch;
  result.begin = rows.begin;
  result.end = rows.end;
  return result;
}

}  // namespace vae_fast

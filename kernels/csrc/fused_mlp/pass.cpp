#include "pass.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>

namespace vae_fast {

Range part_of(int64_t count, int64_t unit, int64_t part, int64_t parts) {
  const int64_t units = (count + unit - 1) / unit;
  return {std::min(count, units * part / parts * unit), std::min(count, units * (part + 1) / parts * unit)};
}

namespace {

// A step on a single thread may run inside another parallel region, whose other threads would not reach the barrier.
void wait_for_all([[maybe_unused]] const Place& place) {
#ifdef _OPENMP
  if (place.threads > 1) {
#pragma omp barrier
  }
#endif
}

}  // namespace

void wait_for_team(const Place& place) {
  if (place.members > 1) wait_for_all(place);
}

// Divides the batch and the features such that the busiest thread has the least to do.
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
  const int64_t largest_share = (panels + teams - 1) / teams;
  groups = (largest_share + kGroup - 1) / kGroup;
  most = (largest_share + groups - 1) / groups;
}

Pass::Pass(const Network& network, const Layout& layout, const Products& products, const Images& images,
           const Objective& objective)
    : network_(network),
      layout_(layout),
      products_(products),
      images_(images),
      objective_(objective),
      loops_(*loops().mlp) {}

Losses Pass::run(const Place& place) const {
  auto* const magnitudes = at(layout_.magnitudes) + place.thread * kPanel;
  magnitudes[0] = 1.0F;  // the factor of a bias; also the largest pixel if pixels are bytes
  magnitudes[1] = scale();
  const bool all_at_once = layout_.slots == layout_.panels;
  const auto group = [&](int64_t i) {
    const Range range = part_of(place.last - place.first, 1, i, place.groups);
    const int64_t first = place.first + range.begin;
    return Group{first, range.end - range.begin, all_at_once ? first : kGroup * place.team};
  };
  const bool waits = objective_.free_bits > 0;  // for the mean KL over the batch
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
  const int64_t stats = 2 * network_.latent();
  products_.forward(network_.stats, group.part(part_of(stats, kLossRows, place.member, place.members)),
                    input(network_.stats, group), panel(layout_.stats, stats, group.slot));
  wait_for_team(place);
  if (place.member == 0) {
    if (objective_.is_multisample()) draw_samples(place, group);
    else sample(place, group);
  }
  wait_for_team(place);
}

// The last panel is padded with its last image, not with zeros: then nothing can overflow in the forward pass that does
// not overflow in the batch itself. In the backward pass these lanes are zero.
void Pass::gather(const Place& place, const Group& group) const {
  const Range runs = part_of(panels_for(network_.pixels()), 1, place.member, place.members);
  const Range pixels{runs.begin * kPanel, std::min(network_.pixels(), runs.end * kPanel)};
  for (int64_t i = 0; i < group.count; ++i) {
    int64_t rows[kPanel];
    const int64_t first = (group.first + i) * kPanel;
    for (int64_t lane = 0; lane < kPanel; ++lane) {
      const int64_t image = std::min(first + lane, images_.batch - 1);
      rows[lane] = images_.rows == nullptr ? image : images_.rows[image];
    }
    const Squares squares = products_.pixels(group.first + i, group.slot + i);
    Gather by{.images = images_.data,
              .type = images_.type,
              .columns = network_.pixels(),
              .rows = rows,
              .begin = runs.begin,
              .end = runs.end,
              .by_image = squares.first,
              .stride = squares.stride,
              .by_feature = panel(layout_.input[0], network_.pixels(), group.slot + i)};
    if (images_.sample) {
      auto* const sampled =
          reinterpret_cast<uint8_t*>(at(layout_.sampled)) + (group.slot + i) * kPanel * network_.pixels();
      const int64_t lanes = std::min(kPanel, images_.batch - first);
      sample_pixels(rows, lanes, first, pixels, sampled);
      for (int64_t lane = 0; lane < kPanel; ++lane) rows[lane] = std::min(lane, lanes - 1);
      by.images = sampled;
      by.type = Type::uint8;
    }
    saw_input(place, loops_.gather(by));
  }
  products_.keep_input(0, group.part(pixels), input(0, group));
}

// Samples the pixels of a panel's images, the first of which has index `first` in the batch.
void Pass::sample_pixels(const int64_t* images, int64_t lanes, int64_t first, const Range& pixels, uint8_t* to) const {
  const int64_t columns = network_.pixels();
  const auto bytes = columns * static_cast<int64_t>(images_.type == Type::uint8 ? 1 : sizeof(float));
  for (int64_t lane = 0; lane < lanes; ++lane) {
    const Values image{static_cast<const std::byte*>(images_.data) + images[lane] * bytes, images_.type};
    loops_.sample_pixels(*images_.sample, first + lane, image, pixels.begin, pixels.end, to + lane * columns);
  }
}

void Pass::hidden(const Place& place, const Group& group, size_t layer) const {
  const int64_t out = network_.layers[layer].out;
  const Range rows = part_of(out, kLossRows, place.member, place.members);
  float* const values = input(layer + 1, group);
  products_.forward(layer, group.part(rows), input(layer, group), values);
  for (int64_t i = 0; i < group.count; ++i) {
    float* const slopes = panel(layout_.slopes[layer], out, group.slot + i);
    saw_input(place, loops_.activate(objective_.activation, values + i * feature_stride(out) + rows.begin * kPanel,
                                     slopes + rows.begin * kPanel, (rows.end - rows.begin) * kPanel));
  }
  products_.keep_input(layer + 1, group.part(rows), values);
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
  }
  products_.keep_input(network_.stats + 1, group.part({0, latent}), input(network_.stats + 1, group));
}

void Pass::decode(const Place& place, const Group& group) const {
  if (objective_.is_multisample()) return decode_samples(place, group);
  for (size_t layer = network_.stats + 1; layer + 1 < network_.layers.size(); ++layer) hidden(place, group, layer);
  lose(place, group);
  wait_for_team(place);
  decoder_backward(place, group);
  if (place.member == 0) sample_backward(place, group);
  wait_for_team(place);
  encoder_backward(place, group);
}

void Pass::lose(const Place& place, const Group& group) const {
  const size_t last = network_.layers.size() - 1;
  const int64_t pixels = network_.pixels();
  const Range rows = part_of(pixels, kLossRows, place.member, place.members);
  products_.forward(last, group.part(rows), input(last, group), by_output(last, group));
  for (int64_t i = 0; i < group.count; ++i) {
    const float* const images = panel(layout_.input[0], pixels, group.slot + i);
    float* const logits = by_output(last, group) + i * feature_stride(pixels);
    for (int64_t row = rows.begin; row < rows.end; row += kLossRows) {
      doubles(layout_.nll)[row / kLossRows * layout_.panels + group.first + i] =
          panel_loss(place, images + row * kPanel, logits + row * kPanel, row, std::min(kLossRows, rows.end - row),
                     group.first + i);
    }
  }
  products_.keep_gradient(last, group.part(rows), by_output(last, group));
}

void Pass::decoder_backward(const Place& place, const Group& group) const {
  const size_t stats = network_.stats;
  for (size_t layer = network_.layers.size() - 1; layer > stats + 1; --layer) backward(place, group, layer);
  const Range rows = part_of(network_.latent(), kLossRows, place.member, place.members);
  products_.backward(stats + 1, group.part(rows), by_output(stats + 1, group),
                     panel(layout_.by_z, network_.latent(), group.slot));
  wait_for_team(place);
}

void Pass::encoder_backward(const Place& place, const Group& group) const {
  for (size_t layer = network_.stats; layer > 0; --layer) backward(place, group, layer);
}

void Pass::sample_backward(const Place& place, const Group& group) const {
  const int64_t latent = network_.latent();
  float* const by_stats = by_output(network_.stats, group);
  for (int64_t i = 0; i < group.count; ++i) {
    saw_gradient(place, loops_.posterior_gradient(
                            {.latent = latent,
                             .lanes = std::min(kPanel, images_.batch - (group.first + i) * kPanel),
                             .stats = panel(layout_.stats, 2 * latent, group.slot + i),
                             .noise = panel(layout_.noise, latent, group.slot + i),
                             .by_z = panel(layout_.by_z, latent, group.slot + i),
                             .by_kl = at(layout_.by_kl) + place.thread * panels_for(latent) * kPanel,
                             .by_stats = by_stats + i * feature_stride(2 * latent)}));
  }
  products_.keep_gradient(network_.stats, group.part({0, 2 * latent}), by_stats);
}

// The gradient by a layer's input times the activation's slopes is the gradient by the output of the layer before.
void Pass::backward(const Place& place, const Group& group, size_t layer) const {
  const int64_t in = network_.layers[layer].in;
  const Range rows = part_of(in, kLossRows, place.member, place.members);
  float* const to = by_output(layer - 1, group);
  products_.backward(layer, group.part(rows), by_output(layer, group), to);
  for (int64_t i = 0; i < group.count; ++i) {
    const float* const slopes = panel(layout_.slopes[layer - 1], in, group.slot + i);
    saw_gradient(place, loops_.times_slopes(slopes + rows.begin * kPanel,
                                            to + i * feature_stride(in) + rows.begin * kPanel,
                                            (rows.end - rows.begin) * kPanel));
  }
  products_.keep_gradient(layer - 1, group.part(rows), to);
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

// Every thread adds the same numbers in the same order.
Losses Pass::losses(const Place& place) const {
  const auto batch = static_cast<double>(images_.batch);
  const int64_t blocks = loss_blocks(network_.pixels());
  Losses result;
  for (int64_t i = 0; i < blocks * layout_.panels; ++i) result.nll += doubles(layout_.nll)[i];
  double pressed = 0;
  for (int64_t j = 0; j < network_.latent(); ++j) {
    const double mean = mean_kl(j);
    result.kl += mean * batch;
    pressed += mean < objective_.free_bits ? static_cast<double>(objective_.free_bits) : mean;
  }
  result.loss = result.nll / batch + objective_.beta * (objective_.free_bits > 0 ? pressed : result.kl / batch);
  if (objective_.is_multisample()) sum_samples(result);
  result.is_finite = std::isfinite(static_cast<float>(result.loss));
  uint32_t input = 0, gradient = 0;
  for (int64_t thread = 0; thread < place.threads; ++thread) {
    const float* const magnitudes = at(layout_.magnitudes) + thread * kPanel;
    input = std::max(input, std::bit_cast<uint32_t>(magnitudes[0]));
    gradient = std::max(gradient, std::bit_cast<uint32_t>(magnitudes[1]));
  }
  result.largest_gradient = batch * static_cast<double>(objective_.samples) * std::bit_cast<float>(input) * std::bit_cast<float>(gradient);
  if (network_.scales > 0) result.largest_gradient *= static_cast<double>(network_.pixels() / network_.scales);
  return result;
}

LayerUpdate Pass::update(const Place& place, size_t layer) const {
  const Layer& by = network_.layers[layer];
  const Range rows = part_of(by.out, products_.rows(), place.thread, place.threads);
  LayerUpdate result{};
  static_cast<WeightRows&>(result) = {by.out, by.in, rows.begin, rows.end};
  return result;
}

float* Pass::input(size_t layer, const Group& group) const {
  return panel(layout_.input[layer], network_.layers[layer].in, group.slot);
}

float* Pass::by_output(size_t layer, const Group& group) const {
  return panel(layout_.by_output[layer], network_.layers[layer].out,
               layout_.keeps_gradients ? group.first : group.slot);
}

}  // namespace vae_fast

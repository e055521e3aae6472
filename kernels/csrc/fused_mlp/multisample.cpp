// The passes of a step that draws several samples of z an image. The decoder has one panel for each sample of a panel of
// images, one after the other; the weights of an image's samples are known once the last of them has been decoded.
#include "pass.h"

#include <algorithm>

namespace vae_fast {

void Pass::draw_samples(const Place& place, const Group& group) const {
  const int64_t latent = network_.latent(), samples = objective_.samples;
  for (int64_t i = 0; i < group.count; ++i) {
    const int64_t begin = (group.first + i) * kPanel, slot = (group.slot + i) * samples;
    uint32_t rows[kPanel];
    for (int64_t lane = 0; lane < kPanel; ++lane)
      rows[lane] = objective_.draw.row_offset + static_cast<uint32_t>(std::min(begin + lane, images_.batch - 1));
    saw_input(place, loops_.draw_samples({.draw = &objective_.draw,
                                          .rows = rows,
                                          .samples = samples,
                                          .latent = latent,
                                          .lanes = lanes_of(group.first + i),
                                          .stride = feature_stride(latent),
                                          .stats = panel(layout_.stats, 2 * latent, group.slot + i),
                                          .noise = panel(layout_.noise, latent, slot),
                                          .z = panel(layout_.input[network_.stats + 1], latent, slot),
                                          .below = at(layout_.below) + slot * kPanel,
                                          .kl = doubles(layout_.kl) + (group.first + i) * latent}));
  }
  const Group all{group.first * samples, group.count * samples, group.slot * samples};
  products_.keep_input(network_.stats + 1, all.part({0, latent}), input(network_.stats + 1, all));
}

void Pass::decode_samples(const Place& place, const Group& group) const {
  const int64_t samples = objective_.samples;
  for (int64_t i = 0; i < place.most; ++i) {  // as often in every team, so that all reach the barriers
    const int64_t first = std::min(i, group.count), count = i < group.count ? samples : 0;
    const Group one{(group.first + first) * samples, count, (group.slot + first) * samples};
    for (size_t layer = network_.stats + 1; layer + 1 < network_.layers.size(); ++layer) hidden(place, one, layer);
    lose_samples(place, one);
    wait_for_team(place);
    if (place.member == 0 && count > 0) weigh(one);
    wait_for_team(place);
    share(place, one);
    wait_for_team(place);
    decoder_backward(place, one);
  }
  if (place.member == 0) samples_backward(place, group);
  wait_for_team(place);
  encoder_backward(place, group);
}

void Pass::lose_samples(const Place& place, const Group& one) const {
  const size_t last = network_.layers.size() - 1;
  const int64_t pixels = network_.pixels(), samples = objective_.samples;
  const Range rows = part_of(pixels, kLossRows, place.member, place.members);
  products_.forward(last, one.part(rows), input(last, one), by_output(last, one));
  const float* const images = panel(layout_.input[0], pixels, one.slot / samples);
  for (int64_t k = 0; k < one.count; ++k) {
    float* const logits = by_output(last, one) + k * feature_stride(pixels);
    for (int64_t row = rows.begin; row < rows.end; row += kLossRows)
      loops_.likelihood_panel(objective_.likelihood,
                              {.pixels = images + row * kPanel,
                               .logits = logits + row * kPanel,
                               .terms = scale_terms(row),
                               .rows = std::min(kLossRows, rows.end - row),
                               .lanes = lanes_of(one.first / samples),
                               .scale = scale(),
                               .by_scale = nullptr,
                               .slopes = slopes_by_scale(one.slot + k, row),
                               .nll = sample_nll(one.slot + k) + row / kLossRows * kPanel});
  }
}

void Pass::weigh(const Group& one) const {
  const int64_t image_panel = one.first / objective_.samples;
  loops_.weigh_samples({.kind = objective_.bound,
                        .samples = objective_.samples,
                        .blocks = loss_blocks(network_.pixels()),
                        .lanes = lanes_of(image_panel),
                        .beta = objective_.beta,
                        .nll = sample_nll(one.slot),
                        .below = at(layout_.below) + one.slot * kPanel,
                        .shares = at(layout_.shares) + one.slot * kPanel,
                        .mean_nll = doubles(layout_.mean_nll) + image_panel,
                        .bound = doubles(layout_.bound) + image_panel});
}

void Pass::share(const Place& place, const Group& one) const {
  const size_t last = network_.layers.size() - 1;
  const int64_t pixels = network_.pixels();
  const Range rows = part_of(pixels, kLossRows, place.member, place.members);
  for (int64_t k = 0; k < one.count; ++k) {
    float* const by_scale =
        network_.scales == 0 ? nullptr : at(layout_.by_scale) + (one.first + k) * pixels + rows.begin;
    saw_gradient(place,
                 loops_.share_gradients(
                     {.rows = rows.end - rows.begin,
                      .shares = at(layout_.shares) + (one.slot + k) * kPanel,
                      .logits = by_output(last, one) + k * feature_stride(pixels) + rows.begin * kPanel,
                      .slopes = slopes_by_scale(one.slot + k, rows.begin),
                      .by_scale = by_scale}));
  }
  products_.keep_gradient(last, one.part(rows), by_output(last, one));
}

void Pass::samples_backward(const Place& place, const Group& group) const {
  const int64_t latent = network_.latent(), samples = objective_.samples;
  float* const by_stats = by_output(network_.stats, group);
  for (int64_t i = 0; i < group.count; ++i) {
    const int64_t slot = (group.slot + i) * samples;
    saw_gradient(place, loops_.samples_gradient({.kind = objective_.bound,
                                                 .samples = samples,
                                                 .latent = latent,
                                                 .lanes = lanes_of(group.first + i),
                                                 .stride = feature_stride(latent),
                                                 .beta = objective_.beta,
                                                 .scale = scale(),
                                                 .stats = panel(layout_.stats, 2 * latent, group.slot + i),
                                                 .noise = panel(layout_.noise, latent, slot),
                                                 .z = panel(layout_.input[network_.stats + 1], latent, slot),
                                                 .by_z = panel(layout_.by_z, latent, slot),
                                                 .shares = at(layout_.shares) + slot * kPanel,
                                                 .by_stats = by_stats + i * feature_stride(2 * latent)}));
  }
  products_.keep_gradient(network_.stats, group.part({0, 2 * latent}), by_stats);
}

void Pass::sum_samples(Losses& result) const {
  const auto batch = static_cast<double>(images_.batch);
  double bound = 0;
  result.nll = 0;
  for (int64_t panel = 0; panel < layout_.panels; ++panel) {
    result.nll += doubles(layout_.mean_nll)[panel];
    bound += doubles(layout_.bound)[panel];
  }
  if (objective_.bound != Bound::elbo)
    result.kl = (bound - result.nll) / std::max(1e-6, static_cast<double>(objective_.beta));
  result.loss = (result.nll + objective_.beta * result.kl) / batch;
}

}  // namespace vae_fast

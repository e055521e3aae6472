// The loss of the pixels, and the gradient by learned scales.
#include "pass.h"

#include <algorithm>

namespace vae_fast {

double Pass::panel_loss(const Place& place, const float* pixels, float* logits, int64_t row, int64_t rows,
                        int64_t panel) const {
  const PanelLoss loss = loops_.likelihood_panel(
      objective_.likelihood,
      {.pixels = pixels,
       .logits = logits,
       .terms = scale_terms(row),
       .rows = rows,
       .lanes = lanes_of(panel),
       .scale = scale(),
       .by_scale = network_.scales == 0 ? nullptr : at(layout_.by_scale) + panel * network_.pixels() + row,
       .slopes = nullptr,
       .nll = nullptr});
  saw_gradient(place, loss.largest_slope);
  return loss.nll;
}

ScaleTerms Pass::scale_terms(int64_t pixel) const {
  float* const terms = at(layout_.scale_terms) + pixel;
  return {terms, terms + network_.pixels(), terms + 2 * network_.pixels()};
}

void Pass::set_scales() const {
  const int64_t pixels = network_.pixels(), run = pixels / std::max<int64_t>(1, network_.scales);
  float* const log_scale = at(layout_.log_scale);
  for (int64_t i = 0; i < pixels; ++i)
    log_scale[i] = network_.scales > 0 ? std::max(kLeastLogScale, network_.log_scale[i / run])
                                       : objective_.log_scale.value_or(0.0F);
  loops_.scale_terms(objective_.likelihood, log_scale, pixels, scale_terms(0));
}

void Pass::scale_gradient(float* to) const {
  const int64_t pixels = network_.pixels(), run = pixels / network_.scales;
  float* const by_pixel = at(layout_.log_scale);  // no longer needed
  loops_.scale_gradient(at(layout_.by_scale), layout_.panels * objective_.samples, pixels, pixels, by_pixel);
  for (int64_t scale = 0; scale < network_.scales; ++scale) {
    double sum = 0;
    for (int64_t i = scale * run; i < (scale + 1) * run; ++i) sum += by_pixel[i];
    to[scale] = network_.log_scale[scale] < kLeastLogScale ? 0.0F : static_cast<float>(sum);
  }
}

}  // namespace vae_fast

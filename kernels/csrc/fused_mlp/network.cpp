#include "network.h"

#include "../rows.h"

#include <algorithm>

namespace vae_fast {

Network network_of(const char* op, at::TensorList parameters) {
  TORCH_CHECK_VALUE(parameters.size() >= 4 && parameters.size() % 4 <= 1, op,
                    ": parameters: expected weight and bias of as many layers in the encoder as in the decoder, and at "
                    "most a learned scale, got ", parameters.size(), " tensors");
  Network network;
  network.stats = parameters.size() / 4 - 1;
  for (size_t i = 0; i + 1 < parameters.size(); i += 2) {
    const at::Tensor &weight = parameters[i], &bias = parameters[i + 1];
    check_float(weight, op, "parameters");
    check_float(bias, op, "parameters");
    const size_t layer = i / 2;
    int64_t in = weight.dim() == 2 ? weight.size(1) : -1;
    if (layer > 0) in = network.layers.back().out / (layer == network.stats + 1 ? 2 : 1);
    TORCH_CHECK_VALUE(weight.dim() == 2 && weight.size(1) == in && weight.numel() > 0 && bias.dim() == 1 &&
                          bias.size(0) == weight.size(0) && (layer != network.stats || weight.size(0) % 2 == 0),
                      op, ": parameters: expected [N, ", in < 0 ? "M" : std::to_string(in), "] and [N] as layer ",
                      layer, layer == network.stats ? " with an even N" : "", ", got ", weight.sizes(), " and ",
                      bias.sizes());
    TORCH_CHECK_VALUE(weight.is_contiguous() && bias.is_contiguous(), op,
                      ": parameters: expected contiguous tensors, got strides ", weight.strides(), " and ",
                      bias.strides());
    network.layers.push_back(
        {in, weight.size(0), weight.const_data_ptr<float>(), bias.const_data_ptr<float>()});
  }
  TORCH_CHECK_VALUE(network.layers.back().out == network.pixels(), op, ": parameters: expected as many logits as the ",
                    network.pixels(), " pixels, got ", network.layers.back().out);
  if (parameters.size() % 4 == 1) {
    const at::Tensor& scale = parameters[parameters.size() - 1];
    check_float(scale, op, "parameters");
    TORCH_CHECK_VALUE(scale.dim() == 1 && scale.numel() > 0 && network.pixels() % scale.numel() == 0 &&
                          scale.is_contiguous(),
                      op, ": parameters: expected a scale [S], S dividing the ", network.pixels(), " pixels, got ",
                      scale.sizes());
    network.log_scale = scale.const_data_ptr<float>();
    network.scales = scale.numel();
  }
  return network;
}

Activation activation_of(const char* op, std::string_view name) {
  constexpr std::pair<std::string_view, Activation> known[] = {
      {"relu", Activation::relu}, {"leaky_relu", Activation::leaky_relu}, {"elu", Activation::elu},
      {"silu", Activation::silu}, {"gelu", Activation::gelu},             {"softplus", Activation::softplus},
      {"tanh", Activation::tanh}};
  for (const auto& [known_name, activation] : known)
    if (name == known_name) return activation;
  TORCH_CHECK_VALUE(false, op, ": activation: got the unknown '", name, "'");
}

Layout::Layout(const Network& network, int64_t batch, int64_t threads, int64_t samples, bool all_at_once,
               bool keeps_gradients)
    : batch(batch),
      panels(panels_for(batch)),
      samples(samples),
      stats_layer(network.stats),
      slots(all_at_once ? panels : kGroup * std::min(threads, panels)),
      keeps_gradients(keeps_gradients) {
  for (size_t i = 0; i < network.layers.size(); ++i) {
    const Layer& layer = network.layers[i];
    by_output.push_back(take((keeps_gradients ? panels_of(i) : slots_of(i)) * feature_stride(layer.out)));
    input.push_back(take(slots_of(i) * feature_stride(layer.in)));
    slopes.push_back(take(network.is_hidden(i) ? slots_of(i) * feature_stride(layer.out) : 0));
    gradients.push_back(take(layer.out * layer.in + layer.out));
  }
  const int64_t latent = network.latent();
  sampled = take(slots * kPanel * (network.pixels() + 3) / 4);
  stats = take(slots * feature_stride(2 * latent));
  noise = take(slots * samples * feature_stride(latent));
  by_z = take(slots * samples * feature_stride(latent));
  const int64_t blocks = loss_blocks(network.pixels());
  below = take(slots * samples * kPanel);
  shares = take(slots * samples * kPanel);
  sample_nll = take(slots * samples * blocks * kPanel);
  sample_slopes = take(network.scales > 0 ? slots * samples * network.pixels() * kPanel : 0);
  mean_nll = take(2 * panels);
  bound = take(2 * panels);
  kl = take(2 * panels * latent);
  nll = take(2 * panels * blocks);
  by_kl = take(threads * panels_for(latent) * kPanel);
  magnitudes = take(threads * kPanel);
  scale_terms = take(3 * network.pixels());
  log_scale = take(network.pixels());
  by_scale = take(network.scales > 0 ? panels * samples * network.pixels() : 0);
  scale_gradient = take(network.scales);
}

int64_t Layout::take(int64_t floats) {
  const int64_t at = size;
  size += panels_for(floats) * kPanel;
  return at;
}

}  // namespace vae_fast

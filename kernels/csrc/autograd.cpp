// The gradients of the operators on the CPU. They are in C++ because a training step needs four of them, and a gradient
// registered from Python costs 40 to 100 us per step. They call operators, so that compilers can trace them.
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

namespace vae_fast {
namespace {

using at::Tensor;
using std::optional;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <typename Signature>
c10::TypedOperatorHandle<Signature> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

optional<Tensor> if_defined(const Tensor& tensor) { return tensor.defined() ? optional<Tensor>(tensor) : std::nullopt; }

Tensor call_product(const Tensor& a, const Tensor& b, const optional<Tensor>& bias) {
  static const auto op = find<Tensor(const Tensor&, const Tensor&, const optional<Tensor>&)>("vae_fast::product");
  return op.call(a, b, bias);
}

struct Product : torch::autograd::Function<Product> {
  static Tensor forward(AutogradContext* ctx, const Tensor& a, const Tensor& b, const optional<Tensor>& bias) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({a, b});
    ctx->saved_data["has_bias"] = bias.has_value();
    return call_product(a, b, bias);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &gradient = gradients[0], &a = saved[0], &b = saved[1];
    return {
        ctx->needs_input_grad(0) ? call_product(gradient, b.t(), {}) : Tensor(),
        ctx->needs_input_grad(1) ? call_product(gradient.t(), a.t(), {}) : Tensor(),
        ctx->saved_data["has_bias"].toBool() && ctx->needs_input_grad(2) ? gradient.sum(0) : Tensor(),
    };
  }
};

struct Reparameterize : torch::autograd::Function<Reparameterize> {
  static Tensor forward(AutogradContext* ctx, const Tensor& mu, const Tensor& logvar, const Tensor& seed,
                        const Tensor& step, const c10::SymInt& row_offset, int64_t stream) {
    static const auto op =
        find<Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, c10::SymInt, int64_t)>(
            "vae_fast::reparameterize");
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({logvar, seed, step});
    ctx->saved_data["row_offset"] = row_offset;
    ctx->saved_data["stream"] = stream;
    return op.call(mu, logvar, seed, step, row_offset, stream);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    static const auto op = find<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                                           c10::SymInt, int64_t)>("vae_fast::reparameterize_backward");
    const auto saved = ctx->get_saved_variables();
    auto [for_mu, for_logvar] = op.call(gradients[0], saved[0], saved[1], saved[2],
                                        ctx->saved_data["row_offset"].toSymInt(), ctx->saved_data["stream"].toInt());
    return {for_mu, for_logvar, {}, {}, {}, {}};
  }
};

// A gradient is undefined if the rest of the graph provides none.
struct SamplePosterior : torch::autograd::Function<SamplePosterior> {
  static variable_list forward(AutogradContext* ctx, const Tensor& stats, const Tensor& seed, const Tensor& step,
                               const c10::SymInt& row_offset, int64_t stream) {
    static const auto op =
        find<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, c10::SymInt, int64_t)>(
            "vae_fast::sample_posterior");
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({stats, seed, step});
    ctx->saved_data["row_offset"] = row_offset;
    ctx->saved_data["stream"] = stream;
    ctx->set_materialize_grads(false);
    auto [z, kl] = op.call(stats, seed, step, row_offset, stream);
    return {z, kl};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    static const auto op = find<Tensor(const optional<Tensor>&, const optional<Tensor>&, const Tensor&, const Tensor&,
                                       const Tensor&, c10::SymInt, int64_t)>("vae_fast::sample_posterior_backward");
    if (!gradients[0].defined() && !gradients[1].defined()) return variable_list(5);
    const auto saved = ctx->get_saved_variables();
    return {op.call(if_defined(gradients[0]), if_defined(gradients[1]), saved[0], saved[1], saved[2],
                    ctx->saved_data["row_offset"].toSymInt(), ctx->saved_data["stream"].toInt()),
            {}, {}, {}, {}};
  }
};

struct Nll : torch::autograd::Function<Nll> {
  static Tensor forward(AutogradContext* ctx, const Tensor& logits, const Tensor& target,
                        const optional<Tensor>& log_scale, std::string_view likelihood) {
    static const auto op =
        find<Tensor(const Tensor&, const Tensor&, const optional<Tensor>&, std::string_view)>("vae_fast::nll");
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({logits, target, log_scale.value_or(Tensor())});
    ctx->saved_data["likelihood"] = std::string(likelihood);
    return op.call(logits, target, log_scale, likelihood);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    static const auto op = find<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&,
                                                           const optional<Tensor>&, std::string_view)>(
        "vae_fast::nll_backward");
    const auto saved = ctx->get_saved_variables();
    auto [for_logits, for_scale] = op.call(gradients[0], saved[0], saved[1], if_defined(saved[2]),
                                           ctx->saved_data["likelihood"].toStringView());
    return {for_logits, {}, saved[2].defined() ? for_scale : Tensor(), {}};
  }
};

struct Elbo : torch::autograd::Function<Elbo> {
  static variable_list forward(AutogradContext* ctx, const Tensor& logits, const Tensor& target, const Tensor& mu,
                               const Tensor& logvar, const optional<Tensor>& log_scale, std::string_view likelihood) {
    static const auto op = find<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                                           const optional<Tensor>&, std::string_view)>("vae_fast::elbo");
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({logits, target, mu, logvar, log_scale.value_or(Tensor())});
    ctx->saved_data["likelihood"] = std::string(likelihood);
    ctx->set_materialize_grads(false);
    auto [nll, kl] = op.call(logits, target, mu, logvar, log_scale, likelihood);
    return {nll, kl};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    static const auto op = find<std::tuple<Tensor, Tensor, Tensor, Tensor>(
        const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
        const optional<Tensor>&, std::string_view)>("vae_fast::elbo_backward");
    if (!gradients[0].defined() && !gradients[1].defined()) return variable_list(6);
    const auto saved = ctx->get_saved_variables();
    const Tensor& logits = saved[0];
    const bool has_nll = gradients[0].defined(), has_kl = gradients[1].defined(), scaled = saved[4].defined();
    const Tensor zeros =
        has_nll && has_kl ? Tensor() : at::zeros_symint({logits.sym_size(0)}, logits.options().dtype(at::kFloat));
    auto [for_logits, for_mu, for_logvar, for_scale] =
        op.call(has_nll ? gradients[0] : zeros, has_kl ? gradients[1] : zeros, logits, saved[1], saved[2], saved[3],
                if_defined(saved[4]), ctx->saved_data["likelihood"].toStringView());
    // A term that nothing depends on yields no gradient, as in the reference: 0 * inf would be NaN.
    return {has_nll ? for_logits : Tensor(), {}, has_kl ? for_mu : Tensor(), has_kl ? for_logvar : Tensor(),
            has_nll && scaled ? for_scale : Tensor(), {}};
  }
};

// An operator that computes a gradient: its results count as differentiable, but computing their derivative raises the
// error of transforms.no_second_derivative, as with Triton. `inputs` are the tensors among the operator's arguments.
struct DifferentiatedOnce : torch::autograd::Function<DifferentiatedOnce> {
  static variable_list forward(AutogradContext* ctx, at::TensorList /*inputs*/, const c10::OperatorHandle& op,
                               c10::DispatchKeySet keys, torch::jit::Stack* stack) {
    ctx->saved_data["name"] = op.schema().name();
    at::AutoDispatchBelowADInplaceOrView below;
    op.redispatchBoxed(keys, stack);
    variable_list results;
    for (c10::IValue& result : torch::jit::pop(*stack, op.schema().returns().size()))
      results.push_back(std::move(result).toTensor());
    return results;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& /*gradients*/) {
    const std::string name = ctx->saved_data["name"].toStringRef();
    TORCH_CHECK(false, name.substr(0, name.rfind("_backward")),
                ": the fused implementations have no second derivatives; pass impl='reference'");
  }
};

void differentiated_once(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  keys = keys & c10::after_autograd_keyset;
  variable_list inputs;
  bool wanted = false;
  for (const c10::IValue& argument : torch::jit::last(*stack, op.schema().arguments().size())) {
    if (!argument.isTensor()) continue;
    inputs.push_back(argument.toTensor());
    wanted = wanted || inputs.back().requires_grad();
  }
  if (!wanted || !at::GradMode::is_enabled()) {  // as in every backward pass of a training step
    at::AutoDispatchBelowADInplaceOrView below;
    return op.redispatchBoxed(keys, stack);
  }
  for (Tensor& result : DifferentiatedOnce::apply(at::TensorList(inputs), op, keys, stack))
    stack->emplace_back(std::move(result));
}

Tensor product(const Tensor& a, const Tensor& b, const optional<Tensor>& bias) { return Product::apply(a, b, bias); }

Tensor reparameterize(const Tensor& mu, const Tensor& logvar, const Tensor& seed, const Tensor& step,
                      c10::SymInt row_offset, int64_t stream) {
  return Reparameterize::apply(mu, logvar, seed, step, row_offset, stream);
}

std::tuple<Tensor, Tensor> sample_posterior(const Tensor& stats, const Tensor& seed, const Tensor& step,
                                            c10::SymInt row_offset, int64_t stream) {
  auto sample = SamplePosterior::apply(stats, seed, step, row_offset, stream);
  return {std::move(sample[0]), std::move(sample[1])};
}

Tensor nll(const Tensor& logits, const Tensor& target, const optional<Tensor>& log_scale, std::string_view likelihood) {
  return Nll::apply(logits, target, log_scale, likelihood);
}

std::tuple<Tensor, Tensor> elbo(const Tensor& logits, const Tensor& target, const Tensor& mu, const Tensor& logvar,
                                const optional<Tensor>& log_scale, std::string_view likelihood) {
  auto terms = Elbo::apply(logits, target, mu, logvar, log_scale, likelihood);
  return {std::move(terms[0]), std::move(terms[1])};
}

}  // namespace

TORCH_LIBRARY_IMPL(vae_fast, AutogradCPU, m) {
  m.impl("product", product);
  m.impl("reparameterize", reparameterize);
  m.impl("sample_posterior", sample_posterior);
  m.impl("nll", nll);
  m.impl("elbo", elbo);
  for (const char* name : {"reparameterize_backward", "sample_posterior_backward", "nll_backward", "elbo_backward"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&differentiated_once>());
}

}  // namespace vae_fast

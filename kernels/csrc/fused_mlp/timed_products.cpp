// Products that measure on every thread how long each kind of work takes.
#include "products.h"

#include <chrono>

namespace vae_fast {
namespace {

using Clock = std::chrono::steady_clock;

class Timed {
 public:
  explicit Timed(double& sum) : sum_(sum), began_(Clock::now()) {}
  ~Timed() { sum_ += std::chrono::duration<double>(Clock::now() - began_).count(); }

 private:
  double& sum_;
  Clock::time_point began_;
};

class TimedProducts final : public Products {
 public:
  TimedProducts(std::unique_ptr<Products> products, double* seconds) : products_(std::move(products)), all_(seconds) {}

  void begin(int64_t thread) const override {
    seconds_ = all_ + thread * kTimedParts;
    began_ = Clock::now();
    products_->begin(thread);
  }

  void end() const override {
    products_->end();
    seconds_[kWhole] += std::chrono::duration<double>(Clock::now() - began_).count();
  }

  Squares pixels(int64_t panel, int64_t slot) const override { return products_->pixels(panel, slot); }

  void keep_input(size_t layer, const Part& part, const float* values) const override {
    const Timed timed(seconds_[kPacking]);
    products_->keep_input(layer, part, values);
  }

  void keep_gradient(size_t layer, const Part& part, const float* values) const override {
    const Timed timed(seconds_[kPacking]);
    products_->keep_gradient(layer, part, values);
  }

  void forward(size_t layer, const Part& part, const float* input, float* output) const override {
    const Timed timed(seconds_[kForward]);
    products_->forward(layer, part, input, output);
  }

  void backward(size_t layer, const Part& part, const float* by_output, float* by_input) const override {
    const Timed timed(seconds_[kBackward]);
    products_->backward(layer, part, by_output, by_input);
  }

  int64_t rows() const override { return products_->rows(); }

  void gradient(size_t layer, const LayerUpdate& update) const override {
    const Timed timed(seconds_[kGradient]);
    products_->gradient(layer, update);
  }

 private:
  enum : int64_t { kForward, kBackward, kGradient, kPacking, kWhole };

  std::unique_ptr<Products> products_;
  double* all_;
  static thread_local double* seconds_;
  static thread_local Clock::time_point began_;
};

thread_local double* TimedProducts::seconds_ = nullptr;
thread_local Clock::time_point TimedProducts::began_;

}  // namespace

std::unique_ptr<Products> timed_products(std::unique_ptr<Products> products, double* seconds) {
  return std::make_unique<TimedProducts>(std::move(products), seconds);
}

}  // namespace vae_fast

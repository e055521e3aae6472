// A tensor as rows of contiguous values, read where it lies if it can be.
#pragma once

#include <ATen/core/Tensor.h>

namespace vae_fast {

template <typename T>
struct Rows {
  at::Tensor owner;  // keeps a copy alive, if one was made
  const T* data;
  int64_t stride;

  const T* row(int64_t index) const { return data + index * stride; }
};

// All of the tensor's leading dimensions make rows of `columns` values. A matrix may have any row stride, as the halves
// of one tensor do; anything else that is not contiguous is copied.
template <typename T>
Rows<T> rows_of(const at::Tensor& tensor, int64_t columns) {
  if (tensor.dim() == 2 && tensor.size(1) == columns && (tensor.stride(1) == 1 || columns <= 1)) {
    return {tensor, tensor.const_data_ptr<T>(), tensor.stride(0)};
  }
  at::Tensor whole = tensor.contiguous();
  const T* const data = whole.const_data_ptr<T>();
  return {std::move(whole), data, columns};
}

inline void check_float(const at::Tensor& tensor, const char* op, const char* name) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == at::kFloat, op, ": ", name, ": expected float32, got ",
                   tensor.scalar_type());
}

}  // namespace vae_fast

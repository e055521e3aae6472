// A tensor as rows of contiguous values, read in place if possible.
#pragma once

#include "simd/loops.h"

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <utility>

namespace vae_fast {

inline Type type_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kHalf:
      return Type::float16;
    case at::kBFloat16:
      return Type::bfloat16;
    case at::kByte:
      return Type::uint8;
    default:
      return Type::float32;
  }
}

struct Rows {
  at::Tensor owner;  // keeps a copy alive if one was made
  const std::byte* data;
  int64_t stride;  // in bytes
  Type type;

  Values row(int64_t index) const { return {data + index * stride, type}; }
};

// Flattens the tensor's leading dimensions to rows of `columns` values. A matrix may have any row stride, like the
// halves of one tensor; anything else that is not contiguous is copied.
inline Rows rows_of(const at::Tensor& tensor, int64_t columns) {
  const bool in_place = tensor.dim() == 2 && tensor.size(1) == columns && (tensor.stride(1) == 1 || columns <= 1);
  at::Tensor owner = in_place ? tensor : tensor.contiguous();
  const int64_t stride = in_place ? tensor.stride(0) : columns;
  const auto* const data = static_cast<const std::byte*>(owner.const_data_ptr());
  const Type type = type_of(owner);
  const auto bytes = static_cast<int64_t>(owner.element_size());
  return {std::move(owner), data, stride * bytes, type};
}

struct FloatRows {
  at::Tensor owner;
  Matrix matrix;
};

// Does the same in float32: a narrower tensor is copied.
inline FloatRows float_rows_of(const at::Tensor& tensor, int64_t columns) {
  Rows rows = rows_of(tensor.to(at::kFloat), columns);
  const auto* const data = reinterpret_cast<const float*>(rows.data);
  return {std::move(rows.owner), {data, rows.stride / static_cast<int64_t>(sizeof(float))}};
}

inline void check_float(const at::Tensor& tensor, const char* op, const char* name) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == at::kFloat, op, ": ", name, ": expected float32, got ",
                   tensor.scalar_type());
}

// Checks for the dtypes with which the operators compute in float32.
inline void check_floating(const at::Tensor& tensor, const char* op, const char* name) {
  const at::ScalarType type = tensor.scalar_type();
  TORCH_CHECK_TYPE(type == at::kFloat || type == at::kHalf || type == at::kBFloat16, op, ": ", name,
                   ": expected float32, float16 or bfloat16, got ", type);
}

}  // namespace vae_fast

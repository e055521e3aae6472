// vae_fast::read_rows on the CPU: reads rows of a file, in any order, into one tensor. The schema and the specification
// are in kernels/file_io.py. It uses one thread, so that reading ahead costs the step no more than a share of one core.
#include <ATen/core/Tensor.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <torch/library.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

namespace vae_fast {
namespace {

constexpr int64_t kEndsEarly = -1;

// Returns 0, kEndsEarly or errno.
int64_t read_all(int file, char* to, int64_t count, int64_t offset) {
  while (count > 0) {
    const ssize_t got = pread(file, to, static_cast<size_t>(count), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return got < 0 ? errno : kEndsEarly;
    to += got;
    offset += got;
    count -= got;
  }
  return 0;
}

// Returns whether all of it could be read without waiting for a disk.
bool read_cached([[maybe_unused]] int file, [[maybe_unused]] char* to, [[maybe_unused]] int64_t count,
                 [[maybe_unused]] int64_t offset) {
#ifdef RWF_NOWAIT
  const iovec target{to, static_cast<size_t>(count)};
  return preadv2(file, &target, 1, offset, RWF_NOWAIT) == count;
#else
  return false;
#endif
}

int64_t read_rows(int64_t descriptor, int64_t offset, const at::Tensor& rows, const at::Tensor& out) {
  TORCH_CHECK_TYPE(rows.scalar_type() == at::kLong, "read_rows: rows: expected int64, got ", rows.scalar_type());
  TORCH_CHECK_VALUE(rows.dim() == 1 && out.dim() > 0 && out.size(0) == rows.size(0) && rows.is_contiguous() &&
                        out.is_contiguous() && out.is_cpu(),
                    "read_rows: expected contiguous rows [n] and out [n, ...] on the CPU, got ", rows.sizes(), " and ",
                    out.sizes());
  const int64_t count = rows.size(0);
  const int64_t bytes = count > 0 ? static_cast<int64_t>(out.nbytes()) / count : 0;
  const int64_t* row = rows.const_data_ptr<int64_t>();
  auto* to = static_cast<char*>(out.mutable_data_ptr());
  const auto file = static_cast<int>(descriptor);
  std::vector<int64_t> missing;
  for (int64_t i = 0; i < count; ++i) {
    TORCH_CHECK_VALUE(row[i] >= 0, "read_rows: rows: expected 0 or more, got ", row[i]);
    if (!read_cached(file, to + i * bytes, bytes, offset + row[i] * bytes)) missing.push_back(i);
  }
#ifdef POSIX_FADV_WILLNEED
  // Request all rows before waiting for the first, so that the disk can work on more than one.
  for (const int64_t i : missing) posix_fadvise(file, offset + row[i] * bytes, bytes, POSIX_FADV_WILLNEED);
#endif
  for (const int64_t i : missing) {
    if (const int64_t failed = read_all(file, to + i * bytes, bytes, offset + row[i] * bytes)) return failed;
  }
  return 0;
}

}  // namespace

TORCH_LIBRARY_IMPL(vae_fast, CPU, m) { m.impl("read_rows", read_rows); }

}  // namespace vae_fast

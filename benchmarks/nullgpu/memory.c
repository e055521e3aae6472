// The null GPU's memory: host memory, zeroed. Copies are carried out, unless they are captured.
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "driver_types.h"
#include "log.h"

enum { HOST_TO_DEVICE = 1, DEVICE_TO_HOST = 2 };  // cudaMemcpyKind
enum { MOST_ALLOCATIONS = 200000 };
static struct {
  char* begin;  // NULL: free for reuse
  size_t size;
  int is_pinned;  // host memory
} allocations[MOST_ALLOCATIONS];
static int allocation_count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void keep(char* begin, size_t size, int is_pinned) {
  pthread_mutex_lock(&lock);
  int i = 0;
  while (i < allocation_count && allocations[i].begin) i++;
  if (i == allocation_count) allocation_count++;
  allocations[i].begin = begin, allocations[i].size = size, allocations[i].is_pinned = is_pinned;
  pthread_mutex_unlock(&lock);
}
static void drop(char* begin) {
  pthread_mutex_lock(&lock);
  for (int i = 0; i < allocation_count; i++)
    if (allocations[i].begin == begin) allocations[i].begin = NULL;
  pthread_mutex_unlock(&lock);
}
enum { PAGEABLE, PINNED, DEVICE };
static int kind_of(const void* address) {
  int kind = PAGEABLE;
  pthread_mutex_lock(&lock);
  for (int i = 0; i < allocation_count; i++) {
    const char* begin = allocations[i].begin;
    if (begin && (const char*)address >= begin && (const char*)address < begin + allocations[i].size)
      kind = allocations[i].is_pinned ? PINNED : DEVICE;
  }
  pthread_mutex_unlock(&lock);
  return kind;
}

API Status cudaMalloc(void** address, size_t size) {
  tell("device-allocation", NULL, is_forbidden(), "cudaMalloc %zu", size);
  if (posix_memalign(address, 1 << 21, size + 64)) return cudaErrorMemoryAllocation;
  memset(*address, 0, size);
  keep(*address, size, 0);
  return 0;
}
API Status cudaFree(void* address) {
  if (!address) return 0;
  tell("device-allocation", NULL, is_forbidden(), "cudaFree");
  drop(address);
  free(address);
  return 0;
}
API Status cudaHostAlloc(void** address, size_t size, unsigned flags) {
  tell("host-allocation", NULL, is_forbidden(), "cudaHostAlloc %zu", size);
  if (posix_memalign(address, 4096, size + 64)) return cudaErrorMemoryAllocation;
  keep(*address, size, 1);
  return 0;
}
API Status cudaFreeHost(void* address) {
  drop(address);
  free(address);
  return 0;
}
API Status cudaMemGetInfo(size_t* left, size_t* total) {
  *left = 139ull << 30, *total = 141ull << 30;
  return 0;
}
API Status cudaPointerGetAttributes(struct cudaPointerAttributes* attributes, const void* address) {
  memset(attributes, 0, sizeof *attributes);
  const int kind = kind_of(address);
  if (kind == PAGEABLE) return 0;
  attributes->type = kind == PINNED ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
  attributes->devicePointer = attributes->hostPointer = (void*)address;
  return 0;
}
API Status cudaMemcpy(void* to, const void* from, size_t size, int kind) {
  tell("blocking-copy", NULL, is_forbidden(), "cudaMemcpy %zu", size);
  memmove(to, from, size);
  return 0;
}
// For pageable host memory the host waits here, too.
API Status cudaMemcpyAsync(void* to, const void* from, size_t size, int kind, void* stream) {
  const void* host = kind == HOST_TO_DEVICE ? from : kind == DEVICE_TO_HOST ? to : NULL;
  if (host && kind_of(host) == PAGEABLE)
    tell("blocking-copy", stream, is_forbidden(), "cudaMemcpyAsync, pageable %zu", size);
  work("copy", stream, "cudaMemcpyAsync %zu", size);
  if (!is_captured(stream)) memmove(to, from, size);
  return 0;
}
API Status cudaMemset(void* to, int value, size_t size) {
  memset(to, value, size);
  return 0;
}
API Status cudaMemsetAsync(void* to, int value, size_t size, void* stream) {
  work("fill", stream, "cudaMemsetAsync %zu", size);
  if (!is_captured(stream)) memset(to, value, size);
  return 0;
}
API Status cudaGetSymbolAddress(void** address, const void* symbol) {
  static char memory[1 << 20];
  *address = memory;
  return 0;
}

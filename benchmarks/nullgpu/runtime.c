// CUDA's runtime API of the null GPU, for LD_PRELOAD: kernels compute nothing and are logged (log.h).
//
// Not supported: captures over several streams, cuDNN, NCCL, cuSPARSE.
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "driver_types.h"
#include "log.h"
#include "vector_types.h"

// ---- kernels

enum { MOST_KERNELS = 400000 };  // a CUDA build of torch registers 150,000
static struct {
  const void* function;
  const char* name;
} kernels[MOST_KERNELS];
static int kernel_count;

API void** __cudaRegisterFatBinary(void* binary) {
  static void* only;
  return &only;
}
API void __cudaRegisterFatBinaryEnd(void** binary) {}
API void __cudaUnregisterFatBinary(void** binary) {}
API void __cudaRegisterFunction(void** binary, const char* function, char* device, const char* name) {
  if (kernel_count == MOST_KERNELS) return;
  kernels[kernel_count].function = function;
  kernels[kernel_count++].name = name;
}
API void __cudaRegisterVar(void** binary, char* variable) {}

static const char* name_of(const void* function) {
  for (int i = kernel_count - 1; i >= 0; i--)
    if (kernels[i].function == function) return kernels[i].name;
  return "?";
}

static __thread struct {
  dim3 grid, block;
  size_t shared;
  void* stream;
} configuration;

API unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) {
  configuration.grid = grid, configuration.block = block, configuration.shared = shared, configuration.stream = stream;
  return 0;
}
API Status __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  *grid = configuration.grid, *block = configuration.block, *shared = configuration.shared;
  *(void**)stream = configuration.stream;
  return 0;
}
API Status __cudaGetKernel(void** kernel, const void* function) {
  *kernel = (void*)function;
  return 0;
}
static Status launch(const void* function, dim3 grid, void* stream) {
  work("kernel", stream, "%s %u,%u,%u", name_of(function), grid.x, grid.y, grid.z);
  return 0;
}
API Status __cudaLaunchKernel(const void* f, dim3 grid, dim3 block, void** a, size_t shared, void* stream) {
  return launch(f, grid, stream);
}
API Status cudaLaunchKernel(const void* f, dim3 grid, dim3 block, void** a, size_t shared, void* stream) {
  return launch(f, grid, stream);
}
API Status cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* f, void** a) {
  return launch(f, config->gridDim, config->stream);
}
// Called by driver.c for the kernels of Triton.
API void nullgpu_triton(const char* name, unsigned x, unsigned y, unsigned z, void* stream) {
  work("kernel", stream, "%s %u,%u,%u", name, x, y, z);
}
API Status cudaFuncGetAttributes(struct cudaFuncAttributes* attributes, const void* f) {
  memset(attributes, 0, sizeof *attributes);
  attributes->maxThreadsPerBlock = 1024, attributes->numRegs = 32;
  attributes->binaryVersion = attributes->ptxVersion = 90;
  return 0;
}
API Status cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* f, int size, size_t s,
                                                                  unsigned flags) {
  *blocks = 2;
  return 0;
}

// ---- the device: an H200's numbers

API Status cudaGetDeviceProperties(struct cudaDeviceProp* p, int device) {
  memset(p, 0, sizeof *p);
  strcpy(p->name, "NVIDIA H200 (null)");
  p->major = 9, p->minor = 0, p->multiProcessorCount = 132, p->warpSize = 32;
  p->totalGlobalMem = 150ull << 30, p->l2CacheSize = 60 << 20, p->memoryBusWidth = 6144, p->textureAlignment = 512;
  p->sharedMemPerBlock = 49152, p->sharedMemPerBlockOptin = 232448, p->sharedMemPerMultiprocessor = 233472;
  p->regsPerBlock = p->regsPerMultiprocessor = 65536;
  p->maxThreadsPerBlock = 1024, p->maxThreadsPerMultiProcessor = 2048, p->maxBlocksPerMultiProcessor = 32;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024, p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 2147483647, p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->unifiedAddressing = p->concurrentKernels = p->concurrentManagedAccess = p->managedMemory = 1;
  return 0;
}

// The same numbers as attributes, also for the driver; -1 for an unknown attribute.
API int nullgpu_attribute(int attribute) {
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      return 9;
    case cudaDevAttrComputeCapabilityMinor:
      return 0;
    case cudaDevAttrMultiProcessorCount:
      return 132;
    case cudaDevAttrWarpSize:
      return 32;
    case cudaDevAttrMaxThreadsPerBlock:
      return 1024;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      return 2048;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      return 49152;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      return 232448;
    case cudaDevAttrMaxRegistersPerMultiprocessor:
      return 65536;
    default:
      return -1;
  }
}
API Status cudaDeviceGetAttribute(int* value, int attribute, int device) {
  const int known = nullgpu_attribute(attribute);
  *value = known < 0 ? 1 : known;
  return 0;
}
API Status cudaGetDeviceCount(int* count) {
  *count = 1;
  return 0;
}
API Status cudaGetDevice(int* device) {
  *device = 0;
  return 0;
}
API Status cudaDriverGetVersion(int* version) {
  *version = 13000;
  return 0;
}
API Status cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }
API Status cudaDeviceGetPCIBusId(char* id, int size, int device) {
  strncpy(id, "0000:00:00.0", size);
  return 0;
}
API Status cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  *can = 1;
  return 0;
}

// ---- streams and events

API Status cudaDeviceSynchronize(void) {
  tell("sync", NULL, is_forbidden(), "cudaDeviceSynchronize");
  return 0;
}
API Status cudaStreamSynchronize(void* stream) {
  tell("sync", stream, is_forbidden(), "cudaStreamSynchronize");
  return 0;
}
API Status cudaEventSynchronize(void* event) {
  tell("sync", NULL, is_forbidden(), "cudaEventSynchronize");
  return 0;
}
API Status cudaStreamQuery(void* stream) {
  tell("query", stream, is_forbidden(), "cudaStreamQuery");
  return 0;
}
API Status cudaEventQuery(void* event) {
  tell("query", NULL, is_forbidden(), "cudaEventQuery");
  return 0;
}
API Status cudaStreamCreateWithPriority(void** stream, unsigned flags, int priority) {
  *stream = new_handle();
  return 0;
}
API Status cudaStreamCreateWithFlags(void** stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, 0, 0);
}
API Status cudaStreamCreate(void** stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }
API Status cudaStreamGetPriority(void* stream, int* priority) {
  *priority = 0;
  return 0;
}
API Status cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return 0;
}
API Status cudaEventCreateWithFlags(void** event, unsigned flags) {
  *event = new_handle();
  return 0;
}
API Status cudaEventCreate(void** event) { return cudaEventCreateWithFlags(event, 0); }
API Status cudaEventElapsedTime(float* milliseconds, void* begin, void* end) {
  *milliseconds = 2.5f;
  return 0;
}
API Status cudaEventRecordWithFlags(void* event, void* stream, unsigned flags) {
  tell("record", stream, 0, "%p", event);
  return 0;
}
API Status cudaEventRecord(void* event, void* stream) { return cudaEventRecordWithFlags(event, stream, 0); }
API Status cudaStreamWaitEvent(void* stream, void* event, unsigned flags) {
  tell("wait", stream, 0, "%p", event);
  return 0;
}

// ---- captures and graphs: a graph's handle is the number of its nodes plus one

API Status cudaThreadExchangeStreamCaptureMode(int* mode) {
  const int before = thread_mode;
  thread_mode = *mode;
  *mode = before;
  return 0;
}
API Status cudaStreamBeginCapture(void* stream, int mode) {
  capture.stream = stream, capture.mode = mode, capture.thread = this_thread(), capture.nodes = 0;
  capture.id++;
  tell("capture", stream, 0, "%d", mode);
  return 0;
}
API Status cudaStreamEndCapture(void* stream, void** graph) {
  tell("captured-end", stream, 0, "%zu", capture.nodes);
  capture.stream = NULL;
  *graph = (void*)(capture.nodes + 1);
  return 0;
}
API Status cudaStreamIsCapturing(void* stream, int* status) {
  *status = is_captured(stream);
  return 0;
}
API Status cudaStreamGetCaptureInfo(void* stream, int* status, unsigned long long* id, void** graph, void** nodes,
                                    void** edges, size_t* count) {
  cudaStreamIsCapturing(stream, status);
  if (*status && id) *id = capture.id;
  if (graph) *graph = (void*)0x77;
  if (nodes) *nodes = NULL;
  if (edges) *edges = NULL;
  if (count) *count = 0;
  return 0;
}
API Status cudaGraphGetNodes(void* graph, void* nodes, size_t* count) {
  *count = (size_t)graph - 1;
  return 0;
}
API Status cudaGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long flags) {
  *executable = graph;
  return 0;
}
API Status cudaGraphLaunch(void* executable, void* stream) {
  tell("graph", stream, 0, "%zu", (size_t)executable - 1);
  return 0;
}

// ---- functions that succeed and do nothing

static Status nothing(void) { return 0; }
API Status cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned version,
                                            unsigned long long flags, int* status) {
  *function = (void*)nothing;
  if (status) *status = 0;
  return 0;
}
API const char* cudaGetErrorString(int error) { return "null GPU"; }
API const char* cudaGetErrorName(int error) { return "null GPU"; }
DONE(cudaSetDevice)
DONE(cudaDeviceEnablePeerAccess)
DONE(cudaEventDestroy)
DONE(cudaFuncSetAttribute)
DONE(cudaGetLastError)
DONE(cudaPeekAtLastError)
DONE(cudaGraphAddNode)
DONE(cudaGraphDestroy)
DONE(cudaGraphExecDestroy)
DONE(cudaGraphRetainUserObject)
DONE(cudaHostRegister)
DONE(cudaHostUnregister)
DONE(cudaKernelSetAttributeForDevice)
DONE(cudaMemcpyToSymbol)
DONE(cudaStreamDestroy)
DONE(cudaStreamUpdateCaptureDependencies)
DONE(cudaUserObjectCreate)
DONE(cudaUserObjectRelease)
DONE(cudaProfilerStart)
DONE(cudaProfilerStop)

// CUDA's driver API (libcuda.so.1) of the null GPU, as far as Triton and torch need it; its launches are logged.
#include <string.h>

#include "log.h"

void nullgpu_triton(const char* name, unsigned x, unsigned y, unsigned z, void* stream);
int nullgpu_attribute(int attribute);

API Status cuDeviceGetCount(int* count) {
  *count = 1;
  return 0;
}
API Status cuDeviceGet(int* device, int ordinal) {
  *device = 0;
  return 0;
}
API Status cuDeviceGetAttribute(int* value, int attribute, int device) {
  const int known = nullgpu_attribute(attribute);
  *value = known < 0 ? 1024 : known;
  return 0;
}
API Status cuDriverGetVersion(int* version) {
  *version = 13000;
  return 0;
}
API Status cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) {
  *flags = 0, *active = 1;
  return 0;
}
API Status cuDevicePrimaryCtxRetain(void** context, int device) {
  *context = (void*)0x99;
  return 0;
}
API Status cuCtxGetCurrent(void** context) { return cuDevicePrimaryCtxRetain(context, 0); }
API Status cuCtxGetDevice(int* device) { return cuDeviceGet(device, 0); }
API Status cuGetErrorString(int error, const char** text) {
  *text = "null GPU";
  return 0;
}

// Modules do not matter; a function is represented by its name.
API Status cuModuleLoadData(void** module, const void* image) {
  *module = (void*)0x55;
  return 0;
}
API Status cuModuleLoad(void** module, const char* path) { return cuModuleLoadData(module, path); }
API Status cuModuleLoadDataEx(void** module) { return cuModuleLoadData(module, NULL); }
API Status cuModuleGetFunction(void** function, void* module, const char* name) {
  *function = strdup(name);
  return 0;
}
API Status cuFuncGetAttribute(int* value, int attribute, void* function) {
  *value = attribute == 0 ? 1024 : 0;  // the most threads per block; no registers, no memory
  return 0;
}
API Status cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks) {
  *blocks = 2;
  return 0;
}
API Status cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned a, unsigned b, unsigned c,
                          unsigned shared, void* stream) {
  nullgpu_triton(function, x, y, z, stream);
  return 0;
}
// CUlaunchConfig begins with the grid, and has the stream at byte 32.
API Status cuLaunchKernelEx(const unsigned* config, void* function) {
  nullgpu_triton(function, config[0], config[1], config[2], *(void**)((char*)config + 32));
  return 0;
}

DONE(cuInit)
DONE(cuCtxSetCurrent)
DONE(cuCtxPushCurrent_v2)
DONE(cuCtxPopCurrent_v2)
DONE(cuCtxGetLimit)
DONE(cuCtxSetLimit)
DONE(cuFuncSetAttribute)
DONE(cuFuncSetCacheConfig)
DONE(cuGetProcAddress)
DONE(cuLaunchCooperativeKernel)
DONE(cuLinkAddData_v2)
DONE(cuLinkComplete)
DONE(cuLinkCreate_v2)
DONE(cuModuleUnload)
DONE(cuOccupancyMaxActiveClusters)
DONE(cuPointerGetAttribute)
DONE(cuTensorMapEncodeIm2col)
DONE(cuTensorMapEncodeTiled)

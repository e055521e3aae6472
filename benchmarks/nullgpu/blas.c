// cuBLAS and cuBLASLt of the null GPU: products compute nothing and are logged (log.h).
#include "log.h"

static __thread void* product_stream;
API Status cublasCreate_v2(void** blas) {
  *blas = new_handle();
  return 0;
}
API Status cublasSetStream_v2(void* blas, void* stream) {
  product_stream = stream;
  return 0;
}
API Status cublasGetMathMode(void* blas, int* mode) {
  *mode = 0;
  return 0;
}
API Status cublasGetPointerMode_v2(void* blas, int* mode) { return cublasGetMathMode(blas, mode); }
#define PRODUCT(name)                       \
  API Status name(void) {                   \
    work("product", product_stream, #name); \
    return 0;                               \
  }
PRODUCT(cublasGemmEx)
PRODUCT(cublasSgemm_v2)
PRODUCT(cublasSgemmEx)
PRODUCT(cublasDgemm_v2)
PRODUCT(cublasGemmStridedBatchedEx)
PRODUCT(cublasSgemmStridedBatched)
PRODUCT(cublasSgemv_v2)
PRODUCT(cublasSdot_v2)
PRODUCT(cublasDotEx)
API Status cublasLtMatmul(void* blas, void* d, void* alpha, void* a, void* layout_a, void* b, void* layout_b,
                          void* beta, void* c, void* layout_c, void* out, void* layout, void* algorithm, void* space,
                          size_t size, void* stream) {
  work("product", stream, "cublasLtMatmul");
  return 0;
}
API Status cublasLtMatmulAlgoGetHeuristic(void* blas, void* d, void* a, void* b, void* c, void* out, void* preference,
                                          int wanted, void* results, int* found) {
  *found = 1;
  return 0;
}
#define CREATED(name)           \
  API Status name(void** one) { \
    *one = new_handle();        \
    return 0;                   \
  }
CREATED(cublasLtCreate)
CREATED(cublasLtMatmulDescCreate)
CREATED(cublasLtMatrixLayoutCreate)
CREATED(cublasLtMatmulPreferenceCreate)

DONE(cublasDestroy_v2)
DONE(cublasSetMathMode)
DONE(cublasSetPointerMode_v2)
DONE(cublasSetSmCountTarget)
DONE(cublasSetWorkspace_v2)
DONE(cublasLtMatmulDescDestroy)
DONE(cublasLtMatmulDescSetAttribute)
DONE(cublasLtMatrixLayoutDestroy)
DONE(cublasLtMatrixLayoutSetAttribute)
DONE(cublasLtMatmulPreferenceDestroy)
DONE(cublasLtMatmulPreferenceSetAttribute)
DONE(cublasLtMatmulAlgoInit)
DONE(cublasLtMatmulAlgoCheck)
DONE(cublasLtMatmulAlgoConfigSetAttribute)
DONE(cublasLtMatmulAlgoConfigGetAttribute)

/* Stands for NVIDIA's driver (libcuda.so.1), and with -DBLAS for cuBLAS: as much of them as the GPU engine calls. Memory
 * is the host's. Kernels are not run, but told to a callback. Without a current context calls fail, as they do on a GPU;
 * what is not here fails with NOT_SUPPORTED, and says so. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef BLAS

enum { INVALID_VALUE = 7, F32 = 0, F64 = 1 };

int cublasCreate_v2(void **handle) { return *handle = malloc(1), 0; }
int cublasSetStream_v2(void *handle, void *stream) { return 0; }
int cublasSetWorkspace_v2(void *handle, void *p, size_t n) { return (uintptr_t)p % 256 ? INVALID_VALUE : 0; }

static double get(const void *a, int type, int64_t i) { return type == F64 ? ((double *)a)[i] : ((float *)a)[i]; }

/* Columns first; op 1: transposed. */
int cublasGemmStridedBatchedEx_64(void *handle, int op_a, int op_b, int64_t m, int64_t n, int64_t k, const void *alpha,
                                  const void *a, int a_type, int64_t lda, long long a_step, const void *b, int b_type,
                                  int64_t ldb, long long b_step, const void *beta, void *c, int type, int64_t ldc,
                                  long long c_step, int64_t count, int compute, int algorithm) {
    int fits = type == F64 ? compute == 70 : compute == 68 || compute == 77;
    if (!fits || a_type != type || b_type != type || algorithm != -1 || get(alpha, type, 0) != 1) return INVALID_VALUE;
    if (lda < 1 || lda < (op_a ? k : m) || ldb < 1 || ldb < (op_b ? n : k) || ldc < 1 || ldc < m) return INVALID_VALUE;
    for (int64_t batch = 0; batch < count; batch++)
        for (int64_t j = 0; j < n; j++)
            for (int64_t i = 0; i < m; i++) {
                int64_t to = batch * c_step + i + j * ldc;
                double sum = get(beta, type, 0) ? get(c, type, to) : 0;
                for (int64_t l = 0; l < k; l++)
                    sum += get(a, type, batch * a_step + (op_a ? l + i * lda : i + l * lda)) *
                           get(b, type, batch * b_step + (op_b ? j + l * ldb : l + j * ldb));
                if (type == F64) ((double *)c)[to] = sum;
                else ((float *)c)[to] = sum;
            }
    return 0;
}

int cublasGemmEx_64(void *handle, int op_a, int op_b, int64_t m, int64_t n, int64_t k, const void *alpha, const void *a,
                    int a_type, int64_t lda, const void *b, int b_type, int64_t ldb, const void *beta, void *c, int type,
                    int64_t ldc, int compute, int algorithm) {
    return cublasGemmStridedBatchedEx_64(handle, op_a, op_b, m, n, k, alpha, a, a_type, lda, 0, b, b_type, ldb, 0, beta,
                                         c, type, ldc, 0, 1, compute, algorithm);
}

#else

enum { INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201, NOT_FOUND = 500, NOT_SUPPORTED = 801 };
#define IN_CONTEXT if (!depth || !contexts[depth - 1]) return INVALID_CONTEXT

/* What tests read and set. */
typedef void launched(const char *name, const unsigned *grid, unsigned threads, unsigned shared, void **parameters);
static launched *callback;
static long allocated, retained;
static __thread void *contexts[64];
static __thread int depth;
void fake_callback(launched *function) { callback = function; }
long fake_allocated(void) { return allocated; }
long fake_retained(void) { return retained; }
int fake_depth(void) { return depth; }

/* ---- what is not here: a function for each name, so that it can say which */
static char names[1000][80];
static int count;
#define STUB(i) \
    static int stub##i(void) { return fprintf(stderr, "driver.c lacks %s\n", names[1##i - 1000]), NOT_SUPPORTED; }
#define ADDRESS(i) stub##i,
#define TENS(X, i) X(i##0) X(i##1) X(i##2) X(i##3) X(i##4) X(i##5) X(i##6) X(i##7) X(i##8) X(i##9)
#define HUNDREDS(X, i) \
    TENS(X, i##0) TENS(X, i##1) TENS(X, i##2) TENS(X, i##3) TENS(X, i##4) \
    TENS(X, i##5) TENS(X, i##6) TENS(X, i##7) TENS(X, i##8) TENS(X, i##9)
#define ALL(X) \
    HUNDREDS(X, 0) HUNDREDS(X, 1) HUNDREDS(X, 2) HUNDREDS(X, 3) HUNDREDS(X, 4) \
    HUNDREDS(X, 5) HUNDREDS(X, 6) HUNDREDS(X, 7) HUNDREDS(X, 8) HUNDREDS(X, 9)
ALL(STUB)
static void *stubs[] = {ALL(ADDRESS)};

int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    const char *endings[] = {"_v2", ""};
    char whole[100];
    Dl_info info;
    *function = NULL;
    for (int i = 0; i < 2 && !*function; i++) {
        snprintf(whole, sizeof whole, "%s%s", name, endings[i]);
        *function = dlsym(RTLD_DEFAULT, whole);
        if (*function && (!dladdr(*function, &info) || !strstr(info.dli_fname, "libcuda.so"))) *function = NULL;
    }
    if (!*function) {
        snprintf(names[count], sizeof names[count], "%s", name);
        *function = stubs[count++];
    }
    if (status) *status = 0;
    return 0;
}

/* ---- devices and contexts */
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { return *version = 13000, 0; }
int cuDeviceGetCount(int *n) { return *n = 2, 0; }
int cuDeviceGet(int *device, int index) { return *device = index, 0; }
int cuDeviceGetName(char *name, int n, int device) { return snprintf(name, n, "Fake GPU"), 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
    case 16: return *value = 132, 0;    /* multiprocessors */
    case 75: return *value = 9, 0;      /* compute capability */
    case 76: return *value = 0, 0;
    case 97: return *value = 232448, 0; /* shared memory of a block */
    default: return *value = 1, 0;
    }
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    return retained++, *context = (void *)(uintptr_t)(0x1000 + device), 0;
}
int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
int cuCtxGetCurrent(void **context) { return *context = depth ? contexts[depth - 1] : NULL, 0; }
int cuCtxPushCurrent_v2(void *context) { return contexts[depth++] = context, 0; }
int cuCtxPopCurrent_v2(void **context) { return depth ? (*context = contexts[--depth], 0) : INVALID_CONTEXT; }
int cuCtxSetCurrent(void *context) {
    if (depth) depth--;
    if (context) contexts[depth++] = context;
    return 0;
}
int cuCtxGetDevice(int *device) {
    IN_CONTEXT;
    return *device = (int)(uintptr_t)contexts[depth - 1] - 0x1000, 0;
}

/* ---- streams and memory */
int cuStreamSynchronize(void *stream) {
    IN_CONTEXT;
    return 0;
}
int cuStreamGetCtx(void *stream, void **context) { return cuCtxGetCurrent(context); }
int cuStreamGetCtx_v2(void *stream, void **context, void **green) {
    if (green) *green = NULL;
    return cuCtxGetCurrent(context);
}
int cuStreamIsCapturing(void *stream, int *status) { return *status = 0, 0; }
int cuStreamGetDevice(void *stream, int *device) { return cuCtxGetDevice(device); }
int cuDeviceGetMemPool(void **pool, int device) { return *pool = (void *)0x2000, 0; }
int cuDeviceGetDefaultMemPool(void **pool, int device) { return cuDeviceGetMemPool(pool, device); }
int cuMemPoolGetAttribute(void *pool, int attribute, void *value) { return *(uint64_t *)value = 0, 0; }
int cuMemPoolSetAttribute(void *pool, int attribute, void *value) { return 0; }
static struct {
    uintptr_t begin, end;
    int device;
} blocks[1000];
int cuMemAllocFromPoolAsync(uintptr_t *address, size_t n, void *pool, void *stream) {
    int device;
    if (cuCtxGetDevice(&device)) return INVALID_CONTEXT;
    if (n > 1u << 30) return OUT_OF_MEMORY;
    *address = (uintptr_t)aligned_alloc(256, (n + 255) / 256 * 256);
    for (int i = 0; i < 1000; i++) {
        uintptr_t nothing = 0;
        if (!__atomic_compare_exchange_n(&blocks[i].begin, &nothing, *address, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            continue;
        blocks[i].end = *address + n, blocks[i].device = device;
        break;
    }
    return memset((void *)*address, 0xA5, n), __atomic_add_fetch(&allocated, 1, __ATOMIC_SEQ_CST), 0;
}
int cuMemFreeAsync(uintptr_t address, void *stream) {
    for (int i = 0; i < 1000; i++)
        if (blocks[i].begin == address) blocks[i].end = blocks[i].begin = 0;
    return free((void *)address), __atomic_sub_fetch(&allocated, 1, __ATOMIC_SEQ_CST), 0;
}
int cuPointerGetAttribute(void *value, int attribute, uintptr_t address) {
    for (int i = 0; i < 1000; i++)
        if (blocks[i].begin <= address && address < blocks[i].end) {
            switch (attribute) {
            case 2: return *(int *)value = 2, 0;                 /* memory of a device */
            case 8: return *(char *)value = 0, 0;                /* not managed */
            case 9: return *(int *)value = blocks[i].device, 0;
            default: return NOT_SUPPORTED;
            }
        }
    return INVALID_VALUE;
}
int cuPointerGetAttributes(unsigned n, int *attributes, void **values, uintptr_t address) {
    for (unsigned i = 0; i < n; i++)
        if (cuPointerGetAttribute(values[i], attributes[i], address)) return NOT_SUPPORTED;
    return 0;
}
int cuCtxSynchronize(void) {
    IN_CONTEXT;
    return 0;
}
int cuMemGetInfo_v2(size_t *free, size_t *total) { return *free = 3u << 30, *total = (size_t)80 << 30, 0; }
int cuMemHostAlloc(void **p, size_t n, unsigned flags) { return *p = malloc(n), 0; }
static int copy(void *to, const void *from, size_t n) {
    IN_CONTEXT;
    return memmove(to, from, n), 0;
}
int cuMemcpyHtoDAsync_v2(uintptr_t to, const void *from, size_t n, void *s) { return copy((void *)to, from, n); }
int cuMemcpyDtoHAsync_v2(void *to, uintptr_t from, size_t n, void *s) { return copy(to, (void *)from, n); }
int cuMemcpyDtoDAsync_v2(uintptr_t to, uintptr_t from, size_t n, void *s) { return copy((void *)to, (void *)from, n); }
/* what Numba's own arrays need besides */
int cuDeviceGetUuid_v2(void *uuid, int device) { return memset(uuid, device + 1, 16), 0; }
int cuMemAlloc_v2(uintptr_t *address, size_t n) { return cuMemAllocFromPoolAsync(address, n, NULL, NULL); }
int cuMemFree_v2(uintptr_t address) { return cuMemFreeAsync(address, NULL); }
int cuMemcpyHtoD_v2(uintptr_t to, const void *from, size_t n) { return copy((void *)to, from, n); }
int cuMemcpyDtoH_v2(void *to, uintptr_t from, size_t n) { return copy(to, (void *)from, n); }
int cuMemsetD8Async(uintptr_t to, unsigned char byte, size_t n, void *stream) {
    IN_CONTEXT;
    return memset((void *)to, byte, n), 0;
}

/* ---- kernels, which are their names */
int cuLibraryLoadData(void **library, const void *code, void *a, void *b, unsigned c, void *d, void *e, unsigned f) {
    return *library = strdup(code), 0;
}
int cuLibraryUnload(void *library) { return 0; }
int cuLibraryGetKernel(void **kernel, void *library, const char *name) {
    return strstr(library, name) ? (*kernel = strdup(name), 0) : NOT_FOUND;
}
int cuKernelGetFunction(void **function, void *kernel) { return *function = kernel, 0; }
int cuKernelSetAttribute(int attribute, int value, void *kernel, int device) { return value > 232448; }
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void *function, int threads, size_t shared) {
    return *blocks = 1, 0;
}
int cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y,
                   unsigned threads_z, unsigned shared, void *stream, void **parameters, void **extra) {
    IN_CONTEXT;
    unsigned grid[] = {x, y, z};
    if (callback) callback(function, grid, threads, shared, parameters);
    return 0;
}
struct config {
    unsigned grid[3], block[3], shared;
    void *stream, *attributes;
    unsigned count;
};
int cuLaunchKernelEx(struct config *c, void *function, void **parameters, void **extra) {
    IN_CONTEXT;
    if (callback) callback(function, c->grid, c->block[0], c->shared, parameters);
    return 0;
}

int cuGetErrorString(int error, const char **text) { return *text = "an error of driver.c", 0; }
int cuGetErrorName(int error, const char **name) {
    return *name = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR", 0;
}

#endif

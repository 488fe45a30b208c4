/* A CUDA driver without a device: memory is the host's, a launch is a callback.

   Built by tests/test_cuda_host.py into libcuda.so.1.  Functions that are not here
   succeed and do nothing.  Every copy and launch on a stream is done at once. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef void (*launch_fn)(uint64_t kernel, const unsigned *grid, unsigned block,
                          uint64_t stream, void **params);
static launch_fn launch_callback;
static long live, copies, waits, syncs;
static uint64_t waited[2]; /* the last wait: which stream for which */
static int devices = 2, driver_version = 13000;
static __thread uint64_t current; /* context: device + 1 */

void stub_on_launch(launch_fn callback) { launch_callback = callback; }
void stub_set(int count, int version) { devices = count; driver_version = version; }
long stub_live(void) { return live; }
long stub_copies(void) { return copies; }
long stub_syncs(void) { return syncs; }
long stub_waits(uint64_t *last) {
    memcpy(last, waited, sizeof waited);
    return waits;
}

static int ok(void) { return 0; }

int cuInit(unsigned flags) { return devices ? 0 : 100; }
int cuDriverGetVersion(int *version) { *version = driver_version; return 0; }
int cuDeviceGetCount(int *count) { *count = devices; return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return 0; }
int cuDeviceGetName(char *name, int size, int device) {
    strncpy(name, "Stub", size);
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : 1;
    return 0;
}
int cuDevicePrimaryCtxRetain(uint64_t *context, int device) {
    *context = device + 1;
    return 0;
}
int cuCtxSetCurrent(uint64_t context) { current = context; return 0; }
int cuCtxGetCurrent(uint64_t *context) { *context = current; return 0; }
int cuCtxPushCurrent_v2(uint64_t context) { current = context; return 0; }
int cuCtxPopCurrent_v2(uint64_t *context) { *context = current; return 0; }
int cuCtxGetDevice(int *device) {
    if (!current) return 201;
    *device = (int)current - 1;
    return 0;
}
int cuCtxGetDevice_v2(int *device, uint64_t context) {
    *device = (int)(context ? context : current) - 1;
    return 0;
}
int cuStreamCreate(uint64_t *stream, unsigned flags) {
    static uint64_t next = 3000;
    *stream = ++next;
    return 0;
}
int cuStreamCreateWithPriority(uint64_t *stream, unsigned flags, int priority) {
    static uint64_t next = 1000;
    *stream = ++next;
    return 0;
}
int cuStreamGetCtx(uint64_t stream, uint64_t *context) { *context = current; return 0; }
int cuStreamGetCtx_v2(uint64_t stream, uint64_t *context, uint64_t *green) {
    *context = current;
    if (green) *green = 0;
    return 0;
}
int cuStreamGetDevice(uint64_t stream, int *device) {
    *device = (int)current - 1;
    return 0;
}
/* An event holds the stream that it was recorded on, and the time of that. */
struct event { uint64_t stream; double seconds; };
int cuEventCreate(struct event **event, unsigned flags) {
    *event = calloc(1, sizeof **event);
    return 0;
}
int cuEventDestroy_v2(struct event *event) { free(event); return 0; }
int cuEventRecord(struct event *event, uint64_t stream) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    event->stream = stream;
    event->seconds = now.tv_sec + 1e-9 * now.tv_nsec;
    return 0;
}
int cuEventElapsedTime_v2(float *milliseconds, struct event *from, struct event *to) {
    *milliseconds = 1e3 * (to->seconds - from->seconds);
    return 0;
}
int cuStreamSynchronize(uint64_t stream) { return syncs++, 0; }
int cuCtxSynchronize(void) { return syncs++, 0; }
int cuEventSynchronize(struct event *event) { return syncs++, 0; }
int cuStreamWaitEvent(uint64_t stream, struct event *event, unsigned flags) {
    waited[0] = stream;
    waited[1] = event->stream;
    waits++;
    return 0;
}
static int allocate(uint64_t *address, size_t size) {
    void *memory = NULL;
    if (posix_memalign(&memory, 256, size)) return 2;
    memset(memory, 0xff, size);
    live++;
    *address = (uint64_t)memory;
    return 0;
}
static int drop(uint64_t address) {
    free((void *)address);
    live--;
    return 0;
}
int cuMemAlloc_v2(uint64_t *address, size_t size) { return allocate(address, size); }
int cuMemFree_v2(uint64_t address) { return drop(address); }
int cuMemAllocHost_v2(void **address, size_t size) {
    *address = malloc(size);
    return 0;
}
int cuMemFreeHost(void *address) { free(address); return 0; }
int cuMemAllocAsync(uint64_t *address, size_t size, uint64_t stream) {
    return allocate(address, size);
}
int cuMemAllocFromPoolAsync(uint64_t *address, size_t size, uint64_t pool,
                            uint64_t stream) {
    return allocate(address, size);
}
int cuMemFreeAsync(uint64_t address, uint64_t stream) { return drop(address); }
static int pool_of(uint64_t *pool) { *pool = 77; return 0; }
int cuDeviceGetMemPool(uint64_t *pool, int device) { return pool_of(pool); }
int cuDeviceGetDefaultMemPool(uint64_t *pool, int device) { return pool_of(pool); }
int cuMemPoolCreate(uint64_t *pool, const void *options) { return pool_of(pool); }
int cuMemPoolGetAttribute(uint64_t pool, int attribute, void *value) {
    *(uint64_t *)value = 0;
    return 0;
}
static int copy(void *target, const void *source, size_t size) {
    copies++;
    memcpy(target, source, size);
    return 0;
}
int cuMemcpyHtoD_v2(uint64_t target, const void *source, size_t size) {
    return copy((void *)target, source, size);
}
int cuMemcpyHtoDAsync_v2(uint64_t target, const void *source, size_t size,
                         uint64_t stream) {
    return copy((void *)target, source, size);
}
int cuMemcpyDtoHAsync_v2(void *target, uint64_t source, size_t size, uint64_t stream) {
    return copy(target, (void *)source, size);
}
int cuMemcpyDtoH_v2(void *target, uint64_t source, size_t size) {
    return copy(target, (void *)source, size);
}
int cuMemGetInfo_v2(size_t *free, size_t *total) {
    *free = *total = (size_t)1 << 36;
    return 0;
}
int cuMemcpyDtoD_v2(uint64_t target, uint64_t source, size_t size) {
    return copy((void *)target, (void *)source, size);
}
int cuMemcpyDtoDAsync_v2(uint64_t target, uint64_t source, size_t size, uint64_t s) {
    return copy((void *)target, (void *)source, size);
}
int cuMemsetD8_v2(uint64_t address, unsigned char value, size_t size) {
    memset((void *)address, value, size);
    return 0;
}
int cuPointerGetAttribute(void *value, int attribute, uint64_t address) {
    if (attribute != 9) return 1; /* only the device's number is known */
    *(int *)value = current ? (int)current - 1 : 0;
    return 0;
}
/* A library is its data; a kernel is its name. */
int cuLibraryLoadData(uint64_t *library, const void *code, void *a, void *b, unsigned c,
                      void *d, void *e, unsigned f) {
    *library = 5;
    return 0;
}
int cuLibraryGetKernel(uint64_t *kernel, uint64_t library, const char *name) {
    *kernel = (uint64_t)strdup(name);
    return 0;
}
int cuKernelGetFunction(uint64_t *function, uint64_t kernel) {
    *function = kernel;
    return 0;
}
struct config {
    unsigned grid[3], block[3], shared;
    uint64_t stream;
    void *attributes;
    unsigned count;
};
int cuLaunchKernelEx(const struct config *config, uint64_t function, void **params,
                     void **extra) {
    launch_callback(function, config->grid, config->block[0], config->stream, params);
    return 0;
}
int cuLaunchKernel(uint64_t function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                   unsigned by, unsigned bz, unsigned shared, uint64_t stream,
                   void **params, void **extra) {
    unsigned grid[3] = {gx, gy, gz};
    launch_callback(function, grid, bx, stream, params);
    return 0;
}
int cuGetErrorName(int error, const char **text) { *text = "CUDA_ERROR_STUB"; return 0; }
int cuGetErrorString(int error, const char **text) { *text = "stub"; return 0; }

int cuGetProcAddress_v2(const char *symbol, void **function, int version,
                        uint64_t flags, int *status) {
    char newer[128];
    strcat(strncpy(newer, symbol, 100), "_v2");
    *function = dlsym(RTLD_DEFAULT, "no such symbol");
    void *self = dlopen("libcuda.so.1", RTLD_NOLOAD | RTLD_LAZY);
    void *found = dlsym(self, newer);
    if (!found || !strncmp(symbol, "cuCtxGetDevice", 14) || !strncmp(symbol, "cuStreamGetCtx", 14))
        found = version >= 13000 && found ? found : dlsym(self, symbol);
    if (!strcmp(symbol, "cuCtxGetDevice") && version < 13000)
        found = dlsym(self, "cuCtxGetDevice");
    *function = found ? found : (void *)ok;
    if (status) *status = 0;
    return 0;
}
int cuGetProcAddress(const char *symbol, void **function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(symbol, function, version, flags, NULL);
}

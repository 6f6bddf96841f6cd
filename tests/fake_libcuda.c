/* A libcuda.so.1 for tests: NVIDIA's own cuda-bindings load it and call it, so that names, types and numbers of arguments
   are judged by the real bindings. Memory is the host's, streams run at once, and nothing is computed. Every call is
   noted, with its scalars and pointers as numbers; `psamf_log` gives the notes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long u64;
static char notes[1 << 16];
static u64 handles = 4096;

static void note(const char *format, ...) {
    va_list rest;
    va_start(rest, format);
    size_t used = strlen(notes);
    vsnprintf(notes + used, sizeof notes - used, format, rest);
    va_end(rest);
}

const char *psamf_log(void) { return notes; }

int cuGetProcAddress_v2(const char *name, void **found, int version, u64 flags, int *status) {
    *found = dlsym(RTLD_DEFAULT, name);
    if (!*found) {
        void *self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
        *found = self ? dlsym(self, name) : 0;
    }
    if (status) *status = *found ? 0 : 1;
    return *found ? 0 : 500;
}
int cuGetProcAddress(const char *name, void **found, int version, u64 flags) {
    return cuGetProcAddress_v2(name, found, version, flags, 0);
}

int cuInit(unsigned flags) { note("init\n"); return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    /* 75, 76: compute capability; 16: multiprocessors; 18: integrated; 19: can map host memory */
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : attribute == 16 ? 14 : attribute == 18 || attribute == 19;
    note("attribute %d\n", attribute);
    return 0;
}
int cuDeviceGetName(char *name, int length, int device) { snprintf(name, length, "Orin"); return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)0x77; note("retain\n"); return 0; }
int cuDevicePrimaryCtxRelease(int device) { note("release\n"); return 0; }
int cuCtxPushCurrent(void *context) { note("push %llx\n", (u64)context); return 0; }
int cuCtxPopCurrent(void **context) { *context = (void *)0x77; note("pop\n"); return 0; }

int cuMemAlloc(u64 *address, size_t size) {
    note("alloc %zu\n", size);
    if (size == 0 || size > 1 << 20) return size ? 2 : 1; /* out of memory, invalid value */
    *address = (u64)malloc(size);
    return 0;
}
int cuMemFree(u64 address) { free((void *)address); note("free\n"); return 0; }
int cuMemHostAlloc(void **host, size_t size, unsigned flags) { *host = malloc(size); note("host %zu %u\n", size, flags); return 0; }
int cuMemHostGetDevicePointer(u64 *address, void *host, unsigned flags) { *address = (u64)host; return 0; }
int cuMemFreeHost(void *host) { free(host); note("free host\n"); return 0; }
int cuMemcpyHtoD(u64 to, const void *from, size_t size) { memcpy((void *)to, from, size); note("upload %zu\n", size); return 0; }
int cuMemcpyHtoDAsync(u64 to, const void *from, size_t size, void *stream) { memcpy((void *)to, from, size); note("in %zu %llu\n", size, (u64)stream); return 0; }
int cuMemcpyDtoHAsync(void *to, u64 from, size_t size, void *stream) { memcpy(to, (void *)from, size); note("out %zu %llu\n", size, (u64)stream); return 0; }

static int make(void **handle, const char *what, unsigned flags) { *handle = (void *)++handles; note("%s %u -> %llu\n", what, flags, handles); return 0; }
int cuStreamCreate(void **stream, unsigned flags) { return make(stream, "stream", flags); }
int cuStreamDestroy(void *stream) { note("destroy stream %llu\n", (u64)stream); return 0; }
int cuStreamSynchronize(void *stream) { note("synchronise %llu\n", (u64)stream); return 0; }
int cuEventCreate(void **event, unsigned flags) { return make(event, "event", flags); }
int cuEventDestroy(void *event) { note("destroy event %llu\n", (u64)event); return 0; }
int cuEventRecord(void *event, void *stream) { note("record %llu %llu\n", (u64)event, (u64)stream); return 0; }
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) { note("wait %llu %llu %u\n", (u64)stream, (u64)event, flags); return 0; }

int cuModuleLoadData(void **module, const void *image) { note("load %s\n", (const char *)image); return make(module, "module", 0); }
int cuModuleUnload(void *module) { note("unload %llu\n", (u64)module); return 0; }
int cuModuleGetFunction(void **function, void *module, const char *name) { note("function %s\n", name); return make(function, "entry", 0); }
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **arguments, void **extra) {
    /* the arguments of psamf_cross_modal_attention_*, of which the first pointer and two of the scalars are noted */
    note("launch %llu %u,%u,%u %u,%u,%u %u %llu: %llx %d %d %llx %d\n", (u64)function, gx, gy, gz, bx, by, bz, shared,
         (u64)stream, *(u64 *)arguments[0], *(int *)arguments[5], *(int *)arguments[8], *(u64 *)arguments[9], extra != 0);
    return 0;
}

int cuStreamBeginCapture(void *stream, int mode) { note("capture %llu %d\n", (u64)stream, mode); return 0; }
int cuStreamEndCapture(void *stream, void **graph) { note("end %llu\n", (u64)stream); return make(graph, "graph", 0); }
int cuGraphInstantiateWithFlags(void **exec, void *graph, u64 flags) { note("instantiate %llu\n", (u64)graph); return make(exec, "exec", (unsigned)flags); }
int cuGraphInstantiate(void **exec, void *graph, u64 flags) { return cuGraphInstantiateWithFlags(exec, graph, flags); }
int cuGraphDestroy(void *graph) { note("destroy graph %llu\n", (u64)graph); return 0; }
int cuGraphLaunch(void *exec, void *stream) { note("launch graph %llu %llu\n", (u64)exec, (u64)stream); return 0; }
int cuGraphExecDestroy(void *exec) { note("destroy exec %llu\n", (u64)exec); return 0; }

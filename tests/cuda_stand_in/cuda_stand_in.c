/* A CUDA driver in host memory: libcuda.so.1 for tests on machines without a GPU.
 *
 * PyCUDA runs on it unchanged. One device, whose memory is host memory, and two kernels: one that tests launch
 * (stand_in_launch_mean), and `scale`, which every module holds, whatever its text says. A stream can be captured into a graph, and the graph be launched. It is strict where a
 * program's mistakes would show on a GPU only now and then:
 *
 * - every call that needs a context fails on a thread that has none;
 * - work in a stream waits until somebody synchronises, so that a result read too early is visibly wrong;
 * - fresh memory is full of 0xCD, freed memory is unmapped;
 * - what must not happen while a stream is captured fails, and spoils the capture;
 * - what a program never freed is counted when its context goes.
 *
 * Every call is logged, any call can be made to fail: the functions named stand_in_* at the end. */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define DRIVER_VERSION 13000
#define TOTAL_MEMORY ((size_t)8 << 30)
#define UNINITIALISED 0xCD
#define STACK_DEPTH 1024
#define MAX_FAULTS 32
#define NON_BLOCKING 1 /* CU_STREAM_NON_BLOCKING */
#define NO_TIMING 2    /* CU_EVENT_DISABLE_TIMING */

typedef uint64_t Pointer; /* CUdeviceptr */
typedef int Device;       /* CUdevice */

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    ILLEGAL_STATE = 401,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    CONTEXT_IS_DESTROYED = 709,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_IMPLICIT = 906,
    CAPTURE_WRONG_THREAD = 908,
};
enum { CAPTURE_GLOBAL, CAPTURE_THREAD_LOCAL, CAPTURE_RELAXED }; /* CUstreamCaptureMode */

/* --- state: contexts, objects, the work that streams hold back -------------------------------------------------- */

typedef struct {
    int alive;
    int references; /* how often the primary context was retained */
    int broken;     /* a sticky error: what every use of this context returns */
} Context;

typedef enum { DEVICE_MEMORY, PINNED_MEMORY, STREAM, EVENT, CONTEXT, GRAPH, EXECUTABLE_GRAPH, KINDS } Kind;
static const char *const kind_names[KINDS] = {
    "device_memory", "pinned_memory", "stream", "event", "context", "graph", "executable_graph"};

typedef struct Work Work;

typedef struct Object {
    struct Object *next;
    Kind kind;
    void *handle; /* the memory, or the object itself */
    size_t size;
    unsigned flags;
    Context *context;
    Work *work;             /* a stream's or a graph's, first to last */
    struct Object *capture; /* of a stream: the graph that takes its work instead */
    int mode, spoilt;       /* of its capture: who must not disturb it, and that somebody did */
    pthread_t thread;       /* of its capture: who began it */
    struct Object *stream;  /* of an event: where it was recorded last */
    int recorded, finished; /* of an event */
    struct timespec time;   /* of an event: when the work before it was done */
} Object;

struct Work {
    Work *next;
    enum { COPY, FILL, RECORD, WAIT, MEAN, SCALE } action;
    void *target, *source;
    size_t size; /* bytes to copy, elements to fill or to scale, bytes of an image */
    unsigned value, width;
    size_t images;
    float factor;
    Object *event;
};

typedef struct {
    const char *call;
    int skip, code, sticky;
} Fault;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* held during every call */
static int initialised;
static Context primary;
static Object *objects;
static Object default_stream = {.kind = STREAM, .handle = &default_stream};
static long abandoned[KINDS];
static Fault faults[MAX_FAULTS];
static const char **calls;
static long call_count, call_capacity;
static _Thread_local Context *stack[STACK_DEPTH];
static _Thread_local int depth;

static Context *current(void) { return depth ? stack[depth - 1] : NULL; }

/* "cuMemAlloc" for cuMemAlloc_v2: tests need not know which revision of a call PyCUDA was compiled against. */
static int same_call(const char *wanted, const char *call) {
    size_t length = strcspn(call, "_");
    return strlen(wanted) == length && strncmp(wanted, call, length) == 0;
}

static void log_call(const char *call) {
    if (call_count == call_capacity) {
        call_capacity = call_capacity ? 2 * call_capacity : 1024;
        calls = realloc(calls, (size_t)call_capacity * sizeof *calls);
    }
    calls[call_count++] = call;
}

static int injected_fault(const char *call) {
    for (Fault *fault = faults; fault < faults + MAX_FAULTS; fault++) {
        if (!fault->call || !same_call(fault->call, call) || fault->skip-- > 0) continue;
        if (fault->sticky && current()) current()->broken = fault->code;
        fault->call = NULL; /* a fault fires once; a sticky one lives on in the context */
        return fault->code;
    }
    return SUCCESS;
}

/* What a call needs before it may start. Pushing, popping and releasing a context work on a broken one too. */
typedef enum { ANYTHING, DRIVER, LIVE_CONTEXT } Need;

static int enter(const char *call, Need need) {
    pthread_mutex_lock(&lock);
    log_call(call);
    int fault = injected_fault(call);
    if (fault) return fault;
    if (need >= DRIVER && !initialised) return NOT_INITIALIZED;
    if (need < LIVE_CONTEXT) return SUCCESS;
    if (!current()) return INVALID_CONTEXT;
    return current()->alive ? current()->broken : CONTEXT_IS_DESTROYED;
}

static void leave(const int *unused) {
    (void)unused;
    pthread_mutex_unlock(&lock);
}

#define EXPORT __attribute__((visibility("default")))
/* Opens every call: takes the lock until the function returns, and returns early where the call is refused. */
#define ENTER(need)                                                          \
    __attribute__((cleanup(leave))) int refused = enter(__func__, need); \
    if (refused) return refused

/* --- objects ---------------------------------------------------------------------------------------------------- */

static Object *add(Kind kind, void *handle, size_t size, unsigned flags) {
    Object *object = calloc(1, sizeof *object);
    object->kind = kind;
    object->handle = handle ? handle : object;
    object->size = size;
    object->flags = flags;
    object->context = current();
    object->next = objects;
    objects = object;
    return object;
}

static Object *find(Kind kind, const void *handle) {
    for (Object *object = objects; object; object = object->next)
        if (object->kind == kind && object->handle == handle) return object;
    return NULL;
}

static Object *find_stream(void *handle) { return handle ? find(STREAM, handle) : &default_stream; }

/* Whether [start, start + size) lies inside one allocation of this kind. */
static int inside(Kind kind, const void *start, size_t size) {
    for (Object *object = objects; object; object = object->next) {
        size_t offset = (size_t)((const char *)start - (char *)object->handle);
        if (object->kind == kind && (const char *)start >= (char *)object->handle && offset + size <= object->size)
            return 1;
    }
    return 0;
}

static void drop_work(Object *owner) {
    while (owner->work) {
        Work *next = owner->work->next;
        free(owner->work);
        owner->work = next;
    }
}

static void append(Object *owner, Work work) {
    Work **end = &owner->work;
    while (*end) end = &(*end)->next;
    work.next = NULL;
    *end = malloc(sizeof work);
    **end = work;
}

static void remove_object(Object *object) {
    Object **link = &objects;
    while (*link != object) link = &(*link)->next;
    *link = object->next;
    if (object->kind <= PINNED_MEMORY) munmap(object->handle, object->size);
    for (Object *other = objects; other; other = other->next) {
        if (other->stream == object) other->stream = NULL;
        if (other->capture == object) other->capture = NULL;
    }
    drop_work(object);
    free(object);
}

static size_t bytes_in_use(void) {
    size_t sum = 0;
    for (Object *object = objects; object; object = object->next)
        if (object->kind == DEVICE_MEMORY) sum += object->size;
    return sum;
}

/* Spoils the capture of a stream, or with NULL every one that the calling thread must not disturb; how many. */
static int spoil_captures(Object *stream) {
    int spoilt = 0;
    for (Object *object = objects; object; object = object->next) {
        if (object->kind != STREAM || !object->capture || (stream && stream != object)) continue;
        int mine = pthread_equal(object->thread, pthread_self());
        if (!stream && object->mode != CAPTURE_GLOBAL && !(mine && object->mode == CAPTURE_THREAD_LOCAL)) continue;
        object->spoilt = 1;
        spoilt++;
    }
    return spoilt;
}

static int allocate(Kind kind, size_t size, unsigned flags, void **handle) {
    if (!handle || size == 0) return INVALID_VALUE;
    if (spoil_captures(NULL)) return CAPTURE_UNSUPPORTED;
    if (size > TOTAL_MEMORY - bytes_in_use()) return OUT_OF_MEMORY;
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return OUT_OF_MEMORY;
    memset(memory, UNINITIALISED, size);
    add(kind, memory, size, flags);
    *handle = memory;
    return SUCCESS;
}

/* --- streams: work is done when somebody waits for it ----------------------------------------------------------- */

static void run(Object *stream, const Object *until);

static void fill(char *target, unsigned value, unsigned width, size_t count) {
    for (size_t i = 0; i < count; i++) memcpy(target + i * width, &value, width); /* little-endian */
}

/* A test's kernel: target[i] = factor * the mean of the i-th image. */
static void mean(float *target, const unsigned char *source, size_t images, size_t bytes, float factor) {
    for (size_t i = 0; i < images; i++) {
        uint64_t sum = 0;
        for (size_t j = 0; j < bytes; j++) sum += source[i * bytes + j];
        target[i] = factor * (float)((double)sum / (double)bytes);
    }
}

static void scale(float *target, float factor, size_t count) {
    for (size_t i = 0; i < count; i++) target[i] *= factor;
}

static void perform(const Work *work) {
    if (work->action == SCALE) scale(work->target, work->factor, work->size);
    if (work->action == MEAN) mean(work->target, work->source, work->images, work->size, work->factor);
    if (work->action == COPY) memmove(work->target, work->source, work->size);
    if (work->action == FILL) fill(work->target, work->value, work->width, work->size);
    if (work->action == RECORD) {
        clock_gettime(CLOCK_MONOTONIC, &work->event->time);
        work->event->finished = 1;
    }
    if (work->action == WAIT && work->event->stream) run(work->event->stream, work->event);
}

/* Does the stream's work in order; with `until`, only up to that event. */
static void run(Object *stream, const Object *until) {
    while (stream->work && !(until && until->finished)) {
        Work *work = stream->work;
        stream->work = work->next;
        perform(work);
        free(work);
    }
}

static void run_everything(void) {
    run(&default_stream, NULL);
    for (Object *object = objects; object; object = object->next)
        if (object->kind == STREAM) run(object, NULL);
}

/* The default stream waits for every blocking stream and they for it. */
static int run_what_the_default_stream_waits_for(void) {
    int spoilt = 0;
    for (Object *object = objects; object; object = object->next)
        if (object->kind == STREAM && !(object->flags & NON_BLOCKING)) {
            spoilt += object->capture && spoil_captures(object);
            run(object, NULL);
        }
    return spoilt ? CAPTURE_IMPLICIT : SUCCESS;
}

static int submit(void *handle, Work work) {
    Object *stream = find_stream(handle);
    if (!stream) return INVALID_HANDLE;
    if (stream->capture) {
        append(stream->capture, work);
        return stream->spoilt ? CAPTURE_INVALIDATED : SUCCESS;
    }
    if (stream == &default_stream) {
        int code = run_what_the_default_stream_waits_for();
        if (code) return code;
    } else if (!(stream->flags & NON_BLOCKING)) {
        run(&default_stream, NULL);
    }
    append(stream, work);
    return SUCCESS;
}

/* Waiting is no work: what is captured cannot be waited for. */
static int wait_for(Object *stream) {
    if (!stream) return INVALID_HANDLE;
    if (stream->capture && spoil_captures(stream)) return CAPTURE_UNSUPPORTED;
    run(stream, NULL);
    return SUCCESS;
}

/* --- the driver and its device ---------------------------------------------------------------------------------- */

EXPORT int cuInit(unsigned flags) {
    ENTER(ANYTHING);
    if (flags) return INVALID_VALUE;
    initialised = 1;
    return SUCCESS;
}

EXPORT int cuDriverGetVersion(int *version) {
    ENTER(ANYTHING);
    *version = DRIVER_VERSION;
    return SUCCESS;
}

static const struct {
    int code;
    const char *name, *text;
} errors[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {ILLEGAL_STATE, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {702, "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated"},
    {CONTEXT_IS_DESTROYED, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {CAPTURE_IMPLICIT, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {CAPTURE_WRONG_THREAD, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD",
     "attempt to terminate a thread-local capture sequence from another thread"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

static int describe(int code, int want_name, const char **text) {
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == code) {
            *text = want_name ? errors[i].name : errors[i].text;
            return SUCCESS;
        }
    *text = "unrecognized error code"; /* the driver answers NULL, on which PyCUDA crashes */
    return INVALID_VALUE;
}

EXPORT int cuGetErrorName(int code, const char **name) { return describe(code, 1, name); }
EXPORT int cuGetErrorString(int code, const char **text) { return describe(code, 0, text); }

EXPORT int cuDeviceGetCount(int *count) {
    ENTER(DRIVER);
    *count = 1;
    return SUCCESS;
}

EXPORT int cuDeviceGet(Device *device, int ordinal) {
    ENTER(DRIVER);
    if (ordinal != 0) return INVALID_DEVICE;
    *device = 0;
    return SUCCESS;
}

EXPORT int cuDeviceGetName(char *name, int length, Device device) {
    ENTER(DRIVER);
    if (device != 0) return INVALID_DEVICE;
    snprintf(name, (size_t)length, "CUDA stand-in (host memory)");
    return SUCCESS;
}

EXPORT int cuDeviceTotalMem_v2(size_t *bytes, Device device) {
    ENTER(DRIVER);
    if (device != 0) return INVALID_DEVICE;
    *bytes = TOTAL_MEMORY;
    return SUCCESS;
}

EXPORT int cuDeviceComputeCapability(int *major, int *minor, Device device) {
    ENTER(DRIVER);
    if (device != 0) return INVALID_DEVICE;
    *major = 8;
    *minor = 7;
    return SUCCESS;
}

/* A Jetson Orin's answers; every attribute that is not here is 0. */
static int attribute_value(int attribute) {
    switch (attribute) {
        case 1: return 1024;    /* MAX_THREADS_PER_BLOCK */
        case 10: return 32;     /* WARP_SIZE */
        case 13: return 918000; /* CLOCK_RATE, kHz */
        case 16: return 8;      /* MULTIPROCESSOR_COUNT */
        case 18:                /* INTEGRATED */
        case 19:                /* CAN_MAP_HOST_MEMORY */
        case 31:                /* CONCURRENT_KERNELS */
        case 40:                /* ASYNC_ENGINE_COUNT */
        case 41: return 1;      /* UNIFIED_ADDRESSING */
        case 75: return 8;      /* COMPUTE_CAPABILITY_MAJOR */
        case 76: return 7;      /* COMPUTE_CAPABILITY_MINOR */
        default: return 0;
    }
}

EXPORT int cuDeviceGetAttribute(int *value, int attribute, Device device) {
    ENTER(DRIVER);
    if (device != 0) return INVALID_DEVICE;
    *value = attribute_value(attribute);
    return SUCCESS;
}

/* --- contexts: a stack for each thread -------------------------------------------------------------------------- */

/* Everything a context owns goes with it; what the program should have freed before is counted. */
static void destroy(Context *context) {
    Object *next;
    for (Object *object = objects; object; object = next) {
        next = object->next;
        if (object->context != context || object->kind == CONTEXT) continue;
        abandoned[object->kind]++;
        remove_object(object);
    }
    drop_work(&default_stream);
    *context = (Context){0}; /* never freed: threads may still hold it on their stacks */
}

static int push(Context *context) {
    if (depth == STACK_DEPTH) return INVALID_VALUE;
    stack[depth++] = context;
    return SUCCESS;
}

EXPORT int cuDevicePrimaryCtxRetain(void **context, Device device) {
    ENTER(DRIVER);
    if (device != 0) return INVALID_DEVICE;
    primary.alive = 1;
    primary.references++;
    *context = &primary; /* retained, not pushed */
    return SUCCESS;
}

/* "unlike cuCtxDestroy() this method does not pop the context from stack in any circumstances" */
EXPORT int cuDevicePrimaryCtxRelease_v2(Device device) {
    ENTER(DRIVER);
    if (device != 0) return INVALID_DEVICE;
    if (primary.references == 0) return INVALID_CONTEXT;
    if (--primary.references == 0) destroy(&primary);
    return SUCCESS;
}

EXPORT int cuDevicePrimaryCtxRelease(Device device) { return cuDevicePrimaryCtxRelease_v2(device); }

EXPORT int cuDevicePrimaryCtxReset_v2(Device device) {
    ENTER(DRIVER);
    if (device != 0) return INVALID_DEVICE;
    int references = primary.references;
    destroy(&primary);
    primary.references = references;
    primary.alive = references > 0;
    return SUCCESS;
}

static int create_context(void **handle, Device device) {
    if (device != 0) return INVALID_DEVICE;
    Context *context = calloc(1, sizeof *context);
    context->alive = 1;
    add(CONTEXT, context, 0, 0);
    *handle = context;
    return push(context); /* created and pushed */
}

EXPORT int cuCtxCreate_v2(void **context, unsigned flags, Device device) {
    ENTER(DRIVER);
    (void)flags;
    return create_context(context, device);
}

EXPORT int cuCtxCreate_v4(void **context, void *parameters, unsigned flags, Device device) {
    ENTER(DRIVER);
    (void)parameters, (void)flags;
    return create_context(context, device);
}

static int destroy_created(void *handle) {
    Object *object = find(CONTEXT, handle);
    if (!object) return INVALID_CONTEXT; /* also the primary context, which is released instead */
    destroy(handle);
    remove_object(object);
    if (current() == handle) depth--; /* on other threads it stays, and answers "context is destroyed" */
    return SUCCESS;
}

EXPORT int cuCtxDestroy_v2(void *context) {
    ENTER(DRIVER);
    return destroy_created(context);
}

EXPORT int cuCtxDetach(void *context) {
    ENTER(DRIVER);
    return destroy_created(context);
}

EXPORT int cuCtxPushCurrent_v2(Context *context) {
    ENTER(DRIVER);
    if (!context) return INVALID_CONTEXT;
    if (!context->alive) return CONTEXT_IS_DESTROYED;
    return push(context);
}

EXPORT int cuCtxPopCurrent_v2(void **context) {
    ENTER(DRIVER);
    if (depth == 0) return INVALID_CONTEXT;
    depth--;
    if (context) *context = stack[depth];
    return SUCCESS;
}

EXPORT int cuCtxGetCurrent(void **context) {
    ENTER(DRIVER);
    *context = current();
    return SUCCESS;
}

EXPORT int cuCtxSetCurrent(Context *context) {
    ENTER(DRIVER);
    if (depth) depth--; /* replaces the top of the stack; NULL only removes it */
    return context ? push(context) : SUCCESS;
}

EXPORT int cuCtxGetDevice(Device *device) {
    ENTER(LIVE_CONTEXT);
    *device = 0;
    return SUCCESS;
}

EXPORT int cuCtxSynchronize(void) {
    ENTER(LIVE_CONTEXT);
    if (spoil_captures(NULL)) return CAPTURE_UNSUPPORTED;
    run_everything();
    return SUCCESS;
}

/* --- memory ----------------------------------------------------------------------------------------------------- */

EXPORT int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    ENTER(LIVE_CONTEXT);
    *total = TOTAL_MEMORY;
    *free_bytes = TOTAL_MEMORY - bytes_in_use();
    return SUCCESS;
}

EXPORT int cuMemAlloc_v2(Pointer *pointer, size_t size) {
    ENTER(LIVE_CONTEXT);
    return allocate(DEVICE_MEMORY, size, 0, (void **)pointer);
}

/* Freeing waits for the work that may still use the memory. */
static int free_memory(Kind kind, void *handle) {
    Object *object = find(kind, handle);
    if (!object) return INVALID_VALUE; /* never allocated, or freed already */
    if (spoil_captures(NULL)) return CAPTURE_UNSUPPORTED;
    run_everything();
    remove_object(object);
    return SUCCESS;
}

EXPORT int cuMemFree_v2(Pointer pointer) {
    ENTER(LIVE_CONTEXT);
    return free_memory(DEVICE_MEMORY, (void *)pointer);
}

EXPORT int cuMemHostAlloc(void **pointer, size_t size, unsigned flags) {
    ENTER(LIVE_CONTEXT);
    return allocate(PINNED_MEMORY, size, flags, pointer);
}

EXPORT int cuMemAllocHost_v2(void **pointer, size_t size) {
    ENTER(LIVE_CONTEXT);
    return allocate(PINNED_MEMORY, size, 0, pointer);
}

EXPORT int cuMemFreeHost(void *pointer) {
    ENTER(LIVE_CONTEXT);
    return free_memory(PINNED_MEMORY, pointer);
}

EXPORT int cuMemHostGetFlags(unsigned *flags, void *pointer) {
    ENTER(LIVE_CONTEXT);
    Object *object = find(PINNED_MEMORY, pointer);
    if (!object) return INVALID_VALUE;
    *flags = object->flags;
    return SUCCESS;
}

/* With unified addressing, pinned memory has one address on both sides. */
EXPORT int cuMemHostGetDevicePointer_v2(Pointer *device_pointer, void *pointer, unsigned flags) {
    ENTER(LIVE_CONTEXT);
    if (flags || !find(PINNED_MEMORY, pointer)) return INVALID_VALUE;
    *device_pointer = (Pointer)pointer;
    return SUCCESS;
}

/* --- copies and fills ------------------------------------------------------------------------------------------- */

/* The device reaches its own memory and pinned memory. */
static int on_device(Pointer pointer, size_t size) {
    return inside(DEVICE_MEMORY, (void *)pointer, size) || inside(PINNED_MEMORY, (void *)pointer, size);
}

static int copy_now(void *target, const void *source, size_t size) {
    run(&default_stream, NULL);
    int code = run_what_the_default_stream_waits_for();
    if (!code) memmove(target, source, size);
    return code;
}

static int copy_later(void *target, const void *source, size_t size, void *stream) {
    return submit(stream, (Work){.action = COPY, .target = target, .source = (void *)source, .size = size});
}

/* Pageable memory cannot be copied in the background: the stream's work and the copy are done before the return. */
static int copy_pageable(void *target, const void *source, size_t size, void *stream) {
    int code = copy_later(target, source, size, stream);
    if (!code) run(find_stream(stream), NULL);
    return code;
}

EXPORT int cuMemcpyHtoD_v2(Pointer target, const void *source, size_t size) {
    ENTER(LIVE_CONTEXT);
    return on_device(target, size) ? copy_now((void *)target, source, size) : INVALID_VALUE;
}

EXPORT int cuMemcpyDtoH_v2(void *target, Pointer source, size_t size) {
    ENTER(LIVE_CONTEXT);
    return on_device(source, size) ? copy_now(target, (void *)source, size) : INVALID_VALUE;
}

EXPORT int cuMemcpyDtoD_v2(Pointer target, Pointer source, size_t size) {
    ENTER(LIVE_CONTEXT);
    if (!on_device(target, size) || !on_device(source, size)) return INVALID_VALUE;
    return copy_now((void *)target, (void *)source, size);
}

EXPORT int cuMemcpyHtoDAsync_v2(Pointer target, const void *source, size_t size, void *stream) {
    ENTER(LIVE_CONTEXT);
    if (!on_device(target, size)) return INVALID_VALUE;
    return (inside(PINNED_MEMORY, source, size) ? copy_later : copy_pageable)((void *)target, source, size, stream);
}

EXPORT int cuMemcpyDtoHAsync_v2(void *target, Pointer source, size_t size, void *stream) {
    ENTER(LIVE_CONTEXT);
    if (!on_device(source, size)) return INVALID_VALUE;
    return (inside(PINNED_MEMORY, target, size) ? copy_later : copy_pageable)(target, (void *)source, size, stream);
}

EXPORT int cuMemcpyDtoDAsync_v2(Pointer target, Pointer source, size_t size, void *stream) {
    ENTER(LIVE_CONTEXT);
    if (!on_device(target, size) || !on_device(source, size)) return INVALID_VALUE;
    return copy_later((void *)target, (void *)source, size, stream);
}

static int fill_later(Pointer target, unsigned value, unsigned width, size_t count, void *stream) {
    if (!on_device(target, count * width)) return INVALID_VALUE;
    Work work = {.action = FILL, .target = (void *)target, .value = value, .width = width, .size = count};
    return submit(stream, work);
}

#define FILL_CALLS(bits, type)                                                                     \
    EXPORT int cuMemsetD##bits##_v2(Pointer target, type value, size_t count) {                    \
        ENTER(LIVE_CONTEXT);                                                                       \
        return fill_later(target, value, bits / 8, count, NULL);                                   \
    }                                                                                              \
    EXPORT int cuMemsetD##bits##Async(Pointer target, type value, size_t count, void *stream) {    \
        ENTER(LIVE_CONTEXT);                                                                       \
        return fill_later(target, value, bits / 8, count, stream);                                 \
    }

FILL_CALLS(8, unsigned char)
FILL_CALLS(16, unsigned short)
FILL_CALLS(32, unsigned)

/* --- streams ---------------------------------------------------------------------------------------------------- */

EXPORT int cuStreamCreate(void **stream, unsigned flags) {
    ENTER(LIVE_CONTEXT);
    *stream = add(STREAM, NULL, 0, flags)->handle;
    return SUCCESS;
}

/* The work that the stream still holds is done, as on a device. */
EXPORT int cuStreamDestroy_v2(void *handle) {
    ENTER(LIVE_CONTEXT);
    Object *stream = find(STREAM, handle);
    if (!stream) return INVALID_HANDLE;
    run(stream, NULL);
    if (stream->capture) remove_object(stream->capture);
    remove_object(stream);
    return SUCCESS;
}

EXPORT int cuStreamSynchronize(void *handle) {
    ENTER(LIVE_CONTEXT);
    return wait_for(find_stream(handle));
}

/* Says "not ready" once where work was pending, so that a polling loop both waits and ends. */
EXPORT int cuStreamQuery(void *handle) {
    ENTER(LIVE_CONTEXT);
    Object *stream = find_stream(handle);
    if (!stream) return INVALID_HANDLE;
    int pending = stream->work != NULL, code = wait_for(stream);
    return !code && pending ? NOT_READY : code;
}

EXPORT int cuStreamWaitEvent(void *stream, void *handle, unsigned flags) {
    ENTER(LIVE_CONTEXT);
    Object *event = find(EVENT, handle);
    if (flags) return INVALID_VALUE;
    if (!event) return INVALID_HANDLE;
    if (!event->recorded) return SUCCESS;
    return submit(stream, (Work){.action = WAIT, .event = event});
}

/* --- events ----------------------------------------------------------------------------------------------------- */

EXPORT int cuEventCreate(void **event, unsigned flags) {
    ENTER(LIVE_CONTEXT);
    *event = add(EVENT, NULL, 0, flags)->handle;
    return SUCCESS;
}

EXPORT int cuEventDestroy_v2(void *handle) {
    ENTER(LIVE_CONTEXT);
    Object *event = find(EVENT, handle);
    if (!event) return INVALID_HANDLE;
    run_everything(); /* pending work may name the event */
    remove_object(event);
    return SUCCESS;
}

EXPORT int cuEventRecord(void *handle, void *stream) {
    ENTER(LIVE_CONTEXT);
    Object *event = find(EVENT, handle);
    if (!event) return INVALID_HANDLE;
    if (find_stream(stream) && spoil_captures(find_stream(stream))) return CAPTURE_UNSUPPORTED; /* not here */
    int code = submit(stream, (Work){.action = RECORD, .event = event});
    if (code) return code;
    event->recorded = 1;
    event->finished = 0;
    event->stream = find_stream(stream);
    return SUCCESS;
}

/* An event that was never recorded is finished. */
EXPORT int cuEventSynchronize(void *handle) {
    ENTER(LIVE_CONTEXT);
    Object *event = find(EVENT, handle);
    if (!event) return INVALID_HANDLE;
    if (event->stream) run(event->stream, event);
    return SUCCESS;
}

EXPORT int cuEventQuery(void *handle) {
    ENTER(LIVE_CONTEXT);
    Object *event = find(EVENT, handle);
    if (!event) return INVALID_HANDLE;
    int pending = event->recorded && !event->finished;
    if (pending && event->stream) run(event->stream, event);
    return pending ? NOT_READY : SUCCESS;
}

static int elapsed(float *milliseconds, void *start_handle, void *end_handle) {
    Object *start = find(EVENT, start_handle), *end = find(EVENT, end_handle);
    if (!start || !end || !start->recorded || !end->recorded) return INVALID_HANDLE;
    if ((start->flags | end->flags) & NO_TIMING) return INVALID_HANDLE;
    if (!start->finished || !end->finished) return NOT_READY;
    double seconds = (double)(end->time.tv_sec - start->time.tv_sec);
    *milliseconds = (float)(1e3 * seconds + 1e-6 * (double)(end->time.tv_nsec - start->time.tv_nsec));
    return SUCCESS;
}

EXPORT int cuEventElapsedTime(float *milliseconds, void *start, void *end) {
    ENTER(LIVE_CONTEXT);
    return elapsed(milliseconds, start, end);
}

EXPORT int cuEventElapsedTime_v2(float *milliseconds, void *start, void *end) {
    ENTER(LIVE_CONTEXT);
    return elapsed(milliseconds, start, end);
}

/* --- graphs: a stream's work, recorded instead of done ---------------------------------------------------------- */

EXPORT int cuStreamBeginCapture_v2(void *handle, int mode) {
    ENTER(LIVE_CONTEXT);
    Object *stream = find_stream(handle);
    if (!stream) return INVALID_HANDLE;
    if (stream == &default_stream) return CAPTURE_UNSUPPORTED;
    if (stream->capture) return ILLEGAL_STATE;
    stream->capture = add(GRAPH, NULL, 0, 0);
    stream->mode = mode;
    stream->spoilt = 0;
    stream->thread = pthread_self();
    return SUCCESS;
}

/* However it ends, the capture is over; only from a wrong thread it is not. */
EXPORT int cuStreamEndCapture(void *handle, void **graph) {
    __attribute__((cleanup(leave))) int code = enter(__func__, LIVE_CONTEXT);
    Object *stream = find_stream(handle), *captured = stream ? stream->capture : NULL;
    *graph = NULL;
    if (!code && !captured) code = stream ? ILLEGAL_STATE : INVALID_HANDLE;
    if (!code && stream->mode != CAPTURE_RELAXED && !pthread_equal(stream->thread, pthread_self()))
        return CAPTURE_WRONG_THREAD;
    if (!code && stream->spoilt) code = CAPTURE_INVALIDATED;
    if (captured) stream->capture = NULL;
    if (code && captured) remove_object(captured);
    if (!code) *graph = captured;
    return code;
}

EXPORT int cuGraphInstantiateWithFlags(void **executable, void *handle, unsigned long long flags) {
    ENTER(LIVE_CONTEXT);
    Object *graph = find(GRAPH, handle);
    if (!graph || flags) return INVALID_VALUE;
    Object *copy = add(EXECUTABLE_GRAPH, NULL, 0, 0);
    for (const Work *work = graph->work; work; work = work->next) append(copy, *work);
    *executable = copy;
    return SUCCESS;
}

/* Whether the memory that captured work names is still there. */
static int reaches_its_memory(const Work *work) {
    if (work->action != MEAN) return 1;
    return inside(DEVICE_MEMORY, work->source, work->images * work->size) &&
           inside(DEVICE_MEMORY, work->target, work->images * sizeof(float));
}

EXPORT int cuGraphLaunch(void *handle, void *stream) {
    ENTER(LIVE_CONTEXT);
    Object *executable = find(EXECUTABLE_GRAPH, handle);
    if (!executable) return INVALID_VALUE;
    if (!find_stream(stream)) return INVALID_HANDLE;
    int code = SUCCESS;
    for (const Work *work = executable->work; work && !code; work = work->next) {
        if (reaches_its_memory(work)) code = submit(stream, *work);
        else current()->broken = ILLEGAL_ADDRESS; /* as a kernel would: seen by whoever calls next */
    }
    return code;
}

static int destroy_graph(Kind kind, void *handle) {
    Object *graph = find(kind, handle);
    if (!graph) return INVALID_VALUE;
    remove_object(graph);
    return SUCCESS;
}

EXPORT int cuGraphExecDestroy(void *handle) {
    ENTER(LIVE_CONTEXT);
    return destroy_graph(EXECUTABLE_GRAPH, handle);
}

EXPORT int cuGraphDestroy(void *handle) {
    ENTER(LIVE_CONTEXT);
    return destroy_graph(GRAPH, handle);
}

/* --- modules: every one holds `scale(float *data, float factor, unsigned count)` and nothing else ---------------- */

EXPORT int cuModuleLoadDataEx(void **module, const void *image, unsigned count, int *options, void **values) {
    (void)count, (void)options, (void)values;
    ENTER(LIVE_CONTEXT);
    if (!module || !image) return INVALID_VALUE;
    *module = &scale;
    return SUCCESS;
}

EXPORT int cuModuleUnload(void *module) {
    ENTER(LIVE_CONTEXT);
    return module == &scale ? SUCCESS : INVALID_HANDLE;
}

EXPORT int cuModuleGetFunction(void **function, void *module, const char *name) {
    ENTER(LIVE_CONTEXT);
    if (module != &scale || strcmp(name, "scale") != 0) return NOT_FOUND;
    *function = module;
    return SUCCESS;
}

EXPORT int cuFuncSetBlockShape(void *function, int x, int y, int z) { /* PyCUDA's habit; each launch says it again */
    (void)x, (void)y, (void)z;
    ENTER(LIVE_CONTEXT);
    return function == &scale ? SUCCESS : INVALID_HANDLE;
}

/* Its arguments come packed in one buffer: `extra` is {1, buffer, 2, its size, 0}, as PyCUDA hands them over. */
EXPORT int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                          unsigned block_y, unsigned block_z, unsigned shared, void *stream, void **arguments,
                          void **extra) {
    (void)grid_y, (void)grid_z, (void)block_y, (void)block_z, (void)shared, (void)arguments;
    ENTER(LIVE_CONTEXT);
    struct { void *data; float factor; unsigned count; } packed;
    if (function != &scale || !extra || *(size_t *)extra[3] != sizeof packed) return INVALID_VALUE;
    memcpy(&packed, extra[1], sizeof packed);
    if ((uint64_t)grid_x * block_x < packed.count) return INVALID_VALUE;
    Work work = {.action = SCALE, .target = packed.data, .factor = packed.factor, .size = packed.count};
    return inside(DEVICE_MEMORY, packed.data, packed.count * sizeof(float)) ? submit(stream, work) : ILLEGAL_ADDRESS;
}

/* --- what PyCUDA names and this driver has not ------------------------------------------------------------------ */

#define UNSUPPORTED_CALLS(X) \
    X(cuArray3DCreate_v2) X(cuArray3DGetDescriptor_v2) X(cuArrayCreate_v2) X(cuArrayDestroy)                    \
    X(cuArrayGetDescriptor_v2) X(cuCtxAttach) X(cuCtxDisablePeerAccess) X(cuCtxEnablePeerAccess)                \
    X(cuCtxGetApiVersion) X(cuCtxGetCacheConfig) X(cuCtxGetLimit) X(cuCtxGetSharedMemConfig)                    \
    X(cuCtxSetCacheConfig) X(cuCtxSetLimit) X(cuCtxSetSharedMemConfig) X(cuDeviceCanAccessPeer)                 \
    X(cuDeviceGetByPCIBusId) X(cuDeviceGetPCIBusId) X(cuFuncGetAttribute) X(cuFuncSetAttribute)                 \
    X(cuFuncSetCacheConfig) X(cuFuncSetSharedSize) X(cuIpcCloseMemHandle)                \
    X(cuIpcGetEventHandle) X(cuIpcGetMemHandle) X(cuIpcOpenEventHandle) X(cuIpcOpenMemHandle_v2) X(cuLaunch)    \
    X(cuLaunchGrid) X(cuLaunchGridAsync) X(cuLinkAddData_v2) X(cuLinkAddFile_v2)              \
    X(cuLinkComplete) X(cuLinkCreate_v2) X(cuLinkDestroy) X(cuMemAllocManaged) X(cuMemAllocPitch_v2)            \
    X(cuMemGetAddressRange_v2) X(cuMemHostRegister_v2) X(cuMemHostUnregister) X(cuMemcpy2DAsync_v2)             \
    X(cuMemcpy2DUnaligned_v2) X(cuMemcpy2D_v2) X(cuMemcpy3DAsync_v2) X(cuMemcpy3DPeer) X(cuMemcpy3DPeerAsync)   \
    X(cuMemcpy3D_v2) X(cuMemcpyAtoA_v2) X(cuMemcpyAtoD_v2) X(cuMemcpyAtoH_v2) X(cuMemcpyDtoA_v2)                \
    X(cuMemcpyHtoA_v2) X(cuMemcpyPeer) X(cuMemcpyPeerAsync) X(cuMemsetD2D16Async) X(cuMemsetD2D16_v2)           \
    X(cuMemsetD2D32Async) X(cuMemsetD2D32_v2) X(cuMemsetD2D8Async) X(cuMemsetD2D8_v2)    \
    X(cuModuleGetGlobal_v2) X(cuModuleGetSurfRef) X(cuModuleGetTexRef) X(cuModuleLoad) X(cuModuleLoadData)      \
    X(cuParamSetSize) X(cuParamSetTexRef) X(cuParamSetf) X(cuParamSeti) \
    X(cuParamSetv) X(cuProfilerInitialize) X(cuProfilerStart) X(cuProfilerStop) X(cuStreamAttachMemAsync)       \
    X(cuSurfRefGetArray) X(cuSurfRefSetArray) X(cuTexRefCreate) X(cuTexRefDestroy) X(cuTexRefGetAddressMode)    \
    X(cuTexRefGetAddress_v2) X(cuTexRefGetArray) X(cuTexRefGetFilterMode) X(cuTexRefGetFlags)                   \
    X(cuTexRefGetFormat) X(cuTexRefSetAddress2D_v3) X(cuTexRefSetAddressMode) X(cuTexRefSetAddress_v2)          \
    X(cuTexRefSetArray) X(cuTexRefSetFilterMode) X(cuTexRefSetFlags) X(cuTexRefSetFormat)

/* PyCUDA cannot be imported unless the driver has every call that it names. */
#define UNSUPPORTED(call)          \
    EXPORT int call(void) {        \
        ENTER(ANYTHING);           \
        return NOT_SUPPORTED;      \
    }

UNSUPPORTED_CALLS(UNSUPPORTED)

/* --- for tests -------------------------------------------------------------------------------------------------- */

/* The lock and nothing else: no log, no fault, no context needed. */
#define QUIETLY                                         \
    pthread_mutex_lock(&lock);                          \
    __attribute__((cleanup(leave), unused)) int locked = 1

static int kind_of(const char *name) {
    for (int kind = 0; kind < KINDS; kind++)
        if (strcmp(kind_names[kind], name) == 0) return kind;
    return -1;
}

/* How often a call was made ("cuMemAlloc"), refused ones included. */
EXPORT long stand_in_count(const char *call) {
    QUIETLY;
    long count = 0;
    for (long i = 0; i < call_count; i++) count += same_call(call, calls[i]);
    return count;
}

/* The name of the i-th call, NULL after the last. */
EXPORT const char *stand_in_call(long i) {
    QUIETLY;
    return i >= 0 && i < call_count ? calls[i] : NULL;
}

/* How many objects of a kind ("stream") exist; -1 for an unknown kind. */
EXPORT long stand_in_live(const char *name) {
    QUIETLY;
    if (strcmp(name, "primary_context") == 0) return primary.references;
    int kind = kind_of(name);
    long count = kind < 0 ? -1 : 0;
    for (Object *object = objects; object; object = object->next) count += (int)object->kind == kind;
    return count;
}

/* How many objects of a kind were still there when their context went. */
EXPORT long stand_in_abandoned(const char *name) {
    QUIETLY;
    int kind = kind_of(name);
    return kind < 0 ? -1 : abandoned[kind];
}

/* How many contexts the calling thread's stack holds. */
EXPORT int stand_in_depth(void) { return depth; }

/* Makes a call fail once, after `skip` more of its kind; a sticky failure breaks the current context for good: every
 * use of it returns the code until it is reset, destroyed, or released to zero. (After some errors a real context
 * cannot be had again in the same process; this one can.) */
EXPORT int stand_in_fail(const char *call, int skip, int code, int sticky) {
    QUIETLY;
    for (Fault *fault = faults; fault < faults + MAX_FAULTS; fault++)
        if (!fault->call) {
            *fault = (Fault){strdup(call), skip, code, sticky};
            return SUCCESS;
        }
    return OUT_OF_MEMORY;
}

/* Does a stream's work now: for a test's own "kernel", which reads and writes device memory when it is launched. */
EXPORT int stand_in_run(void *handle) {
    QUIETLY;
    Object *stream = find_stream(handle);
    if (!stream) return INVALID_HANDLE;
    run(stream, NULL);
    return SUCCESS;
}

/* Launches the one kernel: target[i] = factor * the mean of the i-th image of so many bytes. Needs what a launch needs:
 * a context that works, and addresses in device memory. */
EXPORT int stand_in_launch_mean(void *stream, Pointer target, Pointer source, size_t images, size_t bytes,
                                float factor) {
    QUIETLY;
    if (!current() || !current()->alive) return INVALID_CONTEXT;
    if (current()->broken) return current()->broken;
    Work work = {.action = MEAN, .target = (void *)target, .source = (void *)source, .size = bytes,
                 .images = images, .factor = factor};
    return reaches_its_memory(&work) ? submit(stream, work) : INVALID_VALUE;
}

/* Whether an address lies in device memory that is allocated. */
EXPORT int stand_in_holds(Pointer address) {
    QUIETLY;
    return inside(DEVICE_MEMORY, (void *)address, 1);
}

/* How many kernels wait in all streams; in a broken context none runs any more. */
EXPORT long stand_in_kernels_waiting(void) {
    QUIETLY;
    long count = 0;
    for (Object *object = objects; object; object = object->next) {
        if (object->kind != STREAM || object->context->broken) continue;
        for (Work *work = object->work; work; work = work->next) count += work->action == MEAN;
    }
    return count;
}

/* Forgets calls, faults and what was abandoned; objects and contexts stay. */
EXPORT void stand_in_reset(void) {
    QUIETLY;
    call_count = 0;
    memset(faults, 0, sizeof faults);
    memset(abandoned, 0, sizeof abandoned);
}

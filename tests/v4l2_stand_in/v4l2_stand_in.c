/* A UVC camera in user land: LD_PRELOAD this, and one device path is a camera to OpenCV's own V4L2 backend.
 *
 * It plays pictures from files, as uvcvideo would deliver them: at its own pace into a ring of buffers; where none is
 * queued the picture is lost, so that a slow reader finds old ones. Picture n is taken at BEGAN + n / fps, which is its
 * timestamp (CLOCK_MONOTONIC, at the start of the transfer), and arrives TRANSFER_NS later. A device file is a socket
 * here: a byte for each picture that waits, and its end once the camera is gone, so that select and poll are real.
 *
 * Environment:
 *   V4L2_STAND_IN         a folder: FOURCC-WIDTHxHEIGHT/0, 1, 2… are the pictures of each format, played in a circle,
 *                         and the file `mode` says what the camera does (below); it may change at any time
 *   V4L2_STAND_IN_BEGAN   seconds of the monotonic clock at picture 0
 *   V4L2_STAND_IN_DEVICE  default: /dev/video97
 *
 * Modes:
 *   healthy
 *   stall       no picture comes
 *   hang        no picture comes any more in a stream that runs; one that is started now is healthy
 *   slow        the first picture comes START_S after the start of the stream
 *   repeat      the same picture for ever
 *   truncated   the last 40 % of each picture are missing, and nothing tells so
 *   flagged     a tenth of each picture is missing in the middle; flagged as an error
 *   eio         every attempt to take a picture fails
 *   busy        another program has the camera
 *   unplug      what was queued comes back empty and flagged, then ENODEV from everything for who has it open, for
 *               ever; ENOENT for who opens it
 *
 * Left out: what OpenCV does not ask for (enumerations, other kinds of memory). */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define HANDLES 1024 /* file descriptors */
#define BUFFERS 16
#define FORMATS 16
#define TRANSFER_NS 10000000LL
#define START_S 2.5
#define MAX_FPS 30
#define SECOND_NS 1000000000LL

typedef struct {
    unsigned fourcc, width, height, pictures;
    char folder[512];
} Format;

typedef enum { TAKEN, QUEUED, DONE } State; /* a buffer: with the program, with the driver, full */

typedef struct {
    int fd, peer, memory; /* peer: the other end of the socket, -1 once the camera is gone */
    int streaming, hung, restarted; /* restarted: while it hung */
    unsigned buffers, sequence;
    size_t length; /* of one buffer */
    unsigned char *ring;
    struct v4l2_buffer buffer[BUFFERS];
    State state[BUFFERS];
    long order[BUFFERS], orders; /* in which the buffers came to their state */
    long long started_ns;
    pthread_t thread;
} Handle;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Handle *handles[HANDLES];
static Handle *owner; /* who set the format or has buffers: all others get EBUSY */
static Format formats[FORMATS];
static unsigned format_count;
static Format *format;
static unsigned fps = MAX_FPS;
static int exposure = 156, exposure_auto = V4L2_EXPOSURE_APERTURE_PRIORITY;

/* --- the folder --------------------------------------------------------------------------------------------------- */

static const char *folder(void) { return getenv("V4L2_STAND_IN"); }

static int is_device(const char *path) {
    const char *device = getenv("V4L2_STAND_IN_DEVICE");
    return folder() && path && strcmp(path, device ? device : "/dev/video97") == 0;
}

/* As much of a file as fits; its size, or -1. By system calls, as `open` is ours. */
static ssize_t read_file(const char *path, void *data, size_t size) {
    int file = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (file < 0) return -1;
    ssize_t got = read(file, data, size);
    syscall(SYS_close, file);
    return got;
}

static int mode_is(const char *wanted) {
    char path[1024], mode[32] = "";
    snprintf(path, sizeof path, "%s/mode", folder());
    read_file(path, mode, sizeof mode - 1);
    return strcmp(mode, wanted) == 0;
}

/* Once, when the device is first opened. */
static void find_formats(void) {
    DIR *directory = format_count ? NULL : opendir(folder());
    for (struct dirent *entry; directory && format_count < FORMATS && (entry = readdir(directory));) {
        Format *found = &formats[format_count];
        char letters[5], path[1024];
        if (sscanf(entry->d_name, "%4[A-Z0-9]-%ux%u", letters, &found->width, &found->height) != 3) continue;
        found->fourcc = v4l2_fourcc(letters[0], letters[1], letters[2], letters[3]);
        snprintf(found->folder, sizeof found->folder, "%s/%s", folder(), entry->d_name);
        do snprintf(path, sizeof path, "%s/%u", found->folder, found->pictures);
        while (syscall(SYS_faccessat, AT_FDCWD, path, R_OK) == 0 && ++found->pictures);
        format_count++;
    }
    if (directory) closedir(directory);
    if (!format) format = formats;
}

/* The nearest format that the camera has: of the pixel format that is asked for, if it has that. */
static Format *nearest(const struct v4l2_pix_format *asked) {
    Format *best = formats;
    long least = -1;
    for (Format *one = formats; one < formats + format_count; one++) {
        long distance = labs((long)one->width - asked->width) + labs((long)one->height - asked->height);
        if (one->fourcc != asked->pixelformat) distance += 1 << 20;
        if (least < 0 || distance < least) least = distance, best = one;
    }
    return best;
}

static void describe(struct v4l2_pix_format *pix) {
    int raw = format->fourcc == V4L2_PIX_FMT_YUYV;
    *pix = (struct v4l2_pix_format){.width = format->width, .height = format->height, .pixelformat = format->fourcc,
                                    .field = V4L2_FIELD_NONE, .bytesperline = raw ? 2 * format->width : 0,
                                    .sizeimage = 2 * format->width * format->height};
}

/* --- the camera --------------------------------------------------------------------------------------------------- */

static long long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * SECOND_NS + now.tv_nsec;
}

/* The buffer that has been longest in a state, or -1. */
static int oldest(const Handle *handle, State state) {
    int found = -1;
    for (unsigned i = 0; i < handle->buffers; i++)
        if (handle->state[i] == state && (found < 0 || handle->order[i] < handle->order[found])) found = (int)i;
    return found;
}

static void move(Handle *handle, int index, State state) {
    handle->state[index] = state;
    handle->order[index] = ++handle->orders;
}

static void finish(Handle *handle, int index, size_t size, long long taken_ns, unsigned flags) {
    struct v4l2_buffer *buffer = &handle->buffer[index];
    buffer->bytesused = (unsigned)size;
    buffer->flags = V4L2_BUF_FLAG_MAPPED | V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC | V4L2_BUF_FLAG_TSTAMP_SRC_SOE | flags;
    buffer->timestamp.tv_sec = taken_ns / SECOND_NS;
    buffer->timestamp.tv_usec = taken_ns % SECOND_NS / 1000;
    buffer->sequence = handle->sequence;
    move(handle, index, DONE);
    send(handle->peer, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Picture n arrives. */
static void deliver(Handle *handle, long n, long long taken_ns) {
    int slow = mode_is("slow") && now_ns() - handle->started_ns < START_S * SECOND_NS;
    handle->hung |= mode_is("hang") && !handle->restarted;
    if (mode_is("stall") || slow || handle->hung) return;
    handle->sequence++;
    int index = oldest(handle, QUEUED);
    if (index < 0) return; /* lost */
    char path[1024];
    unsigned char *data = handle->ring + (size_t)index * handle->length;
    snprintf(path, sizeof path, "%s/%ld", format->folder, mode_is("repeat") ? 0 : n % (long)format->pictures);
    ssize_t size = read_file(path, data, handle->length);
    if (size < 0) return;
    if (mode_is("flagged")) {
        memmove(data + size * 4 / 10, data + size / 2, (size_t)(size - size / 2));
        finish(handle, index, (size_t)(size - size / 2 + size * 4 / 10), taken_ns, V4L2_BUF_FLAG_ERROR);
    } else
        finish(handle, index, (size_t)(mode_is("truncated") ? size * 6 / 10 : size), taken_ns, 0);
}

/* Gone for who has it open, whatever becomes of the camera. */
static void lose(Handle *handle) {
    syscall(SYS_close, handle->peer);
    handle->peer = -1;
}

static void *stream(void *argument) {
    Handle *handle = argument;
    const char *began = getenv("V4L2_STAND_IN_BEGAN");
    long long began_ns = (long long)((began ? strtod(began, NULL) : 0) * SECOND_NS), step_ns = SECOND_NS / fps;
    for (long n = (long)((now_ns() - began_ns) / step_ns) + 1;; n++) {
        long long taken_ns = began_ns + n * step_ns, due_ns = taken_ns + TRANSFER_NS;
        struct timespec due = {due_ns / SECOND_NS, due_ns % SECOND_NS};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
        pthread_mutex_lock(&lock);
        int gone = handle->streaming && mode_is("unplug");
        if (gone) {
            for (int index; (index = oldest(handle, QUEUED)) >= 0;) finish(handle, index, 0, 0, V4L2_BUF_FLAG_ERROR);
            pthread_mutex_unlock(&lock);
            usleep(5000);
            pthread_mutex_lock(&lock);
            lose(handle);
        } else if (handle->streaming)
            deliver(handle, n, taken_ns);
        int ended = gone || !handle->streaming;
        pthread_mutex_unlock(&lock);
        if (ended) return NULL;
    }
}

static int stream_on(Handle *handle) {
    handle->started_ns = now_ns();
    handle->restarted = mode_is("hang");
    handle->hung = 0;
    handle->streaming = 1;
    return pthread_create(&handle->thread, NULL, stream, handle);
}

/* End the stream; the lock is let go meanwhile. */
static void stream_off(Handle *handle) {
    char rest[BUFFERS];
    if (!handle->streaming) return;
    handle->streaming = 0;
    pthread_mutex_unlock(&lock);
    pthread_join(handle->thread, NULL);
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < handle->buffers; i++) handle->state[i] = TAKEN;
    while (recv(handle->fd, rest, sizeof rest, MSG_DONTWAIT) > 0) {}
}

/* --- what programs ask for ---------------------------------------------------------------------------------------- */

static void free_buffers(Handle *handle) {
    if (handle->buffers) {
        munmap(handle->ring, handle->buffers * handle->length);
        syscall(SYS_close, handle->memory);
    }
    handle->buffers = 0;
    if (owner == handle) owner = NULL;
}

static int request_buffers(Handle *handle, struct v4l2_requestbuffers *request) {
    struct v4l2_pix_format pix;
    stream_off(handle);
    free_buffers(handle);
    if (!request->count) return 0;
    owner = handle;
    describe(&pix);
    if (request->count > BUFFERS) request->count = BUFFERS;
    handle->length = (pix.sizeimage + 4095UL) & ~4095UL;
    handle->memory = memfd_create("v4l2", MFD_CLOEXEC);
    if (ftruncate(handle->memory, (off_t)(request->count * handle->length))) return ENOMEM;
    handle->ring = mmap(NULL, request->count * handle->length, PROT_READ | PROT_WRITE, MAP_SHARED, handle->memory, 0);
    handle->buffers = request->count;
    for (unsigned i = 0; i < handle->buffers; i++) {
        handle->state[i] = TAKEN;
        handle->buffer[i] = (struct v4l2_buffer){
            .index = i, .type = V4L2_BUF_TYPE_VIDEO_CAPTURE, .memory = V4L2_MEMORY_MMAP,
            .length = (unsigned)handle->length, .m.offset = (unsigned)(i * handle->length)};
    }
    return 0;
}

static int take(Handle *handle, struct v4l2_buffer *out) {
    char byte;
    if (!handle->streaming) return EINVAL;
    if (mode_is("eio")) return EIO;
    int index = oldest(handle, DONE);
    if (index < 0) return EAGAIN;
    recv(handle->fd, &byte, 1, MSG_DONTWAIT);
    move(handle, index, TAKEN);
    *out = handle->buffer[index];
    return 0;
}

static int set_control(const struct v4l2_control *control) {
    if (control->id == V4L2_CID_EXPOSURE_AUTO) {
        if (control->value != V4L2_EXPOSURE_MANUAL && control->value != V4L2_EXPOSURE_APERTURE_PRIORITY) return ERANGE;
        exposure_auto = control->value;
        return 0;
    }
    if (control->id != V4L2_CID_EXPOSURE_ABSOLUTE) return EINVAL;
    if (exposure_auto != V4L2_EXPOSURE_MANUAL) return EACCES;
    exposure = control->value < 3 ? 3 : control->value > 2047 ? 2047 : control->value;
    return 0;
}

static int is_settled_by_owner(unsigned request) {
    return request == VIDIOC_S_FMT || request == VIDIOC_S_PARM || request == VIDIOC_REQBUFS;
}

/* 0 or an error number. */
static int answer(Handle *handle, unsigned request, void *argument) {
    struct v4l2_buffer *buffer = argument;
    struct v4l2_fract *interval = &((struct v4l2_streamparm *)argument)->parm.capture.timeperframe;
    if (handle->peer >= 0 && !handle->streaming && mode_is("unplug")) lose(handle);
    if (handle->peer < 0 && !(request == VIDIOC_STREAMOFF)) return ENODEV;
    if (is_settled_by_owner(request) && owner != handle && (owner || mode_is("busy"))) return EBUSY;
    switch (request) {
    case VIDIOC_QUERYCAP:
        *(struct v4l2_capability *)argument = (struct v4l2_capability){
            .driver = "uvcvideo", .card = "stand-in", .capabilities = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING};
        return 0;
    case VIDIOC_S_FMT:
        if (handle->buffers) return EBUSY;
        owner = handle;
        format = nearest(&((struct v4l2_format *)argument)->fmt.pix); /* fall through */
    case VIDIOC_G_FMT: describe(&((struct v4l2_format *)argument)->fmt.pix); return 0;
    case VIDIOC_S_PARM:
        if (handle->streaming) return EBUSY;
        fps = interval->numerator ? interval->denominator / interval->numerator : MAX_FPS;
        fps = fps < 1 ? 1 : fps > MAX_FPS ? MAX_FPS : fps; /* fall through */
    case VIDIOC_G_PARM: *interval = (struct v4l2_fract){1, fps}; return 0;
    case VIDIOC_REQBUFS: return request_buffers(handle, argument);
    case VIDIOC_QUERYBUF:
        if (buffer->index >= handle->buffers) return EINVAL;
        *buffer = handle->buffer[buffer->index];
        return 0;
    case VIDIOC_QBUF:
        if (buffer->index >= handle->buffers || handle->state[buffer->index] != TAKEN) return EINVAL;
        move(handle, (int)buffer->index, QUEUED);
        return 0;
    case VIDIOC_DQBUF: return take(handle, buffer);
    case VIDIOC_STREAMON: return handle->buffers && !handle->streaming ? stream_on(handle) : EINVAL;
    case VIDIOC_STREAMOFF: stream_off(handle); return handle->peer < 0 ? ENODEV : 0;
    case VIDIOC_QUERYCTRL: {
        struct v4l2_queryctrl *query = argument;
        int automatic = query->id == V4L2_CID_EXPOSURE_AUTO;
        if (!automatic && query->id != V4L2_CID_EXPOSURE_ABSOLUTE) return EINVAL;
        query->minimum = automatic ? 0 : 3, query->maximum = automatic ? 3 : 2047;
        return 0;
    }
    case VIDIOC_S_CTRL: return set_control(argument);
    case VIDIOC_G_CTRL: {
        struct v4l2_control *control = argument;
        control->value = control->id == V4L2_CID_EXPOSURE_AUTO ? exposure_auto : exposure;
        return 0;
    }
    default: return ENOTTY;
    }
}

/* --- the C library's functions ------------------------------------------------------------------------------------ */

static Handle *handle_of(int fd) { return fd >= 0 && fd < HANDLES ? handles[fd] : NULL; }

static int open_device(void) {
    int ends[2];
    if (mode_is("unplug")) return errno = ENOENT, -1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends)) return -1;
    pthread_mutex_lock(&lock);
    find_formats();
    handles[ends[0]] = calloc(1, sizeof(Handle));
    *handles[ends[0]] = (Handle){.fd = ends[0], .peer = ends[1]};
    pthread_mutex_unlock(&lock);
    return ends[0];
}

int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    int mode = flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(rest, int) : 0;
    va_end(rest);
    return is_device(path) ? open_device() : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) __attribute__((alias("open")));

int close(int fd) {
    Handle *handle = handle_of(fd);
    if (handle) {
        pthread_mutex_lock(&lock);
        stream_off(handle);
        free_buffers(handle);
        if (handle->peer >= 0) lose(handle);
        handles[fd] = NULL;
        pthread_mutex_unlock(&lock);
        free(handle);
    }
    return (int)syscall(SYS_close, fd);
}

int ioctl(int fd, unsigned long request, ...) {
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    Handle *handle = handle_of(fd);
    if (!handle) return (int)syscall(SYS_ioctl, fd, request, argument);
    pthread_mutex_lock(&lock);
    int error = answer(handle, (unsigned)request, argument);
    pthread_mutex_unlock(&lock);
    return error ? errno = error, -1 : 0;
}

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    Handle *handle = handle_of(fd);
    return (void *)syscall(SYS_mmap, address, length, protection, flags, handle ? handle->memory : fd, offset);
}

void *mmap64(void *, size_t, int, int, int, off_t) __attribute__((alias("mmap")));

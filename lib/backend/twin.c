/* Devices, their memory, failures; the table. */
#include "twin.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "twin_parts.h"

/* Added to the address of every block: no processor can follow the result, and sums of it and an offset stay so. */
#define FAR ((uintptr_t)1 << 52)

#define DEVICE_BYTES ((uint64_t)1 << 30)

/* As much as CUDA gives, and more than any kernel here asks for. */
enum { ALIGNMENT = 1024, POISON = 0xa5 };

struct kvsim__device {
    int32_t ordinal;
    uint64_t budget, used;
    bool lost, misused;
    atomic_flag busy;
    char error[256];
};

/* Memory that was given out; in a list. */
typedef struct block {
    struct block *next;
    unsigned char *memory;
    size_t bytes;
    const kvsim__device *owner; /* NULL: the engine's */
    int32_t ordinal;
} block;

static kvsim__twin twin = {.devices = 1, .memory_bytes = DEVICE_BYTES};
static block *blocks;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of both */

kvsim__twin *kvsim_twin(void) {
    return &twin;
}

/* ---- failures ---- */

static void set_error(kvsim__device *device, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void set_error(kvsim__device *device, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(device->error, sizeof device->error, format, arguments);
    va_end(arguments);
}

static void count_misuse(const char *what) {
    (void)pthread_mutex_lock(&lock);
    if (twin.misuses++ == 0) {
        (void)snprintf(twin.misuse, sizeof twin.misuse, "%s", what);
    }
    (void)pthread_mutex_unlock(&lock);
}

int32_t kvsim__twin_misused(kvsim__device *device, const char *what) {
    count_misuse(what);
    device->misused = true;
    set_error(device, "the twin was misused: %s", what);
    return KVSIM_E_BACKEND;
}

bool kvsim__twin_is_misused(const kvsim__device *device) {
    return device->misused;
}

/* Count a call. Does it fail? */
static bool is_to_fail(uint32_t *mode, int32_t *status) {
    (void)pthread_mutex_lock(&lock);
    twin.calls++;
    *mode = twin.fail_mode;
    *status = twin.fail_status;
    const bool fails = twin.fail_at != 0 && (twin.calls == twin.fail_at ||
                                             (twin.fail_mode == KVSIM__TWIN_ALWAYS && twin.calls > twin.fail_at));
    (void)pthread_mutex_unlock(&lock);
    return fails;
}

/* Begin a call. False if there is nothing to do: `status` is what the call returns. A call that waits cannot be late.
 */
static bool begin(kvsim__device *device, const char *name, bool waits, int32_t *status) {
    uint32_t mode;
    const bool fails = is_to_fail(&mode, status);
    if (atomic_flag_test_and_set(&device->busy)) {
        count_misuse("two threads use a device at a time");
    }
    device->misused = false;
    if (device->lost) {
        *status = KVSIM_E_BACKEND;
        set_error(device, "the twin's device %d is lost", device->ordinal);
        return false;
    }
    if (!fails) {
        *status = KVSIM_OK;
        return true;
    }
    device->lost = mode == KVSIM__TWIN_LOST || mode == KVSIM__TWIN_LATE;
    set_error(device, *status == KVSIM_E_NOMEM ? "%s: the twin is out of device memory" : "%s: the twin fails", name);
    *status = mode == KVSIM__TWIN_LATE && !waits ? KVSIM_OK : *status;
    return false;
}

static int32_t end(kvsim__device *device, int32_t status) {
    atomic_flag_clear(&device->busy);
    return status;
}

/* ---- memory ---- */

static unsigned char *near_of(const void *address) {
    return (unsigned char *)((uintptr_t)address - FAR);
}

/* The block that holds an address, or NULL. The lock is held. */
static block *find(const void *address) {
    const uintptr_t at = (uintptr_t)address - FAR;
    block *candidate = blocks;
    while (candidate != NULL &&
           (at < (uintptr_t)candidate->memory || at >= (uintptr_t)candidate->memory + candidate->bytes)) {
        candidate = candidate->next;
    }
    return candidate;
}

static void *give_out(const kvsim__device *owner, int32_t ordinal, size_t bytes) {
    block *made = malloc(sizeof *made);
    const size_t room = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    unsigned char *memory = room >= bytes ? aligned_alloc(ALIGNMENT, room) : NULL;
    if (made == NULL || memory == NULL) {
        free(made);
        free(memory);
        return NULL;
    }
    memset(memory, POISON, bytes);
    (void)pthread_mutex_lock(&lock);
    *made = (block){.next = blocks, .memory = memory, .bytes = bytes, .owner = owner, .ordinal = ordinal};
    blocks = made;
    if (owner != NULL) {
        twin.blocks++;
        twin.bytes += bytes;
        twin.peak_bytes = twin.bytes > twin.peak_bytes ? twin.bytes : twin.peak_bytes;
    }
    (void)pthread_mutex_unlock(&lock);
    return (void *)((uintptr_t)memory + FAR);
}

/* Take a block out of the list and free it. The lock is held. */
static void take_back(block *taken) {
    block **link = &blocks;
    while (*link != taken) {
        link = &(*link)->next;
    }
    *link = taken->next;
    if (taken->owner != NULL) {
        twin.blocks--;
        twin.bytes -= taken->bytes;
    }
    memset(taken->memory, POISON, taken->bytes);
    free(taken->memory);
    free(taken);
}

kvsim__twin_span kvsim__twin_optional(kvsim__device *device, const void *address, size_t bytes, const char *what) {
    kvsim__twin_span span = {NULL, 0};
    return address != NULL ? kvsim__twin_span_at(device, address, bytes, what) : span;
}

kvsim__twin_span kvsim__twin_span_at(kvsim__device *device, const void *address, size_t bytes, const char *what) {
    kvsim__twin_span span = {NULL, 0};
    (void)pthread_mutex_lock(&lock);
    const block *holds = find(address);
    if (holds != NULL) {
        span.at = near_of(address);
        span.bytes = holds->bytes - (size_t)(span.at - holds->memory);
    }
    (void)pthread_mutex_unlock(&lock);
    if (holds == NULL || span.bytes < bytes) {
        char text[120];
        (void)snprintf(text, sizeof text, "%s: %s", what,
                       holds == NULL ? "not memory of the device" : "past the end of a block");
        (void)kvsim__twin_misused(device, text);
        return (kvsim__twin_span){NULL, 0};
    }
    return span;
}

void *kvsim__twin_scratch(kvsim__device *device, size_t count, size_t size) {
    void *memory = calloc(count > 0 ? count : 1, size);
    if (memory == NULL) {
        set_error(device, "the twin's host is out of memory (%zu x %zu bytes)", count, size);
    }
    return memory;
}

void *kvsim_twin_engine_allocate(int32_t ordinal, size_t bytes) {
    return give_out(NULL, ordinal, bytes);
}

void kvsim_twin_engine_release(void *memory) {
    (void)pthread_mutex_lock(&lock);
    block *taken = memory != NULL ? find(memory) : NULL;
    if (taken != NULL) {
        take_back(taken);
    }
    (void)pthread_mutex_unlock(&lock);
}

int kvsim_twin_copy(void *to, const void *from, size_t bytes) {
    (void)pthread_mutex_lock(&lock);
    const block *target = find(to), *source = find(from);
    unsigned char *into = target != NULL ? near_of(to) : to;
    const unsigned char *out_of = source != NULL ? near_of(from) : from;
    const bool fits = (target == NULL || bytes <= target->bytes - (size_t)(into - target->memory)) &&
                      (source == NULL || bytes <= source->bytes - (size_t)(out_of - source->memory));
    (void)pthread_mutex_unlock(&lock);
    if (fits) {
        memmove(into, out_of, bytes);
    }
    return fits ? 0 : -1;
}

/* ---- the table: devices and memory ---- */

static int32_t twin_open(const kvsim__device_options *options, kvsim__device **out, char *reason, size_t reason_size) {
    uint32_t mode;
    int32_t status;
    *out = NULL;
    const bool fails = is_to_fail(&mode, &status);
    if (fails && mode != KVSIM__TWIN_LATE) {
        (void)snprintf(reason, reason_size, "open: the twin fails");
        return status;
    }
    if (options->ordinal < 0 || (uint32_t)options->ordinal >= twin.devices) {
        (void)snprintf(reason, reason_size, "the twin has no device %d, only %u", options->ordinal, twin.devices);
        return KVSIM_E_BACKEND;
    }
    kvsim__device *device = calloc(1, sizeof *device);
    if (device == NULL) {
        (void)snprintf(reason, reason_size, "the twin's host is out of memory");
        return KVSIM_E_NOMEM;
    }
    device->ordinal = options->ordinal;
    device->lost = fails;
    device->budget = options->memory_bytes != 0 ? options->memory_bytes : twin.memory_bytes / 2;
    atomic_flag_clear(&device->busy);
    (void)pthread_mutex_lock(&lock);
    twin.opened++;
    (void)pthread_mutex_unlock(&lock);
    *out = device;
    return KVSIM_OK;
}

static void twin_close(kvsim__device *device) {
    if (device == NULL) {
        return;
    }
    (void)pthread_mutex_lock(&lock);
    for (block *candidate = blocks, *next; candidate != NULL; candidate = next) {
        next = candidate->next;
        if (candidate->owner == device) {
            twin.left_at_close++;
            take_back(candidate);
        }
    }
    twin.opened--;
    (void)pthread_mutex_unlock(&lock);
    free(device);
}

static void twin_describe(kvsim__device *device, kvsim__device_facts *out) {
    *out = (kvsim__device_facts){.name = "twin",
                                 .memory_bytes = device->budget,
                                 .memory_used = device->used,
                                 .processors = 1,
                                 .gram_path = KVSIM__GRAM_SIMPLE,
                                 .lost = device->lost};
}

static const char *twin_error(kvsim__device *device) {
    return device->error;
}

static int32_t twin_allocate(kvsim__device *device, size_t bytes, void **out) {
    int32_t status;
    *out = NULL;
    const bool works = begin(device, "allocate", false, &status);
    if (works && bytes == 0) {
        return end(device, kvsim__twin_misused(device, "allocate: no bytes are wanted"));
    }
    if (works && bytes > device->budget - device->used) {
        set_error(device, "out of device memory: %zu bytes are wanted, %llu of %llu are taken", bytes,
                  (unsigned long long)device->used, (unsigned long long)device->budget);
        return end(device, KVSIM_E_NOMEM);
    }
    if (status == KVSIM_OK) { /* also when the failure shows later only */
        *out = give_out(device, device->ordinal, bytes);
        device->used += *out != NULL ? bytes : 0;
        status = *out != NULL ? KVSIM_OK : KVSIM_E_NOMEM;
    }
    return end(device, status);
}

static void twin_release(kvsim__device *device, void *memory) {
    if (memory == NULL) {
        return;
    }
    (void)pthread_mutex_lock(&lock);
    block *taken = find(memory);
    const bool good = taken != NULL && taken->owner == device && near_of(memory) == taken->memory;
    if (good) {
        device->used -= taken->bytes;
        take_back(taken);
    }
    (void)pthread_mutex_unlock(&lock);
    if (!good) {
        (void)kvsim__twin_misused(device, "release of what was not allocated");
    }
}

static bool is_far(const void *address) {
    (void)pthread_mutex_lock(&lock);
    const bool far_away = find(address) != NULL;
    (void)pthread_mutex_unlock(&lock);
    return far_away;
}

static int32_t twin_upload(kvsim__device *device, void *to, const void *from, size_t bytes) {
    int32_t status;
    if (begin(device, "upload", false, &status) && bytes > 0) {
        const kvsim__twin_span span = kvsim__twin_span_at(device, to, bytes, "upload");
        if (span.at == NULL || is_far(from)) {
            status = span.at == NULL ? KVSIM_E_BACKEND : kvsim__twin_misused(device, "upload from the device");
        } else {
            memcpy(span.at, from, bytes);
        }
    }
    return end(device, status);
}

static int32_t twin_download(kvsim__device *device, void *to, const void *from, size_t bytes) {
    int32_t status;
    if (begin(device, "download", true, &status) && bytes > 0) {
        const kvsim__twin_span span = kvsim__twin_span_at(device, from, bytes, "download");
        if (span.at == NULL || is_far(to)) {
            status = span.at == NULL ? KVSIM_E_BACKEND : kvsim__twin_misused(device, "download to the device");
        } else {
            memcpy(to, span.at, bytes);
        }
    }
    return end(device, status);
}

static int32_t twin_fill(kvsim__device *device, void *to, int byte, size_t bytes) {
    int32_t status;
    if (begin(device, "fill", false, &status) && bytes > 0) {
        const kvsim__twin_span span = kvsim__twin_span_at(device, to, bytes, "fill");
        if (span.at == NULL) {
            status = KVSIM_E_BACKEND;
        } else {
            memset(span.at, byte, bytes);
        }
    }
    return end(device, status);
}

static int32_t twin_wait(kvsim__device *device) {
    int32_t status;
    (void)begin(device, "wait", true, &status);
    return end(device, status);
}

static int32_t twin_wait_for(kvsim__device *device, void *stream) {
    int32_t status;
    if (begin(device, "wait_for", false, &status)) {
        (void)pthread_mutex_lock(&lock);
        twin.streams++;
        twin.last_stream = stream;
        (void)pthread_mutex_unlock(&lock);
    }
    return end(device, status);
}

static int32_t twin_device_of(kvsim__device *device, const void *memory) {
    (void)device;
    (void)pthread_mutex_lock(&lock);
    const block *holds = find(memory);
    const int32_t ordinal = holds != NULL ? holds->ordinal : -1;
    (void)pthread_mutex_unlock(&lock);
    return ordinal;
}

/* ---- the table: kernels ---- */

/* A kernel: counted, made to fail, done. */
#define DEFINE_KERNEL(name, parameters, arguments)                                                                     \
    static int32_t twin_##name parameters {                                                                            \
        int32_t status;                                                                                                \
        return end(device, begin(device, #name, false, &status) ? kvsim__twin_##name arguments : status);              \
    }

DEFINE_KERNEL(classify,
              (kvsim__device * device, const kvsim__device_group *group, const int32_t *fills, uint8_t *finite),
              (device, group, fills, finite))
DEFINE_KERNEL(hash, (kvsim__device * device, const kvsim__device_group *group, uint64_t *hashes),
              (device, group, hashes))
DEFINE_KERNEL(equal,
              (kvsim__device * device, const kvsim__device_group *group, const uint32_t (*pairs)[2], uint32_t count,
               uint8_t *equal),
              (device, group, pairs, count, equal))
DEFINE_KERNEL(measure, (kvsim__device * device, const kvsim__device_group *group, const kvsim__device_measures *out),
              (device, group, out))
DEFINE_KERNEL(gather, (kvsim__device * device, const kvsim__device_group *group, void *to), (device, group, to))
DEFINE_KERNEL(pack,
              (kvsim__device * device, const kvsim__device_group *group, const kvsim__device_packing *packing,
               const kvsim__device_panel *panel),
              (device, group, packing, panel))
DEFINE_KERNEL(compare, (kvsim__device * device, const kvsim__device_compare *job), (device, job))
DEFINE_KERNEL(resolve,
              (kvsim__device * device, const kvsim__device_group *group, double largest_norm,
               const kvsim__device_compare *job, uint32_t count),
              (device, group, largest_norm, job, count))
DEFINE_KERNEL(rescore,
              (kvsim__device * device, const kvsim__device_group *group, double largest_norm, kvsim__device_pair *pairs,
               uint32_t count),
              (device, group, largest_norm, pairs, count))
DEFINE_KERNEL(compare_bits, (kvsim__device * device, const kvsim__device_bit_compare *job), (device, job))

static const kvsim__backend table = {
    .version = KVSIM__BACKEND_VERSION,
    .struct_size = sizeof table,
    .name = "twin",
    .open = twin_open,
    .close = twin_close,
    .describe = twin_describe,
    .error = twin_error,
    .allocate = twin_allocate,
    .release = twin_release,
    .upload = twin_upload,
    .download = twin_download,
    .fill = twin_fill,
    .wait = twin_wait,
    .wait_for = twin_wait_for,
    .device_of = twin_device_of,
    .classify = twin_classify,
    .hash = twin_hash,
    .equal = twin_equal,
    .measure = twin_measure,
    .gather = twin_gather,
    .pack = twin_pack,
    .compare = twin_compare,
    .resolve = twin_resolve,
    .rescore = twin_rescore,
    .compare_bits = twin_compare_bits,
};

const kvsim__backend *kvsim_backend_query(uint32_t version) {
    static kvsim__backend other;
    other = table;
    switch (twin.query) {
    case KVSIM__TWIN_TABLE:
        return version == KVSIM__BACKEND_VERSION ? &table : NULL;
    case KVSIM__TWIN_OTHER_VERSION:
        other.version++;
        return &other;
    case KVSIM__TWIN_OTHER_SIZE:
        other.struct_size -= (uint32_t)sizeof(void *);
        return &other;
    case KVSIM__TWIN_NO_FUNCTION:
        other.compare_bits = NULL;
        return &other;
    default:
        return NULL;
    }
}

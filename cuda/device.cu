/* The table: devices, memory, copies, streams. */
#include "device.cuh"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

enum { STAGING_BYTES = 8 << 20, OLDEST_ARCHITECTURE = 80 };

int32_t device_fail(kvsim__device *device, int32_t status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(device->error, sizeof device->error, format, arguments);
    va_end(arguments);
    return status;
}

/* After these the CUDA context of the process answers nothing but the same error. */
static bool is_sticky(cudaError_t error) {
    switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorECCUncorrectable:
    case cudaErrorDevicesUnavailable:
    case cudaErrorUnknown:
        return true;
    default:
        return false;
    }
}

int32_t device_check(kvsim__device *device, cudaError_t error, const char *what) {
    if (error == cudaSuccess) {
        return KVSIM_OK;
    }
    (void)cudaGetLastError(); /* an error that is not sticky is ours, not the host's */
    const int32_t status = error == cudaErrorMemoryAllocation ? KVSIM_E_NOMEM : KVSIM_E_BACKEND;
    if (is_sticky(error)) {
        device->lost = KVSIM_E_BACKEND;
    }
    return device_fail(device, status, "CUDA device %d: %s: %s (%s)%s", device->ordinal, what,
                       cudaGetErrorString(error), cudaGetErrorName(error),
                       device->lost != 0 ? "; the device is lost to this process" : "");
}

int32_t device_launched(kvsim__device *device, const char *kernel) {
    return device_check(device, cudaPeekAtLastError(), kernel);
}

static int32_t refuse(char *reason, size_t size, const char *format, const char *detail) {
    (void)snprintf(reason, size, format, detail);
    (void)cudaGetLastError();
    return KVSIM_E_BACKEND;
}

static int32_t device_set_up(kvsim__device *device, const kvsim__device_options *options) {
    int least = 0, greatest = 0;
    size_t unused = 0, total = 0;
    int32_t status = device_check(device, cudaSetDevice(device->ordinal), "choosing it");
    if (status == KVSIM_OK) {
        status = device_check(device, cudaGetDeviceProperties(&device->properties, device->ordinal), "its properties");
    }
    if (status == KVSIM_OK) {
        status = device_check(device, cudaDeviceGetStreamPriorityRange(&least, &greatest), "its stream priorities");
    }
    if (status == KVSIM_OK) {
        status = device_check(device, cudaStreamCreateWithPriority(&device->stream, cudaStreamNonBlocking, least),
                              "creating a stream");
    }
    if (status == KVSIM_OK) {
        status = device_check(device, cudaEventCreateWithFlags(&device->reached, cudaEventDisableTiming), "an event");
    }
    for (int half = 0; half < 2 && status == KVSIM_OK; half++) {
        status =
            device_check(device, cudaEventCreateWithFlags(&device->staged[half], cudaEventDisableTiming), "an event");
    }
    if (status == KVSIM_OK) {
        status = device_check(device, cudaMallocHost(&device->staging, (size_t)2 * STAGING_BYTES), "pinned memory");
    }
    if (status == KVSIM_OK) {
        status = device_check(device, cudaMemGetInfo(&unused, &total), "its memory");
    }
    device->duty_percent = options->duty_percent >= 1 && options->duty_percent <= 100 ? options->duty_percent : 100;
    device->memory_bytes = options->memory_bytes > 0 ? options->memory_bytes : unused / 2;
    return status;
}

/* The driver's function, without linking to the driver. */
static void find_encoder(kvsim__device *device) {
    void *function = NULL;
    cudaDriverEntryPointQueryResult found;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found) ==
            cudaSuccess &&
        found == cudaDriverEntryPointSuccess) {
        memcpy(&device->encode, &function, sizeof function);
    }
    (void)cudaGetLastError();
}

static void device_close(kvsim__device *device) {
    if (device == NULL) {
        return;
    }
    int before = 0;
    (void)cudaGetDevice(&before);
    (void)cudaSetDevice(device->ordinal);
    if (device->stream != NULL) {
        (void)cudaStreamSynchronize(device->stream);
    }
    blas_close(device);
    while (device->allocations != NULL) {
        struct allocation *gone = device->allocations;
        device->allocations = gone->next;
        (void)cudaFree(gone->memory);
        free(gone);
    }
    (void)cudaFree(device->tiles);
    (void)cudaFreeHost(device->host_tiles);
    (void)cudaFree(device->block);
    (void)cudaFreeHost(device->staging);
    for (int half = 0; half < 2; half++) {
        if (device->staged[half] != NULL) {
            (void)cudaEventDestroy(device->staged[half]);
        }
    }
    if (device->reached != NULL) {
        (void)cudaEventDestroy(device->reached);
    }
    if (device->stream != NULL) {
        (void)cudaStreamDestroy(device->stream);
    }
    (void)cudaSetDevice(before);
    (void)cudaGetLastError();
    free(device);
}

static int32_t device_open(const kvsim__device_options *options, kvsim__device **out, char *reason,
                           size_t reason_size) {
    int count = 0, before = 0;
    *out = NULL;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess) {
        return refuse(reason, reason_size, "no CUDA device can be used: %s", cudaGetErrorString(error));
    }
    if (options->ordinal < 0 || options->ordinal >= count) {
        (void)snprintf(reason, reason_size, "CUDA device %d does not exist: there are %d", options->ordinal, count);
        return KVSIM_E_BACKEND;
    }
    kvsim__device *device = (kvsim__device *)calloc(1, sizeof *device);
    if (device == NULL) {
        (void)snprintf(reason, reason_size, "out of memory");
        return KVSIM_E_NOMEM;
    }
    device->ordinal = options->ordinal;
    (void)cudaGetDevice(&before);
    int32_t status = device_set_up(device, options);
    if (status == KVSIM_OK && device->properties.major * 10 + device->properties.minor < OLDEST_ARCHITECTURE) {
        status = device_fail(device, KVSIM_E_BACKEND, "CUDA device %d (%s) is of compute capability %d.%d; 8.0 or "
                             "newer is needed", device->ordinal, device->properties.name, device->properties.major,
                             device->properties.minor);
    }
    if (status == KVSIM_OK) {
        find_encoder(device);
    }
    (void)cudaSetDevice(before);
    if (status != KVSIM_OK) {
        (void)snprintf(reason, reason_size, "%s", device->error);
        device_close(device);
        return status;
    }
    *out = device;
    return KVSIM_OK;
}

static void device_describe(kvsim__device *device, kvsim__device_facts *out) {
    memset(out, 0, sizeof *out);
    (void)snprintf(out->name, sizeof out->name, "%.127s", device->properties.name);
    out->memory_bytes = device->memory_bytes;
    out->memory_used = device->memory_used;
    out->processors = (uint32_t)device->properties.multiProcessorCount;
    out->architecture = (uint32_t)(device->properties.major * 10 + device->properties.minor);
    out->gram_path = fused_available(device)  ? KVSIM__GRAM_FUSED
                     : blas_available(device) ? KVSIM__GRAM_BLAS
                                              : KVSIM__GRAM_SIMPLE;
    out->lost = device->lost != 0;
}

static const char *device_error(kvsim__device *device) {
    return device->error;
}

/* The calling thread's current device is the host's business: every operation puts it back. */
class on_device {
  public:
    explicit on_device(kvsim__device *device) : before(0) {
        (void)cudaGetDevice(&before);
        (void)cudaSetDevice(device->ordinal);
    }
    ~on_device() {
        (void)cudaSetDevice(before);
    }
    on_device(const on_device &) = delete;
    on_device &operator=(const on_device &) = delete;

  private:
    int before;
};

static int32_t device_allocate(kvsim__device *device, size_t bytes, void **out) {
    *out = NULL;
    if (device->lost != 0) {
        return device->lost;
    }
    on_device here(device);
    if (bytes > device->memory_bytes - device->memory_used) {
        return device_fail(device, KVSIM_E_NOMEM,
                           "CUDA device %d: %zu bytes are more than what is left of the budget of %llu bytes",
                           device->ordinal, bytes, (unsigned long long)device->memory_bytes);
    }
    struct allocation *added = (struct allocation *)malloc(sizeof *added);
    if (added == NULL) {
        return device_fail(device, KVSIM_E_NOMEM, "out of memory");
    }
    const int32_t status = device_check(device, cudaMalloc(&added->memory, bytes > 0 ? bytes : 1), "allocating memory");
    if (status != KVSIM_OK) {
        free(added);
        return status;
    }
    added->bytes = bytes;
    added->next = device->allocations;
    device->allocations = added;
    device->memory_used += bytes;
    *out = added->memory;
    return KVSIM_OK;
}

static void device_release(kvsim__device *device, void *memory) {
    for (struct allocation **at = &device->allocations; *at != NULL && memory != NULL; at = &(*at)->next) {
        if ((*at)->memory == memory) {
            struct allocation *gone = *at;
            *at = gone->next;
            device->memory_used -= gone->bytes;
            on_device here(device);
            (void)cudaStreamSynchronize(device->stream); /* cudaFree would wait for the host's work too */
            (void)cudaFree(gone->memory);
            free(gone);
            return;
        }
    }
}

static int32_t device_upload(kvsim__device *device, void *to, const void *from, size_t bytes) {
    if (device->lost != 0) {
        return device->lost;
    }
    on_device here(device);
    for (size_t done = 0; done < bytes;) {
        const size_t part = bytes - done < STAGING_BYTES ? bytes - done : STAGING_BYTES;
        unsigned char *half = (unsigned char *)device->staging + (size_t)device->turn * STAGING_BYTES;
        int32_t status = device_check(device, cudaEventSynchronize(device->staged[device->turn]), "copying to it");
        if (status != KVSIM_OK) {
            return status;
        }
        memcpy(half, (const unsigned char *)from + done, part);
        status = device_check(device,
                              cudaMemcpyAsync((unsigned char *)to + done, half, part, cudaMemcpyHostToDevice,
                                              device->stream),
                              "copying to it");
        if (status == KVSIM_OK) {
            status = device_check(device, cudaEventRecord(device->staged[device->turn], device->stream), "an event");
        }
        if (status != KVSIM_OK) {
            return status;
        }
        device->turn = 1 - device->turn;
        done += part;
    }
    return KVSIM_OK;
}

static int32_t device_wait(kvsim__device *device) {
    if (device->lost != 0) {
        return device->lost;
    }
    on_device here(device);
    return device_check(device, cudaStreamSynchronize(device->stream), "waiting for its work");
}

static int32_t device_download(kvsim__device *device, void *to, const void *from, size_t bytes) {
    if (device->lost != 0) {
        return device->lost;
    }
    on_device here(device);
    for (size_t done = 0; done < bytes;) {
        const size_t part = bytes - done < STAGING_BYTES ? bytes - done : STAGING_BYTES;
        /* The first half of the staging memory may still be on its way to the device: the stream keeps the order. */
        int32_t status = device_check(device,
                                      cudaMemcpyAsync(device->staging, (const unsigned char *)from + done, part,
                                                      cudaMemcpyDeviceToHost, device->stream),
                                      "copying from it");
        if (status == KVSIM_OK) {
            status = device_wait(device);
        }
        if (status != KVSIM_OK) {
            return status;
        }
        memcpy((unsigned char *)to + done, device->staging, part);
        done += part;
    }
    return KVSIM_OK;
}

static int32_t device_fill(kvsim__device *device, void *to, int byte, size_t bytes) {
    if (device->lost != 0) {
        return device->lost;
    }
    on_device here(device);
    return device_check(device, cudaMemsetAsync(to, byte, bytes, device->stream), "clearing memory");
}

static int32_t device_wait_for(kvsim__device *device, void *stream) {
    if (device->lost != 0) {
        return device->lost;
    }
    on_device here(device);
    int32_t status =
        device_check(device, cudaEventRecord(device->reached, (cudaStream_t)stream), "recording the host's stream");
    if (status == KVSIM_OK) {
        status = device_check(device, cudaStreamWaitEvent(device->stream, device->reached, 0),
                              "waiting for the host's stream");
    }
    return status;
}

static int32_t device_of(kvsim__device *device, const void *memory) {
    on_device here(device);
    cudaPointerAttributes attributes;
    if (cudaPointerGetAttributes(&attributes, memory) != cudaSuccess) {
        (void)cudaGetLastError();
        return -1;
    }
    return attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged ? attributes.device
                                                                                                : -1;
}

int32_t device_block(kvsim__device *device, size_t bytes, void **out) {
    if (bytes > device->block_bytes) {
        (void)cudaStreamSynchronize(device->stream);
        (void)cudaFree(device->block);
        device->block = NULL;
        device->block_bytes = 0;
        const int32_t status = device_check(device, cudaMalloc(&device->block, bytes), "a block of products");
        if (status != KVSIM_OK) {
            return status;
        }
        device->block_bytes = bytes;
    }
    *out = device->block;
    return KVSIM_OK;
}

static double seconds_now() {
    struct timespec time;
    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* After work that began to be queued at `start`: leave the device to the host for its share of the time. */
static int32_t leave_share(kvsim__device *device, int32_t status, double start) {
    if (status != KVSIM_OK || device->duty_percent >= 100) {
        return status;
    }
    status = device_check(device, cudaStreamSynchronize(device->stream), "waiting for its work");
    const double busy = seconds_now() - start;
    const double idle = busy * (100.0 - device->duty_percent) / device->duty_percent;
    struct timespec rest;
    rest.tv_sec = (time_t)idle;
    rest.tv_nsec = (long)(1e9 * (idle - (double)rest.tv_sec));
    (void)nanosleep(&rest, NULL); /* a signal may cut it short */
    return status;
}

/* Each entry of the table that computes: refuse on a lost device, be on the right device, keep to the duty cycle. */
#define ON_DEVICE(call)                                                                                                \
    if (device->lost != 0) {                                                                                           \
        return device->lost;                                                                                           \
    }                                                                                                                  \
    on_device here(device);                                                                                            \
    const double start = seconds_now();                                                                                \
    return leave_share(device, call, start)

static int32_t table_classify(kvsim__device *device, const kvsim__device_group *group, const int32_t *fills,
                              uint8_t *finite) {
    ON_DEVICE(pages_classify(device, group, fills, finite));
}

static int32_t table_hash(kvsim__device *device, const kvsim__device_group *group, uint64_t *hashes) {
    ON_DEVICE(pages_hash(device, group, hashes));
}

static int32_t table_equal(kvsim__device *device, const kvsim__device_group *group, const uint32_t (*pairs)[2],
                           uint32_t count, uint8_t *equal) {
    ON_DEVICE(pages_equal(device, group, pairs, count, equal));
}

static int32_t table_measure(kvsim__device *device, const kvsim__device_group *group,
                             const kvsim__device_measures *out) {
    ON_DEVICE(pages_measure(device, group, out));
}

static int32_t table_gather(kvsim__device *device, const kvsim__device_group *group, void *to) {
    ON_DEVICE(pages_gather(device, group, to));
}

static int32_t table_pack(kvsim__device *device, const kvsim__device_group *group,
                          const kvsim__device_packing *packing, const kvsim__device_panel *panel) {
    ON_DEVICE(pages_pack(device, group, packing, panel));
}

static int32_t table_compare(kvsim__device *device, const kvsim__device_compare *job) {
    ON_DEVICE(pairs_compare(device, job));
}

static int32_t table_resolve(kvsim__device *device, const kvsim__device_group *group, double largest_norm,
                             const kvsim__device_compare *job, uint32_t count) {
    ON_DEVICE(pairs_resolve(device, group, largest_norm, job, count));
}

static int32_t table_rescore(kvsim__device *device, const kvsim__device_group *group, double largest_norm,
                             kvsim__device_pair *pairs, uint32_t count) {
    ON_DEVICE(pairs_rescore(device, group, largest_norm, pairs, count));
}

static int32_t table_compare_bits(kvsim__device *device, const kvsim__device_bit_compare *job) {
    ON_DEVICE(bits_compare(device, job));
}

static const kvsim__backend table = {
    KVSIM__BACKEND_VERSION, sizeof(kvsim__backend), "cuda",         device_open,     device_close,  device_describe,
    device_error,           device_allocate,        device_release, device_upload,   device_download, device_fill,
    device_wait,            device_wait_for,        device_of,      table_classify,  table_hash,    table_equal,
    table_measure,          table_gather,           table_pack,     table_compare,   table_resolve, table_rescore,
    table_compare_bits};

extern "C" __attribute__((visibility("default"))) const kvsim__backend *kvsim_backend_query(uint32_t version) {
    return version == KVSIM__BACKEND_VERSION ? &table : NULL;
}

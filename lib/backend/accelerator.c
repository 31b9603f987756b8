#include "accelerator.h"

#include <string.h>

#include "loader.h"

void kvsim__accelerator_init(kvsim__accelerator *accelerator, kvsim__base *base, const kvsim_options *options) {
    memset(accelerator, 0, sizeof *accelerator);
    accelerator->base = base;
    accelerator->wanted = options->backend;
    accelerator->options.ordinal = options->device_ordinal;
    accelerator->options.duty_percent = options->device_duty_percent > 0 ? options->device_duty_percent : 100;
    accelerator->options.memory_bytes = options->device_memory_bytes;
}

kvsim_status kvsim__accelerator_open(kvsim__accelerator *accelerator) {
    kvsim__base *base = accelerator->base;
    char reason[KVSIM__REASON_SIZE] = "";
    if (accelerator->wanted == KVSIM_BACKEND_CPU) {
        return kvsim__fail(base, KVSIM_E_UNSUPPORTED,
                           "this context computes on the CPU only: create it with another "
                           "backend");
    }
    if (accelerator->device != NULL) {
        return KVSIM_OK;
    }
    if (accelerator->table == NULL) {
        accelerator->table = kvsim__backend_find(reason, sizeof reason);
    }
    if (accelerator->table == NULL) {
        return kvsim__fail(base, KVSIM_E_BACKEND, "backend cuda is not available: %s", reason);
    }
    kvsim__device *device = NULL;
    if (accelerator->table->open(&accelerator->options, &device, reason, sizeof reason) != 0) {
        return kvsim__fail(base, KVSIM_E_BACKEND, "backend cuda is not available: %s", reason);
    }
    kvsim__device_facts facts;
    accelerator->table->describe(device, &facts);
    accelerator->device = device;
    memcpy(accelerator->name, facts.name, sizeof accelerator->name);
    accelerator->name[sizeof accelerator->name - 1] = '\0';
    kvsim__log(base, KVSIM_LOG_INFO, "backend %s: device %d, %s, %llu MiB of its memory", accelerator->table->name,
               accelerator->options.ordinal, accelerator->name, (unsigned long long)(facts.memory_bytes >> 20));
    return KVSIM_OK;
}

void kvsim__accelerator_close(kvsim__accelerator *accelerator) {
    if (accelerator->device != NULL) {
        accelerator->table->close(accelerator->device);
        accelerator->device = NULL;
    }
}

kvsim_status kvsim__accelerator_choose(kvsim__accelerator *accelerator, bool needed, kvsim__accelerator **out) {
    *out = NULL;
    if (accelerator->wanted == KVSIM_BACKEND_CPU || (accelerator->given_up && !needed)) {
        return KVSIM_OK;
    }
    accelerator->failed = false;
    const kvsim_status status = kvsim__accelerator_open(accelerator);
    if (status == KVSIM_OK) {
        *out = accelerator;
        return KVSIM_OK;
    }
    if (accelerator->wanted != KVSIM_BACKEND_AUTO || needed) {
        return status;
    }
    kvsim__log(accelerator->base, KVSIM_LOG_INFO, "the CPU computes: %s", accelerator->base->error);
    accelerator->base->error[0] = '\0';
    accelerator->given_up = true;
    return KVSIM_OK;
}

bool kvsim__accelerator_give_up(kvsim__accelerator *accelerator, bool needed) {
    if (!accelerator->failed || accelerator->wanted != KVSIM_BACKEND_AUTO || needed) {
        return false;
    }
    kvsim__log(accelerator->base, KVSIM_LOG_WARNING, "the CPU goes on, from the beginning: %s",
               accelerator->base->error);
    accelerator->base->error[0] = '\0';
    accelerator->given_up = true;
    return true;
}

kvsim_status kvsim__device_check(kvsim__accelerator *accelerator, int32_t returned, const char *what) {
    if (returned == KVSIM_OK) {
        return KVSIM_OK;
    }
    kvsim__device_facts facts;
    accelerator->failed = true;
    accelerator->table->describe(accelerator->device, &facts);
    return kvsim__fail(accelerator->base, returned == KVSIM_E_NOMEM ? KVSIM_E_NOMEM : KVSIM_E_BACKEND,
                       "device %d (%s)%s, %s: %s", accelerator->options.ordinal, accelerator->name,
                       facts.lost != 0 ? " is lost" : "", what, accelerator->table->error(accelerator->device));
}

kvsim_status kvsim__device_take(kvsim__device_memory *memory, uint64_t bytes, const char *what, void **out) {
    kvsim__accelerator *accelerator = memory->accelerator;
    kvsim_status status = kvsim__grow(accelerator->base, (void **)&memory->blocks, &memory->capacity, memory->count + 1,
                                      sizeof *memory->blocks);
    *out = NULL;
    if (status == KVSIM_OK) {
        bytes = bytes > 0 ? bytes : 1;
        status = bytes <= SIZE_MAX
                     ? kvsim__device_check(accelerator,
                                           accelerator->table->allocate(accelerator->device, (size_t)bytes, out), what)
                     : kvsim__fail_memory(accelerator->base, SIZE_MAX, what);
    }
    if (status == KVSIM_OK) {
        memory->blocks[memory->count++] = *out;
        memory->bytes += bytes;
    }
    return status;
}

kvsim_status kvsim__device_take_filled(kvsim__device_memory *memory, int byte, uint64_t bytes, const char *what,
                                       void **out) {
    kvsim__accelerator *accelerator = memory->accelerator;
    kvsim_status status = kvsim__device_take(memory, bytes, what, out);
    if (status == KVSIM_OK && bytes > 0) {
        status = kvsim__device_check(accelerator,
                                     accelerator->table->fill(accelerator->device, *out, byte, (size_t)bytes), what);
    }
    return status;
}

kvsim_status kvsim__device_take_copy(kvsim__device_memory *memory, const void *from, uint64_t bytes, const char *what,
                                     void **out) {
    *out = NULL;
    if (from == NULL) {
        return KVSIM_OK;
    }
    const kvsim_status status = kvsim__device_take(memory, bytes, what, out);
    return status == KVSIM_OK ? kvsim__device_upload(memory->accelerator, *out, from, bytes) : status;
}

void kvsim__device_give(kvsim__device_memory *memory, void *block) {
    for (size_t i = memory->count; i-- > 0 && block != NULL;) {
        if (memory->blocks[i] == block) {
            memory->blocks[i] = memory->blocks[--memory->count];
            memory->accelerator->table->release(memory->accelerator->device, block);
            return;
        }
    }
}

void kvsim__device_give_all(kvsim__device_memory *memory) {
    kvsim__accelerator *accelerator = memory->accelerator;
    if (accelerator != NULL) {
        for (size_t i = memory->count; i-- > 0;) {
            accelerator->table->release(accelerator->device, memory->blocks[i]);
        }
        kvsim__release(accelerator->base, memory->blocks, memory->capacity, sizeof *memory->blocks);
    }
    memset(memory, 0, sizeof *memory);
}

kvsim_status kvsim__device_upload(kvsim__accelerator *accelerator, void *to, const void *from, uint64_t bytes) {
    return bytes == 0 ? KVSIM_OK
                      : kvsim__device_check(accelerator,
                                            accelerator->table->upload(accelerator->device, to, from, (size_t)bytes),
                                            "copying to it");
}

kvsim_status kvsim__device_download(kvsim__accelerator *accelerator, void *to, const void *from, uint64_t bytes) {
    return bytes == 0 ? KVSIM_OK
                      : kvsim__device_check(accelerator,
                                            accelerator->table->download(accelerator->device, to, from, (size_t)bytes),
                                            "copying from it");
}

uint64_t kvsim__device_room(const kvsim__accelerator *accelerator) {
    kvsim__device_facts facts;
    accelerator->table->describe(accelerator->device, &facts);
    return facts.memory_bytes > facts.memory_used ? facts.memory_bytes - facts.memory_used : 0;
}

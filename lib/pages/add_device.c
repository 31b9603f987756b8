#include "add_device.h"

#include <string.h>

#include "resident.h"

/* Pages that are described to the device at a time. */
enum { MOST_DESCRIBED = 65536 };

kvsim_status kvsim__check_place(kvsim__accelerator *accelerator, const kvsim_tensor *tensor, size_t size,
                                const char *what, bool *on_device) {
    kvsim__base *base = accelerator->base;
    *on_device = tensor->device_type == KVSIM_DEVICE_CUDA;
    if (!*on_device) {
        return KVSIM_OK;
    }
    if (accelerator->wanted == KVSIM_BACKEND_CPU) {
        return kvsim__fail(base, KVSIM_E_UNSUPPORTED,
                           "%s is on a CUDA device, and this context compares on the CPU: create it with backend auto "
                           "or cuda",
                           what);
    }
    const kvsim_status status = kvsim__accelerator_open(accelerator);
    if (status != KVSIM_OK) {
        return status;
    }
    if (tensor->device_id != accelerator->options.ordinal) {
        return kvsim__fail(base, KVSIM_E_INVALID,
                           "%s is on device %d, and this context computes on device %d: set device_ordinal of "
                           "kvsim_options",
                           what, tensor->device_id, accelerator->options.ordinal);
    }
    const unsigned char *data = tensor->data;
    if (data == NULL) {
        return KVSIM_OK; /* the reader of the tensor says what is missing */
    }
    data += tensor->byte_offset;
    const int32_t place = accelerator->table->device_of(accelerator->device, tensor->data);
    if (place != tensor->device_id) {
        return kvsim__fail(base, KVSIM_E_INVALID,
                           place < 0 ? "%s: data is no memory of device %d"
                                     : "%s: data is not memory of device %d, but of another",
                           what, tensor->device_id);
    }
    if ((uintptr_t)data % size != 0) {
        return kvsim__fail(base, KVSIM_E_INVALID,
                           "%s: its elements are not aligned to their %zu bytes, as those on a device must be", what,
                           size);
    }
    return KVSIM_OK;
}

kvsim_status kvsim__wait_for_stream(kvsim__accelerator *accelerator, void *stream) {
    return kvsim__device_check(accelerator, accelerator->table->wait_for(accelerator->device, stream),
                               "waiting for the caller's stream");
}

/* Gather the pages of one list of descriptors, which `described` has room for on the device. */
static kvsim_status gather(kvsim__accelerator *accelerator, const kvsim__device_group *group,
                           const kvsim__device_page *pages, void *described, void *to) {
    kvsim_status status = kvsim__device_upload(accelerator, described, pages, group->slots * sizeof *pages);
    if (status == KVSIM_OK) {
        status = kvsim__device_check(accelerator, accelerator->table->gather(accelerator->device, group, to),
                                     "gathering pages");
    }
    return status;
}

kvsim_status kvsim__gather_device_pages(kvsim__accelerator *accelerator, const kvsim__format *format,
                                        const unsigned char *const *pages, size_t count, unsigned char *to) {
    kvsim__base *base = accelerator->base;
    const size_t page_bytes = kvsim__format_elements(format) * kvsim__dtype_size(format->dtype);
    const size_t room = count < MOST_DESCRIBED ? count : MOST_DESCRIBED;
    kvsim__device_memory memory = {.accelerator = accelerator};
    /* Elements are copied as they are stored, whatever they stand for. */
    kvsim__device_format described = kvsim__device_format_of(format);
    described.scale_mode = KVSIM_SCALE_NONE;
    void *formats, *there = NULL;
    kvsim__device_page *list = kvsim__allocate_zeroed(base, room, sizeof *list);
    kvsim_status status =
        list != NULL ? kvsim__device_take_copy(&memory, &described, sizeof described, "descriptors of pages", &formats)
                     : kvsim__fail_memory(base, room * sizeof *list, "descriptors of pages");
    if (status == KVSIM_OK) {
        status = kvsim__device_take(&memory, room * sizeof *list, "descriptors of pages", &there);
    }
    for (size_t done = 0; done < count && status == KVSIM_OK; done += room) {
        const size_t now = count - done < room ? count - done : room;
        for (size_t i = 0; i < now; i++) {
            list[i].data = pages[done + i];
        }
        const kvsim__device_group group = {.pages = there,
                                           .formats = formats,
                                           .slots = (uint32_t)now,
                                           .tokens = format->tokens,
                                           .heads = format->heads,
                                           .head_dim = format->head_dim};
        status = gather(accelerator, &group, list, there, to + done * page_bytes);
    }
    if (status == KVSIM_OK) {
        status = kvsim__device_check(accelerator, accelerator->table->wait(accelerator->device), "gathering pages");
    }
    kvsim__release(base, list, room, sizeof *list);
    kvsim__device_give_all(&memory);
    return status;
}

kvsim_status kvsim__fetch_floats(kvsim__accelerator *accelerator, const unsigned char *from, const int64_t shape[3],
                                 const int64_t strides[3], float *to) {
    kvsim__base *base = accelerator->base;
    const size_t blocks = (size_t)shape[0], row = (size_t)(shape[1] * shape[2]);
    const uint64_t bytes = (uint64_t)blocks * row * sizeof *to;
    /* To the device a block's floats are a page with heads of one channel. */
    const kvsim__format format = {.dtype = KVSIM__F32,
                                  .tokens = (int32_t)shape[1],
                                  .heads = (int32_t)shape[2],
                                  .head_dim = 1,
                                  .token_stride = strides[1],
                                  .head_stride = strides[2],
                                  .channel_stride = (int64_t)sizeof *to};
    kvsim__device_memory memory = {.accelerator = accelerator};
    void *gathered;
    const unsigned char **pages = kvsim__allocate(base, blocks, sizeof *pages);
    kvsim_status status = pages != NULL ? kvsim__device_take(&memory, bytes, "scales", &gathered)
                                        : kvsim__fail_memory(base, blocks * sizeof *pages, "scales");
    for (size_t block = 0; block < blocks && pages != NULL; block++) {
        pages[block] = from + (int64_t)block * strides[0];
    }
    if (status == KVSIM_OK) {
        status = kvsim__gather_device_pages(accelerator, &format, pages, blocks, gathered);
    }
    if (status == KVSIM_OK) {
        status = kvsim__device_download(accelerator, to, gathered, bytes);
    }
    kvsim__release(base, pages, blocks, sizeof *pages);
    kvsim__device_give_all(&memory);
    return status;
}

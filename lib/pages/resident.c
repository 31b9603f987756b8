#include "resident.h"

#include <string.h>

enum {
    STAGING_BYTES = 16 << 20, /* of host memory that pages are copied together in before they are uploaded */
    FETCH_BYTES = 32 << 20,   /* of device memory that pages are copied together in before they are downloaded */
    WORD = 16                 /* bytes that kernels like to read at once */
};

bool kvsim__any_on_device(const kvsim__store *store, const uint32_t *pages, size_t slots) {
    for (size_t slot = 0; slot < slots; slot++) {
        if (pages[slot] != KVSIM__NONE && kvsim__page_format(store, pages[slot])->on_device) {
            return true;
        }
    }
    return false;
}

kvsim__device_format kvsim__device_format_of(const kvsim__format *format) {
    return (kvsim__device_format){
        .token_stride = format->token_stride,
        .head_stride = format->head_stride,
        .channel_stride = format->channel_stride,
        /* Of opaque pages only bytes are looked at. */
        .dtype = (int32_t)(format->dtype == KVSIM__OPAQUE ? KVSIM__I8 : format->dtype),
        .scale_mode = format->scale_mode,
        .heads = format->heads,
    };
}

/* Copying host pages together, on all threads. */
typedef struct staging {
    const kvsim__store *store;
    const uint32_t *pages; /* [count] */
    unsigned char *to;
    size_t page_bytes;
} staging;

static void stage_page(void *opaque, uint32_t index) {
    const staging *job = opaque;
    const kvsim__page *page = &job->store->pages[job->pages[index]];
    const kvsim__format *format = &job->store->formats[page->format];
    const size_t size = kvsim__dtype_size(format->dtype), channels = (size_t)format->head_dim;
    unsigned char *to = job->to + index * job->page_bytes;
    for (int32_t t = 0; t < format->tokens; t++) {
        for (int32_t h = 0; h < format->heads; h++, to += channels * size) {
            const unsigned char *row = page->data + t * format->token_stride + h * format->head_stride;
            if (format->channel_stride == (int64_t)size) {
                memcpy(to, row, channels * size);
                continue;
            }
            for (size_t d = 0; d < channels; d++) {
                memcpy(to + d * size, row + (int64_t)d * format->channel_stride, size);
            }
        }
    }
}

/* Upload the `count` pages of a list, one behind the other. */
static kvsim_status upload_elements(const kvsim__resident *resident, const uint32_t *list, size_t count,
                                    unsigned char *to) {
    kvsim__base *base = resident->accelerator->base;
    const size_t at_once =
        resident->page_bytes < STAGING_BYTES ? (size_t)STAGING_BYTES / resident->page_bytes : (size_t)1;
    const size_t room = count < at_once ? count : at_once;
    unsigned char *memory = kvsim__allocate(base, room, resident->page_bytes);
    if (memory == NULL) {
        return kvsim__fail_memory(base, room * resident->page_bytes, "copying pages to a device");
    }
    kvsim_status status = KVSIM_OK;
    for (size_t first = 0; first < count && status == KVSIM_OK; first += room) {
        const size_t now = count - first < room ? count - first : room;
        staging job = {resident->store, list + first, memory, resident->page_bytes};
        kvsim__parallel_for(base, (uint32_t)now, stage_page, &job);
        status = kvsim__device_upload(resident->accelerator, to + first * resident->page_bytes, memory,
                                      now * resident->page_bytes);
    }
    kvsim__release(base, memory, room, resident->page_bytes);
    return status;
}

/* What opening a resident works with, given back when it is open. */
typedef struct opening {
    kvsim__resident *out;
    size_t slots;
    kvsim__device_page *pages;     /* [slots] */
    kvsim__device_format *formats; /* [store's formats + 1]: the last is that of pages that were copied */
    uint32_t *list;                /* [slots] pages in host memory */
    float *token_scales;           /* [slots, tokens, heads] or NULL */
    size_t row_scales;
} opening;

static kvsim_status opening_allocate(opening *at, const kvsim__format *format) {
    kvsim__base *base = at->out->accelerator->base;
    const size_t slots = at->slots, formats = at->out->store->format_count + 1;
    const bool scaled = format->scale_mode == KVSIM_SCALE_TOKEN_HEAD;
    at->row_scales = scaled ? (size_t)format->tokens * (size_t)format->heads : 0;
    at->pages = kvsim__allocate_zeroed(base, slots, sizeof *at->pages);
    at->formats = kvsim__allocate_zeroed(base, formats, sizeof *at->formats);
    at->list = kvsim__allocate(base, slots, sizeof *at->list);
    at->token_scales = scaled ? kvsim__allocate_zeroed(base, slots * at->row_scales, sizeof(float)) : NULL;
    return at->pages != NULL && at->formats != NULL && at->list != NULL && (at->token_scales != NULL || !scaled)
               ? KVSIM_OK
               : kvsim__fail_memory(base, slots * sizeof *at->pages, "the pages of a device");
}

static void opening_close(opening *at) {
    kvsim__base *base = at->out->accelerator->base;
    kvsim__release(base, at->pages, at->slots, sizeof *at->pages);
    kvsim__release(base, at->formats, at->out->store->format_count + 1, sizeof *at->formats);
    kvsim__release(base, at->list, at->slots, sizeof *at->list);
    kvsim__release(base, at->token_scales, at->slots * at->row_scales, sizeof(float));
}

/* Formats and descriptors, but for the addresses of what is not on the device yet. Counts the host's pages. */
static size_t describe_pages(opening *at, const kvsim__format *any) {
    const kvsim__store *store = at->out->store;
    const size_t copied = store->format_count, size = kvsim__dtype_size(any->dtype);
    size_t listed = 0;
    for (size_t f = 0; f < store->format_count; f++) {
        at->formats[f] = kvsim__device_format_of(&store->formats[f]);
    }
    kvsim__format compact = *any;
    compact.channel_stride = (int64_t)size;
    compact.head_stride = (int64_t)((size_t)any->head_dim * size);
    compact.token_stride = compact.head_stride * any->heads;
    at->formats[copied] = kvsim__device_format_of(&compact);
    for (size_t slot = 0; slot < at->slots; slot++) {
        const uint32_t number = at->out->pages[slot];
        if (number == KVSIM__NONE) {
            continue;
        }
        const kvsim__page *page = &store->pages[number];
        const bool on_device = store->formats[page->format].on_device;
        at->pages[slot] = (kvsim__device_page){.data = on_device ? page->data : NULL,
                                               .position = page->position,
                                               .format = on_device ? page->format : (uint32_t)copied};
        if (!on_device) {
            at->list[listed++] = number;
        }
        if (at->token_scales != NULL) {
            memcpy(at->token_scales + slot * at->row_scales, page->token_scales, at->row_scales * sizeof(float));
        }
    }
    return listed;
}

/* Bytes of an element if they are 2 or 1, all have one scale, and every row lies in whole aligned words; else 0. */
static int32_t plain_bytes(const opening *at, const kvsim__format *any) {
    const int32_t bytes = (int32_t)kvsim__dtype_size(any->dtype);
    if (bytes > 2 || (any->scale_mode != KVSIM_SCALE_NONE && any->scale_mode != KVSIM_SCALE_TENSOR) ||
        any->head_dim * bytes % WORD != 0) {
        return 0;
    }
    for (size_t slot = 0; slot < at->slots; slot++) {
        const kvsim__device_page *page = &at->pages[slot];
        const kvsim__device_format *format = &at->formats[page->format];
        if (page->data != NULL && ((uintptr_t)page->data % WORD != 0 || format->token_stride % WORD != 0 ||
                                   format->head_stride % WORD != 0 || format->channel_stride != bytes)) {
            return 0;
        }
    }
    return bytes;
}

static kvsim_status upload_scales(opening *at, const kvsim__format *any) {
    kvsim__resident *out = at->out;
    const size_t count = any->scale_mode == KVSIM_SCALE_HEAD ? (size_t)any->heads : 1;
    void *scales = NULL, *token_scales = NULL;
    /* Pages of one class have the same scales. */
    kvsim_status status = kvsim__device_take_copy(&out->memory, any->scales, count * sizeof(float), "scales", &scales);
    if (status == KVSIM_OK) {
        status = kvsim__device_take_copy(&out->memory, at->token_scales, at->slots * at->row_scales * sizeof(float),
                                         "scales", &token_scales);
    }
    for (size_t f = 0; f <= out->store->format_count; f++) {
        at->formats[f].scales = scales;
    }
    for (size_t slot = 0; slot < at->slots && token_scales != NULL; slot++) {
        at->pages[slot].token_scales = (const float *)token_scales + slot * at->row_scales;
    }
    return status;
}

static kvsim_status upload_all(opening *at, const kvsim__format *any) {
    kvsim__resident *out = at->out;
    const size_t listed = describe_pages(at, any);
    void *elements = NULL, *pages = NULL, *formats = NULL;
    kvsim_status status = upload_scales(at, any);
    if (status == KVSIM_OK && listed > 0) {
        status = kvsim__device_take(&out->memory, (uint64_t)listed * out->page_bytes, "pages", &elements);
        if (status == KVSIM_OK) {
            status = upload_elements(out, at->list, listed, elements);
        }
    }
    size_t next = 0;
    for (size_t slot = 0; slot < at->slots && elements != NULL; slot++) {
        if (out->pages[slot] != KVSIM__NONE && at->pages[slot].data == NULL) {
            at->pages[slot].data = (const unsigned char *)elements + next++ * out->page_bytes;
        }
    }
    if (status == KVSIM_OK) {
        status = kvsim__device_take_copy(&out->memory, at->pages, at->slots * sizeof *at->pages, "descriptors of pages",
                                         &pages);
    }
    if (status == KVSIM_OK) {
        status =
            kvsim__device_take_copy(&out->memory, at->formats, (out->store->format_count + 1) * sizeof *at->formats,
                                    "formats of pages", &formats);
    }
    out->group = (kvsim__device_group){.pages = pages,
                                       .formats = formats,
                                       .slots = (uint32_t)at->slots,
                                       .tokens = any->tokens,
                                       .heads = any->heads,
                                       .head_dim = any->head_dim,
                                       .plain_bytes = plain_bytes(at, any)};
    return status;
}

kvsim_status kvsim__resident_open(kvsim__accelerator *accelerator, const kvsim__store *store, const uint32_t *pages,
                                  size_t slots, kvsim__resident *out) {
    *out = (kvsim__resident){
        .accelerator = accelerator, .store = store, .pages = pages, .memory = {.accelerator = accelerator}};
    size_t any = 0, count = 0;
    for (size_t slot = slots; slot-- > 0;) {
        if (pages[slot] != KVSIM__NONE) {
            any = slot;
            count++;
        }
    }
    const kvsim__format *format = kvsim__page_format(store, pages[any]);
    out->page_bytes = kvsim__format_elements(format) * kvsim__dtype_size(format->dtype);
    out->own_bytes = (uint64_t)count * out->page_bytes;
    out->any_on_device = kvsim__any_on_device(store, pages, slots);
    opening at = {.out = out, .slots = slots};
    kvsim_status status = opening_allocate(&at, format);
    if (status == KVSIM_OK) {
        status = upload_all(&at, format);
    }
    opening_close(&at);
    if (status != KVSIM_OK) {
        kvsim__resident_close(out);
    }
    return status;
}

void kvsim__resident_close(kvsim__resident *resident) {
    kvsim__device_give_all(&resident->memory);
    memset(resident, 0, sizeof *resident);
}

kvsim_status kvsim__resident_fetch(const kvsim__resident *resident, size_t first, size_t count, unsigned char *to) {
    kvsim__accelerator *accelerator = resident->accelerator;
    kvsim__device_memory memory = {.accelerator = accelerator};
    const uint64_t left = kvsim__device_room(accelerator) / 4;
    const size_t most = (size_t)(left < FETCH_BYTES ? left : FETCH_BYTES) / resident->page_bytes;
    const size_t at_once = most > 0 ? most : 1;
    const size_t room = count < at_once ? count : at_once;
    void *gathered;
    kvsim_status status =
        kvsim__device_take(&memory, (uint64_t)room * resident->page_bytes, "copies of pages", &gathered);
    for (size_t done = 0; done < count && status == KVSIM_OK; done += room) {
        kvsim__device_group group = resident->group;
        group.pages += first + done;
        group.slots = (uint32_t)(count - done < room ? count - done : room);
        status = kvsim__device_check(accelerator, accelerator->table->gather(accelerator->device, &group, gathered),
                                     "gathering pages");
        if (status == KVSIM_OK) {
            status = kvsim__device_download(accelerator, to + done * resident->page_bytes, gathered,
                                            (uint64_t)group.slots * resident->page_bytes);
        }
    }
    kvsim__device_give_all(&memory);
    return status;
}

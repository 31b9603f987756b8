#include "mirror.h"

#include <string.h>

kvsim_status kvsim__mirror_open(kvsim__base *base, const kvsim__store *original, kvsim__mirror *mirror) {
    const size_t formats = original->format_count;
    *mirror = (kvsim__mirror){.base = base, .original = original, .store = *original};
    mirror->store.pages = kvsim__allocate(base, original->page_count, sizeof *mirror->store.pages);
    mirror->store.formats = kvsim__allocate(base, 2 * formats, sizeof *mirror->store.formats);
    if (mirror->store.pages == NULL || mirror->store.formats == NULL) {
        const kvsim_status status =
            kvsim__fail_memory(base, original->page_count * sizeof *mirror->store.pages, "pages of a device");
        kvsim__mirror_close(mirror);
        return status;
    }
    memcpy(mirror->store.pages, original->pages, original->page_count * sizeof *mirror->store.pages);
    mirror->store.format_count = 2 * formats;
    for (size_t f = 0; f < formats; f++) {
        /* Format f, and behind all of these that of its pages' copies. */
        kvsim__format copied = original->formats[f];
        copied.on_device = false;
        copied.channel_stride = (int64_t)kvsim__dtype_size(copied.dtype);
        copied.head_stride = copied.channel_stride * copied.head_dim;
        copied.token_stride = copied.head_stride * copied.heads;
        mirror->store.formats[f] = original->formats[f];
        mirror->store.formats[formats + f] = copied;
    }
    return KVSIM_OK;
}

void kvsim__mirror_close(kvsim__mirror *mirror) {
    if (mirror->base != NULL) {
        kvsim__release(mirror->base, mirror->store.pages, mirror->original->page_count, sizeof *mirror->store.pages);
        kvsim__release(mirror->base, mirror->store.formats, 2 * mirror->original->format_count,
                       sizeof *mirror->store.formats);
    }
    memset(mirror, 0, sizeof *mirror);
}

kvsim_status kvsim__mirror_load(kvsim__mirror *mirror, const kvsim__resident *resident, kvsim__mirrored *out) {
    const size_t slots = resident->group.slots;
    *out = (kvsim__mirrored){kvsim__allocate(mirror->base, slots, resident->page_bytes), slots, resident->page_bytes};
    if (out->memory == NULL) {
        return kvsim__fail_memory(mirror->base, slots * resident->page_bytes, "host copies of pages of a device");
    }
    const kvsim_status status = kvsim__resident_fetch(resident, 0, slots, out->memory);
    for (size_t slot = 0; slot < slots && status == KVSIM_OK; slot++) {
        const uint32_t number = resident->pages[slot];
        if (number != KVSIM__NONE && kvsim__page_format(mirror->original, number)->on_device) {
            kvsim__page *page = &mirror->store.pages[number];
            page->data = out->memory + slot * resident->page_bytes;
            page->format += (uint32_t)mirror->original->format_count;
        }
    }
    if (status != KVSIM_OK) {
        kvsim__release(mirror->base, out->memory, slots, resident->page_bytes);
        *out = (kvsim__mirrored){NULL, 0, 0};
    }
    return status;
}

void kvsim__mirror_unload(kvsim__mirror *mirror, const uint32_t *pages, kvsim__mirrored *copies) {
    for (size_t slot = 0; slot < copies->slots; slot++) {
        if (pages[slot] != KVSIM__NONE) {
            mirror->store.pages[pages[slot]] = mirror->original->pages[pages[slot]];
        }
    }
    if (copies->memory != NULL) {
        kvsim__release(mirror->base, copies->memory, copies->slots, copies->page_bytes);
    }
    *copies = (kvsim__mirrored){NULL, 0, 0};
}

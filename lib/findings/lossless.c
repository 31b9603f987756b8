#include "lossless.h"

#include <math.h>
#include <string.h>

/* Tasks that the pages are shared out to; counts are added up, so their number changes nothing. */
enum { RUNS = 64 };

typedef struct run_counts {
    uint64_t histograms[KVSIM__MAX_PLANES][256];
    uint64_t pages, compressed_bytes;
} run_counts;

typedef struct measuring {
    const kvsim__store *store;
    const uint32_t *pages;
    const uint8_t *kept;
    size_t slots;
    size_t page_elements, element_size, bound;
    run_counts *runs;
    unsigned char *memory; /* [RUNS, stride]: the planes of a page, then room for a compressed plane */
    size_t stride;
} measuring;

/* Take a page's elements apart into planes of equal significance: planes[p][element]. */
static void split(const measuring *job, const kvsim__page *page, unsigned char *planes) {
    const kvsim__format *format = &job->store->formats[page->format];
    size_t at = 0;
    for (int32_t t = 0; t < format->tokens; t++) {
        for (int32_t h = 0; h < format->heads; h++) {
            const unsigned char *row = page->data + t * format->token_stride + h * format->head_stride;
            for (int32_t d = 0; d < format->head_dim; d++, at++) {
                for (size_t plane = 0; plane < job->element_size; plane++) {
                    planes[plane * job->page_elements + at] = row[d * format->channel_stride + (int64_t)plane];
                }
            }
        }
    }
}

static void measure_run(void *opaque, uint32_t run) {
    const measuring *job = opaque;
    run_counts *counts = &job->runs[run];
    unsigned char *planes = job->memory + run * job->stride;
    unsigned char *compressed = planes + job->page_elements * job->element_size;
    const size_t end = job->slots * (run + 1) / RUNS;
    for (size_t slot = job->slots * run / RUNS; slot < end; slot++) {
        if (job->kept[slot] == 0 || job->pages[slot] == KVSIM__NONE) {
            continue;
        }
        counts->pages++;
        split(job, &job->store->pages[job->pages[slot]], planes);
        for (size_t plane = 0; plane < job->element_size; plane++) {
            const unsigned char *bytes = planes + plane * job->page_elements;
            for (size_t i = 0; i < job->page_elements; i++) {
                counts->histograms[plane][bytes[i]]++;
            }
            if (job->bound > 0) {
                counts->compressed_bytes += kvsim__compress(bytes, job->page_elements, compressed, job->bound);
            }
        }
    }
}

/* Shannon's entropy of the bytes counted, in bytes. */
static double entropy_bytes(const uint64_t histogram[256]) {
    uint64_t total = 0;
    double bits = 0.0;
    for (int i = 0; i < 256; i++) {
        total += histogram[i];
    }
    for (int i = 0; i < 256; i++) {
        if (histogram[i] > 0) {
            bits += (double)histogram[i] * log2((double)total / (double)histogram[i]);
        }
    }
    return bits / 8.0;
}

static void add_runs(measuring *job, kvsim__lossless *out) {
    run_counts *sum = &job->runs[0];
    for (int run = 1; run < RUNS; run++) {
        sum->pages += job->runs[run].pages;
        sum->compressed_bytes += job->runs[run].compressed_bytes;
        for (size_t plane = 0; plane < job->element_size; plane++) {
            for (int i = 0; i < 256; i++) {
                sum->histograms[plane][i] += job->runs[run].histograms[plane][i];
            }
        }
    }
    out->pages = sum->pages;
    out->bytes = sum->pages * job->page_elements * job->element_size;
    for (size_t plane = 0; plane < job->element_size; plane++) {
        out->order0_bytes += entropy_bytes(sum->histograms[plane]);
    }
    out->compressed_bytes = sum->compressed_bytes;
    out->level = job->bound > 0 ? KVSIM__COMPRESS_LEVEL : 0;
}

kvsim_status kvsim__measure_lossless(kvsim__base *base, const kvsim__store *store, const uint32_t *pages,
                                     const uint8_t *kept, size_t slots, kvsim__lossless *out) {
    measuring job = {.store = store, .pages = pages, .kept = kept, .slots = slots};
    memset(out, 0, sizeof *out);
    size_t any = 0;
    while (any < slots && (pages[any] == KVSIM__NONE || kept[any] == 0)) {
        any++;
    }
    if (any == slots) {
        return KVSIM_OK;
    }
    const kvsim__format *format = kvsim__page_format(store, pages[any]);
    job.page_elements = kvsim__format_elements(format);
    job.element_size = kvsim__dtype_size(format->dtype);
    job.bound = kvsim__compress_bound(job.page_elements);
    job.stride = job.page_elements * job.element_size + job.bound;
    job.runs = kvsim__allocate_zeroed(base, RUNS, sizeof *job.runs);
    job.memory = kvsim__allocate(base, RUNS, job.stride);
    kvsim_status status = KVSIM_OK;
    if (job.runs == NULL || job.memory == NULL) {
        status = kvsim__fail_memory(base, RUNS * job.stride, "lossless coding");
    } else {
        kvsim__parallel_for(base, RUNS, measure_run, &job);
        add_runs(&job, out);
    }
    kvsim__release(base, job.runs, RUNS, sizeof *job.runs);
    kvsim__release(base, job.memory, RUNS, job.stride);
    return status;
}

#include "estimate.h"

#include <math.h>
#include <unistd.h>

/** Bytes of text of one token, where nobody counts them: of English in usual tokenizers. */
#define TOKEN_BYTES 4.0

/** Speeds that stand for those that were not measured, in tokens a second. They only weigh the parts of the work. */
#define GUESSED_PREFILL 5000.0
#define GUESSED_DECODE  1500.0

/** A model that stands for one that is not known. */
#define GUESSED_LAYERS       6.0
#define GUESSED_ROW_ELEMENTS 64.0

/**
 * Seconds of the analysis, measured on two cores of a server with AVX-512 over the five shipped experiments: for each
 * layer and kind, by element of a pair of pages (all views, and the chance levels), by element of a page, and for a
 * run.
 */
#define SECONDS_OF_PAIR_ELEMENT    4.7e-10
#define SECONDS_OF_PAGE_ELEMENT    1.5e-7
#define SECONDS_OF_BETWEEN_ELEMENT 3.4e-10
#define SECONDS_OF_ANALYSIS        0.3
#define MEASURED_CORES             2.0

/** How much longer a measured second of the analysis takes here. */
static double slowness(void) {
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return MEASURED_CORES / (double)(cores > 0 ? cores : 1);
}

static double member(const json_t *object, const char *name, double otherwise) {
    const json_t *value = json_object_get(object, name);
    return json_is_number(value) ? json_number_value(value) : otherwise;
}

run_estimate estimate_run(const experiment *e, const json_t *plan) {
    const json_t *model = json_object_get(plan, "model");
    double bytes = 0.0;
    for (size_t i = 0; i < e->prompt_count; i++)
        bytes += (double)e->prompt_sizes[i];
    run_estimate result = {0};
    result.prompt_tokens = member(plan, "prompt_tokens", ceil(bytes / TOKEN_BYTES));
    result.output_tokens = member(plan, "output_tokens", (double)e->max_tokens * (double)e->prompt_count);
    result.kv_bytes = member(plan, "kv_bytes", NAN);
    double prefill = member(plan, "prefill_tokens_per_second", GUESSED_PREFILL);
    double decode = member(plan, "decode_tokens_per_second", GUESSED_DECODE);
    result.measured = json_object_get(plan, "prefill_tokens_per_second") != NULL;
    result.generation_seconds = result.prompt_tokens / prefill + result.output_tokens / decode;
    double layers = member(model, "layers", GUESSED_LAYERS);
    double row = model == NULL ? GUESSED_ROW_ELEMENTS : member(model, "kv_heads", 1.0) * member(model, "head_dim", 1.0);
    result.pages = (result.prompt_tokens + result.output_tokens) / (double)e->page_tokens;
    result.page_elements = 2.0 * layers * row * (double)e->page_tokens * result.pages;
    double of_element = SECONDS_OF_PAIR_ELEMENT * result.pages / 2.0 + SECONDS_OF_PAGE_ELEMENT;
    result.analysis_seconds = SECONDS_OF_ANALYSIS + slowness() * result.page_elements * of_element;
    return result;
}

double estimate_between(const run_estimate *runs, size_t count) {
    double pages = 0.0, elements = 0.0;
    for (size_t i = 0; i < count; i++) {
        pages += runs[i].pages;
        elements += runs[i].page_elements;
    }
    return count < 2 ? 0.0 : slowness() * SECONDS_OF_BETWEEN_ELEMENT * elements * pages / 2.0;
}

/** The context: what the public handle points to. */
#ifndef KVSIM_COMPUTE_CONTEXT_H
#define KVSIM_COMPUTE_CONTEXT_H

#include "../backend/accelerator.h"
#include "../pages/store.h"
#include "../report/result.h"

struct kvsim_ctx {
    kvsim__base base;
    kvsim__store store;
    kvsim_rope rope;
    kvsim__accelerator accelerator;
};

/** Check the options of a compute and put the defaults in place. */
kvsim_status kvsim__read_plan(kvsim__base *base, const kvsim_compute_options *options, kvsim__plan *plan);

/** Compare the pages of a context as planned; see kvsim_compute. */
kvsim_status kvsim__compute(kvsim_ctx *ctx, const kvsim__plan *plan, kvsim_result **out);

#endif

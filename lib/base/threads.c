#define _GNU_SOURCE
#include "base.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

/* More threads than this are never started for one call; a host with more cores passes its own pool. */
enum { MAX_THREADS = 256 };

uint32_t kvsim__core_count(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) {
        return 1;
    }
    const int count = CPU_COUNT(&set);
    return count > 0 ? (uint32_t)count : 1;
}

typedef struct job {
    atomic_uint next;
    uint32_t count;
    void (*body)(void *argument, uint32_t index);
    void *argument;
} job;

static void *work(void *opaque) {
    job *work_job = opaque;
    for (;;) {
        const uint32_t index = atomic_fetch_add_explicit(&work_job->next, 1, memory_order_relaxed);
        if (index >= work_job->count) {
            return NULL;
        }
        work_job->body(work_job->argument, index);
    }
}

void kvsim__parallel_for(kvsim__base *base, uint32_t count, void (*body)(void *argument, uint32_t index),
                         void *argument) {
    if (count == 0) {
        return;
    }
    if (base->parallel_for != NULL) {
        base->parallel_for(base->parallel_user, count, body, argument);
        return;
    }
    job work_job = {.count = count, .body = body, .argument = argument};
    uint32_t wanted = base->threads < count ? base->threads : count;
    if (wanted > MAX_THREADS) {
        wanted = MAX_THREADS;
    }
    pthread_t threads[MAX_THREADS];
    uint32_t started = 0;
    while (started + 1 < wanted && pthread_create(&threads[started], NULL, work, &work_job) == 0) {
        started++;
    }
    (void)work(&work_job);
    for (uint32_t i = 0; i < started; i++) {
        (void)pthread_join(threads[i], NULL);
    }
}

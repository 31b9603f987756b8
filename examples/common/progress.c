#include "progress.h"

#include "terminal.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/** Pause between two drawings on a terminal: 12 a second. */
#define REDRAW_NANOSECONDS 80000000L

/** Elsewhere a line is printed each time that so many per cent or seconds have passed. */
#define PLAIN_PERCENT 10
#define PLAIN_SECONDS 10

/** Widest bar. */
#define BAR_COLUMNS 40

/** Bytes of a text. */
#define TEXT_SIZE 160

struct progress {
    char what[TEXT_SIZE];
    char unit[TEXT_SIZE];
    char detail[TEXT_SIZE]; /**< empty: "1 of 2 unit" */
    bool terminal;
    bool stop;
    struct timespec begin;
    double last_line;
    int last_tenth;
    atomic_uint_fast64_t done;
    atomic_uint_fast64_t total;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
};

static double seconds_since(const struct timespec *begin) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - begin->tv_sec) + 1e-9 * (double)(now.tv_nsec - begin->tv_nsec);
}

/** Text of the time that is left, estimated from the mean speed so far. */
static void describe_rest(char *text, size_t size, double elapsed, double share) {
    char passed[32], left[32];
    format_seconds(passed, sizeof passed, elapsed);
    if (elapsed < 1.0 || share <= 0.01) {
        snprintf(text, size, "%s", passed);
        return;
    }
    format_seconds(left, sizeof left, elapsed * (1.0 - share) / share);
    snprintf(text, size, "%s, %s left", passed, left);
}

static void draw(progress *display) {
    uint64_t total = atomic_load(&display->total);
    uint64_t done = atomic_load(&display->done);
    double elapsed = seconds_since(&display->begin);
    double share = total > 0 ? (double)done / (double)total : 0.0;
    char rest[80], done_text[32], total_text[32];
    describe_rest(rest, sizeof rest, elapsed, share);
    format_count(done_text, sizeof done_text, done);
    format_count(total_text, sizeof total_text, total);
    char counts[sizeof done_text + sizeof total_text + TEXT_SIZE + 8];
    if (total == 0)
        counts[0] = 0;
    else if (display->detail[0] != 0)
        snprintf(counts, sizeof counts, "%s", display->detail);
    else
        snprintf(counts, sizeof counts, "%s of %s %s", done_text, total_text, display->unit);
    if (display->terminal) {
        char bar[4 * BAR_COLUMNS + 1], words[sizeof counts + sizeof rest + 16];
        snprintf(words, sizeof words, "%3.0f %%  %s  %s", 100.0 * share, counts, rest);
        int room = terminal_columns() - 1 - (int)strlen(display->what);
        int columns = room - 2 - (int)strlen(words);
        format_bar(bar, sizeof bar, share, columns > BAR_COLUMNS ? BAR_COLUMNS : columns);
        fprintf(stderr, "\r%s%s%s %.*s\x1b[K", display->what, columns > 0 ? " " : "", bar, room > 1 ? room - 1 : 0,
                words);
        fflush(stderr);
        return;
    }
    int tenth = (int)(100.0 * share) / PLAIN_PERCENT;
    if (total == 0 || (tenth == display->last_tenth && elapsed - display->last_line < PLAIN_SECONDS))
        return;
    display->last_tenth = tenth;
    display->last_line = elapsed;
    fprintf(stderr, "%s: %.0f %%, %s, %s\n", display->what, 100.0 * share, counts, rest);
}

static void *draw_until_stopped(void *argument) {
    progress *display = argument;
    pthread_mutex_lock(&display->lock);
    while (!display->stop) {
        draw(display);
        struct timespec next;
        clock_gettime(CLOCK_MONOTONIC, &next);
        next.tv_nsec += REDRAW_NANOSECONDS;
        if (next.tv_nsec >= 1000000000L) {
            next.tv_nsec -= 1000000000L;
            next.tv_sec++;
        }
        pthread_cond_timedwait(&display->wake, &display->lock, &next);
    }
    pthread_mutex_unlock(&display->lock);
    return NULL;
}

progress *progress_start(const char *what, const char *unit, bool quiet) {
    progress *display = quiet ? NULL : calloc(1, sizeof *display);
    if (display == NULL)
        return NULL;
    snprintf(display->what, sizeof display->what, "%s", what);
    snprintf(display->unit, sizeof display->unit, "%s", unit);
    display->terminal = terminal_can_redraw();
    clock_gettime(CLOCK_MONOTONIC, &display->begin);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&display->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&display->lock, NULL);
    /* Signals belong to the main thread, whose system calls they must interrupt. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&display->thread, NULL, draw_until_stopped, display);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        pthread_cond_destroy(&display->wake);
        pthread_mutex_destroy(&display->lock);
        free(display);
        return NULL;
    }
    return display;
}

void progress_set(progress *display, uint64_t done, uint64_t total) {
    if (display == NULL)
        return;
    atomic_store(&display->done, done);
    atomic_store(&display->total, total);
}

void progress_say(progress *display, const char *what, const char *detail) {
    if (display == NULL)
        return;
    pthread_mutex_lock(&display->lock);
    snprintf(display->what, sizeof display->what, "%s", what);
    snprintf(display->detail, sizeof display->detail, "%s", detail);
    pthread_mutex_unlock(&display->lock);
}

void progress_print(progress *display, const char *line) {
    if (display != NULL)
        pthread_mutex_lock(&display->lock);
    fprintf(stderr, "%s%s\n", display != NULL && display->terminal ? "\r\x1b[K" : "", line);
    if (display != NULL)
        pthread_mutex_unlock(&display->lock);
}

void progress_end(progress *display, bool complete) {
    if (display == NULL)
        return;
    pthread_mutex_lock(&display->lock);
    display->stop = true;
    pthread_cond_signal(&display->wake);
    pthread_mutex_unlock(&display->lock);
    pthread_join(display->thread, NULL);
    if (display->terminal) {
        fputs("\r\x1b[K", stderr);
        fflush(stderr);
    } else if (complete) {
        char total[32];
        format_count(total, sizeof total, atomic_load(&display->total));
        fprintf(stderr, "%s: done, %s %s in %.1f s\n", display->what, total, display->unit,
                seconds_since(&display->begin));
    }
    pthread_cond_destroy(&display->wake);
    pthread_mutex_destroy(&display->lock);
    free(display);
}

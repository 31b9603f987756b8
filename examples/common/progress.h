/**
 * Progress on stderr: one line that is redrawn on a terminal, plain lines now and then elsewhere.
 */
#ifndef KVSIM_EXAMPLES_COMMON_PROGRESS_H
#define KVSIM_EXAMPLES_COMMON_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

/** A progress display with a drawing thread of its own. */
typedef struct progress progress;

/** Start to show the work `what`, counted in `unit`. `quiet`: show nothing. NULL when there is nothing to show. */
progress *progress_start(const char *what, const char *unit, bool quiet);

/** How far the work is. Any thread may call it, as often as it likes. */
void progress_set(progress *display, uint64_t done, uint64_t total);

/**
 * Say what is done just now, and how far it is, in place of what `progress_start` was told and of "1 of 2 unit". The
 * texts are copied, and cut if they are very long. Any thread may call it.
 */
void progress_say(progress *display, const char *what, const char *detail);

/** Print a line on stderr, above the line that is redrawn if there is one. `display` may be NULL. */
void progress_print(progress *display, const char *line);

/** Take the line away (a terminal) or print the last one (elsewhere) and stop drawing. NULL is allowed. */
void progress_end(progress *display, bool complete);

#endif

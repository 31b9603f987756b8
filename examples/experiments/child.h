/**
 * Child processes: a program with arguments, in a folder, with a time limit, and what became of it.
 *
 * A child is the leader of a process group of its own: a key press that stops this program does not reach it, and
 * everything that it started is ended with it. It is killed when this program dies, and the kernel prefers it to this
 * program when memory runs out. Its stdin is empty, its standard output is read line by line, and the end of its
 * standard error is kept: its last words.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_CHILD_H
#define KVSIM_EXAMPLES_EXPERIMENTS_CHILD_H

#include "common/message.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Bytes of the last words, terminating NUL included: with what else is said they fit into an error text. */
#define LAST_WORDS_SIZE 800

/** Bytes of a line of standard output; the rest of a longer line is dropped. */
#define CHILD_LINE_SIZE 4096

/** What to start. */
typedef struct child_options {
    const char *const *arguments;   /**< program (a path, or a name for PATH) and arguments, NULL-terminated */
    const char *folder;             /**< working folder; NULL = this program's */
    const char *const *environment; /**< NAME=VALUE, NULL-terminated: besides this program's; NULL = none */
    double seconds;                 /**< the child is ended after that many; 0 = no limit */
    /** Receives each line of standard output without its newline, control characters as '?'. NULL: thrown away. */
    void (*line)(void *user, const char *line);
    void *line_user;
    bool words_from_output; /**< standard output belongs to the last words, too */
} child_options;

/** What became of a child. */
typedef struct child_result {
    int status;                       /**< exit status; -1 if a signal ended it */
    int signal;                       /**< the signal, 0 if it exited */
    bool timed_out;                   /**< it was ended because its time was over */
    bool interrupted;                 /**< it was ended because this program was asked to stop */
    double seconds;                   /**< wall time */
    int64_t peak_rss_bytes;           /**< of the child, or of the largest child that it waited for */
    char last_words[LAST_WORDS_SIZE]; /**< one line: the last lines, separated by " | "; "" if there were none */
} child_result;

/** A child that runs. Opaque. */
typedef struct child child;

/** Start a child. @return NULL with `error` set if that cannot be done (no such program, for example) */
child *child_start(const child_options *options, error_text *error);

/**
 * Take what the children wrote, and see whether one has ended, its time is over, or it was told to end.
 * @param children [count]; NULL entries are skipped
 * @param milliseconds longest wait for something to happen
 */
void child_wait(child *const *children, size_t count, int milliseconds);

/** Whether a child has ended and everything it wrote was read. */
bool child_ended(const child *c);

/** Ask a child to end (SIGTERM to its group); it is killed if it still runs after a few seconds. */
void child_stop(child *c);

/** Kill what is left of the child's process group, fill `result` (may be NULL) and give the child back. A child that
 * still runs is killed. NULL is allowed. */
void child_end(child *c, child_result *result);

/**
 * Start a child and wait for its end; `interrupted()` stops it.
 * @return 0 if it ran, whatever became of it; -1 with `error` set if it could not be started
 */
int child_run(const child_options *options, child_result *result, error_text *error);

/**
 * What became of a child as a sentence without a full stop: "exited with status 3: last words", "was killed by signal
 * 9 (Killed; ...)", "took longer than its 5 s (--time-limit) and was ended". Set in `error`.
 * @return 0 if it exited with status 0 and was not ended by us, and then `error` is untouched; else -1
 */
int child_verdict(const char *what, const child_options *options, const child_result *result, error_text *error);

#endif

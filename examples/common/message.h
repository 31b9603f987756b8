/**
 * One-line messages of the programs, and the two signals that ask them to stop.
 */
#ifndef KVSIM_EXAMPLES_COMMON_MESSAGE_H
#define KVSIM_EXAMPLES_COMMON_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>

/** @name Exit statuses
 * @{ */
#define EXIT_FAILED      1
#define EXIT_USAGE       2
#define EXIT_INTERRUPTED 130
/** @} */

/** Bytes of an error text, terminating NUL included. */
#define ERROR_TEXT_SIZE 1024

/** An error text on its way up. */
typedef struct error_text {
    char text[ERROR_TEXT_SIZE];
} error_text;

/** Format into `error`; control characters become '?', so that it stays one line. Returns -1. */
int fail(error_text *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** Print "PROGRAM: text" as one line on stderr. A progress bar must have been taken away before. */
void print_error(const char *program, const char *format, ...) __attribute__((format(printf, 2, 3)));

/**
 * From now on SIGINT and SIGTERM only set a flag. SIGPIPE and SIGXFSZ are ignored: a closed pipe and a file that
 * may not grow are then errors of the write.
 */
void watch_signals(void);

/** Whether SIGINT or SIGTERM has come. */
bool interrupted(void);

/** Forget that one has come: what follows is only stopped by the next. */
void forget_interruption(void);

#endif

#include "message.h"

#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

/** Set by the handler, read by any thread; lock-free, so both may. */
static atomic_int stop_requested;

static void keep_one_line(char *text) {
    for (unsigned char *c = (unsigned char *)text; *c != 0; c++)
        if (*c < 0x20 || *c == 0x7f)
            *c = '?';
}

int fail(error_text *error, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
    keep_one_line(error->text);
    return -1;
}

void print_error(const char *program, const char *format, ...) {
    char text[ERROR_TEXT_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    keep_one_line(text);
    fprintf(stderr, "%s: %s\n", program, text);
}

static void request_stop(int number) {
    (void)number;
    atomic_store(&stop_requested, 1);
}

void watch_signals(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    sigemptyset(&action.sa_mask);
    action.sa_handler = request_stop;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, NULL);
    sigaction(SIGXFSZ, &action, NULL);
}

bool interrupted(void) {
    return atomic_load(&stop_requested) != 0;
}

void forget_interruption(void) {
    atomic_store(&stop_requested, 0);
}

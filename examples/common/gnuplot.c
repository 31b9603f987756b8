#include "gnuplot.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

/** Longest wait in one poll, so that a time limit or a signal is noticed. */
#define POLL_MILLISECONDS 50

void gnuplot_quote(FILE *script, const char *text) {
    fputc('\'', script);
    for (const unsigned char *c = (const unsigned char *)text; *c != 0; c++) {
        if (*c < 0x20 || *c == 0x7f)
            continue;
        if (*c == '\'')
            fputc('\'', script);
        fputc(*c, script);
    }
    fputc('\'', script);
}

/** A gnuplot that runs: its process, the end of its stdin and of its stderr that are ours. */
typedef struct child {
    pid_t process;
    int input;
    int errors;
} child;

static int start(child *plotter, const char *folder, int input[2], int errors[2]) {
    char program[] = "gnuplot", no_settings[] = "-d", from_stdin[] = "-";
    char *arguments[] = {program, no_settings, from_stdin, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t defaults, none;
    sigemptyset(&none);
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    sigaddset(&defaults, SIGXFSZ);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, input[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, errors[1], STDERR_FILENO);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addchdir_np(&actions, folder);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    int reason = posix_spawnp(&plotter->process, arguments[0], &actions, &attributes, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    return reason;
}

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/** Feed the script and collect the first bytes of what gnuplot complains of, until it closes its stderr. */
static int talk(child *plotter, const char *script, size_t size, double deadline, char *complaint, size_t room) {
    size_t used = 0;
    complaint[0] = 0;
    for (;;) {
        struct pollfd watched[2] = {{plotter->errors, POLLIN, 0}, {plotter->input, POLLOUT, 0}};
        if (interrupted())
            return GNUPLOT_INTERRUPTED;
        if (seconds_now() > deadline)
            return GNUPLOT_FAILED;
        poll(watched, plotter->input >= 0 ? 2 : 1, POLL_MILLISECONDS);
        if (plotter->input >= 0 && watched[1].revents != 0) {
            ssize_t written = write(plotter->input, script, size);
            if (written > 0) {
                script += written;
                size -= (size_t)written;
            }
            if (size == 0 || (written < 0 && errno != EAGAIN && errno != EINTR)) {
                close(plotter->input);
                plotter->input = -1;
            }
        }
        if (watched[0].revents != 0) {
            char buffer[512];
            ssize_t got = read(plotter->errors, buffer, sizeof buffer);
            if (got == 0)
                return GNUPLOT_OK;
            for (ssize_t i = 0; i < got && used + 1 < room; i++)
                complaint[used++] = buffer[i] == '\n' ? ' ' : buffer[i];
            complaint[used] = 0;
        }
    }
}

/** Wait for the end of the child; kills it at the deadline or on a signal. Exit status, or -1. */
static int reap(pid_t process, double deadline, int talked) {
    int status = 0;
    bool killed = false;
    for (;;) {
        pid_t ended = waitpid(process, &status, WNOHANG);
        if (ended == process)
            break;
        if (ended < 0 && errno != EINTR)
            return -1;
        if (!killed && (talked != GNUPLOT_OK || interrupted() || seconds_now() > deadline)) {
            kill(process, SIGKILL);
            killed = true;
        }
        struct timespec pause = {0, 2000000};
        nanosleep(&pause, NULL);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void close_pair(int pair[2]) {
    close(pair[0]);
    close(pair[1]);
}

int gnuplot_run(const char *script, size_t size, const char *folder, double seconds, error_text *error) {
    int input[2], errors[2];
    if (pipe2(input, O_CLOEXEC) != 0)
        return fail(error, "cannot make a pipe to gnuplot: %s", strerror(errno));
    if (pipe2(errors, O_CLOEXEC) != 0) {
        int reason = errno;
        close_pair(input);
        return fail(error, "cannot make a pipe to gnuplot: %s", strerror(reason));
    }
    child plotter = {0, input[1], errors[0]};
    int reason = start(&plotter, folder, input, errors);
    if (reason != 0) {
        close_pair(input);
        close_pair(errors);
        fail(error, "cannot start gnuplot: %s", strerror(reason));
        return reason == ENOENT ? GNUPLOT_ABSENT : GNUPLOT_FAILED;
    }
    close(input[0]);
    close(errors[1]);
    fcntl(plotter.input, F_SETFL, O_NONBLOCK);
    char complaint[400];
    double deadline = seconds_now() + seconds;
    int talked = talk(&plotter, script, size, deadline, complaint, sizeof complaint);
    if (plotter.input >= 0)
        close(plotter.input);
    close(plotter.errors);
    int status = reap(plotter.process, deadline, talked);
    if (interrupted())
        return GNUPLOT_INTERRUPTED;
    if (status == 0)
        return GNUPLOT_OK;
    if (seconds_now() > deadline)
        return fail(error, "gnuplot took longer than %.0f s and was stopped", seconds);
    return fail(error, "gnuplot failed: %s", complaint[0] != 0 ? complaint : "it says no more");
}

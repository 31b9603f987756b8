#include "child.h"

#include "common/utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

/** Seconds between the request to end and the kill. */
#define GRACE_SECONDS 3.0

/** Bytes of standard error that are kept while the child runs; its last lines are taken from them. */
#define TAIL_SIZE 8192

/** Most children of one wait. */
#define MOST_CHILDREN 256

/** Most reads in a row from one stream: more than a pipe holds, so that a child that never stops writing is watched. */
#define MOST_READS 32

/** Longest wait in one poll: the end of a child is no event of its pipes. */
#define POLL_MILLISECONDS 20

/** One of the two streams of a child: our end of the pipe. */
typedef struct stream {
    int descriptor; /**< -1 after its end */
    bool lines;     /**< to be handed out line by line */
    bool words;     /**< belongs to the last words */
} stream;

struct child {
    child_options options;
    pid_t process;
    stream streams[2]; /**< standard output, standard error */
    char line[CHILD_LINE_SIZE];
    size_t line_used;
    char tail[TAIL_SIZE]; /**< a ring */
    uint64_t tail_written;
    double begin;
    double stop_time; /**< when it was asked to end; 0 = not asked */
    bool timed_out;
    bool interrupted;
    bool killed;
    bool reaped;
    int wait_status;
    int64_t peak_rss_bytes;
    double end;
};

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/** This program's environment with additions, which win. [owned], the entries are borrowed. */
static char **join_environment(const char *const *additions) {
    size_t ours = 0, added = 0;
    while (environ[ours] != NULL)
        ours++;
    while (additions != NULL && additions[added] != NULL)
        added++;
    char **joined = calloc(ours + added + 1, sizeof *joined);
    if (joined == NULL)
        return NULL;
    size_t used = 0;
    for (size_t i = 0; i < added; i++)
        joined[used++] = (char *)(uintptr_t)additions[i];
    for (size_t i = 0; i < ours; i++) {
        size_t name = strcspn(environ[i], "=") + 1;
        bool replaced = false;
        for (size_t a = 0; a < added; a++)
            replaced |= strncmp(environ[i], additions[a], name) == 0;
        if (!replaced)
            joined[used++] = environ[i];
    }
    return joined;
}

/** Pipes of a child: what it writes, and why it could not start. */
typedef struct pipes {
    int output[2];
    int errors[2];
    int start[2];
} pipes;

static void close_pair(int pair[2]) {
    for (int i = 0; i < 2; i++)
        if (pair[i] >= 0)
            close(pair[i]);
}

static void close_pipes(pipes *p) {
    close_pair(p->output);
    close_pair(p->errors);
    close_pair(p->start);
}

static int open_pipes(pipes *p) {
    static const pipes closed = {{-1, -1}, {-1, -1}, {-1, -1}};
    *p = closed;
    if (pipe2(p->output, O_CLOEXEC) == 0 && pipe2(p->errors, O_CLOEXEC) == 0 && pipe2(p->start, O_CLOEXEC) == 0)
        return 0;
    int reason = errno;
    close_pipes(p);
    errno = reason;
    return -1;
}

/** Let the kernel end this process before the one that started it when memory runs out. */
static void offer_to_die_first(void) {
    int descriptor = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (descriptor < 0)
        return;
    ssize_t written = write(descriptor, "500", 3);
    (void)written; /* it is a courtesy only */
    close(descriptor);
}

/** In the new process: only what is safe between fork and exec. Does not return. */
static void become(const child_options *options, char **environment, const pipes *p, pid_t parent) {
    static const int reset[] = {SIGPIPE, SIGXFSZ, SIGINT, SIGTERM};
    sigset_t none;
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(EXIT_FAILED);
    for (size_t i = 0; i < sizeof reset / sizeof *reset; i++)
        signal(reset[i], SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    offer_to_die_first();
    int nothing = open("/dev/null", O_RDONLY);
    bool ready = nothing >= 0 && dup2(nothing, STDIN_FILENO) >= 0 && dup2(p->output[1], STDOUT_FILENO) >= 0 &&
                 dup2(p->errors[1], STDERR_FILENO) >= 0 && (options->folder == NULL || chdir(options->folder) == 0);
    if (ready)
        execvpe(options->arguments[0], (char *const *)(uintptr_t)options->arguments, environment);
    int reason = errno;
    ssize_t written = write(p->start[1], &reason, sizeof reason);
    (void)written;
    _exit(127);
}

/** Read why a child did not start; 0 if it did. */
static int read_reason(int descriptor) {
    int reason = 0;
    ssize_t got;
    do
        got = read(descriptor, &reason, sizeof reason);
    while (got < 0 && errno == EINTR);
    return got == (ssize_t)sizeof reason ? reason : 0;
}

child *child_start(const child_options *options, error_text *error) {
    child *c = calloc(1, sizeof *c);
    char **environment = join_environment(options->environment);
    pipes p;
    if (c == NULL || environment == NULL || open_pipes(&p) != 0) {
        fail(error, "cannot start %s: %s", options->arguments[0], strerror(errno));
        free(c);
        free(environment);
        return NULL;
    }
    pid_t parent = getpid();
    c->process = fork();
    int reason = errno;
    if (c->process == 0)
        become(options, environment, &p, parent);
    free(environment);
    if (c->process > 0) {
        setpgid(c->process, c->process);
        close(p.start[1]);
        p.start[1] = -1;
        reason = read_reason(p.start[0]);
        if (reason != 0)
            waitpid(c->process, NULL, 0);
    }
    if (c->process < 0 || reason != 0) {
        fail(error, "cannot start %s: %s", options->arguments[0], strerror(reason));
        close_pipes(&p);
        free(c);
        return NULL;
    }
    c->options = *options;
    c->begin = seconds_now();
    c->streams[0] = (stream){p.output[0], options->line != NULL, options->words_from_output};
    c->streams[1] = (stream){p.errors[0], false, true};
    close(p.start[0]);
    close(p.output[1]);
    close(p.errors[1]);
    fcntl(p.output[0], F_SETFL, O_NONBLOCK);
    fcntl(p.errors[0], F_SETFL, O_NONBLOCK);
    return c;
}

/** Hand out a line that is complete, as far as it was kept. */
static void end_line(child *c) {
    c->line[c->line_used] = 0;
    for (size_t i = 0; i < c->line_used; i++)
        if ((unsigned char)c->line[i] < 0x20 || c->line[i] == 0x7f)
            c->line[i] = '?';
    c->line_used = 0;
    c->options.line(c->options.line_user, c->line);
}

static void take_lines(child *c, const char *data, size_t size) {
    for (size_t i = 0; i < size; i++) {
        if (data[i] == '\n')
            end_line(c);
        else if (c->line_used + 1 < sizeof c->line)
            c->line[c->line_used++] = data[i];
    }
}

/** Take what a stream has; closes it at its end. */
static void take_stream(child *c, stream *from) {
    char data[4096];
    for (int reads = 0; from->descriptor >= 0 && reads < MOST_READS; reads++) {
        ssize_t got = read(from->descriptor, data, sizeof data);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN)
            return;
        if (got <= 0) {
            close(from->descriptor);
            from->descriptor = -1;
            if (from->lines && c->line_used > 0)
                end_line(c);
            return;
        }
        if (from->lines)
            take_lines(c, data, (size_t)got);
        for (ssize_t i = 0; from->words && i < got; i++)
            c->tail[c->tail_written++ % TAIL_SIZE] = data[i];
        if ((size_t)got < sizeof data)
            return;
    }
}

static void take_streams(child *c) {
    take_stream(c, &c->streams[0]);
    take_stream(c, &c->streams[1]);
}

/** See whether the process has ended; if so, everything that it started ends, too. */
static void reap(child *c, bool block) {
    siginfo_t facts;
    struct rusage usage;
    facts.si_pid = 0;
    if (c->reaped)
        return;
    /* The number of the group is not given to others before the process is waited for. */
    while (waitid(P_PID, (id_t)c->process, &facts, WEXITED | WNOWAIT | (block ? 0 : WNOHANG)) != 0 && errno == EINTR) {
    }
    if (facts.si_pid != c->process)
        return;
    kill(-c->process, SIGKILL);
    while (wait4(c->process, &c->wait_status, 0, &usage) < 0 && errno == EINTR) {
    }
    c->end = seconds_now();
    c->peak_rss_bytes = (int64_t)usage.ru_maxrss * 1024;
    c->reaped = true;
    take_streams(c);
}

/** End what is over its time, and kill what does not end. */
static void enforce(child *c) {
    double now = seconds_now();
    if (c->reaped)
        return;
    if (c->options.seconds > 0.0 && c->stop_time == 0.0 && now - c->begin > c->options.seconds) {
        c->timed_out = true;
        child_stop(c);
    }
    if (c->stop_time != 0.0 && !c->killed && now - c->stop_time > GRACE_SECONDS) {
        kill(-c->process, SIGKILL);
        c->killed = true;
    }
}

void child_wait(child *const *children, size_t count, int milliseconds) {
    struct pollfd watched[2 * MOST_CHILDREN];
    nfds_t used = 0;
    for (size_t i = 0; i < count && i < MOST_CHILDREN; i++)
        for (int s = 0; s < 2 && children[i] != NULL; s++)
            if (children[i]->streams[s].descriptor >= 0)
                watched[used++] = (struct pollfd){children[i]->streams[s].descriptor, POLLIN, 0};
    poll(watched, used, milliseconds < POLL_MILLISECONDS ? milliseconds : POLL_MILLISECONDS);
    for (size_t i = 0; i < count; i++) {
        if (children[i] == NULL)
            continue;
        take_streams(children[i]);
        reap(children[i], false);
        enforce(children[i]);
    }
}

bool child_ended(const child *c) {
    return c->reaped;
}

void child_stop(child *c) {
    if (c->reaped || c->stop_time != 0.0)
        return;
    c->stop_time = seconds_now();
    kill(-c->process, SIGTERM);
}

/** Whether a character steers a terminal: C0, DEL and C1 (U+0080 to U+009F). */
static bool is_control(const char *at, size_t size) {
    unsigned char first = (unsigned char)at[0];
    return size == 1 ? first < 0x20 || first == 0x7f : size == 2 && first == 0xc2 && (unsigned char)at[1] < 0xa0;
}

/** The last lines of the tail as one line of UTF-8. */
static void collect_words(const child *c, char *words, size_t size) {
    char flat[TAIL_SIZE];
    size_t length = c->tail_written < TAIL_SIZE ? (size_t)c->tail_written : TAIL_SIZE;
    words[0] = 0;
    for (size_t i = 0; i < length; i++)
        flat[i] = c->tail[(c->tail_written - length + i) % TAIL_SIZE];
    size_t used = 0;
    char joined[2 * TAIL_SIZE];
    for (size_t i = 0; i < length;) {
        size_t step = utf8_character_size(flat + i, length - i);
        bool control = is_control(flat + i, step);
        if (flat[i] == '\n' || flat[i] == '\r') {
            while (i < length && strchr("\r\n", flat[i]) != NULL && flat[i] != 0)
                i++;
            if (used > 0 && i < length) {
                memcpy(joined + used, " | ", 3);
                used += 3;
            }
            continue;
        }
        size_t taken = step > 0 ? step : 1;
        bool shown = step > 0 && !control;
        memcpy(joined + used, shown ? flat + i : "?", shown ? taken : 1);
        used += shown ? taken : 1;
        i += taken;
    }
    size_t from = used < size ? 0 : used - (size - 1);
    while (from < used && ((unsigned char)joined[from] & 0xc0) == 0x80)
        from++;
    memcpy(words, joined + from, used - from);
    words[used - from] = 0;
}

void child_end(child *c, child_result *result) {
    if (c == NULL)
        return;
    if (!c->reaped) {
        kill(-c->process, SIGKILL);
        reap(c, true);
    }
    for (int s = 0; s < 2; s++)
        if (c->streams[s].descriptor >= 0)
            close(c->streams[s].descriptor);
    if (c->streams[0].lines && c->line_used > 0)
        end_line(c);
    if (result != NULL) {
        memset(result, 0, sizeof *result);
        result->status = WIFEXITED(c->wait_status) ? WEXITSTATUS(c->wait_status) : -1;
        result->signal = WIFSIGNALED(c->wait_status) ? WTERMSIG(c->wait_status) : 0;
        result->timed_out = c->timed_out;
        result->interrupted = c->interrupted;
        result->seconds = c->end - c->begin;
        result->peak_rss_bytes = c->peak_rss_bytes;
        collect_words(c, result->last_words, sizeof result->last_words);
    }
    free(c);
}

int child_run(const child_options *options, child_result *result, error_text *error) {
    child *c = child_start(options, error);
    if (c == NULL)
        return -1;
    while (!child_ended(c)) {
        child_wait(&c, 1, POLL_MILLISECONDS);
        if (interrupted() && c->stop_time == 0.0) {
            c->interrupted = true;
            child_stop(c);
        }
    }
    child_end(c, result);
    return 0;
}

int child_verdict(const char *what, const child_options *options, const child_result *result, error_text *error) {
    bool silent = result->last_words[0] == 0;
    const char *before = silent ? "" : "; its last words: ";
    if (result->interrupted)
        return fail(error, "%s was interrupted", what);
    if (result->timed_out)
        return fail(error, "%s took longer than its %g s (--time-limit) and was ended%s%s", what, options->seconds,
                    before, result->last_words);
    if (result->signal == SIGKILL)
        return fail(error, "%s was killed (signal 9): memory ran out, or somebody ended it%s%s", what, before,
                    result->last_words);
    if (result->signal != 0)
        return fail(error, "%s crashed: signal %d (%s)%s%s", what, result->signal, strsignal(result->signal), before,
                    result->last_words);
    if (result->status != 0 && silent)
        return fail(error, "%s ended with status %d and without a word", what, result->status);
    if (result->status != 0)
        return fail(error, "%s ended with status %d%s%s", what, result->status, before, result->last_words);
    return 0;
}

#include "terminal.h"

#include <langinfo.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

bool terminal_can_redraw(void) {
    const char *kind = getenv("TERM");
    return isatty(STDERR_FILENO) && (kind == NULL || strcmp(kind, "dumb") != 0);
}

int terminal_columns(void) {
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col;
    return 80;
}

void format_bar(char *text, size_t size, double share, int columns) {
    static const char *const eighths[] = {" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉", "█"};
    bool blocks = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    int filled = (int)(8.0 * fmin(fmax(share, 0.0), 1.0) * columns);
    size_t used = 0;
    text[0] = 0;
    for (int i = 0; i < columns && used + 5 < size; i++) {
        int part = filled - 8 * i;
        part = part < 0 ? 0 : part > 8 ? 8 : part;
        const char *cell = blocks ? eighths[part] : part == 8 ? "#" : "-";
        used += (size_t)snprintf(text + used, size - used, "%s", cell);
    }
}

void format_count(char *text, size_t size, uint64_t count) {
    char digits[24];
    int length = snprintf(digits, sizeof digits, "%llu", (unsigned long long)count);
    size_t used = 0;
    for (int i = 0; i < length && used + 2 < size; i++) {
        if (i > 0 && (length - i) % 3 == 0)
            text[used++] = ',';
        text[used++] = digits[i];
    }
    text[used] = 0;
}

void format_bytes(char *text, size_t size, double bytes) {
    static const char *const decimal[] = {"B", "kB", "MB", "GB", "TB"};
    static const char *const binary[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    if (fabs(bytes) < 10000.0) {
        snprintf(text, size, "%.0f B", bytes);
        return;
    }
    int step = 1;
    double unit = 1e3, binary_unit = 1024.0;
    while (step < 4 && fabs(bytes) >= 1000.0 * unit) {
        unit *= 1e3;
        binary_unit *= 1024.0;
        step++;
    }
    double value = bytes / unit;
    int decimals = fabs(value) < 9.995 ? 2 : fabs(value) < 99.95 ? 1 : 0;
    snprintf(text, size, "%.*f %s (%.*f %s)", decimals, value, decimal[step], decimals, bytes / binary_unit,
             binary[step]);
}

void format_seconds(char *text, size_t size, double seconds) {
    long long whole = seconds > 0.0 && seconds < 1e15 ? (long long)(seconds + 0.5) : 0;
    if (whole < 120)
        snprintf(text, size, "%lld s", whole);
    else if (whole < 7200)
        snprintf(text, size, "%lld min %lld s", whole / 60, whole % 60);
    else
        snprintf(text, size, "%lld h %lld min", whole / 3600, whole / 60 % 60);
}

void format_share(char *text, size_t size, double share) {
    double percent = 100.0 * share;
    if (share == 0.0)
        snprintf(text, size, "0 %%");
    else if (percent < 0.01)
        snprintf(text, size, "< 0.01 %%");
    else if (percent < 1.0)
        snprintf(text, size, "%.2f %%", percent);
    else
        snprintf(text, size, "%.1f %%", percent);
}

#include "json_file.h"

#include "json_text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/** Write and sync a new file; errno says why not. */
static int write_file(const char *path, const char *text, size_t size) {
    int descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (descriptor < 0)
        return -1;
    bool failed = false;
    while (size > 0 && !failed) {
        ssize_t written = write(descriptor, text, size);
        failed = written < 0 && errno != EINTR;
        if (written > 0) {
            text += written;
            size -= (size_t)written;
        }
    }
    failed = failed || fsync(descriptor) != 0;
    int reason = errno;
    if (close(descriptor) != 0 && !failed) {
        failed = true;
        reason = errno;
    }
    errno = reason;
    return failed ? -1 : 0;
}

int json_file_write(const char *path, const json_t *document, error_text *error) {
    size_t size = 0;
    char *text = json_text(document, &size);
    char *staged;
    if (asprintf(&staged, "%s.new", path) < 0)
        staged = NULL;
    int result = 0;
    if (text == NULL || staged == NULL) {
        result = fail(error, "out of memory");
    } else if (write_file(staged, text, size) != 0 || rename(staged, path) != 0) {
        result = fail(error, "cannot write %s: %s", path, strerror(errno));
        unlink(staged);
    }
    free(staged);
    free(text);
    return result;
}

json_t *json_file_read(const char *path, error_text *error) {
    json_error_t reason;
    FILE *file = fopen(path, "rbe");
    if (file == NULL) {
        fail(error, "cannot open %s: %s", path, strerror(errno));
        return NULL;
    }
    json_t *document = json_loadf(file, JSON_REJECT_DUPLICATES, &reason);
    if (document == NULL)
        fail(error, "%s:%d: no JSON: %s", path, reason.line > 0 ? reason.line : 1, reason.text);
    fclose(file);
    return document;
}

#include "text_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *text_file_read(const char *path, const char *what, size_t *size, error_text *error) {
    FILE *file = fopen(path, "rbe");
    if (file == NULL) {
        fail(error, "cannot open %s %s: %s", what, path, strerror(errno));
        return NULL;
    }
    char *text = malloc(TEXT_FILE_BYTES + 1);
    *size = text != NULL ? fread(text, 1, TEXT_FILE_BYTES + 1, file) : 0;
    if (text == NULL)
        fail(error, "out of memory");
    else if (ferror(file))
        fail(error, "cannot read %s %s: %s", what, path, strerror(errno));
    else if (*size > TEXT_FILE_BYTES)
        fail(error, "%s %s is larger than %u MiB; split it", what, path, TEXT_FILE_BYTES >> 20);
    else {
        text[*size] = 0;
        fclose(file);
        return text;
    }
    fclose(file);
    free(text);
    return NULL;
}

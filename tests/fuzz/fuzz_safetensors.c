/*
 * Fuzz target: any bytes as a safetensors file. An input that begins with '{' is the header text, up to the first NUL
 * byte, and then the data: the length before it is put in, so that mutations reach what lies behind it.
 */
#include "snapshot_target.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const bool is_text = size > 0 && data[0] == '{';
    const uint8_t *end = is_text ? memchr(data, 0, size) : NULL;
    const uint64_t length = end != NULL ? (uint64_t)(end - data) : size;
    const size_t rest = end != NULL ? size - (size_t)length - 1 : 0;
    const size_t file_size = is_text ? sizeof length + (size_t)length + rest : size;
    /* A copy of exactly that size: a sanitizer sees a read past its end. */
    unsigned char *file = malloc(file_size > 0 ? file_size : 1);
    if (file == NULL) {
        return 0;
    }
    if (is_text) {
        memcpy(file, &length, sizeof length);
        memcpy(file + sizeof length, data, (size_t)length);
        if (rest > 0) {
            memcpy(file + sizeof length + length, end + 1, rest);
        }
    } else if (size > 0) {
        memcpy(file, data, size);
    }
    read_snapshot(file, file_size);
    free(file);
    return 0;
}

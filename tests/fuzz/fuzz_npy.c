/*
 * Fuzz target: any bytes as an npy file. An input that begins with '{' is the dictionary, up to the first NUL byte,
 * and then the data; what goes before it is put in. Any other input follows the magic.
 */
#include "snapshot_target.h"

enum { MAGIC_SIZE = 6, HEAD_SIZE = 12 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const bool is_text = size > 0 && data[0] == '{';
    const uint8_t *end = is_text ? memchr(data, 0, size) : NULL;
    const uint32_t length = (uint32_t)(end != NULL ? (size_t)(end - data) : size);
    const size_t rest = end != NULL ? size - length - 1 : 0;
    const size_t file_size = is_text ? HEAD_SIZE + length + rest : MAGIC_SIZE + size;
    unsigned char *file = malloc(file_size);
    if (file == NULL) {
        return 0;
    }
    memcpy(file, "\x93NUMPY", MAGIC_SIZE);
    if (is_text) {
        file[6] = 2;
        file[7] = 0;
        memcpy(file + 8, &length, sizeof length);
        memcpy(file + HEAD_SIZE, data, length);
        if (rest > 0) {
            memcpy(file + HEAD_SIZE + length, end + 1, rest);
        }
    } else if (size > 0) {
        memcpy(file + MAGIC_SIZE, data, size);
    }
    read_snapshot(file, file_size);
    free(file);
    return 0;
}

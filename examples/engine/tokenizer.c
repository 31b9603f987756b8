/* Byte-level tokens: ids 0..255 are bytes, 256 begins a sequence, 257 ends it. */
#include "internal.h"

static int require_bytes(engine *e) {
    if (!e->loaded || !e->config.byte_level) {
        return engine_fail(e, ENGINE_E_INVALID,
                           "%s: not a byte-level model (bos 256, eos 257): give token ids instead of text",
                           e->config.model_name ? e->config.model_name : "no model");
    }
    return ENGINE_OK;
}

int engine_tokenize(engine *e, const char *text, size_t size, int32_t *ids, int64_t *count) {
    int status = require_bytes(e);
    if (status != ENGINE_OK) {
        return status;
    }
    ids[0] = e->config.bos;
    for (size_t i = 0; i < size; i++) {
        ids[i + 1] = (unsigned char)text[i];
    }
    *count = (int64_t)size + 1;
    return ENGINE_OK;
}

int engine_detokenize(engine *e, const int32_t *ids, int64_t count, char *text, size_t *size) {
    int status = require_bytes(e);
    if (status != ENGINE_OK) {
        return status;
    }
    size_t used = 0;
    for (int64_t i = 0; i < count; i++) {
        if (ids[i] >= 0 && ids[i] < 256) {
            text[used++] = (char)(unsigned char)ids[i];
        }
    }
    text[used] = '\0';
    if (size) {
        *size = used;
    }
    return ENGINE_OK;
}

#include <kvsim/kvsim.h>

#include <stdio.h>
#include <string.h>

int main(void) {
    kvsim_ctx *ctx = NULL;
    const kvsim_status status = kvsim_ctx_create(NULL, &ctx);
    if (status != KVSIM_OK) {
        fprintf(stderr, "%s\n", kvsim_status_string(status));
        return 1;
    }
    const uint64_t pages = kvsim_page_count(ctx);
    kvsim_ctx_destroy(ctx);
    if (strcmp(kvsim_version_string(), KVSIM_VERSION_STRING) != 0) {
        fprintf(stderr, "library %s, header %s\n", kvsim_version_string(), KVSIM_VERSION_STRING);
        return 1;
    }
    return pages == 0 ? 0 : 1;
}

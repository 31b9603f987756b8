#include "utf8.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/** U+FFFD, the character that stands for what is none. */
#define REPLACEMENT "\xef\xbf\xbd"

size_t utf8_character_size(const char *text, size_t left) {
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *at = (const unsigned char *)text;
    size_t size = at[0] < 0x80 ? 1 : at[0] >> 5 == 6 ? 2 : at[0] >> 4 == 14 ? 3 : at[0] >> 3 == 30 ? 4 : 0;
    if (size < 2 || size > left)
        return size == 1 && at[0] != 0 ? 1 : 0;
    uint32_t code = at[0] & (0x7fu >> size);
    for (size_t i = 1; i < size; i++) {
        if (at[i] >> 6 != 2)
            return 0;
        code = code << 6 | (at[i] & 0x3f);
    }
    bool surrogate = code >= 0xd800 && code < 0xe000;
    return code >= least[size] && code <= 0x10ffff && !surrogate ? size : 0;
}

char *utf8_repair(const char *bytes, size_t size) {
    char *text = malloc(size * (sizeof REPLACEMENT - 1) + 1);
    if (text == NULL)
        return NULL;
    size_t used = 0;
    for (size_t i = 0; i < size;) {
        size_t step = utf8_character_size(bytes + i, size - i);
        const char *from = step > 0 ? bytes + i : REPLACEMENT;
        size_t length = step > 0 ? step : sizeof REPLACEMENT - 1;
        memcpy(text + used, from, length);
        used += length;
        i += step > 0 ? step : 1;
    }
    text[used] = 0;
    return text;
}

/**
 * Text from outside: whether it is UTF-8, and a form of it that is.
 */
#ifndef KVSIM_EXAMPLES_COMMON_UTF8_H
#define KVSIM_EXAMPLES_COMMON_UTF8_H

#include <stddef.h>

/** Bytes of the UTF-8 character at `at` (RFC 3629: no overlong forms, no surrogates), 0 if it is none or NUL. */
size_t utf8_character_size(const char *at, size_t left);

/** The bytes as UTF-8 text in new memory: U+FFFD in place of each byte that is none, NUL too. NULL: out of memory. */
char *utf8_repair(const char *bytes, size_t size);

#endif

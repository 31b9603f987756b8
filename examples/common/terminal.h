/**
 * What the programs need to know of the terminal, and how numbers are written for people.
 */
#ifndef KVSIM_EXAMPLES_COMMON_TERMINAL_H
#define KVSIM_EXAMPLES_COMMON_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Whether stderr is a terminal on which a line can be drawn again. */
bool terminal_can_redraw(void);

/** Columns of the terminal on stderr; 80 if it does not say. */
int terminal_columns(void);

/** A bar of `columns` columns, `share` (0..1) of it filled; empty text when there is no room for one. */
void format_bar(char *text, size_t size, double share, int columns);

/** "1,234,567". */
void format_count(char *text, size_t size, uint64_t count);

/** "1.23 MB (1.17 MiB)", 1 MB = 1,000,000 bytes; plain bytes below 10,000. */
void format_bytes(char *text, size_t size, double bytes);

/** "12 s", "3 min 20 s", "2 h 5 min". */
void format_seconds(char *text, size_t size, double seconds);

/** "4.2 %"; "0 %" only for exactly none, "< 0.01 %" for less than can be shown. */
void format_share(char *text, size_t size, double share);

#endif

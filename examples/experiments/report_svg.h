/**
 * Pictures of the report: gnuplot scripts, and what gnuplot draws made fit to stand inside a page.
 *
 * A script names colours by their roles. In the page each role is a CSS class, so that the page decides what it looks
 * like in light, in dark and on paper. What gnuplot writes is taken apart and written anew: only elements and
 * attributes that draw, no names (`id`) that could clash with those of another picture, no references, no styles, no
 * links.
 */
#ifndef KVSIM_EXAMPLES_EXPERIMENTS_REPORT_SVG_H
#define KVSIM_EXAMPLES_EXPERIMENTS_REPORT_SVG_H

#include "common/message.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/** Steps of the scale of a heat map, of which the first is "nothing". */
#define HEAT_STEPS 10

/** @name Colours by role, as gnuplot reads them: the first byte is the role
 * @{ */
#define ROLE_INK        "#010101" /**< letters and axes */
#define ROLE_MUTED      "#020101" /**< letters of less weight */
#define ROLE_RULE       "#030101" /**< lines of the grid */
#define ROLE_KEY        "#040101"
#define ROLE_KEY_SOFT   "#050101" /**< areas of intervals */
#define ROLE_VALUE      "#060101"
#define ROLE_VALUE_SOFT "#070101"
#define ROLE_PAGE       "#080101" /**< the page itself: an open mark */
#define ROLE_MAIN       "#090101" /**< bytes saved; the first of two experiments */
#define ROLE_OTHER      "#0A0101" /**< the second of two experiments */
#define ROLE_MAIN_SOFT  "#0B0101"
#define ROLE_OTHER_SOFT "#0C0101"
/** @} */

/** Write the colour of a step of the heat scale, and of letters on it. */
void heat_color(char color[8], int step);
void heat_letters(char color[8], int step);

/** Class of a role's number without its prefix ("f-", "s-" or "c-" for fill, stroke and color); NULL if there is none.
 */
const char *role_class(int role, char room[16]);

/** Begin a picture of `width` x `height` units, letters 14 of them high, that goes to the file `name`. */
void svg_begin(FILE *script, const char *name, int width, int height);

/**
 * Write an SVG document of gnuplot as an `svg` element for a page.
 * @param label what the picture shows, for those who do not see it; is escaped
 * @return 0, or -1 if the document is not whole or too deep; then nothing of use was written
 */
int svg_inline(FILE *out, const char *document, size_t size, const char *label);

#endif

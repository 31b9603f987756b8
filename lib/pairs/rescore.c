#include <math.h>

#include "tile.h"

kvsim__exact kvsim__rescore(const kvsim__group *group, size_t later, size_t earlier, kvsim__scratch *a,
                            kvsim__scratch *b) {
    const uint32_t x = group->pages[later], y = group->pages[earlier];
    double dot = 0.0, x_squares = 0.0, y_squares = 0.0, squared_distance = 0.0;
    kvsim__view_begin(group, x, a);
    kvsim__view_begin(group, y, b);
    for (int32_t t = 0; t < group->tokens; t++) {
        for (int32_t h = 0; h < group->heads; h++) {
            const double *left = kvsim__view_row(group, x, t, h, a);
            const double *right = kvsim__view_row(group, y, t, h, b);
            for (int32_t d = 0; d < group->head_dim; d++) {
                const double difference = left[d] - right[d];
                dot += left[d] * right[d];
                x_squares += left[d] * left[d];
                y_squares += right[d] * right[d];
                squared_distance += difference * difference;
            }
        }
    }
    kvsim__exact exact = {.squared_distance = squared_distance, .later_squares = x_squares};
    if (squared_distance == 0.0) {
        exact.cosine = 1.0; /* also for two zero pages, by definition */
    } else if (x_squares > 0.0 && y_squares > 0.0) {
        exact.cosine = dot / (sqrt(x_squares) * sqrt(y_squares));
        exact.cosine = exact.cosine > 1.0 ? 1.0 : exact.cosine < -1.0 ? -1.0 : exact.cosine;
    }
    return exact;
}

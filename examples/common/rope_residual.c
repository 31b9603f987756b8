#include "rope_residual.h"

#include <kvsim/kvsim.h>

double rope_residual_limit(uint8_t dtype_code) {
    switch (dtype_code) {
    case KVSIM_DTYPE_F8_E4M3FN: /* 3 bits of a fraction */
        return 0.1;
    case KVSIM_DTYPE_F8_E5M2: /* 2 bits */
        return 0.2;
    default: /* bf16 makes 0.004 of it */
        return 0.02;
    }
}

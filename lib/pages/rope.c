#include "rope.h"

#include <math.h>

#define TWO_PI 6.283185307179586476925

kvsim_status kvsim__rope_check(kvsim__base *base, kvsim_rope *rope) {
    if (rope->style < KVSIM_ROPE_NONE || rope->style > KVSIM_ROPE_INTERLEAVED) {
        return kvsim__fail(base, KVSIM_E_INVALID, "rope style %d is none of KVSIM_ROPE_*", rope->style);
    }
    if (!(rope->theta >= 0.0) || isinf(rope->theta) || rope->rotary_dims < 0 || rope->rotary_dims % 2 != 0) {
        return kvsim__fail(base, KVSIM_E_INVALID,
                           "rope theta %g must be positive and finite, rotary_dims %d even and not negative",
                           rope->theta, rope->rotary_dims);
    }
    if (rope->scaling < KVSIM_ROPE_SCALING_NONE || rope->scaling > KVSIM_ROPE_SCALING_LLAMA3) {
        return kvsim__fail(base, KVSIM_E_INVALID, "rope scaling %d is none of KVSIM_ROPE_SCALING_*", rope->scaling);
    }
    rope->theta = rope->theta > 0.0 ? rope->theta : 10000.0;
    rope->factor = rope->factor != 0.0 ? rope->factor : 1.0;
    rope->low_freq_factor = rope->low_freq_factor != 0.0 ? rope->low_freq_factor : 1.0;
    rope->high_freq_factor = rope->high_freq_factor != 0.0 ? rope->high_freq_factor : 4.0;
    rope->beta_fast = rope->beta_fast != 0.0 ? rope->beta_fast : 32.0;
    rope->beta_slow = rope->beta_slow != 0.0 ? rope->beta_slow : 1.0;
    if (!(rope->factor >= 1.0) || isinf(rope->factor)) {
        return kvsim__fail(base, KVSIM_E_INVALID, "rope scaling factor %g must be at least 1", rope->factor);
    }
    const bool needs_context = rope->scaling == KVSIM_ROPE_SCALING_YARN || rope->scaling == KVSIM_ROPE_SCALING_LLAMA3;
    if (needs_context && (!(rope->original_max_position > 0.0) || isinf(rope->original_max_position))) {
        return kvsim__fail(base, KVSIM_E_INVALID, "this rope scaling needs original_max_position, not %g",
                           rope->original_max_position);
    }
    if (!(rope->low_freq_factor > 0.0) || !(rope->high_freq_factor > rope->low_freq_factor) ||
        isinf(rope->high_freq_factor) || !(rope->beta_slow > 0.0) || !(rope->beta_fast >= rope->beta_slow) ||
        isinf(rope->beta_fast)) {
        return kvsim__fail(
            base, KVSIM_E_INVALID,
            "rope: high_freq_factor must exceed low_freq_factor, beta_fast be no less than beta_slow, all "
            "of them positive");
    }
    return KVSIM_OK;
}

/* Llama 3.1: long waves are stretched, short ones are not, those between partly. */
static double scale_llama3(const kvsim_rope *rope, double frequency) {
    const double waves = rope->original_max_position * frequency / TWO_PI; /* in the original context */
    if (waves > rope->high_freq_factor) {
        return frequency;
    }
    if (waves < rope->low_freq_factor) {
        return frequency / rope->factor;
    }
    const double smooth = (waves - rope->low_freq_factor) / (rope->high_freq_factor - rope->low_freq_factor);
    return (1.0 - smooth) * frequency / rope->factor + smooth * frequency;
}

/* YaRN: the channel pair that makes `turns` turns within the original context. */
static double correction_pair(const kvsim_rope *rope, int32_t rotary, double turns) {
    return rotary * log(rope->original_max_position / (turns * TWO_PI)) / (2.0 * log(rope->theta));
}

static double scale_yarn(const kvsim_rope *rope, int32_t rotary, int32_t pair, double frequency) {
    const double low = fmax(floor(correction_pair(rope, rotary, rope->beta_fast)), 0.0);
    double high = fmin(ceil(correction_pair(rope, rotary, rope->beta_slow)), rotary - 1.0);
    high = high == low ? high + 0.001 : high;
    const double ramp = fmin(fmax((pair - low) / (high - low), 0.0), 1.0);
    return frequency / rope->factor * ramp + frequency * (1.0 - ramp);
}

void kvsim__rope_frequencies(const kvsim_rope *rope, int32_t rotary, double *frequencies) {
    double theta = rope->theta;
    if (rope->scaling == KVSIM_ROPE_SCALING_NTK && rotary > 2) {
        theta *= pow(rope->factor, (double)rotary / (rotary - 2.0));
    }
    for (int32_t i = 0; i < rotary / 2; i++) {
        const double frequency = pow(theta, -2.0 * i / rotary);
        frequencies[i] = rope->scaling == KVSIM_ROPE_SCALING_LINEAR   ? frequency / rope->factor
                         : rope->scaling == KVSIM_ROPE_SCALING_YARN   ? scale_yarn(rope, rotary, i, frequency)
                         : rope->scaling == KVSIM_ROPE_SCALING_LLAMA3 ? scale_llama3(rope, frequency)
                                                                      : frequency;
    }
}

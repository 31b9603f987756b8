/*
 * The rules by which a device decides about pairs: what they call plain is on the right side of every threshold and
 * budget, whatever the error of the product within its bound, and wherever figures lie.
 */
#include "backend/pair_rules.h"
#include "core_tools.h"
#include "kvsim_check.h"

static const double thresholds[] = {-0.5, 0.0, 0.9, 0.95, 0.99, 1.0};
static const double budgets[] = {0.0, 1e-3, 0.1, 0.2, 0.3, 0.7, 0.999, 1.0};

enum { THRESHOLDS = sizeof thresholds / sizeof thresholds[0], BUDGETS = sizeof budgets / sizeof budgets[0] };

static kvsim__pair_rules make_rules(double bound) {
    kvsim__pair_rules rules = {.bound = (float)bound,
                               .near_limit = 1.0001f,
                               .clear_limit = 1.01f,
                               .threshold_count = THRESHOLDS,
                               .budget_count = BUDGETS,
                               .bounds = 1};
    for (int i = 0; i < THRESHOLDS; i++) {
        rules.thresholds[i] = (float)thresholds[i];
        rules.exact_thresholds[i] = thresholds[i];
    }
    for (int i = 0; i < BUDGETS; i++) {
        rules.budgets[i] = (float)budgets[i];
    }
    return rules;
}

static double draw_unit(uint64_t *seed) {
    return (double)(draw(seed) >> 11) * 0x1p-53;
}

/* A pair as it is: norms in shares of the largest one, cosine. */
typedef struct true_pair {
    double x, y, cosine;
} true_pair;

static double error_of(const true_pair *of) {
    const double gap = of->x - of->y;
    return sqrt(gap * gap + 2.0 * of->x * of->y * (1.0 - of->cosine)) / of->x;
}

static double scaled_error_of(double cosine) {
    return sqrt((1.0 - cosine) * (1.0 + cosine));
}

/* A pair anywhere, or very near to where a threshold or a budget decides. */
static true_pair draw_pair(uint64_t *seed) {
    static const double spans[] = {0.01, 1.0, 12.0};
    true_pair of = {.x = exp2(-30.0 * draw_unit(seed) * (double)draw_below(seed, 2))};
    of.y = fmin(of.x * exp2((2.0 * draw_unit(seed) - 1.0) * spans[draw_below(seed, 3)]), 1.0);
    const double off = pow(10.0, -4.0 - 12.0 * draw_unit(seed)) * (draw_below(seed, 2) != 0 ? 1.0 : -1.0);
    const double budget = budgets[draw_below(seed, BUDGETS)];
    switch (draw_below(seed, 5)) {
    case 0:
        of.cosine = 2.0 * draw_unit(seed) - 1.0;
        break;
    case 1:
        of.cosine = thresholds[draw_below(seed, THRESHOLDS)] + off;
        break;
    case 2:
        of.cosine = (of.x * of.x * (1.0 - budget * budget) + of.y * of.y) / (2.0 * of.x * of.y) + off;
        break;
    case 3:
        of.cosine = (of.x * of.x * (1.0 - budget * budget) + of.y * of.y) / (2.0 * of.x * of.y) + off * of.x / of.y;
        break;
    default:
        of.cosine = scaled_error_of(budget) + off;
        break;
    }
    of.cosine = fmin(fmax(of.cosine, -1.0), 1.0);
    return of;
}

static kvsim__row_facts pack_facts(double share, float doubt, uint32_t class_id) {
    kvsim__row_facts facts = {.norm = (float)share, .doubt = doubt};
    facts.inverse = share >= (double)KVSIM__LEAST_NORM ? (float)(1.0 / share) : 0.0f;
    facts.unit = (float)(1.0 / share);
    facts.slot.class_id = class_id;
    return facts;
}

static void check_plain(const kvsim__pair_rules *rules, const true_pair *of, const kvsim__pair_figures *found) {
    const double error = error_of(of), scaled = scaled_error_of(of->cosine);
    const double listed_error = (double)found->distance / of->x; /* as the host makes it from a list */
    const double listed_scaled = sqrt(1.0 - (double)found->cosine * (double)found->cosine);
    for (int i = 0; i < THRESHOLDS; i++) {
        require((found->cosine >= rules->thresholds[i]) == (of->cosine >= thresholds[i]),
                "cosine %.17g is called %.9g at the threshold %g", of->cosine, (double)found->cosine, thresholds[i]);
    }
    for (int i = 0; i < BUDGETS; i++) {
        require((listed_error <= budgets[i]) == (error <= budgets[i]) &&
                    (found->error <= rules->budgets[i]) == (error <= budgets[i]),
                "error %.17g is called %.17g at the budget %g (norms %g, %g)", error, listed_error, budgets[i], of->x,
                of->y);
        require((listed_scaled <= budgets[i]) == (scaled <= budgets[i]), "scaled error %.17g is called %.17g", scaled,
                listed_scaled);
    }
    /* What may be near is listed. */
    const double packing = error * of->x / (of->x + of->y);
    if (error <= 1.0 || scaled <= 1.0 || packing <= 1.0) {
        require(kvsim__is_near(rules, (float)of->x, (float)of->y, found->cosine, found->distance, found->error, 0),
                "a near pair is not listed: error %g, scaled %g, packing %g", error, scaled, packing);
    }
}

START_TEST(plain_pairs_are_on_the_right_side) {
    static const double bounds[] = {1.6e-6, 5e-7, 2e-4};
    const kvsim__pair_rules rules = make_rules(bounds[_i]);
    uint64_t seed = (uint64_t)_i + 1, plain = 0;
    for (int i = 0; i < 400000; i++) {
        const true_pair of = draw_pair(&seed);
        const float doubts[2] = {draw_below(&seed, 3) == 0 ? 3e-7f : 0.0f, draw_below(&seed, 3) == 0 ? 2e-7f : 0.0f};
        const kvsim__row_facts later = pack_facts(of.x, doubts[0], 1), earlier = pack_facts(of.y, doubts[1], 0);
        const double most = bounds[_i] + (double)doubts[0] + (double)doubts[1];
        const double off = draw_below(&seed, 2) == 0 ? 2.0 * draw_unit(&seed) - 1.0 : draw_below(&seed, 2) ? 1.0 : -1.0;
        const float dot = (float)((of.cosine + off * most) * of.x * of.y);
        const kvsim__pair_figures found = kvsim__decide(&rules, &later, &earlier, dot);
        if (found.doubtful == 0) {
            plain++;
            check_plain(&rules, &of, &found);
            ck_assert_double_le(fabs((double)found.cosine - of.cosine), most + 2.4e-7);
        }
    }
    ck_assert_uint_gt(plain, 50000);
}
END_TEST

START_TEST(most_pairs_are_plain) {
    /* Pages as models make them: norms alike, cosines anywhere. */
    kvsim__pair_rules rules = make_rules(1.6e-6);
    rules.bounds = 0;
    uint64_t seed = 5, doubtful = 0;
    for (int i = 0; i < 100000; i++) {
        const true_pair of = {.x = 0.5 + 0.5 * draw_unit(&seed),
                              .y = 0.5 + 0.5 * draw_unit(&seed),
                              .cosine = 1.98 * draw_unit(&seed) - 1.0};
        const kvsim__row_facts later = pack_facts(of.x, 0.0f, 1), earlier = pack_facts(of.y, 0.0f, 0);
        doubtful += (uint64_t)kvsim__decide(&rules, &later, &earlier, (float)(of.cosine * of.x * of.y)).doubtful;
    }
    ck_assert_uint_lt(doubtful, 100);
}
END_TEST

START_TEST(special_pairs) {
    const kvsim__pair_rules rules = make_rules(1.6e-6);
    const kvsim__row_facts page = pack_facts(0.5, 0.0f, 3), twin = pack_facts(0.5, 0.0f, 3);
    const kvsim__row_facts other = pack_facts(0.5, 0.0f, 2), small = pack_facts(0x1p-41, 0.0f, 1);
    kvsim__row_facts zero = {.slot = {.class_id = 0}};
    /* Equal bytes: known, whatever the product. */
    kvsim__pair_figures found = kvsim__decide(&rules, &page, &twin, NAN);
    ck_assert(found.cosine == 1.0f && found.distance == 0.0f && found.error == 0.0f && found.doubtful == 0);
    /* Alike, but not of equal bytes: by differences. */
    ck_assert_int_eq(kvsim__decide(&rules, &page, &other, 0.25f).doubtful, 1);
    ck_assert_int_eq(kvsim__decide(&rules, &page, &other, 0.1f).doubtful, 0);
    /* Products that overflowed, or are no number. */
    ck_assert_int_eq(kvsim__decide(&rules, &page, &other, NAN).doubtful, 1);
    ck_assert_int_eq(kvsim__decide(&rules, &page, &other, INFINITY).doubtful, 1);
    ck_assert_int_eq(kvsim__decide(&rules, &page, &other, -INFINITY).doubtful, 1);
    /* Zero pages, and such as fp32 cannot be trusted with. */
    ck_assert_int_eq(kvsim__decide(&rules, &page, &zero, 0.0f).doubtful, 1);
    ck_assert_int_eq(kvsim__decide(&rules, &zero, &page, 0.0f).doubtful, 1);
    ck_assert_int_eq(kvsim__decide(&rules, &small, &page, 0.0f).doubtful, 1);
    ck_assert_int_eq(kvsim__decide(&rules, &page, &small, 0.0f).doubtful, 1);
}
END_TEST

START_TEST(keys_sort_as_their_numbers) {
    static const float rising[] = {-INFINITY, -2.0f, -1.0f,       -1e-30f, -0.0f,   0.0f,
                                   1e-38f,    0.5f,  0.99999994f, 1.0f,    INFINITY};
    for (size_t i = 0; i < sizeof rising / sizeof rising[0]; i++) {
        ck_assert(memcmp(&(float){kvsim__key_float(kvsim__float_key(rising[i]))}, &rising[i], sizeof rising[i]) == 0);
        ck_assert_uint_gt(kvsim__best_key(rising[i], 0), 0);
        if (i > 0) {
            ck_assert_uint_gt(kvsim__float_key(rising[i]), kvsim__float_key(rising[i - 1]));
            ck_assert_uint_gt(kvsim__best_key(rising[i], 70), kvsim__best_key(rising[i - 1], 3));
        }
        ck_assert_uint_gt(kvsim__best_key(rising[i], 3), kvsim__best_key(rising[i], 4));
    }
}
END_TEST

START_TEST(bins_and_units) {
    ck_assert_uint_eq(kvsim__bin_of(-0.1f), 0);
    ck_assert_uint_eq(kvsim__bin_of(0.0f), 0);
    ck_assert_uint_eq(kvsim__bin_of(0.0051f), 1);
    ck_assert_uint_eq(kvsim__bin_of(0.9999f), KVSIM_HISTOGRAM_BINS - 1);
    ck_assert_uint_eq(kvsim__bin_of(1.0f), KVSIM_HISTOGRAM_BINS - 1);
    ck_assert_uint_eq(kvsim__bin_of(INFINITY), KVSIM_HISTOGRAM_BINS - 1);
    /* Any finite error, to 2^-20 or a relative 2^-14, in units that 2^30 pairs cannot overflow. */
    uint64_t seed = 3;
    for (int i = 0; i < 10000; i++) {
        const float error = (float)exp2(160.0 * draw_unit(&seed) - 32.0);
        uint64_t units;
        const uint32_t limb = kvsim__limb_of(error, &units);
        if (isinf(error)) {
            continue;
        }
        ck_assert_uint_lt(limb, KVSIM__LIMBS);
        ck_assert_uint_le(units, (uint64_t)1 << 34);
        const double back = ldexp((double)units, KVSIM__LIMB_BITS * (int)limb - 20);
        ck_assert_double_le(fabs(back - (double)error), fmax(0x1p-20, 0x1p-14 * (double)error));
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("pair_rules");
    TCase *rules = kvsim_check_case(suite, "rules");
    tcase_add_loop_test(rules, plain_pairs_are_on_the_right_side, 0, 3);
    tcase_add_test(rules, most_pairs_are_plain);
    tcase_add_test(rules, special_pairs);
    tcase_add_test(rules, keys_sort_as_their_numbers);
    tcase_add_test(rules, bins_and_units);
    return kvsim_check_main(suite, "test_pair_rules", 7);
}

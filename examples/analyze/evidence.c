#include "evidence.h"

#include "figures.h"

#include <math.h>

void evidence_add(share_evidence *sum, const json_t *row, double pages) {
    double observed = member_number(row, "observed"), chance = member_number(row, "null");
    double low = member_number(row, "low"), high = member_number(row, "high");
    double excess_low = member_number(row, "excess_low"), excess_high = member_number(row, "excess_high");
    uint64_t sequences = member_count(row, "sequences");
    if (isnan(observed) || pages <= 0.0)
        return;
    bool interval = !isnan(low);
    sum->with_interval += interval;
    sum->without_interval += !interval && sequences < FEWEST_SEQUENCES;
    sum->without_chance += isnan(chance);
    sum->sequences = sequences > sum->sequences ? sequences : sum->sequences;
    sum->pages += pages;
    sum->observed += pages * observed;
    sum->low += pages * (interval ? low : observed);
    sum->high += pages * (interval ? high : observed);
    sum->chance += pages * chance;
    sum->excess_low += pages * (interval ? excess_low : observed - chance);
    sum->excess_high += pages * (interval ? excess_high : observed - chance);
}

share_estimate evidence_estimate(const share_evidence *sum) {
    const double none = (double)NAN;
    share_estimate means = {none, none, none, none, none, none, none};
    if (sum->pages <= 0.0)
        return means;
    means.observed = sum->observed / sum->pages;
    if (sum->without_chance == 0) {
        means.chance = sum->chance / sum->pages;
        means.excess = means.observed - means.chance;
    }
    if (sum->without_interval == 0 && sum->with_interval > 0) {
        means.low = sum->low / sum->pages;
        means.high = sum->high / sum->pages;
        if (sum->without_chance == 0) {
            means.excess_low = sum->excess_low / sum->pages;
            means.excess_high = sum->excess_high / sum->pages;
        }
    }
    return means;
}

bool evidence_is_certain(const share_estimate *estimate) {
    return estimate->excess_low > 0.0;
}

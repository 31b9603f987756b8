/* The answer in three sentences, the patterns between experiments, and what belongs under every report. */
#include "analyze/figures.h"
#include "common/json_text.h"
#include "patterns.h"
#include "patterns_words.h"
#include "statistics.h"

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/** The two experiments that the question is about, if both are there. */
#define QUESTION_MORE "repetitive_content"
#define QUESTION_LESS "code_generation"

/** Bytes of a sentence, terminating NUL included. */
#define SENTENCE_SIZE 2048

/** A sentence that grows. */
typedef struct sentence {
    char text[SENTENCE_SIZE];
    size_t used;
} sentence;

static void say(sentence *to, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void say(sentence *to, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int written = vsnprintf(to->text + to->used, sizeof to->text - to->used, format, arguments);
    va_end(arguments);
    if (written > 0)
        to->used += (size_t)written;
    if (to->used >= sizeof to->text)
        to->used = sizeof to->text - 1;
}

/** Append a sentence, its first letter a capital. */
static void finish(sentence *from, json_t *texts) {
    from->text[0] = (char)toupper((unsigned char)from->text[0]);
    json_array_append_new(texts, json_string(from->text));
}

static bool is_complete(const json_t *experiment) {
    return strcmp(member_text(experiment, "status"), "complete") == 0;
}

static const json_t *find_experiment(const json_t *experiments, const char *name) {
    const json_t *experiment;
    size_t index;
    json_array_foreach(experiments, index, experiment) {
        if (is_complete(experiment) && strcmp(member_text(experiment, "name"), name) == 0)
            return experiment;
    }
    return NULL;
}

/** How redundant an experiment is: by what could be saved, then by its pages alike beyond chance. */
static double redundancy(const json_t *experiment) {
    double saved = figure_at(experiment, "headline/saved_share/both").mean;
    double alike = figure_at(experiment, "headline/alike_excess/both").mean;
    return (isnan(saved) ? 0.0 : saved) + (isnan(alike) ? 0.0 : 1e-6 * alike);
}

/** The most (sign 1) or least (sign -1) redundant experiment; of equals the first or the last. NULL if none is
 * complete. */
static const json_t *find_extreme(const json_t *experiments, double sign) {
    const json_t *experiment, *found = NULL;
    size_t index;
    json_array_foreach(experiments, index, experiment) {
        if (is_complete(experiment) && (found == NULL || redundancy(experiment) * sign > redundancy(found) * sign ||
                                        (sign < 0.0 && redundancy(experiment) == redundancy(found))))
            found = experiment;
    }
    return found;
}

/** Difference of two experiments, turned so that it is `more` minus `less`. */
typedef struct turned {
    figure difference;
    bool different, there;
} turned;

static turned find_difference(const json_t *differences, const char *more, const char *less, const char *metric,
                              const char *kind, int layer) {
    const json_t *row;
    size_t index;
    json_array_foreach(differences, index, row) {
        const char *a = member_text(row, "a"), *b = member_text(row, "b");
        const json_t *own = json_object_get(row, "layer");
        bool straight = strcmp(a, more) == 0 && strcmp(b, less) == 0;
        bool reversed = strcmp(a, less) == 0 && strcmp(b, more) == 0;
        if ((!straight && !reversed) || strcmp(member_text(row, "metric"), metric) != 0 ||
            strcmp(member_text(row, "kind"), kind) != 0 || (own == NULL) != (layer < 0) ||
            (own != NULL && json_integer_value(own) != layer))
            continue;
        figure found = {member_number(row, "difference"), member_number(row, "low"), member_number(row, "high")};
        if (reversed)
            found = (figure){-found.mean, -found.high, -found.low};
        return (turned){found, json_is_true(json_object_get(row, "different")), true};
    }
    return (turned){{(double)NAN, (double)NAN, (double)NAN}, false, false};
}

static void say_saving(sentence *to, const json_t *more, const json_t *less, const json_t *differences) {
    const char *names[2] = {member_text(more, "name"), member_text(less, "name")};
    phrase first = name_in_words(names[0]), second = name_in_words(names[1]);
    turned saved = find_difference(differences, names[0], names[1], "saved_share", "both", -1);
    turned alike = find_difference(differences, names[0], names[1], "alike_excess", "both", -1);
    figure of_first = figure_at(more, "headline/saved_share/both"),
           of_second = figure_at(less, "headline/saved_share/both");
    phrase share = percent_with_interval(&of_first), other = percent_with_interval(&of_second);
    phrase points = points_with_interval(&saved.difference);
    const turned *decides = saved.different ? &saved : &alike;
    if (!decides->different)
        say(to, "whether %s is more redundant than %s cannot be told from these prompts", first.text, second.text);
    else
        say(to, "%s is %s redundant than %s", first.text, decides->difference.mean > 0.0 ? "more" : "less",
            second.text);
    say(to,
        ": a cache could save %s of its bytes by sharing blocks that differ by at most 10\xc2\xa0%%, against %s of %s",
        share.text, other.text, second.text);
    if (isnan(saved.difference.low))
        say(to, ".");
    else
        say(to, "; the difference of %s is %s.", points.text,
            saved.different ? "more than noise" : "no more than noise");
}

/** Most layers that the answer looks at. */
#define MOST_LAYERS 1024

/** "in layers 0 to 2 of the keys", or "in no layer of the keys"; the largest difference is kept. */
static void say_layers(sentence *to, const char *names[2], const json_t *differences, const char *kind, figure *largest,
                       int *largest_layer) {
    bool different[MOST_LAYERS];
    int count = 0;
    for (; count < MOST_LAYERS; count++) {
        turned own = find_difference(differences, names[0], names[1], "alike_excess", kind, count);
        if (!own.there)
            break;
        different[count] = own.different;
        if (isnan(largest->mean) || fabs(own.difference.mean) > fabs(largest->mean)) {
            *largest = own.difference;
            *largest_layer = count;
        }
    }
    phrase where = layers_in_words(different, (size_t)count);
    say(to, "in %s of the %ss", where.text, kind);
}

/** Where the difference of two experiments is more than noise, and where it is largest. */
static void say_where(sentence *to, const char *names[2], const json_t *differences) {
    figure largest[2] = {{(double)NAN, (double)NAN, (double)NAN}, {(double)NAN, (double)NAN, (double)NAN}};
    int layers[2] = {0, 0};
    say(to, "; the difference is more than noise ");
    say_layers(to, names, differences, "key", &largest[0], &layers[0]);
    say(to, " and ");
    say_layers(to, names, differences, "value", &largest[1], &layers[1]);
    int which = isnan(largest[1].mean) || fabs(largest[0].mean) >= fabs(largest[1].mean) ? 0 : 1;
    if (!isnan(largest[which].mean) && largest[which].mean != 0.0) {
        phrase points = points_with_interval(&largest[which]);
        say(to, ", and largest in layer %d of the %s: %s", layers[which], which == 0 ? "keys" : "values", points.text);
    }
}

static void say_likeness(sentence *to, const json_t *more, const json_t *less, const json_t *differences) {
    const char *names[2] = {member_text(more, "name"), member_text(less, "name")};
    phrase second = name_in_words(names[1]);
    figure of_first = figure_at(more, "headline/alike_excess/both");
    figure of_second = figure_at(less, "headline/alike_excess/both");
    phrase share = percent_with_interval(&of_first), other = percent_with_interval(&of_second);
    turned all = find_difference(differences, names[0], names[1], "alike_excess", "both", -1);
    say(to, "beyond chance %s of its pages have an alike earlier page, against %s of %s", share.text, other.text,
        second.text);
    if (isnan(all.difference.low) && all.difference.mean != 0.0)
        say(to, "; how sure that difference is cannot be computed, since the prompts are too few or do not differ");
    else if (!isnan(all.difference.low))
        say_where(to, names, differences);
    say(to, ".");
}

static void say_others(sentence *to, const json_t *experiments, const json_t *differences) {
    const json_t *row, *most = find_extreme(experiments, 1.0), *least = find_extreme(experiments, -1.0);
    size_t index, pairs = 0, different[2] = {0, 0};
    json_array_foreach(differences, index, row) {
        bool saved = strcmp(member_text(row, "metric"), "saved_share") == 0;
        bool alike = strcmp(member_text(row, "metric"), "alike_excess") == 0;
        if (json_object_get(row, "layer") != NULL || strcmp(member_text(row, "kind"), "both") != 0)
            continue;
        pairs += saved;
        if (saved || alike)
            different[alike] += json_is_true(json_object_get(row, "different"));
    }
    phrase first = name_in_words(member_text(most, "name")), last = name_in_words(member_text(least, "name"));
    figure of_most = figure_at(most, "headline/saved_share/both"),
           of_least = figure_at(least, "headline/saved_share/both");
    phrase share = percent_with_interval(&of_most), other = percent_with_interval(&of_least);
    say(to, "over all experiments, %s could save the most, %s, and %s the least, %s; ", first.text, share.text,
        last.text, other.text);
    if (pairs > 1)
        say(to,
            "of %zu pairs of experiments %zu differ by more than noise in what could be saved, and %zu in pages alike "
            "beyond chance.",
            pairs, different[0], different[1]);
    else
        say(to, "that is their only comparison.");
}

json_t *patterns_answer(const json_t *experiments, const json_t *differences) {
    json_t *answer = json_array();
    const json_t *more = find_experiment(experiments, QUESTION_MORE),
                 *less = find_experiment(experiments, QUESTION_LESS);
    sentence saving = {"", 0}, likeness = {"", 0}, others = {"", 0};
    if (more == NULL || less == NULL) {
        more = find_extreme(experiments, 1.0);
        less = find_extreme(experiments, -1.0);
    }
    if (more == NULL) {
        json_array_append_new(answer, json_string("No experiment is complete, so there is no answer."));
        return answer;
    }
    if (more == less) {
        figure saved = figure_at(more, "headline/saved_share/both"),
               alike = figure_at(more, "headline/alike_excess/both");
        phrase name = name_in_words(member_text(more, "name"));
        phrase share = percent_with_interval(&saved), pages = percent_with_interval(&alike);
        say(&saving, "of %s a cache could save %s of the bytes by sharing blocks that differ by at most 10\xc2\xa0%%.",
            name.text, share.text);
        say(&likeness, "beyond chance %s of its pages have an alike earlier page.", pages.text);
        say(&others, "whether that is much, only another experiment can tell.");
    } else {
        say_saving(&saving, more, less, differences);
        say_likeness(&likeness, more, less, differences);
        say_others(&others, experiments, differences);
    }
    finish(&saving, answer);
    finish(&likeness, answer);
    finish(&others, answer);
    return answer;
}

/* ---- patterns between experiments ---- */

static void put(json_t *patterns, const char *pattern, sentence *text, json_t *figures) {
    text->text[0] = (char)toupper((unsigned char)text->text[0]);
    json_array_append_new(patterns,
                          json_pack("{s:s, s:s, s:o}", "pattern", pattern, "text", text->text, "figures", figures));
}

static json_t *figure_document(const figure *of) {
    json_t *object = json_object();
    json_object_set_new(object, "mean", json_number(of->mean));
    json_object_set_new(object, "low", json_number(of->low));
    json_object_set_new(object, "high", json_number(of->high));
    return object;
}

/** Each experiment against all others. */
static void describe_content(const json_t *experiments, const json_t *own, const json_t *differences,
                             json_t *patterns) {
    const char *name = member_text(own, "name");
    figure alike = figure_at(own, "headline/alike_excess/both"), saved = figure_at(own, "headline/saved_share/both");
    phrase words = name_in_words(name), share = percent_with_interval(&alike), bytes = percent_with_interval(&saved);
    sentence text = {"", 0}, above = {"", 0}, below = {"", 0};
    json_t *more = json_array(), *less = json_array(), *figures = json_object();
    const json_t *other;
    size_t index;
    json_array_foreach(experiments, index, other) {
        const char *theirs = member_text(other, "name");
        turned found = find_difference(differences, name, theirs, "alike_excess", "both", -1);
        if (!found.different)
            continue;
        bool is_more = found.difference.mean > 0.0;
        phrase their_words = name_in_words(theirs);
        say(is_more ? &above : &below, "%s%s", (is_more ? above : below).used > 0 ? " and " : "", their_words.text);
        json_array_append_new(is_more ? more : less, json_string(theirs));
    }
    say(&text, "%s: beyond chance %s of the pages have an alike earlier page, and %s of the bytes could be saved",
        words.text, share.text, bytes.text);
    if (above.used > 0)
        say(&text, "; more pages alike than in %s", above.text);
    if (below.used > 0)
        say(&text, "%s than in %s", above.used > 0 ? ", fewer" : "; fewer pages alike", below.text);
    if (above.used + below.used == 0)
        say(&text, "; its pages alike differ from those of no other experiment by more than noise");
    say(&text, ".");
    json_object_set_new(figures, "experiment", json_string(name));
    json_object_set_new(figures, "alike_excess", figure_document(&alike));
    json_object_set_new(figures, "saved_share", figure_document(&saved));
    json_object_set_new(figures, "more_than", more);
    json_object_set_new(figures, "fewer_than", less);
    put(patterns, "content", &text, figures);
}

/** Experiments over the same prompts, at different temperatures. */
static void describe_temperature(const json_t *experiments, const json_t *differences, json_t *patterns) {
    const json_t *row;
    size_t index;
    json_array_foreach(differences, index, row) {
        if (!json_is_true(json_object_get(row, "paired")) || json_object_get(row, "layer") != NULL ||
            strcmp(member_text(row, "metric"), "alike_excess") != 0 || strcmp(member_text(row, "kind"), "both") != 0)
            continue;
        const json_t *a = find_experiment(experiments, member_text(row, "a"));
        const json_t *b = find_experiment(experiments, member_text(row, "b"));
        double low = member_number(a, "temperature"), high = member_number(b, "temperature");
        if (a == NULL || b == NULL || low == high)
            continue;
        figure change = {-member_number(row, "difference"), -member_number(row, "high"), -member_number(row, "low")};
        phrase first = name_in_words(member_text(a, "name")), second = name_in_words(member_text(b, "name"));
        phrase points = points_with_interval(&change);
        sentence text = {"", 0};
        say(&text,
            "%s has the prompts of %s at temperature %g in place of %g: %s of pages alike beyond chance, which is %s.",
            second.text, first.text, high, low, points.text,
            json_is_true(json_object_get(row, "different")) ? "more than noise" : "no more than noise");
        json_t *figures = json_object();
        json_object_set_new(figures, "a", json_string(member_text(a, "name")));
        json_object_set_new(figures, "b", json_string(member_text(b, "name")));
        json_object_set_new(figures, "change", figure_document(&change));
        put(patterns, "temperature", &text, figures);
    }
}

static bool is_paired(const json_t *differences, const char *a, const char *b) {
    const json_t *row;
    size_t index;
    json_array_foreach(differences, index, row) {
        if (strcmp(member_text(row, "a"), a) == 0 && strcmp(member_text(row, "b"), b) == 0)
            return json_is_true(json_object_get(row, "paired"));
    }
    return false;
}

/** The two experiments that have the most pages in common, whose prompts differ and whose prompts are the same. */
static void describe_common(const json_t *between, const json_t *differences, bool paired, json_t *patterns) {
    const json_t *pair, *most = NULL;
    size_t index;
    json_array_foreach(json_object_get(between, "pairs"), index, pair) {
        double own = member_number(member_at(pair, "both/alike_excess"), "observed");
        if (is_paired(differences, member_text(pair, "earlier"), member_text(pair, "later")) == paired && !isnan(own) &&
            (most == NULL || own > member_number(member_at(most, "both/alike_excess"), "observed")))
            most = pair;
    }
    if (most == NULL)
        return;
    const json_t *excess = member_at(most, "both/alike_excess");
    figure found = {member_number(excess, "observed"), member_number(excess, "low"), member_number(excess, "high")};
    phrase share = percent_with_interval(&found);
    phrase earlier = name_in_words(member_text(most, "earlier")), later = name_in_words(member_text(most, "later"));
    sentence text = {"", 0};
    if (paired)
        say(&text,
            "%s and %s have the same prompts: beyond chance %s of the pages of the second have an alike page in the "
            "first.",
            earlier.text, later.text, share.text);
    else if (found.mean <= 0.0)
        say(&text, "No two experiments with different prompts have a page in common beyond chance.");
    else
        say(&text,
            "Of experiments with different prompts %s and %s have the most pages in common: beyond chance %s of the "
            "pages of the second have an alike page in the first.",
            earlier.text, later.text, share.text);
    json_t *figures = json_object();
    json_object_set_new(figures, "earlier", json_string(member_text(most, "earlier")));
    json_object_set_new(figures, "later", json_string(member_text(most, "later")));
    json_object_set_new(figures, "same_prompts", json_boolean(paired));
    json_object_set_new(figures, "alike_excess", figure_document(&found));
    put(patterns, "places", &text, figures);
}

json_t *patterns_between_experiments(const json_t *experiments, const json_t *differences, const json_t *between) {
    json_t *patterns = json_array();
    const json_t *experiment;
    size_t index;
    json_array_foreach(experiments, index, experiment) {
        if (is_complete(experiment))
            describe_content(experiments, experiment, differences, patterns);
    }
    describe_temperature(experiments, differences, patterns);
    describe_common(between, differences, false, patterns);
    describe_common(between, differences, true, patterns);
    return patterns;
}

/* ---- what belongs under every report ---- */

static json_t *texts_of(const char *const *texts, size_t count) {
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(array, json_string(texts[i]));
    return array;
}

json_t *patterns_method(const json_t *experiments) {
    (void)experiments;
    static const char *const texts[] = {
        "Each experiment runs several times with other seeds; every figure is the mean over these repeats.",
        "Keys and values of every layer are cut into pages as an engine does it, and every page is compared with all "
        "earlier ones of its layer and kind. Pages that are not full are left out.",
        "Alike means a cosine of at least 0.9 after the common mean and, where it is known, the rotation of the keys "
        "were taken out: in raw keys nearly everything looks alike.",
        "Chance is the same count on pages whose tokens were shuffled between the pages; the excess over it is what "
        "the "
        "workload adds.",
        "Saved are the bytes of blocks whose key page and value page both differ by at most 10\xc2\xa0% from those of "
        "an earlier block, found as an engine could have done it, minus the bytes needed to find them again.",
        "Intervals are 95\xc2\xa0% intervals by a bootstrap over the prompts. The repeats of a prompt stay together, "
        "because they share what the prompt brings.",
        "Two experiments differ only if the interval of their difference does not hold 0. Experiments over the same "
        "prompts are compared prompt by prompt."};
    return texts_of(texts, sizeof texts / sizeof *texts);
}

json_t *patterns_not_shown(const json_t *experiments) {
    (void)experiments;
    static const char *const texts[] = {
        "Whether answers stay the same if pages are shared. Only bytes and the errors of keys and values were looked "
        "at; "
        "a model must run with shared pages to know.",
        "Anything about other prompts of another kind. The interval covers prompts like these, not workloads like "
        "yours.",
        "Anything about another model, another page size or another element type.",
        "That a difference is large only because it is certain, or that there is none because it cannot be told from "
        "noise.",
        "All verdicts at once: of many comparisons at 95\xc2\xa0% about one in twenty is wrong."};
    return texts_of(texts, sizeof texts / sizeof *texts);
}

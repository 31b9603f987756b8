#include "summary.h"

#include "common/terminal.h"
#include "words.h"

#include <math.h>
#include <string.h>

/** Width of the column that names the rows of the table. */
#define NAME_COLUMNS 42

/** Columns of a line of text. */
#define TEXT_COLUMNS 92

/** Layers whose shares differ by less than this do not stand out. */
#define LEAST_DIFFERENCE 0.005

static void print_table_row(FILE *out, const char *name, const char *key, const char *value) {
    fprintf(out, "  %-*s %12s %12s\n", NAME_COLUMNS, name, key, value);
}

/** A count and, in parentheses, nothing more: the shares have rows of their own. */
static void print_count_row(FILE *out, const char *name, uint64_t key, uint64_t value) {
    char key_text[32], value_text[32];
    format_count(key_text, sizeof key_text, key);
    format_count(value_text, sizeof value_text, value);
    print_table_row(out, name, key_text, value_text);
}

static void share_text(char *text, size_t size, uint64_t part, uint64_t whole) {
    if (whole == 0)
        snprintf(text, size, "-");
    else
        format_share(text, size, (double)part / (double)whole);
}

static void print_share_row(FILE *out, const char *name, uint64_t key, uint64_t key_of, uint64_t value,
                            uint64_t value_of) {
    char key_text[32], value_text[32];
    share_text(key_text, sizeof key_text, key, key_of);
    share_text(value_text, sizeof value_text, value, value_of);
    print_table_row(out, name, key_text, value_text);
}

/** Zero for what would be printed as a zero with a minus sign. */
static double without_minus_zero(double mean) {
    return fabs(mean) < 0.0005 ? 0.0 : mean;
}

static void mean_text(char *text, size_t size, double mean) {
    if (isnan(mean))
        snprintf(text, size, "-");
    else
        snprintf(text, size, "%.3f", without_minus_zero(mean));
}

static void print_kinds(FILE *out, const report_figures *figures) {
    const kind_figures *key = &figures->total.kind[FIGURE_KEY];
    const kind_figures *value = &figures->total.kind[FIGURE_VALUE];
    char name[80], key_text[32], value_text[32];
    print_table_row(out, "", "keys", "values");
    print_count_row(out, "pages compared", key->pages, value->pages);
    if (key->others + value->others > 0)
        print_count_row(out, "pages left out (partial, NaN, ...)", key->others, value->others);
    print_count_row(out, "pairs compared", key->cosine[0].pairs, value->cosine[0].pairs);
    print_share_row(out, "exact duplicates", key->exact, key->pages, value->exact, value->pages);
    snprintf(name, sizeof name, "near duplicates, error <= %g", figures->budget);
    print_share_row(out, name, key->removed - key->exact, key->pages, value->removed - value->exact, value->pages);
    for (size_t view = 0; view < figures->view_count; view++) {
        snprintf(name, sizeof name, "mean cosine, %s", figures->views[view]);
        mean_text(key_text, sizeof key_text, figures_mean(&key->cosine[view]));
        mean_text(value_text, sizeof value_text, figures_mean(&value->cosine[view]));
        print_table_row(out, name, key_text, value_text);
    }
}

/** Pages alike in each view: what is seen, what chance gives, and what is left. */
static void print_views(FILE *out, const report_figures *figures) {
    for (int kind = 0; kind < FIGURE_KINDS; kind++) {
        const kind_figures *one = &figures->total.kind[kind];
        if (one->cosine[0].pairs == 0)
            continue;
        fprintf(out, "\n  %-24s %9s %9s %9s   %s\n", kind == FIGURE_KEY ? "alike keys, %" : "alike values, %", "seen",
                "chance", "excess", "95 % interval of it");
        for (size_t view = 0; view < figures->view_count; view++) {
            const share_evidence *evidence = &one->cosine[view].evidence;
            share_estimate estimate = evidence_estimate(evidence);
            char seen[32], chance[32], excess[32], interval[64] = "-";
            percent_text(seen, sizeof seen, (double)one->cosine[view].alike / (double)one->pages);
            percent_text(chance, sizeof chance, estimate.chance);
            percent_text(excess, sizeof excess, estimate.excess);
            if (!isnan(estimate.chance))
                interval_text(interval, sizeof interval, evidence, estimate.excess_low, estimate.excess_high);
            fprintf(out, "  %-24s %9s %9s %9s   %s\n", figures->views[view], seen, chance, excess, interval);
        }
    }
}

/** Sentences, each a paragraph broken into lines. */
static void print_words(FILE *out, json_t *sentences) {
    const json_t *sentence;
    size_t index;
    json_array_foreach(sentences, index, sentence) {
        size_t column = 0;
        const char *word = json_string_value(sentence);
        while (*word != 0) {
            size_t length = strcspn(word, " ");
            if (strncmp(word + length, " %", 2) == 0) /* a number stays with its sign of per cent */
                length += 1 + strcspn(word + length + 1, " ");
            if (column > 0 && column + 1 + length > TEXT_COLUMNS) {
                fputs("\n  ", out);
                column = 2;
            } else if (column > 0) {
                fputc(' ', out);
                column++;
            } else
                column += (size_t)fprintf(out, "- ");
            fprintf(out, "%.*s", (int)length, word);
            column += length;
            word += length + (word[length] == ' ');
        }
        fputc('\n', out);
    }
    json_decref(sentences);
}

static void print_bin(FILE *out, const char *name, double bytes, double seen) {
    char text[64], share[32];
    format_bytes(text, sizeof text, bytes);
    percent_text(share, sizeof share, seen > 0.0 ? bytes / seen : 0.0);
    fprintf(out, "  %-*s %24s %7s %%\n", NAME_COLUMNS, name, text, share);
}

static void print_ledger(FILE *out, const report_figures *figures, const ledger_totals *ledger,
                         const lossless_totals *lossless) {
    char name[80];
    fprintf(out, "\nWhere every byte belongs\n");
    print_bin(out, figures->by_block ? "equal to an earlier block" : "equal to an earlier page", ledger->exact,
              ledger->seen);
    print_bin(out, "equal within units in the last place", ledger->ulp, ledger->seen);
    snprintf(name, sizeof name, "near, error <= %g", figures->budget);
    print_bin(out, name, ledger->near, ledger->seen);
    print_bin(out, "unique", ledger->unique, ledger->seen);
    print_bin(out, "not compared (partial, NaN, ...)", ledger->left_out, ledger->seen);
    print_bin(out, "seen", ledger->seen, ledger->seen);
    if (lossless->bytes > 0.0 && !isnan(lossless->zstd)) {
        print_bin(out, "lossless coding of what stays would save", fmax(0.0, lossless->coding_gain), ledger->seen);
        print_bin(out, "and its repetitions besides", lossless->repetition_gain, ledger->seen);
    }
}

/** Share of a layer's bytes that its pages could share, each kind on its own. */
static double removable_share(const layer_figures *layer) {
    double bytes = layer->kind[FIGURE_KEY].bytes + layer->kind[FIGURE_VALUE].bytes;
    double removed = layer->kind[FIGURE_KEY].removed_bytes + layer->kind[FIGURE_VALUE].removed_bytes;
    return bytes > 0.0 ? removed / bytes : 0.0;
}

static void print_standout(FILE *out, const report_figures *figures) {
    const layer_figures *best = NULL;
    if (figures->layer_count < 2)
        return;
    for (size_t i = 0; i < figures->layer_count; i++)
        if (best == NULL || removable_share(&figures->layers[i]) > removable_share(best))
            best = &figures->layers[i];
    double overall = removable_share(&figures->total);
    if (removable_share(best) - overall < LEAST_DIFFERENCE) {
        char text[32];
        format_share(text, sizeof text, overall);
        fprintf(out, "\nNo layer stands out: %s of the bytes of all layers are in duplicate pages.\n", text);
        return;
    }
    char key[32], value[32], all[32];
    share_text(key, sizeof key, best->kind[FIGURE_KEY].removed, best->kind[FIGURE_KEY].pages);
    share_text(value, sizeof value, best->kind[FIGURE_VALUE].removed, best->kind[FIGURE_VALUE].pages);
    format_share(all, sizeof all, overall);
    fprintf(out,
            "\nLayer %d stands out: %s of its key pages and %s of its value pages are duplicates (exact or near);\n"
            "over all layers it is %s.\n",
            best->layer, key, value, all);
}

static void print_cache(FILE *out, const page_source *source, const report_figures *figures) {
    char seen_text[64], predicted[64], tokens[32];
    double seen = 0.0;
    bool partial = false;
    for (int kind = 0; kind < FIGURE_KINDS; kind++) {
        seen += figures->total.kind[kind].bytes + figures->total.kind[kind].other_bytes;
        partial = partial || figures->total.kind[kind].others > 0;
    }
    format_bytes(seen_text, sizeof seen_text, seen);
    fprintf(out, "\nCache      %s seen in pages%s\n", seen_text, partial ? ", with their unused slots" : "");
    if (source->predicted_bytes > 0.0) {
        format_bytes(predicted, sizeof predicted, source->predicted_bytes);
        format_count(tokens, sizeof tokens, (uint64_t)source->tokens);
        fprintf(out, "           %s predicted from the model's shape for %s tokens\n", predicted, tokens);
    }
}

static void print_saving(FILE *out, const report_figures *figures, const saving_figures *saving) {
    char first[64], second[64], third[64], share[32];
    if (saving->exact_bytes + saving->near_bytes == 0.0) {
        fprintf(out,
                "Measured   nothing could be saved: no %s is within a relative error\n"
                "           of %g of an earlier one\n",
                saving->by_block ? "block (key page and value page)" : "page", figures->budget);
    } else {
        format_bytes(first, sizeof first, saving->saved_bytes);
        format_bytes(second, sizeof second, saving->exact_bytes);
        format_bytes(third, sizeof third, saving->near_bytes);
        format_share(share, sizeof share, saving->saved_bytes / saving->bytes);
        fprintf(out, "Measured   %s could be saved, %s of what was compared:\n           exact %s, near %s,\n", first,
                share, second, third);
        format_bytes(first, sizeof first, saving->metadata_bytes);
        fprintf(out, "           minus %s to find them again%s\n", first,
                saving->by_block ? "; key page and value page of a block both pass" : "");
    }
    format_bytes(first, sizeof first, saving->assumed_bytes);
    fprintf(out,
            "Assumed    %s by the rule of thumb \"half of the pages that have an earlier\n"
            "           page at a cosine >= %g\": an assumption, not a measurement\n",
            first, figures->threshold);
}

int print_summary(FILE *out, const analyze_options *options, const page_source *source, const report_figures *figures,
                  const saving_figures *saving, const ledger_totals *ledger, const lossless_totals *lossless,
                  bool pictures) {
    char sequences[32], tokens[32];
    format_count(sequences, sizeof sequences, (uint64_t)source->sequences);
    format_count(tokens, sizeof tokens, (uint64_t)source->tokens);
    fprintf(out, "%s: %s sequence%s, %s tokens, %zu layer%s\n\n", source->title, sequences,
            source->sequences == 1 ? "" : "s", tokens, figures->layer_count, figures->layer_count == 1 ? "" : "s");
    print_words(out, words_headline(figures, saving));
    fputc('\n', out);
    print_kinds(out, figures);
    print_views(out, figures);
    print_standout(out, figures);
    print_ledger(out, figures, ledger, lossless);
    print_cache(out, source, figures);
    print_saving(out, figures, saving);
    fputc('\n', out);
    print_words(out, words_notes(options, source, figures));
    fprintf(out, "\nReport     %s/analysis_report.json%s\n", options->output_dir,
            pictures ? ", with five pictures (.png, .svg) beside it" : "");
    return fflush(out) != 0 || ferror(out) ? -1 : 0;
}

#include "report_parts.h"
#include "report_table.h"

#include <math.h>
#include <string.h>

/** Prompts of one experiment, and characters of one text, that the page has room for. */
#define MOST_PROMPTS    60
#define MOST_CHARACTERS 6000

/** Repeats whose generated texts are shown. */
#define MOST_REPEATS 3

/** Whether any complete experiment has a number. */
static bool any_number(const report_data *data, const char *path) {
    for (size_t i = 0; i < data->complete; i++)
        if (isfinite(number_at(data->rows[i].summary, path)))
            return true;
    return false;
}

/** "median 10.7 ms, 95 % below 16.5 ms, 99 % below 24.2 ms". */
static void cell_quantiles(FILE *out, const report_column *column, const report_row *row, const char *member) {
    static const char *const quantiles[] = {"p50", "p95", "p99"}, *const words[] = {"half", "95\xc2\xa0%",
                                                                                    "99\xc2\xa0%"};
    cell_begin(out, column);
    for (size_t i = 0; i < 3; i++) {
        char path[96];
        snprintf(path, sizeof path, "timing/%s/%s", member, quantiles[i]);
        if (i == 0 && !isfinite(number_at(row->summary, path))) {
            html_number(out, (double)NAN, number_seconds, "");
            break;
        }
        fprintf(out, "%s<span class=\"small\">%s\xc2\xa0&lt;\xc2\xa0</span>", i > 0 ? "<br>" : "", words[i]);
        html_number(out, number_at(row->summary, path), number_seconds, "");
    }
    cell_end(out);
}

/** A mean over repeats with the range of the repeats. */
static void cell_spread(FILE *out, const report_column *column, const report_row *row, const char *path,
                        number_writer *write) {
    char low[64], high[64];
    const json_t *spread = json_at(row->summary, path);
    double least = number_at(spread, "min"), most = number_at(spread, "max");
    cell_begin(out, column);
    html_number(out, number_at(spread, "mean"), write, "");
    write(low, sizeof low, least);
    write(high, sizeof high, most);
    if (isfinite(least) && strcmp(low, high) != 0)
        fprintf(out, " <span class=\"interval\">%s to %s</span>", low, high);
    cell_end(out);
}

static void write_speed(const report_data *data, FILE *out) {
    static const report_column columns[] = {{"Experiment", ""},
                                            {"Reading prompts, tokens/s", "n"},
                                            {"Generating, tokens/s", "n"},
                                            {"Until the first token", "n"},
                                            {"Between two tokens", "n"},
                                            {"One repeat takes", "n"}};
    if (!any_number(data, "timing/wall_seconds/mean") && !any_number(data, "timing/decode_tokens_per_second/mean")) {
        fputs(
            "<p class=\"note\">There are no times in this report: they were left out (<code>--reproducible</code>), or "
            "the engine gave none.</p>\n",
            out);
        return;
    }
    table_begin(out, "Speed",
                "Means over the repeats, below them the slowest to the fastest; quantiles over the tokens and "
                "sequences of all repeats.",
                columns, sizeof columns / sizeof *columns);
    for (size_t i = 0; i < data->complete; i++) {
        const report_row *row = &data->rows[i];
        row_begin(out, row->words);
        cell_spread(out, &columns[1], row, "timing/prefill_tokens_per_second", number_rate);
        cell_spread(out, &columns[2], row, "timing/decode_tokens_per_second", number_rate);
        cell_quantiles(out, &columns[3], row, "first_token_seconds");
        cell_quantiles(out, &columns[4], row, "between_tokens_seconds");
        cell_spread(out, &columns[5], row, "timing/wall_seconds", number_seconds);
        row_end(out);
    }
    table_end(out);
}

static void cell_bytes(FILE *out, const report_column *column, const report_row *row, const char *path) {
    cell_begin(out, column);
    html_number(out, number_at(row->summary, path), number_bytes, "");
    cell_end(out);
}

static void write_memory(const report_data *data, FILE *out) {
    static const report_column columns[] = {{"Experiment", ""},
                                            {"KV-cache reserved", "mark"},
                                            {"Used", "n"},
                                            {"Lost to partial pages", "n"},
                                            {"Prefix sharing could save", "n"},
                                            {"Whole process at its peak", "n"}};
    double most = 0.0;
    for (size_t i = 0; i < data->complete; i++)
        most = fmax(most, number_at(data->rows[i].summary, "memory_stats/kv_used_bytes/mean") +
                              number_at(data->rows[i].summary, "memory_stats/kv_partial_lost_bytes/mean"));
    table_begin(out, "Memory",
                "Means over the repeats. 1 MB is 1,000,000 bytes. Bars: used, then lost to partial pages.", columns,
                sizeof columns / sizeof *columns);
    for (size_t i = 0; i < data->complete; i++) {
        const report_row *row = &data->rows[i];
        double lost = number_at(row->summary, "memory_stats/kv_partial_lost_bytes/mean");
        double used = number_at(row->summary, "memory_stats/kv_used_bytes/mean");
        row_begin(out, row->words);
        cell_begin(out, &columns[1]);
        if (isfinite(used) && isfinite(lost))
            parts_write(out, used, lost, most);
        html_number(out, number_at(row->summary, "memory_stats/kv_reserved_bytes/mean"), number_bytes, "");
        cell_end(out);
        cell_bytes(out, &columns[2], row, "memory_stats/kv_used_bytes/mean");
        cell_bytes(out, &columns[3], row, "memory_stats/kv_partial_lost_bytes/mean");
        cell_bytes(out, &columns[4], row, "memory_stats/kv_prefix_shared_bytes/mean");
        cell_bytes(out, &columns[5], row, "memory_stats/peak_rss_bytes/mean");
        row_end(out);
    }
    table_end(out);
}

void section_cost(const report_data *data, FILE *out) {
    if (data->complete == 0)
        return;
    fputs("<section id=\"cost\">\n<h2>Memory and speed</h2>\n", out);
    write_memory(data, out);
    write_speed(data, out);
    fputs("</section>\n", out);
}

void section_failed(const report_data *data, FILE *out) {
    if (data->complete == data->count)
        return;
    fputs("<section id=\"failed\">\n<h2>What did not run</h2>\n", out);
    for (size_t i = data->complete; i < data->count; i++) {
        const report_row *row = &data->rows[i];
        const json_t *failure = json_at(row->summary, "failure");
        bool failed = strcmp(text_at(row->summary, "status"), "failed") == 0;
        fputs("<h3>", out);
        html_text(out, row->words);
        fprintf(out, "</h3>\n<p>%s</p>\n",
                failed ? "It failed. Its last words:" : "It was not run, or not to its end.");
        if (json_string_length(failure) > 0) {
            fputs("<pre class=\"words\">", out);
            html_json(out, failure, MOST_CHARACTERS);
            fputs("</pre>\n", out);
        }
    }
    fputs("</section>\n", out);
}

/** How a sequence ended, in words. */
static const char *ending(const char *finish) {
    if (strcmp(finish, "length") == 0)
        return ", stopped at the limit";
    if (strcmp(finish, "eos") == 0)
        return ", the model ended it";
    if (strcmp(finish, "context") == 0)
        return ", the context was full";
    return "";
}

static void write_text(FILE *out, const json_t *text) {
    if (json_string_length(text) == 0) {
        fputs("<p class=\"note\">Nothing, or it is not known.</p>\n", out);
        return;
    }
    fputs("<pre dir=\"auto\">", out);
    /* A newline straight after the tag would be dropped. */
    if (json_string_value(text)[0] == '\n')
        fputc('\n', out);
    html_json(out, text, MOST_CHARACTERS);
    fputs("</pre>\n", out);
}

static void write_output(const report_row *row, FILE *out, size_t repeat, size_t sequence) {
    char path[64];
    snprintf(path, sizeof path, "outputs/%zu/sequences/%zu", repeat, sequence);
    const json_t *one = json_at(row->results, path);
    snprintf(path, sizeof path, "outputs/%zu/seed", repeat);
    if (one == NULL)
        return;
    fprintf(out, "<p class=\"small\">Generated in repeat %zu", repeat + 1);
    double seed = number_at(row->results, path), tokens = number_at(one, "output_tokens");
    if (isfinite(seed))
        fprintf(out, " (seed %.0f)", seed);
    fputs(": ", out);
    html_number(out, tokens, number_count, "tokens");
    fprintf(out, "%s</p>\n", ending(text_at(one, "finish")));
    write_text(out, json_at(one, "output"));
}

static void write_prompts(const report_row *row, FILE *out) {
    const json_t *prompts = json_at(row->results, "config/prompts"), *prompt;
    size_t index, repeats = json_array_size(json_at(row->results, "outputs"));
    json_array_foreach(prompts, index, prompt) {
        if (index == MOST_PROMPTS)
            break;
        char path[64];
        snprintf(path, sizeof path, "outputs/0/sequences/%zu", index);
        const json_t *first = json_at(row->results, path);
        double cut = number_at(first, "prompt_cut");
        fprintf(out, "<details><summary>Prompt %zu <span class=\"small\">", index + 1);
        html_json(out, prompt, 70);
        fputs("</span></summary>\n<p class=\"small\">Prompt", out);
        if (isfinite(number_at(first, "prompt_tokens"))) {
            fputs(": ", out);
            html_number(out, number_at(first, "prompt_tokens"), number_count, "tokens");
        }
        if (cut > 0.0) {
            fputs(", of which the last ", out);
            html_number(out, cut, number_count, "");
            fputs(" did not fit and were cut", out);
        }
        fputs("</p>\n", out);
        write_text(out, prompt);
        for (size_t repeat = 0; repeat < repeats && repeat < MOST_REPEATS; repeat++)
            write_output(row, out, repeat, index);
        fputs("</details>\n", out);
    }
    if (json_array_size(prompts) > MOST_PROMPTS || repeats > MOST_REPEATS) {
        fprintf(out,
                "<p class=\"note\">Shown: up to %d prompts, %d repeats and %d characters of a text. All of it is in "
                "<code>",
                MOST_PROMPTS, MOST_REPEATS, MOST_CHARACTERS);
        html_json(out, json_at(row->summary, "results"), 0);
        fputs("</code>.</p>\n", out);
    }
}

void section_texts(const report_data *data, FILE *out) {
    bool any = false;
    for (size_t i = 0; i < data->complete; i++)
        any = any || data->rows[i].results != NULL;
    if (!any)
        return;
    fputs("<section id=\"texts\">\n<h2>Prompts and what the model wrote</h2>\n", out);
    for (size_t i = 0; i < data->complete; i++) {
        const report_row *row = &data->rows[i];
        if (row->results == NULL)
            continue;
        fputs("<details><summary>", out);
        html_text(out, row->words);
        size_t prompts = json_array_size(json_at(row->results, "config/prompts"));
        fprintf(out, " <span class=\"small\">%zu prompt%s</span></summary>\n", prompts, prompts == 1 ? "" : "s");
        write_prompts(row, out);
        fputs("</details>\n", out);
    }
    fputs("</section>\n", out);
}

/** A list of sentences; nothing if there are none. */
static void write_sentences(FILE *out, const json_t *list) {
    const json_t *sentence;
    size_t index;
    if (json_array_size(list) == 0)
        return;
    fputs("<ul>\n", out);
    json_array_foreach(list, index, sentence) {
        fputs("<li>", out);
        html_sentence(out, sentence, false);
        fputs("</li>\n", out);
    }
    fputs("</ul>\n", out);
}

/** A value of a configuration as text. */
static void write_plain(FILE *out, const json_t *value) {
    if (json_is_string(value))
        html_json(out, value, 400);
    else if (json_is_boolean(value))
        fputs(json_is_true(value) ? "yes" : "no", out);
    else if (json_is_integer(value))
        fprintf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (json_is_real(value))
        fprintf(out, "%g", json_real_value(value));
    else
        fputs("<span class=\"none\">\xe2\x80\x93</span>", out);
}

static void write_fact(FILE *out, const char *name, const json_t *value) {
    fputs("<dt>", out);
    html_text(out, name);
    fputs("</dt><dd>", out);
    write_plain(out, value);
    fputs("</dd>\n", out);
}

/** The members of an object that are no arrays or objects. */
static void write_facts(FILE *out, const json_t *object) {
    /* jansson's iterators take a mutable object but do not change it. */
    json_t *members = (json_t *)(size_t)object;
    for (void *at = json_object_iter(members); at != NULL; at = json_object_iter_next(members, at)) {
        const json_t *value = json_object_iter_value(at);
        if (!json_is_object(value) && !json_is_array(value))
            write_fact(out, json_object_iter_key(at), value);
    }
}

static void write_ignored(FILE *out, const json_t *fields) {
    const json_t *field;
    size_t index;
    if (json_array_size(fields) == 0)
        return;
    fputs("<p>The engine cannot honour these fields, and they had no effect: ", out);
    json_array_foreach(fields, index, field) {
        fputs(index > 0 ? ", <code>" : "<code>", out);
        html_json(out, field, 0);
        fputs("</code>", out);
    }
    fputs(".</p>\n", out);
}

static void write_settings(const report_row *row, FILE *out) {
    fputs("<details><summary>", out);
    html_text(out, row->words);
    fputs(": settings, model, engine</summary>\n<dl class=\"facts\">\n", out);
    write_facts(out, json_at(row->results, "config"));
    write_fact(out, "configuration's hash", json_at(row->results, "config_hash"));
    fputs("</dl>\n<h3>Model</h3>\n<dl class=\"facts\">\n", out);
    write_facts(out, json_at(row->results, "model"));
    fputs("</dl>\n<h3>Engine</h3>\n<dl class=\"facts\">\n", out);
    write_facts(out, json_at(row->results, "engine"));
    fputs("</dl>\n", out);
    write_ignored(out, json_at(row->results, "ignored_fields"));
    write_sentences(out, json_at(row->results, "notes"));
    fputs("</details>\n", out);
}

void section_method(const report_data *data, FILE *out) {
    fputs("<section id=\"method\">\n<h2>How it was measured</h2>\n", out);
    write_sentences(out, json_at(data->final, "method"));
    for (size_t i = 0; i < data->complete; i++)
        if (json_array_size(json_at(data->rows[i].summary, "ignored_fields")) > 0) {
            fputs("<p><b>", out);
            html_text(out, data->rows[i].words);
            fputs(".</b></p>\n", out);
            write_ignored(out, json_at(data->rows[i].summary, "ignored_fields"));
        }
    for (size_t i = 0; i < data->complete; i++)
        if (data->rows[i].results != NULL)
            write_settings(&data->rows[i], out);
    if (json_object_size(data->settings) > 0) {
        fputs("<details><summary>Settings of the analysis</summary>\n<dl class=\"facts\">\n", out);
        write_facts(out, data->settings);
        fputs("</dl></details>\n", out);
    }
    if (json_object_size(json_at(data->final, "environment")) > 0) {
        fputs("<details><summary>Machine and versions</summary>\n<dl class=\"facts\">\n", out);
        write_facts(out, json_at(data->final, "environment"));
        write_fact(out, "generating took, seconds", json_at(data->final, "total/generation_seconds"));
        fputs("</dl></details>\n", out);
    }
    fputs("</section>\n", out);
}

void section_limits(const report_data *data, FILE *out) {
    if (json_array_size(json_at(data->final, "not_shown")) == 0)
        return;
    fputs("<section id=\"limits\">\n<h2>What it does not show</h2>\n", out);
    write_sentences(out, json_at(data->final, "not_shown"));
    fputs("</section>\n", out);
}

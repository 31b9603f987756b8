#!/usr/bin/env python3
"""End-to-end tests of report.html: its text, by an HTML parser of another house.

usage: test_experiments_report.py REPORT_PAGE [TEST]

REPORT_PAGE (report_page.c) writes the page from documents that report_documents.py makes up. Needs Python 3.11;
html5lib, jsonschema and gnuplot make more tests run, which are skipped, and counted, where they are absent; one needs
$KVSIM_EXPERIMENTS, the program kvsim-experiments.
The last line is `test_experiments_report: N passed, N failed, N skipped`.
"""

import collections
import json
import os
import random
import re
import shutil
import subprocess

from report_documents import Documents
from report_harness import (HOSTILE, ROOT, TIME_LIMIT, Skip, by_id, elements, expect_estimate, expected_text, figures,
                            hostile_documents, main, need_gnuplot, need_html5lib, page_of, parse, require,
                            require_rounded, rounded, row_named, run, table, temporary, test, title,
                            words)

try:
    import jsonschema
except ImportError:
    jsonschema = None


# ---------------------------------------------------------------------------------------------------------------------
# What stands on the page
# ---------------------------------------------------------------------------------------------------------------------


@test
def made_up_documents_follow_the_schemas():
    if jsonschema is None:
        raise Skip("jsonschema is not installed")
    for timed in (True, False):
        documents = Documents(timed=timed)
        documents.fail("long_context", "killed")
        for document, name in [(documents.final, "report"), *((r, "result") for r in documents.results.values())]:
            schema = json.loads((ROOT / "docs" / f"experiments-{name}-schema.json").read_text())
            problems = list(jsonschema.Draft202012Validator(schema).iter_errors(document))
            require(not problems, "; ".join(f"{list(p.absolute_path)}: {p.message[:200]}" for p in problems[:3]))


@test
def page_is_valid_and_well_made():
    with temporary() as work:
        documents = Documents()
        documents.fail("long_context", "killed by signal 9")
        text = page_of(documents, work)
    tree = parse(text)
    require(tree.get("lang") == "en", "no language")
    require(len(elements(tree, "h1")) == 1, "not one h1")
    require(words(elements(tree, "title")[0]) != "", "no title")
    level = 0
    for element in tree.iter():
        if re.fullmatch("h[1-6]", str(element.tag)):
            require(int(element.tag[1]) <= level + 1, f"heading {element.tag} after h{level}: {words(element)}")
            level = int(element.tag[1])
    for head in elements(tree, "th"):
        require(head.get("scope") in ("row", "col"), f"a head without scope: {words(head)}")
    for picture in elements(tree, "svg"):
        named = picture.get("role") == "img" and len(picture.get("aria-label", "")) > 20
        require(named or picture.get("aria-hidden") == "true", "a picture that says nothing to those who do not see it")
    ids = [element.get("id") for element in tree.iter() if element.get("id")]
    require(len(ids) == len(set(ids)), "an id stands twice")
    for link in elements(tree, "a"):
        require(link.get("href", "")[:1] == "#" and link.get("href")[1:] in ids, f"link to {link.get('href')}")
    for section in elements(tree, "section"):
        require(section.get("aria-label") or elements(section, "h2"), "a section without a heading")
    require(not elements(tree, "script") and not elements(tree, "iframe"), "scripts or frames")


@test
def nothing_is_loaded_by_the_text_of_the_page():
    with temporary() as work:
        text = page_of(Documents(), work)
    tree = parse(text)
    policy = [m.get("content") for m in elements(tree, "meta") if m.get("http-equiv") == "Content-Security-Policy"]
    require(len(policy) == 1 and policy[0].startswith("default-src 'none'"), f"policy: {policy}")
    require("script-src" not in policy[0], "the policy lets scripts run")
    head = list(elements(tree, "head")[0])
    require(head[0].get("charset") == "utf-8" and head[1].get("http-equiv") is not None, "the policy comes too late")
    for element in tree.iter():
        for name, value in element.attrib.items():
            require(not name.startswith("on"), f"{element.tag} has {name}")
            require(name not in ("src", "srcset", "action", "poster", "ping", "background", "{*}href"), name)
            if name.endswith("href"):
                require(value.startswith("#") or value == "data:,", f"{element.tag} leads to {value}")
    require("url(" not in text and "@import" not in text, "a style that loads something")


def check_experiments(tree, final):
    """The table of experiments shows the figures of a final report."""
    complete = [row for row in final["experiments"] if row["status"] == "complete"]
    rows = table(by_id(tree, "experiments"), "Redundancy by experiment")
    require(len(rows) == len(complete), rows.keys())
    for row in complete:
        cells = row_named(rows, title(row["name"]))
        headline = row["headline"]
        expect_estimate(cells["Could be shared"], headline["saved_share"]["both"], "%")
        expect_estimate(cells["Exact copies"], headline["exact_share"]["both"], "%")
        for number, kind in enumerate(("key", "value")):
            expect_estimate(cells["Alike beyond chance"], headline["alike_excess"][kind], "%", number)
        tokens = row["tokens"]["prompt"]["mean"] + row["tokens"]["output"]["mean"]
        require(f"{tokens:,.0f} tokens" in words(cells["Experiment"]), words(cells["Experiment"]))
        require(row["description"] in words(cells["Experiment"]), words(cells["Experiment"]))
    shares = [row["headline"]["saved_share"]["both"]["mean"] for row in complete]
    shown = [figures(cells["Could be shared"])[0][0] for cells in rows.values()]
    require(shown == sorted(shares, reverse=True), "not from the most to the least redundant")


@test
def numbers_of_experiments_are_those_of_the_documents():
    with temporary() as work:
        documents = Documents()
        tree = parse(page_of(documents, work))
    check_experiments(tree, documents.final)


@test
def a_real_campaign_gives_a_page():
    """Documents of the program itself: two small experiments, and one that fails with hostile last words."""
    program = os.environ.get("KVSIM_EXPERIMENTS") or ""
    if not os.path.exists(program):
        raise Skip("$KVSIM_EXPERIMENTS does not name the program")
    texts = {"lists": ["one, two, " * 4, "one, two, " * 5, "a b " * 10, "x " * 20, "- " * 20],
             "poems": ["Shall I <b>compare</b> thee to a summer's", "Tyger Tyger, burning bright, in the forests",
                       "Whose woods these are I think I know. His", "I wandered lonely as a cloud that floats",
                       "Two roads diverged in a yellow wood, and"]}
    experiments = [{"name": name, "description": f"Some {name} & more", "prompts": prompts, "max_tokens": 12,
                    "repeats": 1} for name, prompts in texts.items()]
    experiments.append({"name": "broken", "engine": "command", "prompts": ["x"], "max_tokens": 1, "repeats": 1,
                        "engine_command": "echo '</pre><script>alert(1)</script>' >&2; exit 3"})
    with temporary() as work:
        (work / "experiments.json").write_text(json.dumps(experiments))
        done = subprocess.run([program, "--experiments", work / "experiments.json", "--output-dir", work / "out"],
                              capture_output=True, text=True, timeout=TIME_LIMIT)
        if "no engine" in done.stderr:
            raise Skip("the program was built without the engine")
        page = (work / "out" / "report.html").read_text(encoding="utf-8")
        final = json.loads((work / "out" / "final_report.json").read_text(encoding="utf-8"))
    tree = parse(page)
    check_experiments(tree, final)
    require("</pre><script>alert(1)</script>" in words(by_id(tree, "failed")), words(by_id(tree, "failed")))
    blocks = ["".join(block.itertext()) for block in elements(by_id(tree, "texts"), "pre")]
    require(texts["poems"][0] in blocks and not elements(tree, "script"), "a prompt is not there as it was")
    answer = [words(item) for item in elements(elements(by_id(tree, "answer"), "ol")[0], "li")]
    require(len(answer) == len(final["answer"]) >= 3, answer)
    if shutil.which("gnuplot"):
        pictures = [p for p in elements(tree, "svg") if p.get("role") == "img"]
        require(len(pictures) == 2 + 2 + 2, f"{len(pictures)} pictures")


@test
def bars_are_as_long_as_the_numbers():
    with temporary() as work:
        tree = parse(page_of(Documents(), work))
    rows = table(by_id(tree, "experiments"), "Redundancy by experiment")
    lengths = []
    for cells in rows.values():
        cell = cells["Could be shared"]
        bar = elements(cell, "rect")[1]
        lengths.append((float(bar.get("width")), figures(cell)[0][0]))
    scale = max(lengths)[0] / max(lengths)[1]
    for length, value in lengths:
        require(abs(length - scale * value) < 0.02, f"a bar of {length} for {value}")
    require(max(lengths)[0] > 30, f"the longest bar is {max(lengths)[0]} per cent of its cell")


@test
def numbers_of_differences_are_those_of_the_documents():
    with temporary() as work:
        documents = Documents()
        tree = parse(page_of(documents, work))
    rows = table(by_id(tree, "differences"), "Differences between each two experiments")
    require(len(rows) == 10, rows.keys())
    pairs = collections.defaultdict(dict)
    for d in documents.final["differences"]:
        if "layer" in d:
            continue
        pairs[d["a"], d["b"]][d["metric"]] = d
    for (a, b), metrics in pairs.items():
        turn = metrics["saved_share"]["difference"] < 0
        more, less = (b, a) if turn else (a, b)
        cells = rows[f"{title(more)} over {title(less)}"]
        for column, metric in (("Could be shared", "saved_share"), ("Alike beyond chance", "alike_excess")):
            d = metrics[metric]
            sign = -1 if turn else 1
            expected = {"mean": sign * d["difference"], "low": min(sign * d["low"], sign * d["high"]),
                        "high": max(sign * d["low"], sign * d["high"])}
            expect_estimate(cells[column], expected, "points")
            require(("more than noise" in words(cells[column])) == d["different"], words(cells[column]))
            require(("may be noise" in words(cells[column])) != d["different"], words(cells[column]))


@test
def numbers_of_layers_are_those_of_the_documents():
    with temporary() as work:
        documents = Documents(layers=9)
        tree = parse(page_of(documents, work))
    found = elements(by_id(tree, "layers"), "table")[0]
    heads = [words(head) for head in elements(elements(found, "thead")[0], "th")]
    lines = elements(elements(found, "tbody")[0], "tr")
    require(len(lines) == 18, len(lines))
    for name, result in documents.results.items():
        column = heads.index(f"{title(name)}, %")
        for number, layer in enumerate(result["cache_analysis"]["layers"]):
            for kind, line in (("key", lines[2 * number]), ("value", lines[2 * number + 1])):
                require(words(line[0]) == str(layer["layer"]) and words(line[1]) == f"{kind}s", words(line))
                expect_estimate(line[column], layer[kind]["alike_excess"], "")


@test
def numbers_of_bytes_are_those_of_the_documents():
    with temporary() as work:
        documents = Documents()
        tree = parse(page_of(documents, work))
    budgets, ledger = elements(by_id(tree, "experiments"), "table")[1:]
    for found, members in ((budgets, None), (ledger, ("exact", "ulp", "near", "unique", "left_out"))):
        heads = [words(head) for head in elements(elements(found, "thead")[0], "th")]
        lines = elements(elements(found, "tbody")[0], "tr")
        for name, result in documents.results.items():
            analysis = result["cache_analysis"]
            if members is None:
                column = heads.index(f"{title(name)}, %")
                require(len(lines) == len(analysis["dedup_curve"]), len(lines))
                for line, point in zip(lines, analysis["dedup_curve"]):
                    require(words(line[0]) == f"{100 * point['budget']:g} %", words(line[0]))
                    expect_estimate(line[column], point["saved_share"], "")
                continue
            column = heads.index(title(name))
            seen = analysis["ledger"]["seen_bytes"]["mean"]
            require(figures(lines[0][column])[0][0] == seen, words(lines[0]))
            bins = [analysis["ledger"][f"{member}_bytes"]["mean"] for member in members]
            bins += [analysis["lossless"][f"{member}_gain_bytes"]["mean"] for member in ("coding", "repetition")]
            require(len(lines) == 1 + len(bins), len(lines))
            for line, expected in zip(lines[1:], bins):
                expect_estimate(line[column], {"mean": expected / seen, "low": None}, "%")


@test
def heat_map_has_every_layer_in_its_colour():
    need_gnuplot()
    with temporary() as work:
        documents = Documents()
        tree = parse(page_of(documents, work))
    pictures = [f for f in elements(by_id(tree, "layers"), "svg") if "Heat map" in f.get("aria-label", "")]
    require(len(pictures) == 2, f"{len(pictures)} heat maps")
    scale = max(layer[kind]["alike_excess"]["mean"] for result in documents.results.values()
                for layer in result["cache_analysis"]["layers"] for kind in ("key", "value"))
    for kind, picture in zip(("key", "value"), pictures):
        shown = [int(m.group(1)) for e in picture.iter()
                 if (m := re.search(r"\bf-heat(\d)", e.get("class", ""))) and e.tag in ("path", "polygon", "rect")]
        require(len(shown) == 30, f"{len(shown)} cells")
        order = sorted(documents.results, reverse=True, key=lambda name: (
            documents.results[name]["cache_analysis"]["headline"]["saved_share"]["both"]["mean"],
            documents.results[name]["cache_analysis"]["headline"]["alike_excess"]["both"]["mean"]))
        values = [layer[kind]["alike_excess"]["mean"] for name in order
                  for layer in documents.results[name]["cache_analysis"]["layers"]]
        steps = sorted(zip(values, shown))
        require(all(a[1] <= b[1] for a, b in zip(steps, steps[1:])), f"a larger share in a paler colour: {steps}")
        require(max(shown) >= 6 and scale > 0, "the scale is not used")
        letters = [words(e) for e in elements(picture, "text")]
        for name in order:
            require(title(name) in letters, f"{name} is not in {letters}")
        for value in values:
            expected = {rounded(100 * value, 1), rounded(100 * value, 0)}
            require(expected & {x.rstrip("?") for x in letters}, f"{value} is not in {letters}")


@test
def layers_that_differ_are_named():
    need_gnuplot()
    with temporary() as work:
        documents = Documents()
        tree = parse(page_of(documents, work))
    captions = [words(caption) for caption in elements(by_id(tree, "layers"), "figcaption")]
    require(len(captions) == 2, captions)
    for kind, caption in zip(("key", "value"), captions):
        rows = [d for d in documents.final["differences"] if "layer" in d and d["kind"] == kind]
        different = [str(d["layer"]) for d in rows if d["different"]]
        require(0 < len(different) < len(rows), "the documents do not try this")
        expected = f"more than noise in {len(different)} of {len(rows)} layers: {', '.join(different)}."
        require(expected in caption, f"'{caption}', not '{expected}'")


@test
def numbers_of_places_are_those_of_the_documents():
    with temporary() as work:
        documents = Documents()
        tree = parse(page_of(documents, work))
    section = by_id(tree, "places")
    scopes = table(section, "Could be shared, by where")
    positions = table(section, "Alike pages, by place")
    matrix = table(section, "Could be shared with another experiment")
    for row in documents.final["experiments"]:
        cells = scopes[title(row["name"])]
        expect_estimate(cells["Within one sequence"], row["within_sequence"]["saved_share"]["both"], "%")
        expect_estimate(cells["Between its sequences"], row["between_sequences"]["saved_share"]["both"], "%")
        cells = positions[title(row["name"])]
        places = documents.results[row["name"]]["cache_analysis"]["positions"]
        for column, place in (("First page", "first"), ("Middle", "middle"), ("Last page", "last")):
            expect_estimate(cells[column], places[place]["both"]["alike_share"], "%")
    names = [row["name"] for row in documents.final["experiments"]]
    for pair in documents.final["between_experiments"]["pairs"]:
        cells = list(matrix[title(pair["later"])].values())
        share = pair["both"]["saved_share"]
        # The head of the first column is no `th`: cells are shifted by one against the heads.
        line = next(r for r in elements(section, "tr") if words(r[0]) == title(pair["later"]) and len(r) == len(names))
        require(len(cells) > 0, "an empty row")
        expect_estimate(line[1 + names.index(pair["earlier"])], share | {"mean": share["observed"]}, "%")


@test
def numbers_of_distance_are_those_of_the_documents():
    with temporary() as work:
        documents = Documents()
        tree = parse(page_of(documents, work))
    for name, result in documents.results.items():
        rows = table(by_id(tree, "distance"), title(name))
        bins = result["cache_analysis"]["distance"]["bins"]
        require(len(rows) == len(bins), rows.keys())
        for row, cells in zip(bins, rows.values()):
            require(figures(cells["Pairs of pages"])[0][0] == row["pairs"], "pairs")
            for kind in ("key", "value"):
                cell = cells[f"{kind.capitalize()}s: mean cosine"]
                value, text = figures(cell)[0]
                require(value == row[kind]["mean_cosine"]["mean"], "cosine")
                require_rounded(text, value, rounded(value, 2))
                expect_estimate(cells[f"{kind.capitalize()}s: alike, %"], row[kind]["alike_share"], "")


@test
def numbers_of_cost_are_those_of_the_documents():
    with temporary() as work:
        documents = Documents()
        tree = parse(page_of(documents, work))
    memory, speed = (table(by_id(tree, "cost"), caption) for caption in ("Memory", "Speed"))
    columns = {"KV-cache reserved": "kv_reserved_bytes", "Used": "kv_used_bytes",
               "Lost to partial pages": "kv_partial_lost_bytes", "Prefix sharing could save": "kv_prefix_shared_bytes",
               "Whole process at its peak": "peak_rss_bytes"}
    for row in documents.final["experiments"]:
        for column, member in columns.items():
            value, text = figures(memory[title(row["name"])][column])[0]
            require(value == row["memory_stats"][member]["mean"], f"{column}: {value}")
            number, unit = text.split()
            factor = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]
            require(abs(float(number) * factor - value) < 0.006 * value, f"{text} for {value}")
        cells = speed[title(row["name"])]
        for column, member in (("Until the first token", "first_token_seconds"),
                               ("Between two tokens", "between_tokens_seconds")):
            shown = figures(cells[column])
            expected = [row["timing"][member][quantile] for quantile in ("p50", "p95", "p99")]
            require([value for value, _ in shown] == expected, f"{column}: {shown}")
            for value, text in shown:
                number, unit = text.split()
                factor = {"\u00b5s": 1e-6, "ms": 1e-3, "s": 1, "min": 60}[unit]
                require(abs(float(number) * factor - value) < 0.006 * value, f"{text} for {value}")
        for column, member in (("Reading prompts, tokens/s", "prefill_tokens_per_second"),
                               ("Generating, tokens/s", "decode_tokens_per_second")):
            value, text = figures(cells[column])[0]
            require(value == row["timing"][member]["mean"], f"{column}: {value}")
            require(abs(float(text.replace(",", "")) - value) <= 0.5, f"{text} for {value}")


@test
def sentences_prompts_and_texts_are_there():
    with temporary() as work:
        documents = Documents()
        documents.final["experiments"][0]["ignored_fields"] = ["tensor_parallel_size"]
        documents.results["code_generation"]["notes"] = ["A note of the engine."]
        tree = parse(page_of(documents, work))
    answer = [words(item) for item in elements(elements(by_id(tree, "answer"), "ol")[0], "li")]
    require(answer == documents.final["answer"], answer)
    for list_name, section in (("method", "method"), ("not_shown", "limits")):
        for sentence in documents.final[list_name]:
            require(sentence in words(by_id(tree, section)), sentence)
    whole = words(tree)
    for pattern in documents.final["patterns"] + [p for r in documents.results.values() for p in r["patterns"]]:
        require(pattern["text"] in whole, pattern["text"])
    require("tensor_parallel_size" in words(by_id(tree, "method")), "ignored fields are not named")
    require("A note of the engine." in words(by_id(tree, "method")), "notes are not shown")
    blocks = ["".join(block.itertext()) for block in elements(by_id(tree, "texts"), "pre")]
    for result in documents.results.values():
        for number, prompt in enumerate(result["config"]["prompts"]):
            require(prompt in blocks, prompt)
            for repeat in result["outputs"]:
                require(repeat["sequences"][number]["output"] in blocks, "an output is missing")
    require(all(not d.get("open") for d in elements(tree, "details")), "something is unfolded")


@test
def numbers_in_sentences_are_set_well():
    with temporary() as work:
        documents = Documents()
        documents.final["answer"] = ["More by -1.5 points (-0.5 to 12) than x-7 % of 1,234.5 % (1 to 2) in layer 3. 8",
                                     "at most 50 %, 7\u00a0% (6 to 8)", "-"]
        tree = parse(page_of(documents, work))
    items = elements(elements(by_id(tree, "answer"), "ol")[0], "li")
    expected = "More by \u22121.5 points (\u22120.5 to 12) than x-7 % of 1,234.5 % (1 to 2) in layer 3. 8"
    require(words(items[0]) == expected, words(items[0]))
    bold = ["".join(b.itertext()) for item in items for b in elements(item, "b")]
    require(bold == ["\u22121.5\u00a0points", "1,234.5\u00a0%", "7\u00a0%"], bold)
    require(words(items[2]) == "-", words(items[2]))


@test
def no_difference_is_not_noise():
    with temporary() as work:
        documents = Documents()
        for row in documents.final["differences"]:
            if (row["a"], row["b"]) == ("general_knowledge", "high_temperature"):
                row.update(difference=0.0, low=None, high=None, different=False)
        tree = parse(page_of(documents, work))
    rows = table(by_id(tree, "differences"), "Differences between each two experiments")
    cells = rows["General knowledge over High temperature"]
    require(words(cells["Could be shared"]) == "0 points none seen", words(cells["Could be shared"]))


# ---------------------------------------------------------------------------------------------------------------------
# Documents that are odd or hostile
# ---------------------------------------------------------------------------------------------------------------------


@test
def hostile_texts_stay_texts():
    benign = Documents()
    benign.fail("long_context", "killed")
    for result in benign.results.values():
        result["notes"] = ["a note"]
    with temporary() as work:
        plain = parse(page_of(benign, work))
    with temporary() as work:
        tree = parse(page_of(hostile_documents(), work))
    # Gnuplot leaves nothing to hostile texts; the elements are those of a page without them.
    count = [collections.Counter(str(e.tag) for e in t.iter()) for t in (plain, tree)]
    require(count[0] == count[1], f"elements came or went: {count[1] - count[0]} {count[0] - count[1]}")
    blocks = ["".join(block.itertext()) for block in elements(tree, "pre")]
    require(blocks.count(expected_text(HOSTILE)) == 1, "last words were changed")
    require(blocks.count("code_generation" + expected_text(HOSTILE)) == 6, "prompts were changed")
    require(blocks.count("\n" + expected_text(HOSTILE)) == 4 * 6 * 2, "outputs were changed")


@test
def hostile_names_do_not_reach_a_shell():
    need_gnuplot()
    with temporary() as work:
        trap = work / "trap"
        name = f"a'; system('touch {trap}'); print '`touch {trap}`\n!touch {trap}\n\"<b>"
        shares = {name: (0.1, 0.0, 0.2), "x" * 64: (0.0, 0.0, 0.0), "code_generation": (0.05, 0.0, 0.1)}
        tree = parse(page_of(Documents(shares=shares), work))
        require(not trap.exists(), "a name was run as a command")
    pictures = [p for p in elements(tree, "svg") if p.get("role") == "img"]
    require(len(pictures) == 2 + 2 + 3, f"{len(pictures)} pictures")


def fake_gnuplot(folder, script):
    (folder / "bin").mkdir()
    path = folder / "bin" / "gnuplot"
    path.write_text(script)
    path.chmod(0o755)
    return str(folder / "bin")


@test
def without_gnuplot_the_page_has_its_tables():
    with temporary() as work:
        (work / "empty").mkdir()
        tree = parse(page_of(Documents(), work, path=str(work / "empty")))
    require("gnuplot is not installed" in words(by_id(tree, "layers")), "the reason is not said")
    require("gnuplot is not installed" in words(by_id(tree, "distance")), "the reason is not said")
    require(not [p for p in elements(tree, "svg") if p.get("role") == "img"], "pictures from nowhere")
    require(len(elements(tree, "table")) >= 8, "tables are missing")


@test
def a_gnuplot_that_fails_is_told():
    with temporary() as work:
        path = fake_gnuplot(work, "#!/bin/sh\necho 'line 3: <unknown> terminal' >&2\nexit 1\n")
        tree = parse(page_of(Documents(), work, path=path))
    require("line 3: <unknown> terminal" in words(by_id(tree, "layers")), words(by_id(tree, "layers"))[:200])


@test
def what_gnuplot_draws_is_cleaned():
    picture = ("<?xml version='1.0'?><!DOCTYPE svg><svg viewBox='0 0 9 9' onload='alert(1)' id='x'><title>T</title>"
               "<style>*{display:none}</style><script>alert(1)</script><defs><path id='gpPt6'/></defs>"
               "<a xlink:href='http://127.0.0.1:9/'><text>link</text></a><image href='http://127.0.0.1:9/'/>"
               "<foreignObject><body onload='alert(1)'/></foreignObject>"
               "<g id='g' onclick='alert(1)' style='fill:url(http://127.0.0.1:9/)'>"
               "<path id='p' d='M0,0 L1,1' stroke='rgb(  4,   1,   1)' fill='url(#x)' onmouseover='alert(1)'/>"
               "<rect x='javascript:alert(1)' y='1' width='2' height='2' fill='#200101'/>"
               "<use xlink:href='http://127.0.0.1:9/#x'/><use xlink:href='#gpPt6' color='rgb(6,1,1)'/>"
               "<text>a &amp; &lt;b&gt; &evil; </text></g></svg>")
    script = "#!/bin/sh\n/bin/cat > /dev/null\n" + "".join(
        f"/bin/cat > {name}-{number}.svg <<'END'\n{picture}\nEND\n"
        for name in ("layers", "pair", "distance") for number in range(5))
    with temporary() as work:
        tree = parse(page_of(Documents(), work, path=fake_gnuplot(work, script)))
    pictures = [p for p in elements(tree, "svg") if p.get("role") == "img"]
    require(len(pictures) == 9, f"{len(pictures)} pictures")
    for drawn in pictures:
        tags = collections.Counter(e.tag for e in drawn.iter())
        require(tags == {"svg": 1, "g": 1, "path": 1, "rect": 1, "circle": 1, "text": 1}, tags)
        for element in drawn.iter():
            allowed = set("viewBox role aria-label class d x y width height r fill stroke".split())
            require(set(element.attrib) <= allowed, element.attrib)
            require("alert" not in str(element.attrib) and "url(" not in str(element.attrib), element.attrib)
        require(elements(drawn, "path")[0].get("class") == "s-key f-ink", elements(drawn, "path")[0].attrib)
        require(elements(drawn, "rect")[0].get("class") == "f-heat0", elements(drawn, "rect")[0].attrib)
        require(elements(drawn, "text")[0].text.strip() == "a & <b> &evil;", elements(drawn, "text")[0].text)


@test
def a_picture_cut_short_is_left_out():
    for broken in ("<svg viewBox='0 0 9 9'><g><text>half", "<svg viewBox='0 0 9 9'></g></svg>", "no picture",
                   "<svg viewBox='0 0 9 9'>" + "<g>" * 99 + "</g>" * 99 + "</svg>",
                   "<svg viewBox='0 0 9 9'><path d='M0", "<svg viewBox='0 0 9 9'><!-- ", ""):
        script = "#!/bin/sh\n/bin/cat > /dev/null\n" + "".join(
            f"printf %s \"{broken}\" > {name}-{number}.svg\n"
            for name in ("layers", "pair", "distance") for number in range(5))
        with temporary() as work:
            tree = parse(page_of(Documents(), work, path=fake_gnuplot(work, script)))
        require(not [p for p in elements(tree, "svg") if p.get("role") == "img"], f"a picture from: {broken}")
        require("could not be drawn" in words(by_id(tree, "layers")), f"not told: {broken}")


@test
def all_failed_is_a_page_too():
    with temporary() as work:
        documents = Documents()
        for name in list(documents.shares):
            documents.fail(name, f"last words of {name}")
        documents.final.update(answer=[], settings=None, between_experiments=None, patterns=[])
        tree = parse(page_of(documents, work))
    require("5 of 5 experiments did not complete" in words(by_id(tree, "answer")), words(by_id(tree, "answer")))
    for name in documents.shares:
        require(f"last words of {name}" in words(by_id(tree, "failed")), name)
    require("there is no answer" in words(by_id(tree, "answer")), words(by_id(tree, "answer")))


@test
def one_experiment_of_one_prompt_is_enough():
    with temporary() as work:
        documents = Documents(shares={"only": (0.0, 0.0, 0.1)}, layers=1, prompts=1, repeats=1)
        documents.final["differences"] = []
        documents.final["between_experiments"] = None
        tree = parse(page_of(documents, work))
    require("Only" in words(by_id(tree, "experiments")), "not named")
    require(not any(e.get("id") == "differences" for e in tree.iter()), "differences of one")
    require(not any(a.get("href") == "#differences" for a in elements(tree, "a")), "a link to nowhere")


def damage(value, generator, depth=0):
    """A document with some members gone or of another type."""
    if depth > 0 and generator.random() < 0.02:
        return generator.choice([None, True, -1, 1e300, "", "text", [], {}, [[]], {"mean": "x"}])
    if isinstance(value, dict):
        return {key: damage(item, generator, depth + 1) for key, item in value.items() if generator.random() > 0.01}
    if isinstance(value, list):
        return [damage(item, generator, depth + 1) for item in value if generator.random() > 0.01]
    return value


@test
def damaged_documents_give_valid_pages():
    need_html5lib()
    for seed in range(16):
        with temporary() as work:
            generator = random.Random(seed)
            documents = Documents(layers=2, prompts=2)
            documents.final = damage(documents.final, generator)
            documents.results = {name: damage(result, generator) for name, result in documents.results.items()}
            (work / "empty").mkdir()
            drawn = seed % 5 == 0 and shutil.which("gnuplot") is not None
            tree = parse(page_of(documents, work, path=None if drawn else str(work / "empty")))
            require(len(elements(tree, "h1")) == 1, f"seed {seed}: no page")


@test
def reproducible_documents_give_the_same_page():
    pages = []
    for _ in range(2):
        with temporary() as work:
            pages.append(page_of(Documents(timed=False), work))
    require(pages[0] == pages[1], "two pages from the same documents differ")
    require("There are no times in this report" in words(by_id(parse(pages[0]), "cost")), "no word on missing times")


@test
def a_full_disk_leaves_the_old_page():
    with temporary() as work:
        folder = Documents().write(work / "documents")
        (work / "out").mkdir()
        (work / "out" / "report.html").write_text("the old page")
        done = run(folder, work / "out", limit_file_bytes=40000)
        require(done.returncode == 1 and "report.html" in done.stderr, done.stderr)
        require(os.listdir(work / "out") == ["report.html"], os.listdir(work / "out"))
        require((work / "out" / "report.html").read_text() == "the old page", "the old page is gone")


@test
def many_long_texts_are_cut_and_it_is_said():
    with temporary() as work:
        documents = Documents(prompts=80)
        result = documents.results["code_generation"]
        result["config"]["prompts"][0] = "\u00e9" * 9000
        tree = parse(page_of(documents, work))
    blocks = ["".join(block.itertext()) for block in elements(by_id(tree, "texts"), "pre")]
    longest = max(blocks, key=len)
    require(longest == "\u00e9" * 6000 + "\u2026", f"{len(longest)} characters")
    require(not any("Prompt 61 of" in block for block in blocks), "more than 60 prompts")
    require("code_generation/results.json" in words(by_id(tree, "texts")), "where the rest is, is not said")


if __name__ == "__main__":
    main("test_experiments_report", 29, __doc__)

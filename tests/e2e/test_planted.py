#!/usr/bin/env python3
"""What kvsim-analyze says of sets with known answers: what was planted, and nothing else.

usage: test_planted.py [PROGRAM]

The last line is `test_planted: N passed, N failed, N skipped`.
"""

import functools
import json
import math
import random
import struct

from analyze_harness import analyze, cases, dump_file, main, recorded, report_of, require, run, temporary, test, write

SEQUENCES, PAGES, TOKENS, HEADS, SIZE = 12, 4, 8, 2, 16
LENGTH = PAGES * TOKENS
BLOCKS = SEQUENCES * PAGES
HALF = BLOCKS // 2
PAGE = TOKENS * HEADS * SIZE * 4
BUDGETS = [0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5]
# Shufflings enough for a chance level that is 0 or nearly 1, and quick under a sanitizer.
FEW = ("--null-repetitions", 4)
VIEWS = ("raw", "centered", "derotated", "derotated_centered")


# ---------------------------------------------------------------------------------------------------------------------
# Sets: a function of (sequence, kind) that gives the elements [tokens, heads, size]
# ---------------------------------------------------------------------------------------------------------------------


@functools.cache
def noise(*name):
    generator = random.Random(repr(name))
    return [generator.gauss(0, 1) for _ in range(LENGTH * HEADS * SIZE)]


def source(sequence):
    """The second half of the sequences repeats the first."""
    return sequence % (SEQUENCES // 2)


def next_float(value):
    bits = struct.unpack("<i", struct.pack("<f", value))[0]
    return struct.unpack("<f", struct.pack("<i", bits + 1))[0]


def independent(sequence, kind):
    return noise(sequence, kind)


def exact(sequence, kind):
    return noise(source(sequence), kind)


def near(sequence, kind):
    """Each slot within 8 % of its original."""
    if sequence == source(sequence):
        return exact(sequence, kind)
    return [x + 0.08 * e for x, e in zip(exact(sequence, kind), noise(sequence, kind))]


def one_ulp(sequence, kind):
    values = exact(sequence, kind)
    return values if sequence == source(sequence) else [next_float(x) if i % 3 == 0 else x
                                                        for i, x in enumerate(values)]


def common_mean(sequence, kind):
    if kind == "value":
        return independent(sequence, kind)
    return [x + 4 * math.copysign(1, noise("mean")[i % (HEADS * SIZE)]) for i, x in enumerate(noise(sequence, kind))]


def rotation(sequence, kind):
    """Keys of equal content one page further on, each rotated to its position."""
    if kind == "value":
        return independent(sequence, kind)
    content = exact(sequence, kind)
    if sequence != source(sequence):
        shift = TOKENS * HEADS * SIZE
        content = content[-shift:] + content[:-shift]
    rotated = list(content)
    for token in range(LENGTH):
        for head in range(HEADS):
            for pair in range(SIZE // 2):
                i = (token * HEADS + head) * SIZE + pair
                j = i + SIZE // 2
                angle = token * 10000 ** (-2 * pair / SIZE)
                rotated[i] = content[i] * math.cos(angle) - content[j] * math.sin(angle)
                rotated[j] = content[j] * math.cos(angle) + content[i] * math.sin(angle)
    return rotated


def scale(sequence, kind):
    factor = 1 if sequence == source(sequence) else 1.5
    return [factor * x for x in exact(sequence, kind)]


NONE = dict.fromkeys(VIEWS, 0)
ALL = dict.fromkeys(VIEWS, HALF)


def planted_file(make):
    """A mean that keys share as stored is one of a model without rotation."""
    rotated = "false" if make is common_mean else "true"
    return dump_file([LENGTH] * SEQUENCES, heads=HEADS, size=SIZE, page_tokens=TOKENS, metadata={"rope_applied": rotated},
                     value=lambda s, layer, kind, i: make(s, kind)[i])


# Name, elements, pages alike by view (keys, values), chance level of raw keys, blocks removed and removed with the best
# scale by budget, bin of the ledger that holds the removed ones.
@cases(
    ("exact duplicates", exact, ALL, ALL, 0, lambda b: HALF, lambda b: HALF, "exact_bytes"),
    ("near-duplicates", near, ALL, ALL, 0, lambda b: HALF * (b >= 0.1), lambda b: HALF * (b >= 0.1), "near_bytes"),
    ("equal within an ulp", one_ulp, ALL, ALL, 0, lambda b: HALF * (b > 0), lambda b: HALF * (b > 0), "ulp_bytes"),
    ("common mean only", common_mean, NONE | {"raw": BLOCKS - 1}, NONE, (BLOCKS - 1) / BLOCKS, lambda b: 0,
     lambda b: 0, None),
    ("rotation only", rotation, NONE | {"derotated": HALF, "derotated_centered": HALF}, NONE, 0, lambda b: 0,
     lambda b: 0, None),
    ("scale only", scale, ALL, ALL, 0, lambda b: HALF * (b >= 0.34), lambda b: HALF * (b > 0), None),
    ("independent noise", independent, NONE, NONE, 0, lambda b: 0, lambda b: 0, None),
)
def planted(make, alike_keys, alike_values, chance, removed, scaled, bin_name):
    with temporary() as work:
        report = analyze(work / "out", "--pages", write(work, "planted.safetensors", planted_file(make)), *FEW)
    views = VIEWS[:2] if make is common_mean else VIEWS
    require(list(report["views"]) == list(views), f"views {list(report['views'])}")
    for view in views:
        for kind, alike in (("key", alike_keys), ("value", alike_values)):
            found = report["views"][view][kind]
            require(round(found["observed"] * BLOCKS) == alike[view], f"{view} {kind}: {found}")
            expected = chance if kind == "key" and view == "raw" else 0
            require(abs(found["null"] - expected) < 0.02, f"chance of {view} {kind}: {found}")
            require(abs(found["excess"] - (alike[view] / BLOCKS - expected)) < 0.02, f"{view} {kind}: {found}")
    curve = report["dedup_curve"]
    require([point["budget"] for point in curve["points"]] == BUDGETS, "budgets")
    for point in curve["points"]:
        budget = point["budget"]
        require(point["removed"] == removed(budget), f"removed {point}")
        require(budget == 0 or point["scaled_removed"] == scaled(budget), f"scaled {point}")
        require(point["removed"] <= point["possible"] and point["removed_bytes"] == 2 * PAGE * point["removed"],
                f"{point}")
    total = report["ledger"]["total"]
    for name in ("exact_bytes", "ulp_bytes", "near_bytes", "left_out_bytes"):
        require(total[name] == (HALF * 2 * PAGE if name == bin_name else 0), f"{name}: {total}")
    repetition = report["lossless"]["total"]["repetition_gain_bytes"]
    require(repetition in (None, 0), f"repetition in noise: {repetition}")


@test
def planted_mean_is_told_in_words():
    with temporary() as work:
        path = write(work, "planted.safetensors", planted_file(common_mean))
        done = run("--pages", path, "--no-plots", "--output-dir", work / "out")
        require(done.returncode == 0, done.stderr)
        words = report_of(work / "out")["summary"]["in_words"]
    require(words[0].startswith("A cosine of 0.9 would call 97.9 % of key pages alike; shuffled pages give 97.9 %; "
                                "what is left is 0 %"), words[0])
    require("Most of the raw figure was that mean, not content" in words[1], words[1])
    require("saves 0 B" in words[-2] and "claimed" in words[-1], words[-2:])
    shown = " ".join(done.stdout.split())
    for sentence in words:
        require(sentence in shown, f"not on the terminal: {sentence}")


# ---------------------------------------------------------------------------------------------------------------------
# Small groups, families, choices
# ---------------------------------------------------------------------------------------------------------------------


@test
def too_few_pages_for_chance():
    with temporary() as work:
        report = analyze(work / "out", "--pages", write(work, "a.safetensors", dump_file([16])))
        raw = report["views"]["raw"]["key"]
        require(raw["observed"] is not None, raw)
        require([raw[name] for name in ("null", "excess", "low", "excess_low")] == [None] * 4, raw)
        require(any("too few to shuffle" in note for note in report["notes"]), report["notes"])
        require("no chance level" in report["summary"]["in_words"][0], report["summary"]["in_words"])


@test
def too_few_sequences_for_an_interval():
    with temporary() as work:
        report = analyze(work / "out", "--pages", write(work, "a.safetensors", dump_file([64] * 4)))
        raw = report["views"]["raw"]["key"]
        require(raw["null"] is not None and raw["excess"] is not None, raw)
        require(raw["low"] is None and raw["excess_high"] is None and raw["sequences"] == 4, raw)
        require(any("too few for an interval" in note for note in report["notes"]), report["notes"])
        require("that takes 5 sequences, here are 4" in report["summary"]["in_words"][0],
                report["summary"]["in_words"])


@test
def chance_can_be_left_out():
    with temporary() as work:
        report = analyze(work / "out", "--pages", write(work, "a.safetensors", dump_file([64] * 6)), "--no-chance")
        require(report["null"] == [], "statistics")
        require(report["views"]["raw"]["key"]["null"] is None, report["views"]["raw"])
        require("--no-chance" in report["summary"]["in_words"][0], report["summary"]["in_words"])


@test
def equal_prompts_are_a_family():
    with temporary() as work:
        prompts = ["a", "b", "a", "", "", "b"]
        path = write(work, "a.safetensors", dump_file([64] * 6, metadata={"prompts": json.dumps(prompts)}))
        report = analyze(work / "out", "--pages", path)
        require(report["input"]["families"] == 4, report["input"])
        pairs = {}
        for row in report["strata"]:
            if (row["view"], row["kind"], row["t"]) == ("raw", "key", 0.9):
                pairs[row["relation"]] = pairs.get(row["relation"], 0) + row["pairs"]
        require(pairs == {"within-sequence": 6 * 120, "within-family": 2 * 256, "between-families": 13 * 256}, pairs)
        again = analyze(work / "two", "--pages", path, path)
        require(again["input"]["families"] == 6, "equal prompts of two files are one family")


@test
def seed_and_repetitions_change_the_chance_level_only():
    with temporary() as work:
        value = lambda s, layer, kind, i: 2.2 + noise(s, kind)[i % len(noise(s, kind))]
        path = write(work, "a.safetensors", dump_file([64] * 6, value=value))
        reports = [analyze(work / str(n), "--pages", path, "--reproducible", *options)
                   for n, options in enumerate(([], ["--seed", 1], ["--seed", 2], ["--null-repetitions", 3]))]
        require(reports[0] == reports[1], "1 is the default seed")
        for other, name in ((reports[2], "seed"), (reports[3], "null_repetitions")):
            require(other["options"][name] == {"seed": 2, "null_repetitions": 3}[name], other["options"])
            require(other["null"] != reports[0]["null"], f"{name} has no effect")
            require(other["groups"] == reports[0]["groups"], f"{name} changes what was seen")


@test
def budget_of_the_headline_joins_the_curve():
    with temporary() as work:
        report = analyze(work / "out", "--pages", write(work, "a.safetensors", dump_file([16] * 2)), "--budgets",
                         "0,0.5", "--budget", "0.25", "--ulps", 4)
        require([point["budget"] for point in report["dedup_curve"]["points"]] == [0, 0.25, 0.5], "points")
        require(report["ledger"]["budget"] == report["summary"]["error_budget"] == 0.25, report["ledger"]["budget"])
        require(report["options"]["ulps"] == 4, report["options"])


@test
def views_without_rope():
    with temporary() as work:
        path = write(work, "a.safetensors", dump_file([16] * 2, metadata={"rope_applied": "false"}))
        report = analyze(work / "out", "--pages", path)
        require(list(report["views"]) == ["raw", "centered"], list(report["views"]))
        require(any("raw and centered" in note and "rotated" in note for note in report["notes"]), report["notes"])


# ---------------------------------------------------------------------------------------------------------------------
# Recorded caches
# ---------------------------------------------------------------------------------------------------------------------


@cases(("stories24", "kv/stories24"), ("repetitive_bf16", "kv/repetitive_bf16"), ("shared_prefix", "kv/shared_prefix"),
       ("paged_vllm_e3", "kv/paged_vllm_e3"))
def recorded_set_adds_up(file):
    """analyze() checks the ledger; here that chance and curve are in order."""
    with temporary() as work:
        report = analyze(work / "out", "--pages", recorded(f"{file}.safetensors"), *FEW, "--view",
                         "raw,derotated_centered")
    points = report["dedup_curve"]["points"]
    require([p["removed"] for p in points] == sorted(p["removed"] for p in points), "more budget removes less")
    require([p["possible"] for p in points] == sorted(p["possible"] for p in points), "more budget allows less")
    require(all(p["removed"] <= p["possible"] for p in points), "more than possible")
    for row in report["null"]:
        if row["low"] is not None:
            require(row["low"] <= row["observed"] <= row["high"], row)


@test
def shared_prefix_is_found_and_no_more():
    """Three files, 12 sequences: the blocks that were planted, at every budget to 0.4."""
    paths = [recorded(f"kv30m/{name}.safetensors") for name in ("general", "code", "shared_prefix")]
    with temporary() as work:
        report = analyze(work / "out", "--pages", *paths, *FEW, "--view", "raw")
    for point in report["dedup_curve"]["points"]:
        require(point["removed"] == 4 * 96 or point["budget"] == 0.5, point)
    share = report["dedup_curve"]["points"][3]["removed_share"]
    require(share["null"] == 0 and 0 < share["excess_low"] < 1 / 7 < share["excess_high"], share)
    require(report["ledger"]["total"]["exact_bytes"] == 4 * 96 * 8192, report["ledger"]["total"])


if __name__ == "__main__":
    main("test_planted", 20, __doc__)

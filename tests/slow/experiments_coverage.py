#!/usr/bin/env python3
"""Do the intervals of kvsim-experiments hold the truth? Random, independent pages, many times over.

usage: experiments_coverage.py KVSIM_EXPERIMENTS [SEEDS [REPEATS [PROMPTS]]]     (100, 3 and 12)

Every experiment is a command that leaves a cache of independent normal numbers: there are no copies, nothing can be
saved, and pages are alike by chance alone, which at pages of six elements happens to about one page in eight. So the
excess over chance is 0, and so is the difference of any two experiments. Three models of what a prompt brings:

- independent: every sequence of every repeat is drawn anew;
- shared: the repeats of a prompt have the same cache. Who takes them for independent gets intervals that are too narrow;
- effects: every prompt has a direction that its pages lean to, prompts more or less strongly, and every repeat of it
  another one, half as strong. Pages are then alike beyond chance; the truth is the mean over all seeds.

Minutes long, so it is run by name. The last line is `experiments_coverage: N passed, N failed, N skipped`. At least 95 of
100 intervals must hold 0, less what so few seeds leave open; nor may they be right because they are wide. Random pages
are the worst case: all that varies is pairs of pages, and a pair is left out with either of its sequences, so that its
variance counts twice. With Student's t of 11 degrees for the normal deviate that makes sqrt(2) * 1.12 = 1.6 times what
the scatter of the excesses says; 1.75 is allowed.
"""
import json
import math
import pathlib
import subprocess
import sys
import tempfile

try:
    import numpy as np
except ImportError:
    np = None

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
from analyze_harness import dump_file  # noqa: E402

PAGE_TOKENS, SIZE, PAGES = 3, 2, 8  # a page is 3 x 2 elements: chance makes some alike


def sequence(number, part, s, model):
    if model != "effects":
        return np.random.default_rng((number, part, s, model == "shared")).standard_normal((2, PAGES, PAGE_TOKENS * SIZE))
    prompt, repeat = (np.random.default_rng((number, s, other, 2)) for other in (0, part + 1))
    strength = prompt.uniform(0.3, 1.8)
    lean = strength * (prompt.standard_normal((2, 1, PAGE_TOKENS * SIZE))
                       + 0.5 * repeat.standard_normal((2, 1, PAGE_TOKENS * SIZE)))
    return lean + repeat.standard_normal((2, PAGES, PAGE_TOKENS * SIZE))


def dump(number, part, model, prompts):
    values = [sequence(number, part, s, model).reshape(2, -1) for s in range(prompts)]
    return dump_file([PAGES * PAGE_TOKENS] * prompts, heads=1, size=SIZE, page_tokens=PAGE_TOKENS,
                     value=lambda s, layer, kind, i: values[s][int(kind == "value"), i],
                     metadata={"prompts": json.dumps([str(s) for s in range(prompts)])})


def experiment(work, number, model, repeats, prompts):
    first = 1000 * number
    for repeat in range(repeats):
        part = 0 if model == "shared" else repeat
        path = work / f"{first + repeat}.safetensors"
        path.write_bytes(dump(number, part, model, prompts))
    return {"name": f"random{number}", "prompts": [f"{number} {s}" for s in range(prompts)], "repeats": repeats,
            "seed": first, "engine": "command", "page_tokens": PAGE_TOKENS, "max_tokens": 1,
            "engine_command": f"cp '{work}'/$KVSIM_SEED.safetensors $KVSIM_OUTPUT_DIR/dump.safetensors"}


def run(program, seeds, model, repeats, prompts):
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        experiments = [experiment(work, number, model, repeats, prompts) for number in range(seeds)]
        (work / "experiments.json").write_text(json.dumps(experiments))
        # In pieces of 10, since every pair of a piece is compared.
        reports = []
        for first in range(0, seeds, 10):
            names = ",".join(f"random{n}" for n in range(first, min(first + 10, seeds)))
            subprocess.run([program, "--experiments", str(work / "experiments.json"), "--only", names, "--output-dir",
                            str(work / f"out{first}"), "--no-plots", "--quiet"], check=True)
            reports.append(json.loads((work / f"out{first}" / "final_report.json").read_text()))
        return reports


def holds(row, truth):
    return row["low"] is not None and row["low"] <= truth <= row["high"]


def main():
    if np is None or len(sys.argv) < 2:
        sys.exit("skipped: NumPy is not installed" if np is None else __doc__)
    seeds, repeats, prompts = (int(sys.argv[i]) if len(sys.argv) > i else d for i, d in ((2, 100), (3, 3), (4, 12)))
    passed = failed = 0

    def check(good, text):
        nonlocal passed, failed
        print(("passed: " if good else "failed: ") + text, flush=True)
        passed, failed = passed + bool(good), failed + (not good)

    def check_coverage(rows, mean, text, truth=0.0):
        """`rows` have the ends `low` and `high`; `mean` names their figure."""
        total, held = len(rows), sum(holds(row, truth) for row in rows)
        least = 0.95 * total - 2.3 * math.sqrt(0.0475 * total)
        check(held >= least, f"{text}: {held} of {total} intervals hold {truth:.4f} (at least {least:.0f})")
        width = np.mean([row["high"] - row["low"] for row in rows if row["low"] is not None])
        scatter = 2 * 1.96 * np.std([row[mean] for row in rows], ddof=1)
        check(width <= 1.75 * scatter, f"{text}: mean {np.mean([row[mean] for row in rows]):.5f}, mean width "
                                         f"{width:.4f}, {width / scatter:.2f} times what their scatter says")

    for model in ("independent", "shared", "effects"):
        reports = run(sys.argv[1], seeds, model, repeats, prompts)
        rows = [row for report in reports for row in report["experiments"]]
        copies = sum(row["headline"][metric]["both"]["mean"] for row in rows for metric in ("exact_share", "saved_share"))
        check(len(rows) == seeds and copies == 0, f"{model}: {len(rows)} experiments, copies and savings {copies}")
        if model == "effects":
            for metric in ("alike_share", "alike_excess"):
                found = [row["headline"][metric]["both"] for row in rows]
                check_coverage(found, "mean", f"{model}, {metric}", np.mean([row["mean"] for row in found]))
        else:
            shares = [row["headline"]["alike_share"]["both"]["mean"] for row in rows]
            check(0.05 < np.mean(shares) < 0.6, f"{model}: {np.mean(shares):.3f} of the pages are alike by chance")
            for kind in ("key", "value", "both"):
                check_coverage([row["headline"]["alike_excess"][kind] for row in rows], "mean",
                               f"{model}, excess of {kind}")
        # Each experiment in one difference only, so that they are independent of each other.
        differences = [row for report in reports for row in report["differences"]
                       if row["metric"] == "alike_excess" and row["kind"] == "both" and "layer" not in row
                       and int(row["a"][6:]) % 2 == 0 and int(row["b"][6:]) == int(row["a"][6:]) + 1]
        check_coverage(differences, "difference", f"{model}, differences")
    print(f"experiments_coverage: {passed} passed, {failed} failed, 0 skipped")
    sys.exit(1 if failed else 0)


main()

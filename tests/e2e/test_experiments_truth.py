#!/usr/bin/env python3
"""The figures of kvsim-experiments, against the same figures computed apart from it in NumPy, in float64.

usage: test_experiments_truth.py KVSIM_EXPERIMENTS [PART_OF_A_TITLE]

The dumps of the runs are kept and analysed a second time here: pages alike, copies, bytes saved, intervals, likeness by
distance and between experiments. Planted experiments must report what arithmetic predicts. Without NumPy the tests are
skipped, and counted. analyze_harness.py has what the tests share.
"""
import functools
import json
import math
import pathlib
import sys
import tempfile

import analyze_harness as harness
from analyze_harness import MODEL, ROOT, Skip, cases, dump_file, require, test, write

try:
    import numpy as np
except ImportError:
    np = None

EXPECTED_CHECKS = 37
THRESHOLD, BUDGET = 0.9, 0.1
KINDS = ("key", "value", "both")

REPETITIVE = ["- one line\n- one line\n- one line\n- one line\n- one line\n- one line\n- one line\n- one line\n",
              "no no no no no no no no no no no no no no no no no no no no no no no no no no no no no no no no ",
              "- one line\n- one line\n- one line\n- one line\n- one line\n- one line\n- one line\n- one more",
              "0000 0000 0000 0000 0000 0000 0000 0000 0000 0000 0000 0000 0000 0000 0000 0000 0000 0000 ",
              "- one line\n- one line\n- one line\n- one line\n- one line\n- one line\n- two lines\n",
              "the end, the end, the end, the end, the end, the end, the end, the end, the end, the end, "]
PLAIN = ["The moon goes round the earth in a little less than a month, and always shows the same side.",
         "def read(path):\n    with open(path) as file:\n        return file.read()\n\n\ndef write(path):\n",
         "It rained all day, and the goat had broken its rope; nobody would go to look for it but me.",
         "A table is created by the statement that follows, if it does not exist. The columns are ",
         "Paper was made from rags before it was made from wood; the rags were sorted and then washed",
         "package queue\n\nimport \"errors\"\n\nvar ErrFull = errors.New(\"full\")\n\ntype Queue struct {\n"]


def need_numpy():
    if np is None:
        raise Skip("NumPy is not installed")


# ---------------------------------------------------------------------------------------------------------------------
# Running
# ---------------------------------------------------------------------------------------------------------------------


def spec(name, prompts, **fields):
    return {"name": name, "prompts": prompts, "max_tokens": 64, "temperature": 0.8, "repeats": 2, "seed": 3} | fields


class Campaign:
    """Experiments that were run, with their documents and dumps."""

    def __init__(self, *experiments, options=()):
        self.folder = tempfile.TemporaryDirectory()
        self.work = pathlib.Path(self.folder.name)
        self.out = self.work / "out"
        path = write(self.work, "experiments.json", json.dumps(experiments))
        done = harness.run("--experiments", path, "--output-dir", self.out, "--no-plots", "--quiet", "--keep-dumps",
                           *options, cwd=self.work)
        if done.returncode != 0 and "no embedded engine" in done.stderr:
            raise Skip("the program was built without the embedded engine")
        require(done.returncode == 0, f"exit status {done.returncode}: {done.stderr}")
        self.report = self.document("final_report.json")

    def document(self, name):
        def refuse(constant):
            raise harness.Failure(f"{constant} in {name}")

        return json.loads((self.out / name).read_text(encoding="utf-8"), parse_constant=refuse)

    def result(self, name):
        return self.document(f"{name}/results.json")

    def analysis(self, name):
        return self.result(name)["cache_analysis"]

    @functools.cache
    def truth(self, name, repeat):
        return Truth(self.out / ".runs" / name / str(repeat) / "dump.safetensors")

    def difference(self, a, b, metric, kind="both"):
        rows = [row for row in self.report["differences"]
                if row["a"] == a and row["b"] == b and row["metric"] == metric and row["kind"] == kind
                and "layer" not in row]
        require(len(rows) == 1, f"{len(rows)} differences of {a} and {b} in {metric} of {kind}")
        return rows[0]


@functools.cache
def campaign():
    """Two experiments of the embedded engine, for most tests."""
    need_numpy()
    return Campaign(spec("repetitive", REPETITIVE), spec("plain", PLAIN))


@functools.cache
def planted():
    """The same prompt in every sequence, greedily: eight copies of one cache, three times over."""
    need_numpy()
    return Campaign(spec("planted", [PLAIN[0]] * 8, temperature=0, repeats=3),
                    spec("planted_once", [PLAIN[0]] * 8, temperature=0, repeats=1),
                    spec("few", PLAIN[:4], repeats=1), spec("greedy", PLAIN, temperature=0, repeats=3),
                    spec("greedy_once", PLAIN, temperature=0, repeats=1))


# ---------------------------------------------------------------------------------------------------------------------
# The truth
# ---------------------------------------------------------------------------------------------------------------------


def read_safetensors(path):
    blob = pathlib.Path(path).read_bytes()
    length = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8:8 + length])
    kinds = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I32": "<i4"}
    tensors = {}
    for name, about in header.items():
        if name != "__metadata__":
            begin, end = about["data_offsets"]
            raw = np.frombuffer(blob[8 + length + begin:8 + length + end], kinds[about["dtype"]])
            tensors[name] = (about["dtype"], raw.reshape(about["shape"]))
    return header["__metadata__"], tensors


def to_double(dtype, raw):
    if dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return raw.astype(np.float64)


class Truth:
    """The full pages of a dump in float64, and what can be counted on them."""

    def __init__(self, path, page_tokens=16):
        meta, self.tensors = read_safetensors(path)
        self.layers, self.page = int(meta["layers"]), page_tokens
        self.theta = float(meta["rope_theta"])
        require(meta["rope_style"] == "half", meta["rope_style"])
        lengths = []
        while f"seq.{len(lengths)}.tokens" in self.tensors:
            lengths.append(len(self.tensors[f"seq.{len(lengths)}.tokens"][1]))
        self.sequences = len(lengths)
        self.seq = np.concatenate([[s] * (n // page_tokens) for s, n in enumerate(lengths)]).astype(int)
        self.pos = np.concatenate([np.arange(n // page_tokens) * page_tokens for n in lengths]).astype(int)
        self.partial = sum(n % page_tokens > 0 for n in lengths)

    @functools.cache
    def stored(self, layer, kind):
        parts = []
        for s in range(self.sequences):
            dtype, raw = self.tensors[f"seq.{s}.layer.{layer}.{kind}"]
            parts.append(raw[:len(raw) // self.page * self.page].reshape(-1, self.page, *raw.shape[1:]))
        return dtype, np.concatenate(parts)

    @functools.cache
    def pages(self, layer, kind, centered):
        """[pages, elements]: as stored, or with mean and rotation taken out."""
        x = to_double(*self.stored(layer, kind))
        if centered and kind == "key":
            half = x.shape[-1] // 2
            angle = (self.pos[:, None] + np.arange(self.page))[..., None] * self.theta ** (-np.arange(half) / half)
            c, s = np.cos(angle)[:, :, None], np.sin(angle)[:, :, None]
            a, b = x[..., :half], x[..., half:]
            x = np.concatenate([a * c + b * s, b * c - a * s], -1)
        if centered:
            x = x - x.mean((0, 1))
        return x.reshape(len(x), -1)

    @functools.cache
    def cosines(self, layer, kind):
        x = self.pages(layer, kind, True)
        norm = np.sqrt((x ** 2).sum(1))
        return np.clip(x @ x.T / norm[:, None] / norm, -1, 1)

    @functools.cache
    def errors(self, layer, kind):
        x = self.pages(layer, kind, False)
        distance = np.stack([np.sqrt(((x - row) ** 2).sum(1)) for row in x])
        return distance / np.sqrt((x ** 2).sum(1))[:, None]

    def pairs(self, scope):
        n = len(self.seq)
        earlier = np.tril(np.ones((n, n), bool), -1)
        same = self.seq[:, None] == self.seq
        return earlier & {"all": np.ones((n, n), bool), "within": same, "between": ~same}[scope]

    def alike(self, layer, kind, scope):
        """Which pages have an alike earlier page, as a matrix of the matches."""
        return (self.cosines(layer, kind) >= THRESHOLD) & self.pairs(scope)

    @functools.cache
    def equal(self, layer, kind):
        if kind == "both":
            return self.equal(layer, "key") & self.equal(layer, "value")
        contents = [page.tobytes() for page in self.stored(layer, kind)[1]]
        return np.array([[a == b for b in contents] for a in contents])

    def removed(self, layer, kind, budget):
        """Which pages or blocks a greedy dedup removes, in order of arrival."""
        within = np.ones((len(self.seq),) * 2, bool)
        for one in ("key", "value") if kind == "both" else (kind,):
            within &= self.errors(layer, one) <= budget
        kept, gone = [], np.zeros(len(self.seq), bool)
        for page in range(len(self.seq)):
            gone[page] = within[page, kept].any()
            if not gone[page]:
                kept.append(page)
        return gone

    def share(self, figure, kind, layers=None):
        """Mean of a 0 or 1 for each page over layers (and kinds, for pages alike of both)."""
        layers = range(self.layers) if layers is None else layers
        return float(np.mean([figure(layer, one) for layer in layers for one in kinds_of(kind)]))

    def counts(self, scope, kind):
        """Of pages alike over all layers, by sequence: pages, those that match, and others' that match it alone."""
        whole, part, hanging = (np.zeros(self.sequences) for _ in range(3))
        for layer in range(self.layers):
            for one in kinds_of(kind):
                matches = self.alike(layer, one, scope)
                for page in range(len(self.seq)):
                    own, found = self.seq[page], np.unique(self.seq[matches[page]])
                    whole[own] += 1
                    part[own] += len(found) > 0
                    if len(found) == 1 and found[0] != own:
                        hanging[found[0]] += 1
        return whole, part, hanging


def kinds_of(kind):
    return ("key", "value") if kind == "both" else (kind,)


PAGE_BYTES = 16 * 2 * 32 * 4  # tokens, heads, head size, f32: what the embedded engine keeps
NET = 1 - 8 / PAGE_BYTES  # what removing a page saves of it: its bytes without the 8 that find its representative again


def require_close(found, wanted, what, tolerance=1e-12):
    require(found is not None and abs(found - wanted) <= tolerance, f"{what}: {found}, not {wanted}")


# ---------------------------------------------------------------------------------------------------------------------
# Figures
# ---------------------------------------------------------------------------------------------------------------------

PLACES = [(f"{name} {repeat}", name, repeat) for name in ("repetitive", "plain") for repeat in (0, 1)]


@cases(*PLACES)
def pages_alike_are_those_of_numpy(name, repeat):
    analysis, truth = campaign().analysis(name), campaign().truth(name, repeat)
    require(analysis["settings"]["best_view"] == "derotated_centered", analysis["settings"])
    for scope, member in (("all", "headline"), ("within", "within_sequence"), ("between", "between_sequences")):
        for kind in KINDS:
            wanted = truth.share(lambda layer, one: truth.alike(layer, one, scope).any(1), kind)
            require_close(analysis[member]["alike_share"][kind]["per_repeat"][repeat], wanted, f"{scope}, {kind}")
    names = {"all": "alike_share", "within": "within_sequence_alike_share", "between": "between_sequences_alike_share"}
    for row in analysis["layers"]:
        for kind in KINDS:
            for scope, member in names.items():
                wanted = truth.share(lambda layer, one: truth.alike(layer, one, scope).any(1), kind, [row["layer"]])
                require_close(row[kind][member]["per_repeat"][repeat], wanted, f"layer {row['layer']}, {kind}, {scope}")


@cases(*PLACES)
def pages_alike_by_place_are_those_of_numpy(name, repeat):
    analysis, truth = campaign().analysis(name), campaign().truth(name, repeat)
    last = np.array([truth.pos[truth.seq == s].max() for s in range(truth.sequences)])
    chosen = {"first": truth.pos == 0, "last": (truth.pos == last[truth.seq]) & (truth.pos > 0)}
    chosen["middle"] = ~chosen["first"] & ~chosen["last"]
    for place, pages in chosen.items():
        for kind in KINDS:
            found = analysis["positions"][place][kind]
            require_close(found["pages"]["per_repeat"][repeat], pages.sum() * truth.layers * len(kinds_of(kind)), place)
            for scope, member in (("all", "alike_share"), ("within", "within_sequence_alike_share"),
                                  ("between", "between_sequences_alike_share")):
                wanted = truth.share(lambda layer, one: truth.alike(layer, one, scope).any(1)[pages], kind)
                require_close(found[member]["per_repeat"][repeat], wanted, f"{place}, {kind}, {scope}")


@cases(*PLACES)
def copies_and_saved_bytes_are_those_of_numpy(name, repeat):
    analysis, truth = campaign().analysis(name), campaign().truth(name, repeat)
    headline = analysis["headline"]
    for kind in KINDS:
        layers = range(truth.layers)
        copies = np.mean([(truth.equal(layer, kind) & truth.pairs("all")).any(1) for layer in layers])
        require_close(headline["exact_share"][kind]["per_repeat"][repeat], copies, f"copies, {kind}")
        saved = np.mean([truth.removed(layer, kind, BUDGET) for layer in layers]) * NET
        require_close(headline["saved_share"][kind]["per_repeat"][repeat], saved, f"saved, {kind}")
        for metric in ("exact_share", "saved_share"):
            parts = [analysis[scope][metric][kind]["per_repeat"][repeat]
                     for scope in ("within_sequence", "between_sequences")]
            require_close(sum(parts), headline[metric][kind]["per_repeat"][repeat], f"{metric} within and between")
    for point in analysis["dedup_curve"]:
        saved = np.mean([truth.removed(layer, "both", point["budget"]) for layer in range(truth.layers)]) * NET
        require_close(point["saved_share"]["per_repeat"][repeat], saved, f"budget {point['budget']}")


@cases(*PLACES)
def likeness_by_distance_is_that_of_numpy(name, repeat):
    analysis, truth = campaign().analysis(name), campaign().truth(name, repeat)
    same = truth.pairs("within")
    distance = truth.pos[:, None] - truth.pos
    seen = 0
    for row in analysis["distance"]["bins"]:
        chosen = same & (distance >= row["from_tokens"]) & (distance <= row["to_tokens"])
        seen += chosen.sum() * truth.layers
        for kind in ("key", "value"):
            cosines = np.concatenate([truth.cosines(layer, kind)[chosen] for layer in range(truth.layers)])
            require_close(row[kind]["mean_cosine"]["per_repeat"][repeat], cosines.mean(), f"{row['from_tokens']}", 2e-6)
            require_close(row[kind]["alike_share"]["per_repeat"][repeat], (cosines >= THRESHOLD).mean(), "alike")
    require(seen == same.sum() * truth.layers, f"{seen} pairs of {same.sum() * truth.layers}")
    other = truth.pairs("between")
    for kind in ("key", "value"):
        cosines = np.concatenate([truth.cosines(layer, kind)[other] for layer in range(truth.layers)])
        found = analysis["distance"]["different_sequences"][kind]["mean_cosine"]["per_repeat"][repeat]
        require_close(found, cosines.mean(), "different sequences", 2e-6)


@cases(("repetitive", "repetitive"), ("plain", "plain"))
def counts_and_ledger_add_up(name):
    result, analysis = campaign().result(name), campaign().analysis(name)
    for repeat in range(2):
        truth = campaign().truth(name, repeat)
        pages = len(truth.seq) * truth.layers * 2
        require_close(analysis["counts"]["pages_compared"]["per_repeat"][repeat], pages, "pages")
        require_close(analysis["counts"]["pages_left_out"]["per_repeat"][repeat], truth.partial * truth.layers * 2,
                      "partial")
        require_close(analysis["counts"]["compared_bytes"]["per_repeat"][repeat], pages * PAGE_BYTES, "bytes")
        ledger = {key: value["per_repeat"][repeat] for key, value in analysis["ledger"].items() if key != "budget"}
        bins = sum(ledger[f"{bin}_bytes"] for bin in ("left_out", "exact", "ulp", "near", "unique"))
        require(bins == ledger["seen_bytes"], f"the ledger does not add up: {ledger}")
        removed = sum(truth.removed(layer, "both", BUDGET).sum() for layer in range(truth.layers))
        require(ledger["exact_bytes"] + ledger["ulp_bytes"] + ledger["near_bytes"] == removed * 2 * PAGE_BYTES, ledger)
    require(result["outputs"][1]["seed"] == 4 and len(result["outputs"][1]["sequences"]) == 6, "outputs")


@test
def pages_between_experiments_are_those_of_numpy():
    between = campaign().report["between_experiments"]
    require(between["view"] == "derotated_centered" and len(between["pairs"]) == 1, between)
    pair = between["pairs"][0]
    require((pair["earlier"], pair["later"]) == ("repetitive", "plain"), pair)
    one, two = campaign().truth("repetitive", 0), campaign().truth("plain", 0)
    later = np.arange(len(one.seq) + len(two.seq)) >= len(one.seq)
    shares = {kind: [] for kind in KINDS}
    copies = {kind: [] for kind in KINDS}
    for layer in range(one.layers):
        equal = []
        for kind in ("key", "value"):
            both = Truth.__new__(Truth)
            both.page, both.theta = one.page, one.theta
            both.pos = np.concatenate([one.pos, two.pos])
            dtype, first = one.stored(layer, kind)
            stored = np.concatenate([first, two.stored(layer, kind)[1]])
            both.stored = lambda *_: (dtype, stored)
            x = both.pages(layer, kind, True)
            norm = np.sqrt((x ** 2).sum(1))
            alike = (x @ x.T / norm[:, None] / norm >= THRESHOLD)[later][:, ~later].any(1)
            shares[kind].append(alike)
            shares["both"].append(alike)
            contents = [page.tobytes() for page in stored]
            earlier = contents[:len(one.seq)]
            equal.append(np.array([[page == other for other in earlier] for page in contents[len(one.seq):]]))
            copies[kind].append(equal[-1].any(1))
        copies["both"].append((equal[0] & equal[1]).any(1))
    for kind in KINDS:
        require_close(pair[kind]["alike_share"]["observed"], float(np.mean(shares[kind])), f"alike, {kind}")
        require_close(pair[kind]["exact_share"]["observed"], float(np.mean(copies[kind])), f"copies, {kind}")


# ---------------------------------------------------------------------------------------------------------------------
# Repeats and intervals
# ---------------------------------------------------------------------------------------------------------------------


def influences(counts):
    """What each prompt does to the mean over the repeats, from (whole, part, hanging) of each repeat."""
    n = len(counts[0][0])
    left_out = np.mean([[(part.sum() - part[p] - hanging[p]) / (whole.sum() - whole[p]) for p in range(n)]
                        for whole, part, hanging in counts], axis=0)
    smooth = np.empty(n)
    smooth[0] = (left_out[0] - left_out[1]) / math.sqrt(2)
    smooth[-1] = (left_out[-1] - left_out[-2]) / math.sqrt(2)
    smooth[1:-1] = (left_out[1:-1] - (left_out[:-2] + left_out[2:]) / 2) * math.sqrt(2 / 3)
    return -(n - 1) * (smooth - smooth.mean())


def reach(a, b=None, samples=200_000):
    """How far the studentised bootstrap reaches below and above a mean, or a difference of two."""
    generator = np.random.default_rng(11)
    sides = [a] if b is None else [a, b]
    error = math.sqrt(sum(x.var(ddof=1) / len(x) for x in sides))
    mean = variance = 0
    for sign, x in zip((1, -1), sides):
        drawn = x[generator.integers(0, len(x), (samples, len(x)))]
        mean = mean + sign * drawn.mean(1)
        variance = variance + drawn.var(1, ddof=1) / len(x)
    ratios = mean[np.sqrt(variance) > 1e-3 * error] / np.sqrt(variance[np.sqrt(variance) > 1e-3 * error])
    low, high = np.quantile(ratios, [0.025, 0.975])
    parts = [x.var(ddof=1) / len(x) for x in sides]
    degrees = sum(parts) ** 2 / sum(part ** 2 / (len(x) - 1) for part, x in zip(parts, sides))
    student = {5: 2.5706, 10: 2.2281}.get(round(degrees, 6))
    if student is None:  # Welch's are no whole number: between the two neighbours
        table = [12.706, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010]
        below = int(degrees)
        student = table[below - 1] + (degrees - below) * (table[below] - table[below - 1])
    return max(high, student) * error, max(-low, student) * error


@cases(*[(f"{name}, {member}, {kind}", name, scope, member, kind) for name in ("repetitive", "plain")
         for scope, member in (("all", "headline"), ("between", "between_sequences")) for kind in ("key", "both")])
def intervals_are_those_of_a_bootstrap_over_prompts(name, scope, member, kind):
    counts = [campaign().truth(name, repeat).counts(scope, kind) for repeat in range(2)]
    found = campaign().analysis(name)[member]["alike_share"][kind]
    mean = np.mean([part.sum() / whole.sum() for whole, part, _ in counts])
    require_close(found["mean"], mean, "mean")
    own = influences(counts)
    if np.allclose(own, 0):
        require(found["constant"] and found["low"] is None, f"an interval of nothing: {found}")
        return
    below, above = reach(own)
    # 4,000 samples against 200,000: the quantiles of so few have an error of their own.
    require_close(found["low"], max(0, mean - below), f"low, reach {below}", 0.12 * below)
    require_close(found["high"], min(1, mean + above), f"high, reach {above}", 0.12 * above)


@test
def a_difference_has_the_interval_of_two_bootstraps():
    counts = {name: [campaign().truth(name, repeat).counts("all", "both") for repeat in range(2)]
              for name in ("repetitive", "plain")}
    row = campaign().difference("repetitive", "plain", "alike_excess")
    means = [campaign().analysis(name)["headline"]["alike_excess"]["both"]["mean"] for name in ("repetitive", "plain")]
    require_close(row["difference"], means[0] - means[1], "difference")
    below, above = reach(*[influences(counts[name]) for name in ("repetitive", "plain")])
    require(not row["paired"], row)
    require_close(row["low"], row["difference"] - below, "low", 0.12 * below)
    require_close(row["high"], row["difference"] + above, "high", 0.12 * above)
    require(row["different"] == (row["low"] > 0 or row["high"] < 0), row)


@test
def means_and_spreads_are_those_of_the_repeats():
    def walk(value):
        if isinstance(value, dict):
            if "per_repeat" in value and value["mean"] is not None:
                values = value["per_repeat"]
                require_close(value["mean"], float(np.mean(values)), "mean", 1e-9 * (1 + abs(value["mean"])))
                require_close(value["std"], float(np.std(values, ddof=1)), "std", 1e-6 * (1 + abs(value["mean"])))
                require((value["min"], value["max"]) == (min(values), max(values)), value)
                yield 1
            for inner in value.values():
                yield from walk(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from walk(inner)

    require(sum(walk(campaign().result("repetitive"))) > 200, "too few figures")
    require(sum(walk(campaign().report)) > 50, "too few figures")


@test
def repeats_that_are_copies_make_no_interval_narrower():
    for metric in ("alike_share", "saved_share", "exact_share"):
        for kind in KINDS:
            thrice, once = (planted().analysis(name)["headline"][metric][kind] for name in ("greedy", "greedy_once"))
            require(thrice["std"] in (0, 0.0) and once["std"] is None, (thrice, once))
            for end in ("mean", "low", "high"):
                a, b = thrice[end], once[end]
                require(a == b if a is None else abs(a - b) < 1e-9, f"{metric}, {kind}, {end}: {a} and {b}")


@test
def with_fewer_than_five_prompts_there_is_no_interval():
    for metric in ("alike_share", "saved_share", "exact_share", "alike_excess"):
        found = planted().analysis("few")["headline"][metric]["both"]
        require(found["low"] is None and found["high"] is None and not found["constant"], found)
    row = planted().difference("few", "greedy", "alike_excess")
    require(row["low"] is None and not row["different"], row)


# ---------------------------------------------------------------------------------------------------------------------
# What arithmetic predicts
# ---------------------------------------------------------------------------------------------------------------------


@test
def the_same_prompt_in_every_sequence_is_seven_eighths_copies():
    analysis = planted().analysis("planted")
    truth = planted().truth("planted", 0)
    pages = len(truth.seq) // 8
    require((truth.seq == np.repeat(np.arange(8), pages)).all(), "eight equal sequences")
    for kind in KINDS:
        for member in ("headline", "between_sequences"):
            require_close(analysis[member]["exact_share"][kind]["mean"], 7 / 8, f"copies, {member}, {kind}")
        require_close(analysis["between_sequences"]["saved_share"][kind]["mean"], 7 / 8 * NET, f"saved, {kind}")
        require_close(analysis["between_sequences"]["alike_share"][kind]["mean"], 7 / 8, f"alike, {kind}")
        require(analysis["within_sequence"]["exact_share"][kind]["mean"] == 0, "copies inside a sequence")
    for row in analysis["layers"]:
        require_close(row["both"]["exact_share"]["mean"], 7 / 8, f"layer {row['layer']}")
    require_close(analysis["ledger"]["exact_bytes"]["mean"], 7 * pages * truth.layers * 2 * PAGE_BYTES, "ledger")
    shared = planted().result("planted")["memory_stats"]["kv_prefix_shared_bytes"]["mean"]
    prompt_blocks = (len(PLAIN[0].encode()) + 1) // 16
    require_close(shared, 7 * prompt_blocks * truth.layers * 2 * PAGE_BYTES, "prefix")


@test
def a_planted_experiment_differs_and_its_double_does_not():
    for metric in ("saved_share", "exact_share"):
        row = planted().difference("planted", "greedy", metric)
        require(row["different"] and row["low"] > 0, row)
        same = planted().difference("planted", "planted_once", metric)
        require(same["paired"] and not same["different"] and abs(same["difference"]) < 1e-9, same)
    answer = " ".join(planted().report["answer"])
    require("Planted is more redundant than" in answer, answer)


def random_dump(seed, sequences=8, tokens=96):
    """Independent normal numbers: no page is like another but by chance."""
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((sequences, 2, 2, tokens * 8))
    return dump_file([tokens] * sequences, layers=2, heads=1, size=8, page_tokens=4,
                     value=lambda s, layer, kind, i: values[s, layer, int(kind == "value"), i],
                     metadata={"prompts": json.dumps([str(s) for s in range(sequences)])})


@test
def random_pages_have_no_copies_and_differ_from_nothing():
    need_numpy()
    with harness.temporary() as made:
        experiments = []
        for number in range(2):
            for repeat in range(2):
                write(made, f"{number}.{10 * number + repeat}", random_dump(100 * number + repeat))
            experiments.append(spec(f"random{number}", [f"{number} {s}" for s in range(8)], seed=10 * number,
                                    engine="command", page_tokens=4,
                                    engine_command=f"cp '{made}/{number}.'$KVSIM_SEED $KVSIM_OUTPUT_DIR/dump.safetensors"))
        done = Campaign(*experiments)
    for number in range(2):
        headline = done.analysis(f"random{number}")["headline"]
        for metric in ("saved_share", "exact_share"):
            for kind in KINDS:
                require(headline[metric][kind]["mean"] == 0 and headline[metric][kind]["constant"], headline[metric])
        excess = headline["alike_excess"]["both"]
        low, high = (excess["mean"] if excess[end] is None else excess[end] for end in ("low", "high"))
        require(low <= 0 <= high, f"random pages are alike beyond chance: {excess}")
    require(not any(row["different"] for row in done.report["differences"] if "layer" not in row), "a difference")
    require("cannot be told" in done.report["answer"][0], done.report["answer"][0])


# ---------------------------------------------------------------------------------------------------------------------
# Documents
# ---------------------------------------------------------------------------------------------------------------------


@functools.cache
def validator(name):
    if harness.jsonschema is None:
        raise Skip("jsonschema is not installed")
    schema = json.loads((ROOT / "docs" / name).read_text(encoding="utf-8"))
    harness.jsonschema.Draft202012Validator.check_schema(schema)
    return harness.jsonschema.Draft202012Validator(schema)


def validate(schema, document):
    problems = list(validator(schema).iter_errors(document))
    require(not problems, "; ".join(f"{list(p.absolute_path)}: {p.message[:200]}" for p in problems[:3]))


@test
def documents_follow_their_schemas():
    for done, names in ((campaign(), ("repetitive", "plain")), (planted(), ("planted", "few"))):
        for name in names:
            validate("experiments-result-schema.json", done.result(name))
        validate("experiments-report-schema.json", done.report)


@test
def the_same_seed_gives_the_same_bytes():
    need_numpy()

    def files(options, **fields):
        done = Campaign(spec("one", REPETITIVE, repeats=2, max_tokens=24) | fields,
                        spec("two", PLAIN, repeats=1, max_tokens=24), options=("--reproducible", *options))
        for name in ("one", "two"):
            if harness.jsonschema is not None:
                validate("experiments-result-schema.json", done.result(name))
        text = {name: (done.out / name).read_bytes()
                for name in ("one/results.json", "two/results.json", "final_report.json", "report.html")}
        if harness.jsonschema is not None:
            validate("experiments-report-schema.json", done.report)
        return text

    # One thread for each run is the default; the embedded engine's last bits depend on the number.
    first, second, other = files(("--jobs", "1")), files(("--jobs", "2")), files((), seed=4)
    for name, content in first.items():
        require(content == second[name], f"{name} differs")
    require(first["one/results.json"] != other["one/results.json"], "another seed, the same results")


@test
def the_built_in_experiments_are_what_the_documents_say():
    files = sorted((ROOT / "examples" / "experiments").glob("*.json"))
    experiments = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}
    names = {"general_knowledge", "repetitive_content", "code_generation", "high_temperature", "long_context"}
    require(set(experiments) == names, sorted(experiments))
    context = json.loads((MODEL / "config.json").read_text())["max_position_embeddings"]
    for name, experiment in experiments.items():
        require(experiment["name"] == name and len(set(experiment["prompts"])) == len(experiment["prompts"]) >= 12, name)
        require(experiment["repeats"] >= 3 and experiment["description"], name)
    require(experiments["high_temperature"]["prompts"] == experiments["general_knowledge"]["prompts"], "paired prompts")
    require(experiments["high_temperature"]["temperature"] >= 1.2, "temperature")
    long = experiments["long_context"]
    require(all(len(p.encode()) + 1 + long["max_tokens"] >= context for p in long["prompts"]), "fills the context")


if __name__ == "__main__":
    harness.main("test_experiments_truth", EXPECTED_CHECKS, __doc__)

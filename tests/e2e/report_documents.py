"""Documents of kvsim-experiments made up for tests of its report: final_report.json, and results.json of experiments.

They follow docs/experiments-report-schema.json and docs/experiments-result-schema.json; the numbers are random, and
the same for the same seed.
"""

import json
import pathlib
import random

VIEWS = ["raw", "centered", "derotated", "derotated_centered"]
KINDS = ("key", "value", "both")
SETTINGS = {"threshold": 0.9, "budget": 0.1, "best_view": "derotated_centered", "views": VIEWS, "page_tokens": 16,
            "null_repetitions": 20, "resamples": 4000, "confidence": 0.95}
# Shares of bytes that could be shared, of exact copies, and of pages alike.
SHARES = {"general_knowledge": (0.02, 0.001, 0.06), "repetitive_content": (0.21, 0.09, 0.48),
          "code_generation": (0.06, 0.01, 0.19), "high_temperature": (0.0, 0.0, 0.02),
          "long_context": (0.03, 0.004, 0.11)}


class Documents:
    """One campaign. Change `final` and `results` (by name) before `write`."""

    def __init__(self, shares=None, layers=6, prompts=6, repeats=2, timed=True, seed=1):
        self.random = random.Random(seed)
        self.layers, self.prompts, self.repeats, self.timed = layers, prompts, repeats, timed
        self.shares = shares or SHARES
        self.results = {name: self.result(name) for name in self.shares}
        self.final = self.final_report()

    def write(self, folder):
        folder = pathlib.Path(folder)
        folder.mkdir(exist_ok=True)
        (folder / "final_report.json").write_text(json.dumps(self.final), encoding="utf-8")
        for number, result in enumerate(self.results.values()):
            (folder / f"{number:02}").mkdir()
            (folder / f"{number:02}" / "results.json").write_text(json.dumps(result), encoding="utf-8")
        return folder

    def spread(self, mean, whole=False):
        values = [mean * (1 + self.random.gauss(0, 0.02)) for _ in range(self.repeats)]
        values = [round(value) for value in values] if whole else values
        mean = sum(values) / len(values)
        deviation = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5 if len(values) > 1 else None
        return {"mean": mean, "std": deviation, "min": min(values), "max": max(values), "per_repeat": values}

    def estimate(self, mean, width=0.4):
        if mean == 0:
            return self.spread(0.0) | {"low": None, "high": None, "constant": True}
        figure = self.spread(min(1.0, mean))
        half = width * abs(mean) * self.random.uniform(0.6, 1.4)
        return figure | {"low": figure["mean"] - half, "high": figure["mean"] + half, "constant": False}

    def kinds(self, mean):
        return {kind: self.estimate(mean * self.random.uniform(0.8, 1.2)) for kind in KINDS}

    def headline(self, name, part=1.0):
        saved, exact, alike = (part * share for share in self.shares[name])
        return {"saved_share": self.kinds(saved), "exact_share": self.kinds(exact),
                "alike_share": self.kinds(alike + 0.001), "alike_chance": self.kinds(0.001),
                "alike_excess": self.kinds(alike)}

    def within(self, name):
        figures = self.headline(name, 0.7)
        return {key: figures[key] for key in ("saved_share", "exact_share", "alike_share")} | {
            "alike_chance_at_most": self.kinds(0.001)}

    def layer(self, name, number):
        saved, exact, alike = (share * 1.8 * (1 - number / (1.2 * self.layers)) for share in self.shares[name])
        shares = {"saved_share": saved, "exact_share": exact, "alike_share": alike, "alike_chance": 0.001,
                  "alike_excess": alike, "within_sequence_alike_share": 0.8 * alike,
                  "between_sequences_alike_share": 0.3 * alike}
        row = {kind: {key: self.estimate(share) for key, share in shares.items()} for kind in KINDS}
        for kind in ("key", "value"):
            row[kind]["mean_cosine"] = {view: self.random.uniform(0, 0.9) for view in VIEWS}
        return {"layer": number} | row

    def distance(self, alike):
        bins = []
        for step in range(7):
            cosine = 0.3 * (1 + 2 * alike) * 2 ** (-0.35 * step)
            bins.append({"from_tokens": 16 << step, "to_tokens": 16 if step == 0 else (32 << step) - 16,
                         "pairs": 9000 >> step, "sequences": self.prompts} | {
                kind: {"mean_cosine": self.estimate(cosine, 0.2), "alike_share": self.estimate(alike / (1 + step))}
                for kind in ("key", "value")})
        others = {kind: {"mean_cosine": self.spread(0.02)} for kind in ("key", "value")}
        return {"view": "derotated_centered", "bins": bins, "different_sequences": others}

    def analysis(self, name):
        saved, _, alike = self.shares[name]
        spreads = {key: self.spread(value, True) for key, value in (
            ("pages_compared", 4680), ("pages_left_out", 72), ("blocks_compared", 2340), ("compared_bytes", 9584640),
            ("left_out_bytes", 147456))}
        view = {kind: {"mean_cosine": self.spread(0.4)} | {
            key: self.estimate(alike) for key in ("alike_share", "alike_chance", "alike_excess")}
            for kind in ("key", "value")}
        places = {place: {kind: {"pages": self.spread(72, True)} | {key: self.estimate(alike * factor) for key in (
            "alike_share", "within_sequence_alike_share", "between_sequences_alike_share")} for kind in KINDS}
            for place, factor in (("first", 0.2), ("middle", 1.0), ("last", 1.4))}
        bins = ("left_out_bytes", "exact_bytes", "ulp_bytes", "near_bytes", "unique_bytes", "seen_bytes",
                "metadata_bytes")
        lossless = ("bytes", "order0_bytes", "zstd_bytes", "coding_gain_bytes", "repetition_gain_bytes")
        return {"settings": SETTINGS,
                "counts": {"sequences": self.prompts, "layers": self.layers, "kv_heads": 2, "head_dim": 32,
                           "element_type": "bf16", "page_bytes": 2048, "level": "block"} | spreads,
                "headline": self.headline(name), "within_sequence": self.within(name),
                "between_sequences": self.headline(name, 0.3), "views": dict.fromkeys(VIEWS, view),
                "layers": [self.layer(name, number) for number in range(self.layers)], "positions": places,
                "distance": self.distance(alike),
                "dedup_curve": [{"budget": budget, "saved_share": self.estimate(min(1, saved * (1 + budget)))}
                                for budget in (0.0, 0.1, 0.5)],
                "ledger": {"budget": 0.1} | {key: self.spread(1e6, True) for key in bins},
                "lossless": {key: self.spread(1e6, True) for key in lossless}}

    def quantiles(self, mean):
        return {"count": 36, "mean": mean, "p50": 0.97 * mean, "p95": 1.5 * mean, "p99": 2.2 * mean}

    def timing(self):
        rates = {"prefill_tokens_per_second": 21000, "decode_tokens_per_second": 900, "prefill_seconds": 0.09,
                 "decode_seconds": 5.1, "wall_seconds": 5.3}
        return {key: self.spread(value) for key, value in rates.items()} | {
            "first_token_seconds": self.quantiles(self.random.uniform(0.005, 2)),
            "between_tokens_seconds": self.quantiles(self.random.uniform(0.0005, 0.1))}

    def memory(self):
        sizes = {"kv_reserved_bytes": 9.9e6, "kv_used_bytes": 9.8e6, "kv_partial_lost_bytes": 1.1e5,
                 "kv_prefix_shared_bytes": 24576} | ({"peak_rss_bytes": 94e6} if self.timed else {})
        return {key: self.spread(value * self.random.uniform(0.5, 2), True) for key, value in sizes.items()}

    def result(self, name):
        prompts = [f"Prompt {number + 1} of {name}: once upon a time" for number in range(self.prompts)]
        outputs = [{"repeat": repeat, "seed": 1 + repeat, "sequences": [
            {"prompt_tokens": len(text) + 1, "prompt_cut": 0, "output": f"there was a text.\n\nIt was number {repeat}.",
             "output_tokens": 384, "finish": "length"} for text in prompts]} for repeat in range(self.repeats)]
        document = {
            "schema": "kvsim.experiment_result.v1", "name": name,
            "config": {"name": name, "description": f"What {name} is for.", "model": "a/model", "prompts": prompts,
                       "max_tokens": 384, "temperature": 0.8, "top_p": 0.95, "seed": 1, "repeats": self.repeats,
                       "engine": "builtin", "page_tokens": 16, "ignore_eos": True},
            "config_hash": "0123456789abcdef0123456789abcdef", "ignored_fields": [], "notes": [],
            "engine": {"name": "builtin", "version": "0.1.0"},
            "model": {"name": "tiny", "architecture": "LlamaForCausalLM", "layers": self.layers, "kv_heads": 2,
                      "head_dim": 32, "dtype": "bf16", "parameters": 2411712, "max_position": 2048, "vocabulary": 260},
            "tokens": {key: self.spread(value, True)
                       for key, value in (("prompt", 1800), ("output", 4608), ("cut", 0))},
            "memory_stats": self.memory(), "cache_analysis": self.analysis(name),
            "patterns": [{"pattern": "layers", "text": f"Likeness falls with depth in {name}: 12 % of layer 0.",
                          "figures": {"first": 0.12}},
                         {"pattern": "time", "text": "Likeness fades with distance.", "figures": {"near": 0.2}}],
            "outputs": outputs}
        return document | ({"timing": self.timing(), "environment": {"processors": 2}} if self.timed else {})

    def summary(self, name):
        result = self.results[name]
        row = {"name": name, "description": result["config"]["description"], "status": "complete", "failure": None,
               "results": f"{name}/results.json", "config_hash": result["config_hash"], "engine": result["engine"],
               "model": "tiny", "temperature": 0.8, "repeats": self.repeats,
               "seeds": list(range(1, 1 + self.repeats)), "sequences": self.prompts, "tokens": result["tokens"],
               "ignored_fields": [], "headline": result["cache_analysis"]["headline"],
               "within_sequence": result["cache_analysis"]["within_sequence"],
               "between_sequences": result["cache_analysis"]["between_sequences"],
               "memory_stats": result["memory_stats"]}
        return row | ({"timing": result["timing"]} if self.timed else {})

    def fail(self, name, words):
        """Make an experiment one that failed."""
        del self.results[name]
        for row in self.final["experiments"]:
            if row["name"] == name:
                row.update(status="failed", failure=words, results=None, engine=None, model=None, tokens=None,
                           headline=None, within_sequence=None, between_sequences=None, memory_stats=None)
                if self.timed:
                    row["timing"] = None
        self.final["differences"] = [d for d in self.final["differences"] if name not in (d["a"], d["b"])]
        pairs = self.final["between_experiments"]["pairs"]
        pairs[:] = [pair for pair in pairs if name not in (pair["earlier"], pair["later"])]

    def differences(self):
        rows = []
        names = list(self.shares)
        for metric in ("saved_share", "alike_excess"):
            for number, a in enumerate(names):
                for b in names[number + 1:]:
                    means = [self.results[x]["cache_analysis"]["headline"][metric]["both"]["mean"] for x in (a, b)]
                    half = 0.6 * max(means)
                    difference = means[0] - means[1]
                    rows.append({"a": a, "b": b, "metric": metric, "kind": "both", "a_mean": means[0],
                                 "b_mean": means[1], "difference": difference, "low": difference - half,
                                 "high": difference + half, "paired": False, "different": abs(difference) > half})
        return rows + self.layer_differences()

    def layer_differences(self):
        """Of the two experiments of the question, as far as they are there."""
        pair = ("repetitive_content", "code_generation")
        if not all(name in self.results for name in pair):
            return []
        rows = []
        for number in range(self.layers):
            for kind in ("key", "value"):
                a, b = (self.results[name]["cache_analysis"]["layers"][number][kind]["alike_excess"]["mean"]
                        for name in pair)
                half = self.random.uniform(0, 2) * abs(a - b)
                rows.append({"a": pair[0], "b": pair[1], "metric": "alike_excess", "kind": kind, "a_mean": a,
                             "b_mean": b, "difference": a - b, "low": a - b - half, "high": a - b + half, "paired": False,
                             "different": abs(a - b) > half, "layer": number})
        return rows

    def between(self):
        def observed():
            share = self.random.uniform(0, 0.02)
            return {"observed": share, "low": 0.5 * share, "high": 1.5 * share}

        names = list(self.shares)
        return [{"earlier": a, "later": b} | {kind: {
            "saved_share": observed(), "exact_share": observed(), "alike_share": observed(), "alike_chance": 0.001,
            "alike_excess": observed()} for kind in KINDS} for i, a in enumerate(names) for b in names[i + 1:]]

    def final_report(self):
        document = {
            "schema": "kvsim.experiments_report.v1",
            "answer": ["Yes: repetitive text is more redundant than code, by 15 points.", "Most of it lies in layer 0.",
                       "The difference is more than noise."],
            "settings": SETTINGS, "experiments": [self.summary(name) for name in self.shares],
            "differences": self.differences(),
            "between_experiments": {"view": "derotated_centered", "repeat": 0, "pairs": self.between(), "left_out": []},
            "patterns": [{"pattern": "content", "text": "Repetitive content has the most alike pages: 48 % of them.",
                          "figures": {"excess": 0.48}}],
            "method": ["Each experiment ran more than once."], "not_shown": ["Anything about another model."]}
        return document | ({"total": {"generation_seconds": 214.2}, "environment": {
            "library_version": "0.1.0", "system": "Linux", "processors": 2, "time": "2026-11-25T02:10:00Z"}}
            if self.timed else {})

#!/usr/bin/env python3
"""What the library finds, against the same figures computed apart from it in NumPy and SciPy, in float64.

usage: test_findings.py REPORT_DUMP

REPORT_DUMP is the program of report_dump.c. Data are generated, and read from the folder that the environment names in
KVSIM_TEST_DATA or from ../shared/data beside the source tree; without it, or without NumPy and SciPy, tests are skipped
and counted. The last line is `test_findings_truth: N passed, N failed, N skipped`.
"""

import ctypes
import ctypes.util
import itertools
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import traceback

try:
    import numpy as np
    import scipy.stats
except ImportError:
    np = None

VIEWS = {"raw": 1, "centered": 2, "derotated": 4, "derotated_centered": 8}
PER_HEAD, CHANCE, STRATA, BOUNDS, LEDGER = 1, 8, 16, 32, 64
DIFFERENT = 2
T = 16  # slots of a page in the shipped data


class Skip(Exception):
    """A test that cannot run here."""


def data_file(name):
    root = os.environ.get("KVSIM_TEST_DATA")
    root = pathlib.Path(root) if root else pathlib.Path(__file__).resolve().parents[3] / "shared" / "data"
    path = root / "kv" / f"{name}.safetensors"
    if not path.exists():
        raise Skip(f"no file {path}")
    return path


# ---- files ----

def read_safetensors(path):
    blob = pathlib.Path(path).read_bytes()
    length = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8:8 + length])
    kinds = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I32": "<i4"}
    tensors = {}
    for name, about in header.items():
        if name == "__metadata__":
            continue
        begin, end = about["data_offsets"]
        raw = np.frombuffer(blob[8 + length + begin:8 + length + end], kinds[about["dtype"]]).reshape(about["shape"])
        tensors[name] = (about["dtype"], raw)
    return header.get("__metadata__", {}), tensors


def to_double(dtype, raw):
    if dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return raw.astype(np.float64)


class Pages:
    """The full pages of one layer: keys and values in float64, their stored bytes, sequences and positions."""

    def __init__(self, sequences, dtype, tokens, theta=10000.0):
        """`sequences`: for each, the stored rows [tokens, H, D] of keys and of values."""
        self.x, self.bytes, self.stored = [], [], []
        self.seq = np.concatenate([[s] * (len(k) // tokens) for s, (k, _) in enumerate(sequences)]).astype(int)
        self.pos = np.concatenate([np.arange(len(k) // tokens) * tokens for k, _ in sequences]).astype(int)
        self.all_pages = sum(-(-len(k) // tokens) for k, _ in sequences)
        self.dtype, self.tokens, self.theta = dtype, tokens, theta
        for kind in range(2):
            raw = np.concatenate([q[kind][:len(q[kind]) // tokens * tokens].reshape(-1, tokens, *q[kind].shape[1:])
                                  for q in sequences])
            self.stored.append(raw)
            self.x.append(to_double(dtype, raw))
            self.bytes.append([page.tobytes() for page in raw])

    def turn(self, x, positions, sign):
        """Rotate keys [pages, T, H, D] on (+1) or back (-1), by positions [pages, T]; half-split channels."""
        half = x.shape[-1] // 2
        angle = sign * positions[..., None] * self.theta ** (-np.arange(half) / half)
        c, s = np.cos(angle)[:, :, None], np.sin(angle)[:, :, None]
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * c - b * s, a * s + b * c], -1)

    def slots(self):
        return self.pos[:, None] + np.arange(self.tokens)

    def view(self, name, kind):
        x = self.x[kind]
        if name.startswith("derotated") and kind == 0:
            x = self.turn(x, self.slots(), -1)
        if name.endswith("centered"):
            x = x - x.mean((0, 1))
        return x

    def counts(self, different):
        """Which (later, earlier) pairs count."""
        n = len(self.seq)
        later = np.tril(np.ones((n, n), bool), -1)
        return later & (self.seq[:, None] != self.seq) if different else later


def gram_figures(x):
    """Cosines and the relative errors of later (row) against earlier pages, and |x - y| / (|x| + |y|)."""
    flat = x.reshape(len(x), -1)
    norm = np.sqrt((flat ** 2).sum(1))
    distance = np.stack([np.sqrt(((flat - row) ** 2).sum(1)) for row in flat])
    with np.errstate(all="ignore"):
        cosine = np.clip(flat @ flat.T / norm[:, None] / norm, -1, 1)
        both = (norm[:, None] == 0) & (norm == 0)
        cosine = np.where(both, 1.0, np.where((norm[:, None] == 0) | (norm == 0), 0.0, cosine))
        error = np.where(distance == 0, 0.0, distance / norm[:, None])
        packing = np.where(both, 0.0, distance / (norm[:, None] + norm))
    return cosine, error, packing


def read_dump(path, layer):
    meta, tensors = read_safetensors(path)
    sequences, dtype = [], None
    while f"seq.{len(sequences)}.layer.{layer}.key" in tensors:
        dtype, k = tensors[f"seq.{len(sequences)}.layer.{layer}.key"]
        sequences.append((k, tensors[f"seq.{len(sequences)}.layer.{layer}.value"][1]))
    return Pages(sequences, dtype, int(meta["page_tokens"]), float(meta["rope_theta"]))


def write_dump(path, sequences, dtype, tokens, theta=10000.0):
    """A dump of one layer; returns its Pages."""
    header, blobs, offset = {}, [], 0

    def put(name, kind, array):
        nonlocal offset
        blob = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)

    for s, (k, v) in enumerate(sequences):
        put(f"seq.{s}.tokens", "I32", np.zeros(len(k), "<i4"))
        put(f"seq.{s}.layer.0.key", dtype, k)
        put(f"seq.{s}.layer.0.value", dtype, v)
    h, d = sequences[0][0].shape[1:]
    header["__metadata__"] = {"format": "kvsim.dump.v1", "model": "made", "layers": "1", "kv_heads": str(h),
                              "head_dim": str(d), "rope_theta": repr(theta), "rope_style": "half",
                              "rope_applied": "true", "page_tokens": str(tokens),
                              "prompts": json.dumps([""] * len(sequences))}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))
    return Pages(sequences, dtype, tokens, theta)


def report(path, **options):
    words = [str(word) for name, value in options.items()
             for word in (name, ",".join(map(repr, value)) if isinstance(value, (list, tuple)) else value)]
    done = subprocess.run([PROGRAM, str(path), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def near(is_, expected, bound, what):
    if expected is None or (isinstance(expected, float) and math.isnan(expected)):
        assert is_ is None, f"{what} is {is_}, not null"
    else:
        assert is_ is not None and abs(is_ - expected) <= bound, f"{what} is {is_}, not {expected} (+-{bound:g})"


def rows(table, **where):
    return [row for row in table if all(row.get(k) == v for k, v in where.items())]


# ---- strata ----

def check_strata(name, different, families):
    path = data_file(name)
    levels = [0.5, 0.9, 0.99]
    sequences = read_dump(path, 0).seq.max() + 1
    family = [0] * 3 + [s % 4 + 1 for s in range(sequences - 4)] if families else None  # the last is in none
    options = {"families": family} if families else {}
    found = report(path, views=15, metrics=3, flags=STRATA, pairs=2 if different else 1, thresholds=levels, **options)
    label = np.arange(sequences) + 1000
    if families:
        label[:len(family)] = family
    for layer in (0, 3):
        pages = read_dump(path, layer)
        first = np.array([not (pages.seq[:i] == s).any() for i, s in enumerate(pages.seq)])
        last = np.array([not (pages.seq[i + 1:] == s).any() for i, s in enumerate(pages.seq)]) & ~first
        place = {"first": first, "last": last, "middle": ~first & ~last}
        same, kin = pages.seq[:, None] == pages.seq, label[pages.seq][:, None] == label[pages.seq]
        relation = {"within-sequence": same, "within-family": kin & ~same, "between-families": ~kin & ~same}
        counted = pages.counts(different)
        for view, kind in itertools.product(VIEWS, range(2)):
            cosine = gram_figures(pages.view(view, kind))[0]
            for stratum, relates, t in itertools.product(place, relation, levels):
                row, = rows(found["strata"], view=view, layer=layer, kind=("key", "value")[kind], stratum=stratum,
                            relation=relates, t=t)
                pairs = counted & place[stratum][:, None] & relation[relates]
                above = pairs & (cosine >= t)
                where = f"{name} {view} {layer} {kind} {stratum} {relates} {t}"
                assert row["pairs"] == pairs.sum(), f"{where}: pairs {row['pairs']}, not {pairs.sum()}"
                assert row["pairs_above"] == above.sum(), f"{where}: above {row['pairs_above']}, not {above.sum()}"
                assert row["pages"] == place[stratum].sum(), f"{where}: pages"
                assert row["pages_above"] == above.any(1).sum(), f"{where}: pages above"
                near(row["mean_cosine"], float(cosine[pairs].mean()) if pairs.any() else math.nan, 2e-6, where)
                near(row["pair_share"], above.sum() / pairs.sum() if pairs.any() else math.nan, 1e-12, where)
                near(row["page_share"], above.any(1).sum() / place[stratum].sum(), 1e-12, where)


# ---- dedup and its bounds ----

def greedy(error, counted, budget):
    """Online: share the nearest earlier representative within the budget, else become one."""
    chosen = []
    for i in range(len(error)):
        if not any(counted[i, r] and error[i, r] <= budget for r in chosen):
            chosen.append(i)
    return chosen


def pack(packing, budget):
    """Pages no two of which one page could stand for, grown in order; (size with, and without, the slack)."""
    sizes = []
    for slack in (3e-5 if budget > 0 else 1e-6, 0.0):
        chosen = []
        for i in range(len(packing)):
            if not any(packing[i, r] <= budget + slack for r in chosen):
                chosen.append(i)
        sizes.append(len(chosen))
    return sizes


def lanes_of(pages, view):
    figures = [gram_figures(pages.view(view, kind)) for kind in range(2)]
    lanes = {}
    for kind, name in enumerate(("key", "value")):
        cosine, error, packing = figures[kind]
        lanes[name] = (error, np.sqrt(np.maximum(0, 1 - cosine ** 2)), packing)
    lanes["block"] = tuple(np.maximum(a, b) for a, b in zip(lanes["key"], lanes["value"]))
    return lanes


def dedup_rows(found, view, lane, layer):
    table = found["blocks"] if lane == "block" else rows(found["groups"], kind=lane)
    owner, = [row for row in rows(table, view=view, layer=layer) if "head" not in row]
    return owner["dedup"]


def check_dedup(path, pages, layer, budgets, different, exhaustive=False, views=("raw", "derotated")):
    found = report(path, views=sum(VIEWS[v] for v in views) | 1, metrics=3, flags=BOUNDS, budgets=budgets,
                   pairs=2 if different else 1)
    counted = pages.counts(different)
    for view in views:
        for lane, (error, scaled, packing) in lanes_of(pages, view).items():
            for row in dedup_rows(found, view, lane, layer):
                b = row["budget"]
                where = f"{path} {view} {layer} {lane} {b}"
                chosen = len(greedy(error, counted, b))
                assert row["representatives"] == chosen, f"{where}: {row['representatives']}, not {chosen}"
                # sqrt(1 - c^2) of nearly equal pages keeps no more than 1e-8; such a budget is not asked here
                best = len(greedy(scaled, counted, b))
                assert row["scaled_representatives"] == best, f"{where}: {row['scaled_representatives']}, not {best}"
                assert row["lower_bound"] <= row["representatives"], f"{where}: bounds cross"
                low, high = sorted(pack(packing, b))
                assert low - 1 <= row["lower_bound"] <= high + 1, f"{where}: bound {row['lower_bound']}, {low}..{high}"
                if exhaustive:
                    fewest = min_representatives(error, pages, different, b)
                    assert row["lower_bound"] <= fewest <= row["representatives"], \
                        f"{where}: {row['lower_bound']} <= {fewest} <= {row['representatives']}"


def min_representatives(error, pages, different, budget):
    """The fewest pages that stand for all, of any order: by trying all sets."""
    n = len(error)
    may = error <= budget
    if different:
        may &= pages.seq[:, None] != pages.seq
    may |= np.eye(n, dtype=bool)
    for size in range(1, n + 1):
        for chosen in itertools.combinations(range(n), size):
            if may[:, chosen].any(1).all():
                return size
    return n


def planted(random, count, sequences, tokens=2, h=1, d=4, dtype="F32"):
    """Sequences of pages many of which are near an earlier one, some equal, some scaled, some zero."""
    made = [[], []]
    for i in range(count):
        for kind in range(2):
            how = random.integers(0, 8)
            page = random.normal(size=(tokens, h, d))
            if i and how < 5:
                other = made[kind][random.integers(0, i)]
                page = other * random.choice([1, 1, 1, 1.5]) + page * random.choice([0, 0.05, 0.1, 0.25, 0.5]) \
                    * np.sqrt((other ** 2).mean())
            elif how == 7 and i % 3 == 2:
                page = page * 0
            made[kind].append(page)
    made = np.array(made)
    cut = np.sort(random.choice(np.arange(1, count), min(sequences, count) - 1, replace=False))
    convert = {"F32": lambda x: x.astype("<f4"), "F16": lambda x: x.astype("<f2"),
               "BF16": lambda x: (x.astype("<f4").view("<u4") >> 16).astype("<u2")}[dtype]
    return [tuple(convert(made[kind][part].reshape(-1, h, d)) for kind in range(2))
            for part in np.split(np.arange(count), cut)]


def dedup_of_shipped_data(name, different):
    path = data_file(name)
    for layer in (0, 2):
        check_dedup(path, read_dump(path, layer), layer, [0.05, 0.1, 0.2, 0.3, 0.5], different)


def dedup_of_tiny_sets(different):
    for seed in range(60):
        random = np.random.default_rng(seed)
        path = FOLDER / "tiny.safetensors"
        pages = write_dump(path, planted(random, int(random.integers(2, 10)), 3), "F32", 2)
        check_dedup(path, pages, 0, [0.08, 0.17, 0.3, 0.6, 0.97], different, exhaustive=True)


def dedup_by_hand():
    # Values 0, 1 and 2 along one direction beside a length of 10: neighbours are 0.1 apart, the ends 0.2.
    line = np.zeros((3, 1, 1, 4), "<f4")
    line[:, 0, 0, 0], line[:, 0, 0, 1] = 10, [0, 1, 2]
    for order, fewest in (((0, 1, 2), 2), ((1, 0, 2), 1)):
        one = line[list(order)].reshape(3, 1, 4)
        path = FOLDER / "hand.safetensors"
        write_dump(path, [(one, one)], "F32", 1)
        row = dedup_rows(report(path, flags=BOUNDS, budgets=[0.101]), "raw", "block", 0)[0]
        assert (row["representatives"], row["lower_bound"]) == (fewest, 1), row
    scaled = np.concatenate([line[:1], line[:1] * 3]).reshape(2, 1, 4)
    write_dump(FOLDER / "hand.safetensors", [(scaled, scaled)], "F32", 1)
    row = dedup_rows(report(FOLDER / "hand.safetensors", flags=BOUNDS, budgets=[0.5]), "raw", "key", 0)[0]
    assert (row["representatives"], row["scaled_representatives"], row["lower_bound"]) == (2, 1, 1), row


# ---- ledger and lossless coding ----

def order_of(stored):
    """Bit patterns of floats as integers in rising order, -0 with 0."""
    bits = stored.view(f"<u{stored.itemsize}").astype(np.int64)
    sign = 1 << (8 * stored.itemsize - 1)
    return np.where(bits & sign, -(bits & ~sign), bits)


def check_ledger(path, pages, layer, budgets, ulps):
    found = report(path, metrics=3, flags=LEDGER, budgets=budgets, ulps=ulps)
    lanes = lanes_of(pages, "raw")
    error = lanes["block"][0]
    rank = [order_of(s.reshape(len(s), -1)) for s in pages.stored]
    content = list(zip(*pages.bytes))
    page_bytes = [len(b[0]) for b in pages.bytes]
    for row in rows(found["ledger"], layer=layer):
        bins = {"exact": 0, "ulp": 0, "near": 0, "unique": 0}
        kept = []
        for i in range(len(error)):
            fit = [r for r in kept if error[i, r] <= row["budget"]]
            if not fit:
                bins["unique"] += 1
                kept.append(i)
                continue
            mine = min(fit, key=lambda r: (error[i, r], r))
            within = all(np.abs(r[i] - r[mine]).max() <= ulps for r in rank)
            bins["exact" if content[i] in content[:i] else "ulp" if within else "near"] += 1
        where = f"{path} {layer} {row['budget']}"
        for name, count in bins.items():
            assert row[name] == count, f"{where}: {name} {row[name]}, not {count}"
            assert row[f"{name}_bytes"] == count * sum(page_bytes), f"{where}: bytes of {name}"
        assert row["left_out_bytes"] == (pages.all_pages - len(error)) * sum(page_bytes), f"{where}: left out"
        assert row["seen_bytes"] == pages.all_pages * sum(page_bytes), f"{where}: seen"
        assert row["metadata_bytes"] == 16 * (len(error) - bins["unique"]), f"{where}: metadata"
        if row["budget"] == budgets[0]:
            check_lossless(found, pages, layer, kept)
    return found


def compress_bytes(blob):
    name = ctypes.util.find_library("zstd")
    if name is None:
        return None
    zstd = ctypes.CDLL(name)
    zstd.ZSTD_compress.restype = zstd.ZSTD_compressBound.restype = ctypes.c_size_t
    zstd.ZSTD_compressBound.argtypes = [ctypes.c_size_t]
    zstd.ZSTD_compress.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int]
    room = zstd.ZSTD_compressBound(len(blob))
    return zstd.ZSTD_compress(ctypes.create_string_buffer(room), room, blob, len(blob), 1)


def check_lossless(found, pages, layer, kept):
    for kind, name in enumerate(("key", "value")):
        row, = rows(found["lossless"], layer=layer, kind=name)
        stored = pages.stored[kind][kept]
        planes = np.frombuffer(stored.tobytes(), np.uint8).reshape(len(kept), -1, stored.itemsize)
        bound = sum(scipy.stats.entropy(np.bincount(planes[:, :, p].ravel(), minlength=256), base=2)
                    * planes[:, :, p].size / 8 for p in range(stored.itemsize))
        assert (row["pages"], row["bytes"]) == (len(kept), stored.nbytes), row
        near(row["order0_bytes"], bound, 1e-9 * bound, "order-0 bytes")
        if row["zstd_level"] == 1 and compress_bytes(b"") is not None:
            reached = sum(compress_bytes(planes[i, :, p].tobytes())
                          for i in range(len(kept)) for p in range(stored.itemsize))
            assert row["zstd_bytes"] == reached, f"zstd: {row['zstd_bytes']}, not {reached}"
            near(row["coding_gain_bytes"], stored.nbytes - max(reached, bound), 1e-6, "coding gain")
            near(row["repetition_gain_bytes"], max(0.0, bound - reached), 1e-6, "repetition gain")


def ledger_of_shipped_data(name):
    path = data_file(name)
    for layer in (0, 4):
        check_ledger(path, read_dump(path, layer), layer, [0.0, 0.1, 0.3], 1)


def ledger_of_generated_data(dtype):
    for seed in range(12):
        random = np.random.default_rng(100 + seed)
        path = FOLDER / "ledger.safetensors"
        made = planted(random, 30, 4, tokens=3, h=2, d=4, dtype=dtype)
        for kind in range(2):  # some pages repeat with every element up to two units away
            x = made[-1][kind]
            x[-3:] = (x[:3].view(f"<u{x.itemsize}") + random.integers(0, 1 + seed % 3, x[:3].shape)) \
                .astype(f"<u{x.itemsize}").view(x.dtype)
        pages = write_dump(path, made, dtype, 3)
        check_ledger(path, pages, 0, [0.001, 0.1, 0.3], 1 + seed % 2)


def ledger_by_hand(dtype):
    """One of each: itself, exact, one unit off, two units off, -0 for 0, near, another."""
    kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[dtype]
    base = np.array([1, -2, 0, 3], "<f4")
    encode = (lambda x: (np.asarray(x, "<f4").view("<u4") >> 16).astype("<u2")) if dtype == "BF16" \
        else (lambda x: np.asarray(x, "<f4").astype(kind))
    one = encode(base)
    bits = f"<u{one.itemsize}"
    unit, two, minus = one.copy(), one.copy(), one.copy()
    unit.view(bits)[1] += 1
    two.view(bits)[0] += 2
    minus.view(bits)[2] = 1 << (8 * one.itemsize - 1)
    x = np.stack([one, one, unit, two, minus, encode(base * 1.0625), encode([0, 0, 1, 0])]).reshape(7, 1, 4)
    path = FOLDER / "hand.safetensors"
    pages = write_dump(path, [(x, x)], dtype, 1)
    found = check_ledger(path, pages, 0, [0.1], 1)
    row = found["ledger"][0]
    assert [row[b] for b in ("exact", "ulp", "near", "unique")] == [1, 2, 2, 2], row
    row = report(path, flags=LEDGER, budgets=[0.1], ulps=2)["ledger"][0]
    assert [row[b] for b in ("exact", "ulp", "near", "unique")] == [1, 3, 1, 2], row


def ledger_of_pools():
    found = report(data_file("paged_vllm_e3"), flags=LEDGER)
    for layer in range(5):
        for row in rows(found["ledger"], layer=layer):
            assert row["seen_bytes"] == 80 * 4096 and row["logical_bytes"] == 94 * 4096, row
            assert row["left_out_bytes"] == 5 * 4096 and row["exact"] == 6, row
            assert sum(row[f"{b}_bytes"] for b in ("left_out", "exact", "ulp", "near", "unique")) == row["seen_bytes"]
    seen = sum(row["seen_bytes"] for row in found["ledger"] if row["budget"] == 0.1)
    assert seen == found["counts"]["physical_bytes"], (seen, found["counts"])


# ---- chance ----

def shuffled(pages, kind, permutations):
    """Slots moved between pages, keys turned to where they come to."""
    moved = np.stack([pages.x[kind][p, t] for t, p in enumerate(permutations)], 1)
    if kind == 0:
        from_where = np.stack([pages.slots()[p, t] for t, p in enumerate(permutations)], 1)
        moved = pages.turn(moved, pages.slots() - from_where, +1)
    return moved


def check_chance(path, layers, different, levels, seeds=8, mine=24):
    found = [report(path, views=15, metrics=1, flags=CHANCE, seed=seed, null=8, resamples=2, layers=list(layers),
                    thresholds=levels, pairs=2 if different else 1) for seed in range(1, seeds + 1)]
    random = np.random.default_rng(7)
    compared = 0
    for layer in layers:
        pages = read_dump(path, layer)
        counted = pages.counts(different)
        for kind, view in itertools.product(range(2), VIEWS):
            if kind == 1 and view.startswith("derotated"):
                continue
            mean = pages.view(view.replace("centered", "").strip("_") or "raw", kind).mean((0, 1))
            samples = []
            for _ in range(mine):
                x = shuffled(pages, kind, [random.permutation(len(pages.seq)) for _ in range(pages.tokens)])
                if view.startswith("derotated") and kind == 0:
                    x = pages.turn(x, pages.slots(), -1)
                if view.endswith("centered"):
                    x = x - mean
                flat = x.reshape(len(x), -1)
                flat = flat / np.sqrt((flat ** 2).sum(1))[:, None]
                cosine = flat @ flat.T
                samples.append([cosine[counted].mean()]
                               + [f for t in levels for f in ((cosine[counted] >= t).mean(),
                                                              (counted & (cosine >= t)).any(1).mean())])
            theirs = []
            for one in found:
                table = rows(one["statistics"], view=view, layer=layer, kind=("key", "value")[kind])
                own = [rows(table, statistic="mean_cosine")[0]["null"]]
                for t in levels:
                    own += [rows(table, statistic=s, level=t)[0]["null"] for s in ("pair_share", "page_share")]
                theirs.append(own)
            samples, theirs = np.array(samples), np.array(theirs)
            error = np.sqrt(samples.var(0, ddof=1) / mine + theirs.var(0, ddof=1) / seeds)
            for i, (a, b, e) in enumerate(zip(samples.mean(0), theirs.mean(0), error)):
                # Eight seeds make Student's t, not a normal: 5 of them are as rare as 4 standard errors of many.
                assert abs(a - b) <= 5 * e + 1e-6, f"{path} {layer} {kind} {view} figure {i}: null {b}, not {a} +- {e}"
                compared += e > 0
    assert compared > 10, "most figures are 0 or 1"


def chance_of_few_pages():
    """Where a token could meet itself by chance if shuffling went wrong: 9 pages without anything in common."""
    random = np.random.default_rng(5)
    x = random.normal(size=(9, 4, 1, 8)).astype("<f4")
    path = FOLDER / "few.safetensors"
    write_dump(path, [(x[i], x[i][::-1]) for i in range(9)], "F32", 4)
    check_chance(path, [0], False, [0.3, 0.5], seeds=12, mine=400)


# ---- intervals ----

def studentised(figure, left_out, random, resamples=100000):
    n = len(left_out)
    v = np.empty(n)
    v[1:-1] = (left_out[1:-1] - (left_out[:-2] + left_out[2:]) / 2) * np.sqrt(2 / 3)
    v[0], v[-1] = (left_out[0] - left_out[1]) / np.sqrt(2), (left_out[-1] - left_out[-2]) / np.sqrt(2)
    influence = -(n - 1) * (v - v.mean())
    error = influence.std(ddof=1) / np.sqrt(n)
    drawn = influence[random.integers(0, n, (resamples, n))]
    spread = drawn.std(1, ddof=1) / np.sqrt(n)
    ratio = drawn.mean(1)[spread > 1e-3 * error] / spread[spread > 1e-3 * error]
    # Both sides draw: the library's ends lie among the quantiles that 4 standard errors of a share of ratios away.
    aside = 4 * np.sqrt(2 * 0.025 * 0.975 / resamples)
    ends = np.quantile(ratio, [0.975 + aside, 0.975 - aside, 0.025 + aside, 0.025 - aside])
    student = scipy.stats.t.ppf(0.975, n - 1)  # neither end may be nearer than that; the library's is a series
    ends = np.sign([1, 1, -1, -1]) * np.maximum(np.abs(ends), student * np.array([1.004, 0.996, 0.996, 1.004]))
    return figure - ends * error


def check_intervals(path, layer, different, level):
    pages = read_dump(path, layer)
    found = report(path, views=15, metrics=1, flags=CHANCE, null=1, resamples=100000, layers=[layer],
                   thresholds=[level], pairs=2 if different else 1)
    random = np.random.default_rng(3)
    counted = pages.counts(different)
    for view, kind in itertools.product(("raw", "derotated_centered"), range(2)):
        cosine = gram_figures(pages.view(view, kind))[0]

        def figures(kept):
            c, m = cosine[np.ix_(kept, kept)], counted[np.ix_(kept, kept)]
            return [c[m].mean(), (c[m] >= level).mean(), ((c >= level) & m).any(1).mean()]

        whole = figures(np.arange(len(cosine)))
        without = np.array([figures(np.flatnonzero(pages.seq != s)) for s in range(pages.seq.max() + 1)])
        for i, name in enumerate(("mean_cosine", "pair_share", "page_share")):
            row, = rows(found["statistics"], view=view, layer=layer, kind=("key", "value")[kind], statistic=name)
            where = f"{path} {layer} {view} {kind} {name}"
            near(row["observed"], whole[i], 2e-6, where)
            if np.ptp(without[:, i]) < 1e-12:
                assert row["low"] is None and row["high"] is None, row
                continue
            ends = np.clip(studentised(whole[i], without[:, i], random), -1.0 if i == 0 else 0.0, 1.0)
            assert ends[0] - 1e-6 <= row["low"] <= ends[1] + 1e-6, f"{where}: low {row['low']}, not in {ends[:2]}"
            assert ends[2] - 1e-6 <= row["high"] <= ends[3] + 1e-6, f"{where}: high {row['high']}, not in {ends[2:]}"
            assert row["low"] < row["observed"] < row["high"] or row["observed"] in (0.0, 1.0), row


# ---- RoPE scalings: from the papers ----

def frequencies(scaling, r, theta, factor, context, low=1.0, high=4.0, fast=32.0, slow=1.0):
    i = np.arange(0, r, 2)
    base = 1.0 / theta ** (i / r)
    if scaling == 1:  # position interpolation: positions shrink
        return base / factor
    if scaling == 2:  # the base grows so that the longest wave is `factor` times as long
        return 1.0 / (theta * factor ** (r / (r - 2))) ** (i / r)
    if scaling == 3:  # YaRN, equations 15 to 23, with the bounds rounded outwards
        where = [r * np.log(context / (2 * np.pi * turns)) / (2 * np.log(theta)) for turns in (fast, slow)]
        begin, end = max(math.floor(where[0]), 0), min(math.ceil(where[1]), r - 1)
        gamma = 1 - np.clip((np.arange(r // 2) - begin) / max(end - begin, 0.001), 0, 1)
        return (1 - gamma) * base / factor + gamma * base
    if scaling == 4:  # Llama 3.1
        wave = 2 * np.pi / base
        smooth = np.clip((context / wave - low) / (high - low), 0, 1)
        return (1 - smooth) * base / factor + smooth * base
    return base


SCALINGS = [(0, 128, 10000.0, 1.0, 0.0), (1, 64, 10000.0, 4.0, 0.0), (2, 64, 10000.0, 8.0, 0.0),
            (3, 128, 10000.0, 16.0, 4096.0), (3, 64, 1e6, 4.0, 32768.0), (4, 128, 500000.0, 8.0, 8192.0),
            (4, 64, 500000.0, 32.0, 8192.0)]


def rope_scaling(scaling, rotary, theta, factor, context, style):
    """One page of keys at many positions, rotated here, must be one page again to the library."""
    random = np.random.default_rng(11)
    count, tokens, d = 24, 4, 128
    page = random.normal(size=(tokens, 1, d)) + 0.3
    positions = np.arange(count) * 4 * tokens
    freq = frequencies(scaling, rotary, theta, factor, context)
    angle = (positions[:, None] + np.arange(tokens))[..., None] * freq
    c, s = np.cos(angle)[:, :, None], np.sin(angle)[:, :, None]
    x = np.repeat(page[None], count, 0)
    a, b = (slice(0, rotary // 2), slice(rotary // 2, rotary)) if style == 1 \
        else (slice(0, rotary, 2), slice(1, rotary, 2))
    first, second = x[..., a].copy(), x[..., b].copy()
    x[..., a], x[..., b] = first * c - second * s, first * s + second * c
    # Between the pages that matter lie others, so that positions are far apart.
    filler = random.normal(size=(count, 3 * tokens, 1, d))
    k = np.concatenate([x, filler], 1).reshape(-1, 1, d).astype("<f4")
    path = FOLDER / "rope.safetensors"
    write_dump(path, [(k, k)], "F32", tokens)
    rope = [style, theta, rotary, scaling, factor, context]
    group = rows(report(path, views=5, metrics=1, thresholds=[1 - 1e-9], rope=rope)["groups"], kind="key")
    level = {g["view"]: g["thresholds"][0] for g in group}
    near(rows(group, view="derotated")[0]["cosine"]["max"], 1.0, 1e-12, "cosine of equal content")
    assert level["derotated"]["pairs"] == count * (count - 1) // 2, level
    assert level["raw"]["pairs"] == 0, level
    wrong = rope[:]
    wrong[4 if scaling else 1] *= 1.5
    group = rows(report(path, views=5, metrics=1, thresholds=[1 - 1e-9], rope=wrong)["groups"], kind="key")
    assert rows(group, view="derotated")[0]["thresholds"][0]["pairs"] < count, "a wrong rotation goes unseen"


# ---- properties ----

def order_of_sequences():
    random = np.random.default_rng(2)
    made = planted(random, 40, 8, tokens=2, h=2, d=4)
    path = FOLDER / "order.safetensors"
    one, two = [], []
    for out, order in ((one, made), (two, made[::-1])):
        write_dump(path, order, "F32", 2)
        out.append(report(path, views=3, flags=CHANCE | STRATA | LEDGER | BOUNDS, null=2, resamples=10))
    for a, b in zip(one[0]["groups"], two[0]["groups"]):
        for name in ("pages", "pairs", "exact_duplicates"):
            assert a[name] == b[name], name
        near(a["cosine"]["mean"], b["cosine"]["mean"], 1e-6, "mean cosine")
        near(a["mean_l2"], b["mean_l2"], 1e-6, "mean distance")
        near(a["mean_hamming_8bit"], b["mean_hamming_8bit"], 1e-4, "mean Hamming")
        near(a["mean_jaccard_rms"], b["mean_jaccard_rms"], 1e-9, "mean Jaccard")
        for s, t in zip(a["thresholds"], b["thresholds"]):
            assert s["pairs"] == t["pairs"], (s, t)
    assert [r["seen_bytes"] for r in one[0]["ledger"]] == [r["seen_bytes"] for r in two[0]["ledger"]]
    assert [r["exact"] for r in one[0]["ledger"]] == [r["exact"] for r in two[0]["ledger"]]


def planted_answers():
    """Exact, near, scaled, rotated, common mean, noise: what was planted, and nothing else."""
    random = np.random.default_rng(9)
    d, n = 32, 24

    def look(k, level):
        path = FOLDER / "planted.safetensors"
        pages = write_dump(path, [(k[i].astype("<f4"), k[i].astype("<f4")) for i in range(len(k))], "F32", 2)
        found = report(path, views=15, metrics=3, flags=CHANCE | BOUNDS | LEDGER, thresholds=[level],
                       budgets=[0.01, 0.2], null=8)
        share = {v: rows(found["statistics"], view=v, kind="value", statistic="pair_share")[0] for v in VIEWS}
        return pages, found, share

    noise = random.normal(size=(n, 2, 1, d))
    _, found, share = look(noise, 0.9)
    assert found["ledger"][1]["unique"] == n and share["raw"]["observed"] == 0 == share["raw"]["null"]
    _, found, share = look(noise + 9, 0.9)  # a common mean alone: all of it chance, none of it left when centred
    assert share["raw"]["observed"] == 1 == share["raw"]["null"] and share["raw"]["excess"] == 0
    assert share["centered"]["observed"] == 0 and found["ledger"][0]["unique"] == n
    copies = noise[np.arange(n) // 2]
    _, found, share = look(copies, 0.9)
    assert found["ledger"][0]["exact"] == n // 2 and share["raw"]["excess"] > 0
    _, found, _ = look(copies * (1 + 0.1 * (np.arange(n) % 2))[:, None, None, None], 0.9)  # scale only: 0.1 / 1.1
    row = dedup_rows(found, "raw", "block", 0)
    assert [(r["representatives"], r["scaled_representatives"]) for r in row] == [(n, n // 2), (n // 2, n // 2)], row
    assert found["ledger"][1]["near"] == n // 2
    step = random.normal(size=(n, 2, 1, d))
    step *= 0.1 * np.sqrt((copies ** 2).sum((1, 2, 3)) / (step ** 2).sum((1, 2, 3)))[:, None, None, None]
    _, found, _ = look(copies + step * (np.arange(n) % 2)[:, None, None, None], 0.9)  # an error of a tenth
    assert [r["representatives"] for r in dedup_rows(found, "raw", "block", 0)] == [n, n // 2]


def tests():
    for name in ("stories24", "repetitive_bf16", "shared_prefix"):
        for different, families in ((False, True), (True, True), (False, False)):
            yield f"strata of {name}, {different}, {families}", lambda *a: check_strata(*a), (name, different, families)
        for different in (False, True):
            yield f"dedup of {name}, {different}", dedup_of_shipped_data, (name, different)
        yield f"ledger of {name}", ledger_of_shipped_data, (name,)
    for different in (False, True):
        yield f"bounds of tiny sets, {different}", dedup_of_tiny_sets, (different,)
    yield "dedup by hand", dedup_by_hand, ()
    for dtype in ("F32", "F16", "BF16"):
        yield f"ledger of {dtype} by hand", ledger_by_hand, (dtype,)
        yield f"ledger of generated {dtype}", ledger_of_generated_data, (dtype,)
    yield "ledger of a pool", ledger_of_pools, ()
    yield "chance level of few pages", chance_of_few_pages, ()
    for name in ("stories24", "repetitive_bf16"):
        for layer, different in ((0, False), (1, False), (3, True)):
            yield f"chance level of {name}, layer {layer}", \
                lambda n, l, d: check_chance(data_file(n), [l], d, [0.5, 0.9]), (name, layer, different)
    for name in ("stories24", "repetitive_bf16", "shared_prefix"):
        for layer, different, level in ((1, True, 0.5), (3, False, 0.9)):
            yield f"intervals of {name}, layer {layer}", \
                lambda n, *a: check_intervals(data_file(n), *a), (name, layer, different, level)
    for case in SCALINGS:
        for style in (1, 2):
            yield f"rotation {case}, style {style}", rope_scaling, (*case, style)
    yield "order of sequences", order_of_sequences, ()
    yield "planted answers", planted_answers, ()


def main():
    global PROGRAM, FOLDER
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    PROGRAM = sys.argv[1]
    passed = failed = skipped = 0
    with tempfile.TemporaryDirectory() as folder:
        FOLDER = pathlib.Path(folder)
        for name, run, arguments in tests():
            try:
                if np is None:
                    raise Skip("needs NumPy and SciPy")
                run(*arguments)
                passed += 1
            except Skip as reason:
                print(f"{name}: skipped, {reason}")
                skipped += 1
            except Exception:  # a test that fails must not hide the others
                print(f"{name}: FAILED")
                traceback.print_exc(limit=4, file=sys.stdout)
                failed += 1
    print(f"test_findings_truth: {passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""End-to-end tests of kvsim-analyze.

usage: test_analyze.py [PROGRAM]

PROGRAM, else $KVSIM_ANALYZE, is the program; analyze_harness.py says what else is looked at. Needs Python 3.11 and
nothing else; with jsonschema the reports are validated too.
The last line is `test_analyze: N passed, N failed, N skipped`.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import time

import analyze_harness as harness
from analyze_harness import (MODEL, PICTURES, REPORT, ROOT, TIME_LIMIT, Failure, Skip, analyze, cases, dump_file,
                             expect_error, listing, main, need_engine, pack_floats, recorded, report_of, require, run,
                             safetensors, temporary, test, validate, write)


# ---------------------------------------------------------------------------------------------------------------------
# Help
# ---------------------------------------------------------------------------------------------------------------------


@test
def help_names_every_option():
    done = run("--help")
    require(done.returncode == 0 and done.stderr == "", done.stderr)
    for option in ("pages model prompts-file max-tokens temperature top-p seed kv-dtype share-prefixes dump page-tokens "
                   "layers kind metrics view per-head thresholds budgets budget ulps no-chance null-repetitions pairs top "
                   "backend threads output-dir no-plots quiet reproducible help version").split():
        require(f"--{option}" in done.stdout, f"--{option} is not in --help")
        manual = (ROOT / "docs" / "man" / "kvsim-analyze.1").read_text()
        require(f"Fl -{option}" in manual, f"--{option} is not in the manual")


@test
def version_is_that_of_the_header():
    header = (ROOT / "include" / "kvsim" / "version.h").read_text()
    version = re.search(r'KVSIM_VERSION_STRING "([^"]+)"', header).group(1)
    done = run("--version")
    require(done.returncode == 0 and version in done.stdout, done.stdout + done.stderr)


# ---------------------------------------------------------------------------------------------------------------------
# Wrong command lines
# ---------------------------------------------------------------------------------------------------------------------


@cases(
    ("threshold above 1", ["--thresholds", "0.9,1.5"], ["--thresholds", "1.5"]),
    ("threshold not a number", ["--thresholds", "nan"], ["--thresholds", "nan"]),
    ("threshold missing", ["--thresholds", "0.9,,0.95"], ["--thresholds", "empty"]),
    ("budget above 1", ["--budgets", "2"], ["--budgets", "2"]),
    ("budget below 0", ["--budgets", "0.1,-0.1"], ["--budgets", "-0.1"]),
    ("headline budget above 1", ["--budget", "1.01"], ["--budget", "1.01"]),
    ("one shuffling", ["--null-repetitions", "1"], ["--null-repetitions", "1"]),
    ("no ulps", ["--ulps", "0"], ["--ulps", "0"]),
    ("shufflings without chance", ["--no-chance", "--null-repetitions", "5"], ["--no-chance", "--null-repetitions"]),
    ("unknown metric", ["--metrics", "cosine,euclid"], ["euclid", "jaccard"]),
    ("unknown view", ["--view", "flat"], ["flat", "derotated_centered"]),
    ("unknown kind", ["--kind", "query"], ["query", "value"]),
    ("unknown pairs", ["--pairs", "some"], ["some", "different-sequences"]),
    ("unknown backend", ["--backend", "tpu"], ["tpu", "cuda"]),
    ("layers backwards", ["--layers", "5-2"], ["5-2"]),
    ("layers not numbers", ["--layers", "first"], ["first"]),
    ("layer too large", ["--layers", "0-99999999999999999999"], ["65535"]),
    ("negative page size", ["--page-tokens", "-1"], ["--page-tokens", "-1"]),
    ("no threads", ["--threads", "0"], ["--threads", "0"]),
    ("top is a word", ["--top", "all"], ["--top", "all"]),
    ("negative temperature", ["--temperature", "-1"], ["--temperature"]),
    ("file without --pages", ["pages.safetensors"], ["pages.safetensors", "--pages"]),
    ("engine option beside --pages", ["--pages", "x", "--top-p", "1"], ["--top-p", "--pages"]),
    ("--model beside --pages", ["--pages", "x", "--model", "y"], ["--model", "--pages"]),
    ("--dump and --share-prefixes", ["--dump", "x", "--share-prefixes"], ["--dump", "--share-prefixes"]),
)
def wrong_usage(arguments, words):
    expect_error(arguments, words, statuses=(2,))


@test
def wrong_usage_unknown_option():
    expect_error(["--colour"], ["colour", "--help"], statuses=(2,), lines=2)


# ---------------------------------------------------------------------------------------------------------------------
# Bad files
# ---------------------------------------------------------------------------------------------------------------------

TENSOR = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


@cases(
    ("empty", b"", []),
    ("shorter than its length field", b"\x01\x02", []),
    ("header longer than the file", struct.pack("<Q", 5000) + b"{}", []),
    ("header of 100 MB", struct.pack("<Q", 100_000_001) + b"{}", []),
    ("header length that overflows", struct.pack("<Q", 2**64 - 1) + b"{}", []),
    ("header is no JSON", safetensors(b"{not json"), []),
    ("header is not UTF-8", safetensors(b'{"\xff\xfe": 1}'), []),
    ("header too deep", safetensors(b'{"a":' * 3000 + b"1" + b"}" * 3000), []),
    ("cut short", safetensors({"t": TENSOR}, b"\0" * 15), []),
    ("offsets beyond the end", safetensors({"t": TENSOR | {"data_offsets": [8, 24]}}, b"\0" * 16), ["'t'"]),
    ("offsets backwards", safetensors({"t": TENSOR | {"data_offsets": [16, 0]}}, b"\0" * 16), []),
    ("negative offset", safetensors({"t": TENSOR | {"data_offsets": [-16, 0]}}, b"\0" * 16), []),
    ("overlapping tensors", safetensors({"t": TENSOR, "u": TENSOR}, b"\0" * 16), []),
    ("hole between tensors", safetensors({"t": TENSOR, "u": TENSOR | {"data_offsets": [20, 36]}}, b"\0" * 36), []),
    ("shape that overflows", safetensors({"t": TENSOR | {"shape": [2**40, 2**40]}}, b"\0" * 16), []),
    ("shape and offsets differ", safetensors({"t": TENSOR | {"shape": [5]}}, b"\0" * 16), []),
    ("unknown element type", safetensors({"t": TENSOR | {"dtype": "F99"}}, b"\0" * 16), ["F99"]),
    ("same name twice", safetensors(b'{"t":' + json.dumps(TENSOR).encode() + b',"t":' + json.dumps(TENSOR).encode() +
                                    b"}", b"\0" * 16), []),
    ("no schema", safetensors({"t": TENSOR}, b"\0" * 16), ["schema"]),
    ("schema of another project", dump_file([8], metadata={"format": "other.v1"}), []),
    ("metadata missing", dump_file([8], metadata={"kv_heads": None}), ["kv_heads"]),
    ("metadata not a number", dump_file([8], metadata={"layers": "many"}), ["layers"]),
    ("metadata contradicts the tensors", dump_file([8], metadata={"head_dim": "8"}), []),
    ("more layers than tensors", dump_file([8], metadata={"layers": "3"}), []),
)
def bad_file(content, words):
    with temporary() as work:
        path = write(work, "bad.safetensors", content)
        expect_error(["--pages", path], ["bad.safetensors", *words], statuses=(1,))


@test
def no_such_file():
    expect_error(["--pages", "/nowhere/to/be found"], ["/nowhere/to/be found", "no such file"], statuses=(1,))


@test
def folder_without_pages():
    with temporary() as work:
        expect_error(["--pages", work], [work.name], statuses=(1,))


@test
def bad_npy():
    with temporary() as work:
        expect_error(["--pages", write(work, "bad.npy", b"\x93NUMPY\x01\x00\xff\xff{")], ["bad.npy"], statuses=(1,))


@test
def good_file_before_a_bad_one():
    with temporary() as work:
        good = write(work, "good.safetensors", dump_file([16]))
        expect_error(["--pages", good, write(work, "bad.safetensors", b"")], ["bad.safetensors"], statuses=(1,))


@test
def layer_that_does_not_exist():
    with temporary() as work:
        expect_error(["--pages", write(work, "a.safetensors", dump_file([16])), "--layers", "0,7"], ["layer", "7"])


@test
def derotated_view_without_rope():
    with temporary() as work:
        path = write(work, "a.safetensors", dump_file([16], metadata={"rope_applied": "false"}))
        expect_error(["--pages", path, "--view", "derotated"], ["--view", "rotated"])


# ---------------------------------------------------------------------------------------------------------------------
# Bad models and prompts
# ---------------------------------------------------------------------------------------------------------------------


def rewrite_model(folder, change_config=None, change_header=None):
    """A copy of the shipped model with changes."""
    shutil.copytree(MODEL, folder)
    if change_config:
        config = json.loads((folder / "config.json").read_text())
        change_config(config)
        (folder / "config.json").write_text(json.dumps(config))
    if change_header:
        path = folder / "model.safetensors"
        content = path.read_bytes()
        size = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8:8 + size])
        data = change_header(header, content[8 + size:])
        path.write_bytes(safetensors(header, data))


def remove_tensor(header, data):
    """Take out the tensor that lies last."""
    name = max((key for key in header if key != "__metadata__"), key=lambda key: header[key]["data_offsets"][1])
    return data[:header.pop(name)["data_offsets"][0]]


def reshape_tensor(header, data):
    name = next(key for key in header if key.endswith("k_proj.weight"))
    header[name]["shape"].reverse()
    return data


@cases(
    ("no config", lambda folder: (folder.mkdir(), shutil.copy(MODEL / "model.safetensors", folder)), ["config.json"]),
    ("no weights", lambda folder: (folder.mkdir(), shutil.copy(MODEL / "config.json", folder)), ["safetensors"]),
    ("unknown architecture", lambda folder: rewrite_model(
        folder, lambda config: config.update(architectures=["MambaForCausalLM"], model_type="mamba")), ["Mamba", "Llama"]),
    ("config is no JSON", lambda folder: (rewrite_model(folder), write(folder, "config.json", "{")), ["config.json"]),
    ("missing tensor", lambda folder: rewrite_model(folder, None, remove_tensor), ["weight"]),
    ("wrong shape", lambda folder: rewrite_model(folder, None, reshape_tensor), ["k_proj.weight"]),
    ("does not exist", lambda folder: None, ["model"]),
)
def bad_model(make, words):
    need_engine()
    with temporary() as work:
        make(work / "model")
        expect_error(["--model", work / "model", "--max-tokens", "4"], words, statuses=(1,))


@cases(
    ("empty", b"", ["holds no prompt"]),
    ("only blank lines", b"\n  \n\t\n", ["holds no prompt"]),
    ("not UTF-8", b"fine\nnot \xff fine\n", ["UTF-8", "line 2"]),
    ("overlong UTF-8", b"\xc0\xaf\n", ["UTF-8"]),
    ("NUL", b"a\0b\n", ["UTF-8"]),
)
def bad_prompts(content, words):
    need_engine()
    with temporary() as work:
        path = write(work, "prompts.txt", content)
        expect_error(["--prompts-file", path], ["prompts.txt", *words], statuses=(1,))


@test
def prompts_file_that_does_not_exist():
    need_engine()
    expect_error(["--prompts-file", "/nowhere/prompts"], ["/nowhere/prompts", "no such file"], statuses=(1,))


@test
def layer_that_the_model_does_not_have():
    need_engine()
    expect_error(["--layers", "99", "--max-tokens", "4"], ["99"])


# ---------------------------------------------------------------------------------------------------------------------
# Odd pages
# ---------------------------------------------------------------------------------------------------------------------


@test
def one_page_has_no_pairs():
    with temporary() as work:
        report = analyze(work / "out", "--pages", write(work, "a.safetensors", dump_file([4])))
        require(report["summary"]["total_page_comparisons"] == 0, "comparisons")
        require(report["summary"]["avg_cosine_similarity"] is None, "a mean of nothing")
        require(any("no two pages" in note for note in report["notes"]), report["notes"])
        done = run("--pages", work / "a.safetensors", "--output-dir", work / "again")
        require(done.returncode == 0 and "no two pages" in done.stdout, done.stdout + done.stderr)
        require(os.listdir(work / "again") == [REPORT], os.listdir(work / "again"))


@test
def partial_pages_only():
    with temporary() as work:
        report = analyze(work / "out", "--pages", write(work, "a.safetensors", dump_file([3, 2, 1])))
        require(report["counts"]["full"] == 0 and report["counts"]["partial"] == 3, report["counts"])
        require(report["summary"]["total_page_comparisons"] == 0, "comparisons")


@test
def pages_with_nan_and_infinity_are_counted_and_left_out():
    with temporary() as work:
        odd = {(0, "key", 3): float("nan"), (1, "value", 20): float("-inf")}
        value = lambda s, layer, kind, i: odd.get((s, kind, i), 1.0 + i % 7 + s)
        report = analyze(work / "out", "--pages", write(work, "a.safetensors", dump_file([16, 16], value=value)))
        require(report["counts"]["non_finite_blocks"] == 2, report["counts"])
        raw = {group["kind"]: group for group in report["groups"] if group["view"] == "raw"}
        require([raw[kind]["non_finite"] for kind in ("key", "value")] == [1, 1], "per kind")
        require([raw[kind]["pages"] for kind in ("key", "value")] == [7, 7], "pages that take part")
        require(report["blocks"][0]["blocks"] == 6, report["blocks"][0])


@test
def zero_vectors():
    with temporary() as work:
        path = write(work, "a.safetensors", dump_file([16, 16], value=lambda *_: 0.0))
        report = analyze(work / "out", "--pages", path)
        raw = report["groups"][0]
        require(raw["cosine"] == {"mean": 1.0, "min": 1.0, "max": 1.0}, raw["cosine"])
        require(raw["exact_duplicates"] == raw["pages"] - 1 == 7, "exact duplicates")
        require(report["summary"]["measured_saving"]["near_bytes"] == 0, "all are exact")


@test
def one_zero_page_has_an_infinite_error():
    with temporary() as work:
        value = lambda s, layer, kind, i: 0.0 if s == 1 else 1.0 + i
        report = analyze(work / "out", "--pages", write(work, "a.safetensors", dump_file([4, 4], value=value)))
        require(report["groups"][0]["infinite_relative_errors"] == 1, "counted")
        require(report["groups"][0]["mean_relative_error"] is None, "an infinite mean is null")


@test
def savings_of_known_duplicates():
    """Three equal sequences of two pages each: two of three copies go, key and value alike."""
    with temporary() as work:
        value = lambda s, layer, kind, i: float(i * i % 97) - 40 + layer
        path = write(work, "a.safetensors", dump_file([8, 8, 8], layers=2, value=value))
        report = analyze(work / "out", "--pages", path)
        page = 4 * 4 * 4
        measured = report["summary"]["measured_saving"]
        require(measured["exact_bytes"] == 2 * 2 * 2 * 2 * page, measured)
        require(measured["metadata_bytes"] == 16 * 8, measured)
        require(measured["saved_bytes"] == 16 * page - 16 * 8, measured)
        require(report["summary"]["total_compression_opportunities"] == 16, "pages")
        require(len(report["compression_opportunities"]) == 16, "list")
        first = report["compression_opportunities"][0]
        require(first["page"]["sequence"] > first["representative"]["sequence"], first)
        require(report["summary"]["by_view"]["raw"]["key"]["high_similarity_pages"] >= 8, "pages alike")
        require(first["exact"] is True and first["bytes"] == page and first["relative_error"] == 0, first)


@test
def top_limits_the_lists():
    with temporary() as work:
        path = write(work, "a.safetensors", dump_file([16] * 4, value=lambda *_: 1.0))
        report = analyze(work / "out", "--pages", path, "--top", 3)
        require(len(report["compression_opportunities"]) == 3, "opportunities")
        require(report["summary"]["total_compression_opportunities"] == 30, "the count is that of all")
        require(all(len(group["top_pairs"]) <= 3 for group in report["groups"]), "top pairs")
        report = analyze(work / "none", "--pages", path, "--top", 0)
        require(report["compression_opportunities"] == [], "opportunities")


@test
def selection_of_layers_kinds_and_views():
    with temporary() as work:
        path = write(work, "a.safetensors", dump_file([16, 16], layers=4))
        report = analyze(work / "out", "--pages", path, "--layers", "1,3", "--kind", "value", "--view", "centered",
                         "--thresholds", "0.5,-0.5,0.5", "--budgets", "0.25")
        found = {(group["view"], group["layer"], group["kind"]) for group in report["groups"]}
        require(found == {(view, layer, "value") for view in ("raw", "centered") for layer in (1, 3)}, found)
        require([level["t"] for level in report["groups"][0]["thresholds"]] == [-0.5, 0.5], "thresholds are sorted")
        require([level["budget"] for level in report["groups"][0]["dedup"]] == [0.1, 0.25], "budgets")
        require(report["summary"]["measured_saving"]["level"] == "page", "there are no blocks")
        require(list(report["layer_analysis"]) == ["layer_1", "layer_3"], list(report["layer_analysis"]))


@test
def pictures_of_one_kind_and_one_layer():
    if shutil.which("gnuplot") is None:
        raise Skip("gnuplot is not installed")
    with temporary() as work:
        path = write(work, "a.safetensors", dump_file([32, 32]))
        done = run("--pages", path, "--kind", "value", "--metrics", "cosine", "--view", "raw", "--output-dir",
                   work / "out")
        require(done.returncode == 0, done.stderr)
        require(sorted(os.listdir(work / "out")) == sorted([REPORT, *PICTURES]), os.listdir(work / "out"))


@test
def npy_pages():
    with temporary() as work:
        generator = random.Random(2)
        text = "{'descr': '<f4', 'fortran_order': False, 'shape': (6, 4, 2, 8), }".ljust(117) + "\n"
        content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()
        content += pack_floats(generator.gauss(0, 1) for _ in range(6 * 4 * 2 * 8))
        report = analyze(work / "out", "--pages", write(work, "a.npy", content))
        require(report["groups"][0]["pages"] == 6 and report["groups"][0]["pairs"] == 15, report["groups"][0]["pairs"])


# ---------------------------------------------------------------------------------------------------------------------
# What is written
# ---------------------------------------------------------------------------------------------------------------------


@test
def pictures_beside_the_report():
    if shutil.which("gnuplot") is None:
        raise Skip("gnuplot is not installed")
    with temporary() as work:
        folder = work / "made" / "with parents"
        path = write(work, "a.safetensors", dump_file([40, 40, 40], layers=3))
        done = run("--pages", path, "--output-dir", folder)
        require(done.returncode == 0, done.stderr)
        require(sorted(os.listdir(folder)) == sorted([REPORT, *PICTURES]), os.listdir(folder))
        for name in PICTURES:
            content = (folder / name).read_bytes()
            if name.endswith(".png"):
                require(content.startswith(b"\x89PNG") and b"IEND" in content[-16:], name)
            else:
                require(b"<svg" in content and content.rstrip().endswith(b"</svg>"), name)
        require("as measured" in done.stdout.lower() or "measured" in done.stdout.lower(), done.stdout)
        require("assum" in done.stdout.lower(), done.stdout)
        # The next run without pictures must not leave those of this one beside its report.
        require(run("--pages", path, "--output-dir", folder, "--no-plots").returncode == 0, "second run")
        require(os.listdir(folder) == [REPORT], os.listdir(folder))


@test
def no_gnuplot():
    with temporary() as work:
        path = write(work, "a.safetensors", dump_file([16, 16]))
        done = run("--pages", path, "--output-dir", work / "out", env={"PATH": "/nonexistent"})
        require(done.returncode == 0, done.stderr)
        require(done.stderr.count("gnuplot-nox") == 1, done.stderr)
        require(os.listdir(work / "out") == [REPORT], os.listdir(work / "out"))


@test
def gnuplot_that_fails():
    with temporary() as work:
        tools = work / "bin"
        tools.mkdir()
        write(tools, "gnuplot", "#!/bin/sh\necho 'out of ink' >&2\nexit 3\n").chmod(0o755)
        path = write(work, "a.safetensors", dump_file([16, 16]))
        work = work / "w"
        work.mkdir()
        done = run("--pages", path, "--output-dir", work / "out", env={"PATH": f"{tools}:{os.environ['PATH']}"})
        require(done.returncode == 1 and "out of ink" in done.stderr, done.stderr)
        require(os.listdir(work) == [], os.listdir(work))


@test
def gnuplot_that_draws_nothing():
    with temporary() as work:
        tools = work / "bin"
        tools.mkdir()
        write(tools, "gnuplot", "#!/bin/sh\ncat >/dev/null\n").chmod(0o755)
        path = write(work, "a.safetensors", dump_file([16, 16]))
        done = run("--pages", path, "--output-dir", work / "out", env={"PATH": f"{tools}:{os.environ['PATH']}"})
        require(done.returncode == 1 and "similarity_distribution.png" in done.stderr, done.stderr)
        require(not (work / "out").exists(), "left behind")


@test
def names_are_not_run_as_commands():
    with temporary() as work:
        name = "it's `touch owned` \"$(touch owned)\" \\ äöü 𝄞\n.safetensors"
        path = write(work, name, dump_file([16, 16]))
        done = run("--pages", path, "--output-dir", work / "öut 𝄞", cwd=work)
        require(done.returncode == 0, done.stderr)
        require(not list(work.rglob("owned")), "a command in a name was run")
        require(report_of(work / "öut 𝄞")["input"]["files"][0]["path"] == str(path), "path in the report")


@cases(("a file is in the way", "file/out", ["file"]), ("nobody may write there", "/proc/none/out", ["/proc/none"]))
def output_folder_that_cannot_be_made(folder, words):
    with temporary() as work:
        write(work, "file", "")
        path = write(work, "a.safetensors", dump_file([16, 16]))
        done = run("--pages", path, "--output-dir", work / folder)
        require(done.returncode == 1 and "--output-dir" in done.stderr, done.stderr)
        require(done.stderr.count("\n") == 1 and all(word in done.stderr for word in words), done.stderr)
        require(sorted(os.listdir(work)) == ["a.safetensors", "file"], os.listdir(work))


@test
def output_folder_without_permission():
    with temporary() as work:
        path = write(work, "a.safetensors", dump_file([16, 16]))
        folder = work / "locked"
        folder.mkdir(mode=0o555)
        if os.access(folder, os.W_OK):
            raise Skip("this user may write everywhere")
        done = run("--pages", path, "--output-dir", folder)
        require(done.returncode == 1 and "locked" in done.stderr, done.stderr)


@test
def report_name_taken_by_a_folder():
    with temporary() as work:
        path = write(work, "a.safetensors", dump_file([16, 16]))
        (work / "out" / REPORT).mkdir(parents=True)
        write(work / "out", PICTURES[0], "old")
        before = listing(work / "out")
        done = run("--pages", path, "--output-dir", work / "out")
        require(done.returncode == 1 and REPORT in done.stderr, done.stderr)
        require(listing(work / "out") == before, "the folder was changed")


@cases(("report", 2000), ("pictures", 60000))
def full_disk_by_file_size(limit):
    if limit > 2000 and shutil.which("gnuplot") is None:
        raise Skip("gnuplot is not installed")
    with temporary() as work:
        path = write(work, "a.safetensors", dump_file([16, 16]))
        (work / "out").mkdir()
        write(work / "out", REPORT, "the one before")
        done = run("--pages", path, "--output-dir", work / "out", limit_file_bytes=limit)
        require(done.returncode == 1, f"{done.returncode}: {done.stderr}")
        require(done.stderr.splitlines()[-1].startswith("kvsim-analyze: "), done.stderr)
        require(listing(work / "out") == {REPORT: b"the one before"}, "the folder was changed")


@test
def full_disk_on_tmpfs():
    with temporary() as work:
        disk = work / "disk"
        disk.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk], capture_output=True)
        if mounted.returncode != 0:
            raise Skip("a tmpfs cannot be mounted here")
        try:
            path = write(work, "a.safetensors", dump_file([16, 16], layers=8))
            write(disk, "mine", "kept")
            done = run("--pages", path, "--output-dir", disk / "out")
            require(done.returncode == 1 and "no space" in done.stderr.lower(), done.stderr)
            require(listing(disk) == {"mine": b"kept"}, os.listdir(disk))
        finally:
            subprocess.run(["umount", disk], check=True)


@cases(("SIGINT", signal.SIGINT), ("SIGTERM", signal.SIGTERM))
def interrupted_at_any_time(number):
    """Whenever the signal comes, the folder is as it was or complete."""
    path = recorded("kv/stories24.safetensors")
    stopped = 0
    with temporary() as work:
        for existing in (False, True):
            for delay in (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.5):
                folder = work / f"{existing}{delay}"
                before = None
                if existing:
                    folder.mkdir()
                    write(folder, REPORT, "the one before")
                    before = listing(folder)
                child = subprocess.Popen([harness.program, "--pages", path, "--per-head", "--view",
                                          "centered,derotated,derotated_centered", "--output-dir", folder],
                                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                time.sleep(delay)
                child.send_signal(number)
                _, errors = child.communicate(timeout=TIME_LIMIT)
                if child.returncode == 0:
                    require(report_of(folder)["schema"] == "kvsim.analysis.v1", "a complete folder")
                    continue
                # Before the program watches for signals it simply ends.
                require(child.returncode in (130, -number), f"{child.returncode} after {delay} s: {errors}")
                require(listing(folder) == before, f"after {delay} s the folder is {listing(folder)}")
                stopped += child.returncode == 130
    require(stopped > 0, "no run was interrupted")


@test
def interrupted_while_generating():
    need_engine()
    with temporary() as work:
        child = subprocess.Popen([harness.program, "--max-tokens", "100000", "--output-dir", work / "out"],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(1.0)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=TIME_LIMIT)
        require(child.returncode == 130 and "interrupted" in errors, f"{child.returncode}: {errors}")
        require(not (work / "out").exists(), "left behind")


@test
def quiet_prints_nothing():
    with temporary() as work:
        path = write(work, "a.safetensors", dump_file([16, 16]))
        done = run("--pages", path, "--output-dir", work / "out", "--quiet")
        require((done.returncode, done.stdout, done.stderr) == (0, "", ""), done.stdout + done.stderr)


@test
def summary_that_cannot_be_printed():
    with temporary() as work:
        path = write(work, "a.safetensors", dump_file([16, 16]))
        with open("/dev/full", "w") as full:
            done = subprocess.run([harness.program, "--pages", path, "--output-dir", work / "out", "--no-plots"], stdout=full,
                                  stderr=subprocess.PIPE, text=True)
        require(done.returncode == 1 and "summary" in done.stderr, done.stderr)
        require(os.listdir(work / "out") == [REPORT], "the report is there")


@test
def progress_bar_on_a_terminal():
    """On a terminal one line is drawn again and again and is gone at the end; elsewhere there are whole lines."""
    import pty

    path = recorded("kv/stories24.safetensors")
    with temporary() as work:
        master, slave = pty.openpty()
        child = subprocess.Popen([harness.program, "--pages", path, "--per-head", "--no-plots", "--output-dir", work / "out"],
                                 stdout=subprocess.DEVNULL, stderr=slave, env=os.environ | {"TERM": "xterm"})
        os.close(slave)
        drawn = b""
        with contextlib.suppress(OSError):
            while block := os.read(master, 65536):
                drawn += block
        require(child.wait() == 0, drawn)
        os.close(master)
        require(b"\n" not in drawn, "a line feed on the terminal")
        require(drawn.count(b"\r") >= 2 and drawn.endswith(b"\r\x1b[K"), drawn[-200:])
        done = run("--pages", path, "--no-plots", "--output-dir", work / "out")
        require("\r" not in done.stderr and "\x1b" not in done.stderr and "pairs" in done.stderr, done.stderr)


# ---------------------------------------------------------------------------------------------------------------------
# The same numbers
# ---------------------------------------------------------------------------------------------------------------------


@test
def same_bytes_whatever_the_threads():
    path = recorded("kv/repetitive_bf16.safetensors")
    with temporary() as work:
        texts = set()
        for number, threads in enumerate((1, 2, 7, 2)):
            folder = work / str(number)
            analyze(folder, "--pages", path, "--reproducible", "--threads", threads, "--null-repetitions", 4)
            texts.add((folder / REPORT).read_bytes())
        require(len(texts) == 1, f"{len(texts)} different reports of 4 runs")
        require("environment" not in json.loads(texts.pop()), "environment in a reproducible report")


@test
def environment_is_the_only_difference():
    with temporary() as work:
        path = write(work, "a.safetensors", dump_file([16, 16]))
        plain = analyze(work / "plain", "--pages", path)
        bare = analyze(work / "bare", "--pages", path, "--reproducible")
        environment = plain.pop("environment")
        require(plain == bare, "the rest differs")
        require(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", environment["time"]), environment["time"])


@cases(
    ("everything", [], []),
    ("some layers and values", [], ["--layers", "0,2-3", "--kind", "value"]),
    ("bf16 keys", ["--kv-dtype", "bf16"], ["--kind", "key", "--view", "derotated", "--per-head"]),
    ("pages of 10", ["--page-tokens", "10"], []),
)
def dump_and_engine_give_the_same_figures(engine_options, options):
    need_engine()
    with temporary() as work:
        live = analyze(work / "live", "--max-tokens", 32, "--dump", work / "pages.safetensors", *engine_options, *options)
        again = analyze(work / "again", "--pages", work / "pages.safetensors", *options)
        for name in ("groups", "blocks", "counts", "summary", "layer_analysis", "compression_opportunities", "options",
                     "views", "null", "dedup_curve", "ledger", "lossless", "strata"):
            require(live[name] == again[name], f"{name} differ")
        require(live["summary"]["cache"]["predicted_bytes"] is not None, "no prediction")
        require(live["summary"]["total_page_comparisons"] > 1000, "hardly any pairs")


@test
def engine_is_reproducible():
    need_engine()
    with temporary() as work:
        arguments = ["--max-tokens", 48, "--reproducible", "--threads", 1]
        analyze(work / "a", *arguments)
        analyze(work / "b", *arguments)
        analyze(work / "c", *arguments, "--seed", 99)
        texts = [(work / name / REPORT).read_bytes() for name in "abc"]
        require(texts[0] == texts[1], "two runs differ")
        require(texts[0] != texts[2], "the seed has no effect")


@test
def shared_prefixes_are_counted_once():
    need_engine()
    with temporary() as work:
        prompts = write(work, "p.txt", "The same beginning of three prompts, and then the end.\n" * 3)
        alone = analyze(work / "alone", "--prompts-file", prompts, "--max-tokens", 16)
        shared = analyze(work / "shared", "--prompts-file", prompts, "--max-tokens", 16, "--share-prefixes")
        require(shared["summary"]["cache"]["seen_bytes"] < alone["summary"]["cache"]["seen_bytes"], "bytes")
        require(shared["counts"]["references"] == alone["counts"]["references"], "references")
        require(shared["counts"]["full"] < alone["counts"]["full"], "pages")


# ---------------------------------------------------------------------------------------------------------------------
# Reference results
# ---------------------------------------------------------------------------------------------------------------------

VIEWS = ("raw", "centered", "derotated", "derotated_centered")
TWO_VIEWS = ("raw", "derotated_centered")
DIFFERENT = ["--pairs", "different-sequences"]
# Absolute bounds of figures that are not counts; everything else is 2e-6 relative.
ABSOLUTE = {"mean": 2e-6, "min": 2e-6, "max": 2e-6, "mean_hamming_8bit": 1e-4, "mean_hamming_sign": 1e-9}
NOTES_OF_THE_REFERENCE = {"nearest_pair", "mean_relative_error_if_x_is_the_earlier"}


def compare(path, name, expected, found):
    if name in NOTES_OF_THE_REFERENCE:
        return
    where = f"{path}.{name}"
    if isinstance(expected, dict):
        require(isinstance(found, dict), f"{where} is {found}")
        for key, value in expected.items():
            compare(where, key, value, found.get(key, "absent"))
    elif isinstance(expected, list):
        require(len(expected) == len(found), f"{where} has {len(found)} entries")
        for index, value in enumerate(expected):
            compare(where, str(index), value, found[index])
    elif isinstance(expected, float) and isinstance(found, (int, float)):
        bound = ABSOLUTE.get(name, 2e-6 * abs(expected) + 1e-12)
        require(abs(found - expected) <= bound, f"{where} is {found}, not {expected}")
    else:
        require(found == expected, f"{where} is {found}, not {expected}")


def identity(entry):
    return entry["layer"], entry.get("kind"), entry.get("head")


@cases(
    ("stories24 all", "kv/stories24", "all", VIEWS, []),
    ("stories24 different sequences", "kv/stories24", "different-sequences", VIEWS, DIFFERENT),
    ("stories24 per head", "kv/stories24", "per-head", VIEWS, ["--per-head"]),
    ("repetitive_bf16 all", "kv/repetitive_bf16", "all", VIEWS, []),
    ("repetitive_bf16 different sequences", "kv/repetitive_bf16", "different-sequences", VIEWS, DIFFERENT),
    ("shared_prefix all", "kv/shared_prefix", "all", VIEWS, []),
    ("shared_prefix different sequences", "kv/shared_prefix", "different-sequences", VIEWS, DIFFERENT),
    ("paged_vllm_e3 all", "kv/paged_vllm_e3", "all", VIEWS, []),
    ("30m general", "kv30m/general", "all", TWO_VIEWS, []),
    ("30m code", "kv30m/code", "all", TWO_VIEWS, []),
    ("30m shared_prefix", "kv30m/shared_prefix", "all", TWO_VIEWS, []),
)
def reference(file, variant, views, options):
    path = recorded(f"{file}.safetensors")
    with temporary() as work:
        report = analyze(work / "out", "--pages", path, "--view", ",".join(views), "--budgets", "0.1,0.2,0.3",
                         "--no-chance", *options)
        for view in views:
            expected = json.loads((path.parent / "expected" / f"{path.stem}.{view}.{variant}.json").read_text())
            compare(view, "counts", expected["counts"], report["counts"])
            for table in ("groups", "blocks"):
                found = {identity(entry): entry for entry in report[table] if entry["view"] == view}
                for entry in expected[table]:
                    key = identity(entry)
                    require(key in found, f"{view}: no {table} for {key}")
                    for name, value in entry.items():
                        compare(f"{view} {table} {key}", name, value, found[key].get(name, "absent"))


@test
def schemas_are_strict():
    """The schema must refuse what the program never writes."""
    if harness.jsonschema is None:
        raise Skip("jsonschema is not installed")
    with temporary() as work:
        report = analyze(work / "out", "--pages", write(work, "a.safetensors", dump_file([16, 16])))
        for change in (lambda r: r.update(extra=1), lambda r: r["summary"].pop("total_page_comparisons"),
                       lambda r: r["groups"][0].update(pages="many"), lambda r: r["groups"][0].pop("cosine"),
                       lambda r: r["blocks"][0].update(blocks=-1), lambda r: r.pop("dedup_curve"),
                       lambda r: r["views"]["raw"]["key"].pop("null"), lambda r: r["ledger"]["total"].update(lost=1), lambda r: r.update(schema="kvsim.analysis.v2")):
            changed = json.loads(json.dumps(report))
            change(changed)
            try:
                validate(changed)
            except Failure:
                continue
            raise Failure("a wrong report passed the schema")


if __name__ == "__main__":
    main("test_analyze", 120, __doc__)

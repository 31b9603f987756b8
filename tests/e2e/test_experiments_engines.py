#!/usr/bin/env python3
"""End-to-end tests of the engines `transformers` and `command` of kvsim-experiments.

usage: test_experiments_engines.py KVSIM_EXPERIMENTS [PART_OF_A_TITLE]

$KVSIM_PYTHON is a Python with torch and Hugging Face transformers, the independent truth of these tests; without it the
tests that need them are skipped, and counted. analyze_harness.py has what the tests share.
"""
import functools
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import analyze_harness as harness
from analyze_harness import ROOT, Skip, cases, dump_file, recorded, require, temporary, test, write

EXPECTED_CHECKS = 55
TRUTH = ROOT / "tests" / "e2e" / "transformers_truth.py"
FORMATS = ROOT / "docs" / "formats.md"
MODEL = ROOT / "examples" / "models" / "tiny"

# The dump of an engine command, for the shell.
OUT = "$KVSIM_OUTPUT_DIR/dump.safetensors"

PROMPTS = ["The library maps the file and checks every offset before it reads a single byte of it.",
           "def read(path):\n    with open(path) as file:\n        return file.read()\n\n\ndef write(path, text):\n",
           "It was the best of times, it was the worst of times, it was the age of wisdom."]


# ---------------------------------------------------------------------------------------------------------------------
# Running
# ---------------------------------------------------------------------------------------------------------------------


def spec(name="one", **fields):
    return {"name": name, "prompts": PROMPTS, "max_tokens": 40, "temperature": 0, "repeats": 1} | fields


def run(work, experiments, *arguments, env=None):
    """Run experiments; the exit status is the caller's to judge. Output goes to work/out."""
    path = write(work, "experiments.json", json.dumps(experiments))
    return harness.run("--experiments", path, "--output-dir", work / "out", "--no-plots", "--quiet", *arguments,
                       env=env, cwd=work)


def results(work, name="one"):
    return json.loads((work / "out" / name / "results.json").read_text(encoding="utf-8"))


def run_of(work, name="one"):
    """Folder of a run of which the dump was kept."""
    return work / "out" / ".runs" / name / "0"


def succeed(work, experiments, *arguments, **others):
    done = run(work, experiments, *arguments, **others)
    require(done.returncode == 0, f"exit status {done.returncode}: {done.stderr}")
    return done


class Campaign:
    """Experiments that are run once for several tests: their rows in the final report, and what was said of them."""

    def __init__(self, experiments, *arguments, env=None, files=None):
        self.folder = tempfile.TemporaryDirectory()
        self.work = pathlib.Path(self.folder.name)
        for name, content in (files or {}).items():
            write(self.work, name, content)
        done = run(self.work, experiments, *arguments, env=env)
        self.status, self.stderr = done.returncode, done.stderr
        report = self.work / "out" / "final_report.json"
        require(report.exists(), f"no final report: {done.stderr}")
        rows = json.loads(report.read_text(encoding="utf-8"))["experiments"]
        self.rows = {row["name"]: row for row in rows}

    def require_failure(self, name, words):
        """An experiment failed, in one line that names it and holds all words; it left no results."""
        row = self.rows[name]
        require(row["status"] == "failed", f"{name} is {row['status']}")
        lines = [line for line in self.stderr.splitlines() if f"experiment {name} failed: " in line]
        require(len(lines) == 1, f"{len(lines)} lines name {name}: {self.stderr}")
        for text in (lines[0], row["failure"]):
            for word in words:
                require(word.lower() in text.lower(), f"'{word}' is not in: {text}")
        require(not (self.work / "out" / name / "results.json").exists(), "results of what failed")
        require(self.status == 1, f"exit status {self.status}")

    def require_success(self, name):
        require(self.rows[name]["status"] == "complete", f"{name} is {self.rows[name]['status']}: {self.stderr}")
        return results(self.work, name)


def fail_with(experiment, words, *arguments, env=None):
    Campaign(experiment, *arguments, env=env).require_failure(experiment["name"], words)


def leaves(value, place=""):
    """All figures of a document by their place."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{place}/{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{place}/{number}")
    else:
        yield place, value


def require_same_analysis(ours, theirs, tolerance):
    """Every figure of two results: bytes as a share of all, others absolutely, or relatively where they are large."""
    ours, theirs = ours["cache_analysis"], theirs["cache_analysis"]
    a, b = dict(leaves(ours)), dict(leaves(theirs))
    require(a.keys() == b.keys(), f"figures of one side only: {sorted(a.keys() ^ b.keys())[:5]}")
    require(len(a) > 100, f"only {len(a)} figures")
    whole = ours["counts"]["compared_bytes"]["mean"]
    for place, value in a.items():
        other = b[place]
        same = value == other
        if isinstance(value, (int, float)) and isinstance(other, (int, float)):
            absolute = tolerance * whole if "bytes" in place else tolerance
            same = math.isclose(value, other, rel_tol=tolerance, abs_tol=absolute)
        require(same, f"{place}: {value} and {other}")


def outputs(result):
    return [[row["output"] for row in repeat["sequences"]] for repeat in result["outputs"]]


def need_builtin():
    with temporary() as work:
        done = run(work, spec(prompts=["x"], max_tokens=1, model=str(work)), "--dry-run")
        if "no embedded engine" in done.stderr:
            raise Skip("the program was built without the engine")


# ---------------------------------------------------------------------------------------------------------------------
# Documents
# ---------------------------------------------------------------------------------------------------------------------


@test
def the_manual_page_has_every_option():
    done = harness.run("--help")
    said = set(re.findall(r"(?<![\w-])--([a-z][a-z-]*)", done.stdout.split("Mandatory or optional", 1)[0]))
    page = (ROOT / "docs" / "man" / "kvsim-experiments.1").read_text(encoding="utf-8")
    written = set(re.findall(r"^\.It .*?Fl -([a-z-]+)", page, re.MULTILINE))
    require(len(said) > 20, said)
    require(said == written, f"only in --help: {said - written}; only in the page: {written - said}")


@test
def every_field_is_documented():
    code = (ROOT / "examples" / "experiments" / "specification.c").read_text(encoding="utf-8")
    names = re.search(r"experiment_field_names\[FIELD_COUNT\] = {(.*?)}", code, re.DOTALL).group(1)
    fields = re.findall(r'"(\w+)"', names)
    require(len(fields) > 15, fields)
    for document in ("docs/user-guide.md", "docs/man/kvsim-experiments.1"):
        text = (ROOT / document).read_text(encoding="utf-8")
        for field in fields:
            require(field in text, f"{field} is not in {document}")


@test
def every_variable_of_a_command_is_documented():
    code = (ROOT / "examples" / "experiments" / "engine_command.c").read_text(encoding="utf-8")
    names = re.findall(r'"(KVSIM_\w+)=', code)
    require(len(names) > 10, names)
    text = FORMATS.read_text(encoding="utf-8")
    for name in names:
        require(f"`{name}`" in text, f"{name} is not in {FORMATS}")


# ---------------------------------------------------------------------------------------------------------------------
# Engine command
# ---------------------------------------------------------------------------------------------------------------------


def documented(language):
    """The example of docs/formats.md in a language."""
    section = FORMATS.read_text(encoding="utf-8").split("## Engines of kvsim-experiments", 1)[1]
    return re.search(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL).group(1)


def beside(program):
    path = pathlib.Path(harness.program).parent / program
    if not path.exists():
        raise Skip(f"{path} is absent")
    return path


@test
def the_documented_command_gives_what_the_embedded_engine_gives():
    """kvsim-analyze has the same engine, and with one thread the same dump, so every figure is the same."""
    need_builtin()
    env = {"PATH": f"{beside('kvsim-analyze').parent}:{os.environ['PATH']}"}
    with temporary() as work:
        command = write(work, "engine.sh", documented("sh"))
        succeed(work, [spec("embedded", engine="builtin"),
                       spec("outside", engine="command", engine_command=f"sh {command}")], env=env)
        ours, theirs = results(work, "embedded"), results(work, "outside")
        require_same_analysis(ours, theirs, 1e-12)
        require(theirs["engine"]["name"] == "command", theirs["engine"])
        require(theirs["model"]["name"] == "tiny", theirs["model"])


@test
def a_command_is_told_the_experiment():
    with temporary() as work:
        write(work, "made", dump_file([20, 33, 18]))
        show = write(work, "show.py", "import json, os\n"
                     "seen = {k: v for k, v in os.environ.items() if k.startswith('KVSIM_')}\n"
                     "seen['request'] = json.load(open(seen['KVSIM_REQUEST']))\n"
                     "seen['prompts'] = open(seen['KVSIM_PROMPTS_FILE'], encoding='utf-8').read()\n"
                     "seen['listing'] = os.listdir(seen['KVSIM_OUTPUT_DIR'])\n"
                     "json.dump(seen, open('seen.json', 'w'))\n")
        prompts = ["one\ttwo\nthree", "back\\slash", "größer"]
        succeed(work, spec(engine="command", prompts=prompts, seed=7, repeats=2, temperature=0.5, top_p=0.75,
                           page_tokens=4, engine_command=f"{sys.executable} {show} && cp made {OUT}"))
        seen = json.loads((work / "seen.json").read_text())
        request = seen["request"]
        require(seen["KVSIM_EXPERIMENT"] == "one" and seen["KVSIM_REPEAT"] == "1" and seen["KVSIM_SEED"] == "8", seen)
        require(seen["KVSIM_MAX_TOKENS"] == "40" and seen["KVSIM_PAGE_TOKENS"] == "4", seen)
        require(float(seen["KVSIM_TEMPERATURE"]) == 0.5 and float(seen["KVSIM_TOP_P"]) == 0.75, seen)
        require(seen["KVSIM_MODEL"] == str(MODEL.resolve()), seen["KVSIM_MODEL"])
        require(seen["prompts"] == "one\\ttwo\\nthree\nback\\\\slash\ngrößer\n", seen["prompts"])
        require(seen["listing"] == [], seen["listing"])
        require(request["schema"] == "kvsim.request.v1" and request["prompts"] == prompts, request)
        require(request["seed"] == 8 and request["repeat"] == 1 and request["page_tokens"] == 4, request)
        require(len(set(request["sequence_seeds"])) == 3, request["sequence_seeds"])
        require(results(work)["cache_analysis"]["counts"]["sequences"] == 3, "sequences")


@test
def what_a_command_says_of_its_run_is_kept():
    said = {"engine_version": "mine 3", "notes": ["a note"], "ignored_fields": ["top_p"],
            "model": {"architecture": "Mine", "parameters": 12},
            "sequences": [{"prompt_tokens": 15, "output": "text", "output_tokens": [1, 2, 3, 4, 5], "finish": "eos",
                           "first_token_seconds": 0.5, "token_seconds": [0.25, 0.25, 0.25, 0.25]}],
            "timing": {"prefill_tokens": 15, "prefill_seconds": 0.5, "decode_tokens": 4, "decode_seconds": 1.0}}
    with temporary() as work:
        write(work, "made", dump_file([20]))
        write(work, "said", json.dumps(said))
        succeed(work, spec(engine="command", prompts=["p"], page_tokens=4, engine_command=f"cp made {OUT}; "
                           "cp said $KVSIM_OUTPUT_DIR/generation.json; echo rubbish"))
        result = results(work)
        require(result["engine"] == {"name": "command", "version": "mine 3"}, result["engine"])
        require("a note" in result["notes"] and result["ignored_fields"] == ["top_p"], result["notes"])
        require(result["model"]["architecture"] == "Mine" and result["model"]["parameters"] == 12, result["model"])
        require(outputs(result) == [["text"]], result["outputs"])
        require(math.isclose(result["timing"]["decode_tokens_per_second"]["mean"], 4.0), result["timing"])
        require(math.isclose(result["timing"]["first_token_seconds"]["p50"], 0.5), result["timing"])


SAYS = "$KVSIM_OUTPUT_DIR/generation.json"

FAILING_COMMANDS = {
    "no_dump": ("echo rubbish; echo more", ["no dump.safetensors"]),
    "status_and_last_words": ("echo rubbish; echo the reason >&2; exit 3", ["status 3", "the reason"]),
    "not_found": ("no-such-program", ["127", "no-such-program"]),
    "crash": ("kill -SEGV $$", ["signal 11"]),
    "killed": ("kill -KILL $$", ["killed"]),
    "rubbish_for_a_dump": (f"head -c 3000 /dev/urandom > {OUT}", ["cannot be read"]),
    "an_empty_dump": (f": > {OUT}", ["cannot be read"]),
    "half_a_dump": (f"head -c 900 made > {OUT}", ["cannot be read"]),
    "a_dump_that_lacks_its_end": (f"head -c -4 made > {OUT}", ["cannot be read"]),
    "another_schema": (f"cp {MODEL}/model.safetensors {OUT}", ["kvsim.dump.v1"]),
    "a_folder_for_a_dump": (f"mkdir {OUT}", ["regular file"]),
    "too_few_sequences": (f"cp one {OUT}", ["1 sequences", "2 prompts"]),
    "generation_is_rubbish": (f"cp made {OUT}; echo '{{' > {SAYS}", ["generation.json"]),
    "generation_is_no_object": (f"cp made {OUT}; echo '[]' > {SAYS}", ["generation.json", "object"]),
    "generation_of_another_schema": (f"""cp made {OUT}; echo '{{"schema":"x"}}' > {SAYS}""", ["/schema"]),
    "generation_with_another_type": (
        f"""cp made {OUT}; echo '{{"sequences":[{{"prompt_tokens":"x"}},{{}}]}}' > {SAYS}""",
        ["/sequences/0/prompt_tokens"]),
    "generation_with_negative_time": (
        f"""cp made {OUT}; echo '{{"timing":{{"decode_seconds":-1}}}}' > {SAYS}""", ["/timing/decode_seconds"]),
    "generation_that_contradicts_the_dump": (
        f"""cp made {OUT}; echo '{{"sequences":[{{"prompt_tokens":99}},{{}}]}}' > {SAYS}""", ["/sequences/0", "99"]),
    "generation_of_another_length": (
        f"""cp made {OUT}; echo '{{"sequences":[]}}' > {SAYS}""", ["/sequences", "2 objects"]),
}


@functools.cache
def failing_commands():
    """All of them in one campaign, between two that go well."""
    good = [spec(name, engine="command", prompts=["p", "q"], page_tokens=4, engine_command=f"cp made {OUT}")
            for name in ("good_first", "good_last")]
    bad = [spec(name, engine="command", prompts=["p", "q"], engine_command=text)
           for name, (text, _) in FAILING_COMMANDS.items()]
    return Campaign([good[0], *bad, good[1]], files={"made": dump_file([20, 33]), "one": dump_file([20])})


@cases(*((name, name, words) for name, (_, words) in FAILING_COMMANDS.items()))
def a_command_that_fails(name, words):
    failing_commands().require_failure(name, ["engine_command", *words])


@test
def commands_that_fail_leave_the_others_alone():
    for name in ("good_first", "good_last"):
        require(failing_commands().require_success(name)["schema"] == "kvsim.experiment_result.v1", name)


@test
def a_command_that_hangs_is_ended_with_all_it_started():
    with tempfile.TemporaryDirectory() as files:
        pids = pathlib.Path(files) / "pids"
        text = f"sleep 400 & echo $! > {pids}; echo waiting >&2; sleep 400"
        fail_with(spec("bad", engine="command", engine_command=text),
                  ["engine_command", "longer than its 2 s", "waiting"], "--time-limit", "2")
        pid = int(pids.read_text())
        state = pathlib.Path(f"/proc/{pid}/stat")
        ended = not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z"
        require(ended, f"process {pid} still runs")


@test
def a_wrong_rotation_is_noted():
    with temporary() as work:
        content = bytearray(dump_file([40], size=8, metadata={"rope_theta": "500"}))
        # The same token everywhere, and keys that differ: no rotation explains them.
        tokens = content.index(b"\x01\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00") - 4
        content[tokens:tokens + 4 * 40] = bytes(4 * 40)
        write(work, "made", bytes(content))
        succeed(work, spec(engine="command", prompts=["p"], page_tokens=4, engine_command=f"cp made {OUT}"))
        notes = results(work)["notes"]
        require(any("not rotated as the dump says" in note for note in notes), notes)


# ---------------------------------------------------------------------------------------------------------------------
# Engine transformers, as far as it goes without its packages
# ---------------------------------------------------------------------------------------------------------------------


@test
def missing_packages_are_named_with_what_to_do():
    with tempfile.TemporaryDirectory() as files:
        bare = write(files, "python", f"#!/bin/sh\nexec {sys.executable} -I -S \"$@\"\n")
        bare.chmod(0o755)
        words = ["engine", "lacks", "torch", "transformers", "pip install", "--python", "KVSIM_PYTHON"]
        fail_with(spec("bad", engine="transformers"), words, "--python", bare)
        fail_with(spec("bad", engine="transformers"), words, env={"KVSIM_PYTHON": str(bare)})


@test
def a_python_that_is_not_there():
    fail_with(spec("bad", engine="transformers"), ["engine", "/no/such/python", "--python"],
              "--python", "/no/such/python")


@test
def a_package_that_is_broken():
    with tempfile.TemporaryDirectory() as files:
        for name in ("torch", "transformers", "numpy", "safetensors"):
            write(files, f"{name}.py", "raise OSError('libnothing.so is missing')\n" if name == "torch" else "")
        python = write(files, "python", f"#!/bin/sh\nexport PYTHONPATH={files}\nexec {sys.executable} \"$@\"\n")
        python.chmod(0o755)
        fail_with(spec("bad", engine="transformers"), ["engine", "cannot import torch", "libnothing.so"],
                  "--python", python)


# ---------------------------------------------------------------------------------------------------------------------
# Engine transformers against transformers
# ---------------------------------------------------------------------------------------------------------------------


def python():
    path = os.environ.get("KVSIM_PYTHON")
    if not path:
        raise Skip("KVSIM_PYTHON names no Python with torch and transformers")
    return path


def truth(*arguments):
    done = subprocess.run([python(), TRUTH, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    require(done.returncode == 0, f"{arguments}: {done.stderr}")
    return done.stdout


@functools.cache
def models():
    """Folder of the models that are made on the spot; it goes away with the process."""
    folder = tempfile.TemporaryDirectory()
    truth("make", folder.name)
    return folder


def token_id_prompts(count):
    return [" ".join(str((7 * i * i + 3 * s) % 58 + 3) for i in range(30)) for s in range(count)]


# Experiments that the embedded engine and transformers both run, and must agree on.
PAIRS = {
    "llama30m": {"max_tokens": 120},
    "drawn": {"temperature": 1.2, "top_p": 0.9, "max_tokens": 60, "seed": 11},
    "the_context_ends": {"long_prompts": "cut", "max_model_len": 80, "max_tokens": 20},
    "the_end_of_a_text": {"ignore_eos": False, "max_tokens": 100, "temperature": 1.5, "seed": 3},
    # These models have no tokenizer and are not byte-level: their prompts are ids.
    "ids_llama": {"model": str(ROOT / "tests/golden/models/llama"), "prompts": token_id_prompts(2)},
    "ids_qwen2": {"model": str(ROOT / "tests/golden/models/qwen2"), "prompts": token_id_prompts(2)},
}


@functools.cache
def pairs():
    """Every pair in one campaign."""
    python()
    need_builtin()
    experiments = []
    for name, fields in PAIRS.items():
        if name == "llama30m":
            if not (harness.DATA / name).exists():
                continue
            fields = fields | {"model": str(harness.DATA / name)}
        experiments += [spec(f"{name}-{engine}", engine=engine, **fields) for engine in ("builtin", "transformers")]
    return Campaign(experiments, "--keep-dumps", "--jobs", "2", "--threads", "1")


def generation(work, name):
    return json.loads((run_of(work, name) / "generation.json").read_text(encoding="utf-8"))


def require_same_tokens(name):
    ours, theirs = (generation(pairs().work, f"{name}-{engine}") for engine in ("builtin", "transformers"))
    for a, b in zip(ours["sequences"], theirs["sequences"], strict=True):
        for member in ("prompt_ids", "output_tokens", "output", "prompt_tokens", "prompt_cut", "finish"):
            require(a[member] == b[member], f"{member}: {a[member]} and {b[member]}")
    require(ours["model"] == theirs["model"], f"{ours['model']} and {theirs['model']}")
    for member in ("prefill_tokens", "decode_tokens"):
        require(ours["timing"][member] == theirs["timing"][member], f"{ours['timing']} and {theirs['timing']}")
    require(ours["memory"]["kv_used_bytes"] == theirs["memory"]["kv_used_bytes"], "kv_used_bytes")


@cases(*((name, name) for name in PAIRS))
def transformers_and_the_embedded_engine_agree(name):
    """The same tokens, greedy or drawn, to the same end; within 1e-3 the same analysis."""
    python()
    if name == "llama30m":
        recorded(name)
    ours, theirs = (pairs().require_success(f"{name}-{engine}") for engine in ("builtin", "transformers"))
    require_same_tokens(name)
    require_same_analysis(ours, theirs, 1e-3)


@test
def each_page_of_one_engine_is_alike_one_of_the_other():
    """The comparison between experiments, on two that hold the same pages."""
    python()
    report = json.loads((pairs().work / "out" / "final_report.json").read_text(encoding="utf-8"))
    between = report["between_experiments"]
    names = ("drawn-builtin", "drawn-transformers")
    rows = [row for row in between["pairs"] if (row["earlier"], row["later"]) == names]
    require(len(rows) == 1, between["left_out"])
    require(rows[0]["both"]["alike_share"]["observed"] == 1.0, rows[0]["both"])


@test
def the_pairs_end_in_every_way():
    """Or what was compared above says less than it seems to."""
    rows = [row for name in ("drawn", "the_context_ends", "the_end_of_a_text")
            for row in generation(pairs().work, f"{name}-transformers")["sequences"]]
    require({row["finish"] for row in rows} == {"length", "context", "eos"}, [row["finish"] for row in rows])
    require({row["prompt_cut"] > 0 for row in rows} == {True, False}, [row["prompt_cut"] for row in rows])


@test
def transformers_leaves_what_it_computes_on_llama30m():
    python()
    folder = recorded("llama30m")
    check = json.loads(truth("check", folder, run_of(pairs().work, "llama30m-transformers")))
    require(check["different"] == [] and check["worst"] < 1e-4 and check["sequences"] == 3, check)


RUNNING_MODELS = {
    "gpt_neox": ({"rope_style": "half", "rope_dims": "4", "rope_theta": "10000.0"}, None),
    "qwen2": ({"rope_style": "half", "rope_theta": "50000.0"}, None),
    "llama3": ({"rope_style": "half", "rope_theta": "500000.0"}, None),
    "gptj": ({"rope_style": "interleaved", "rope_dims": "8", "rope_theta": "10000.0"}, None),
    "gpt2": ({}, None),
    "mpt": ({"rope_style": "none"}, None),
    "gemma3": ({}, "not all rotated alike"),
}
REFUSED = {
    "latent_attention": ({"model": "latent"}, ["multi-head latent attention", "kv_lora_rank"]),
    "quantised_cache": ({"model": "quantised"}, ["quantised", "cache_implementation"]),
    "no_attention": ({"model": "no_attention"}, ["no keys and values"]),
    "missing_weights": ({"model": "missing_weights"}, ["lack", "weights"]),
    "no_such_folder": ({"model": "./nowhere/at/all"}, ["nowhere"]),
    "prompt_too_long": ({"model": "qwen2", "max_model_len": 50},
                        ["prompt 1", f"{len(PROMPTS[0]) + 1} tokens", "--long-prompts"]),
}


@functools.cache
def campaign_of_models():
    """Models that run and models that are refused, in one campaign."""
    folder = pathlib.Path(models().name)
    running = [spec(name, engine="transformers", model=str(folder / name)) for name in RUNNING_MODELS]
    refused = [spec(name, engine="transformers", **(fields | {"model": str(folder / fields["model"])}))
               for name, (fields, _) in REFUSED.items()]
    words = spec("words", engine="transformers", model=str(folder / "gpt_neox_words"), max_tokens=16,
                 prompts=["the cat sat", "on the moon"], tensor_parallel_size=4, gpu_memory_utilization=0.5)
    return Campaign([*refused, *running, words], "--keep-dumps", "--jobs", "2", "--threads", "1")


@functools.cache
def checks_of_models():
    folder, work = pathlib.Path(models().name), campaign_of_models().work
    pairs = [path for name in RUNNING_MODELS for path in (folder / name, run_of(work, name))]
    return dict(zip(RUNNING_MODELS, map(json.loads, truth("check", *pairs).splitlines()), strict=True))


@cases(*((name, name, *expected) for name, expected in RUNNING_MODELS.items()))
def transformers_runs(name, rotation, note):
    """Tokens, keys and values are those of transformers; the rotation was found and explains the keys."""
    python()
    result = campaign_of_models().require_success(name)
    check = checks_of_models()[name]
    require(check["different"] == [] and check["worst"] < 1e-4 and check["sequences"] == 3, check)
    expected = {"rope_applied": "true" if "rope_theta" in rotation else "false"} | rotation
    found = {key: check["metadata"].get(key) for key in ("rope_applied", "rope_style", "rope_dims", "rope_theta")}
    require({key: value for key, value in found.items() if value is not None} == expected, found)
    notes = result["notes"]
    require(not any("not rotated as the dump says" in text for text in notes), notes)
    require(note is None or any(note in text for text in notes), notes)
    views = result["cache_analysis"]["settings"]["views"]
    require(("derotated" in views) == ("rope_theta" in rotation), views)


@cases(*((name, name, words) for name, (_, words) in REFUSED.items()))
def transformers_refuses(name, words):
    python()
    campaign_of_models().require_failure(name, words)


@test
def transformers_uses_the_tokenizer_of_a_model():
    python()
    rows = generation(campaign_of_models().work, "words")["sequences"]
    require([row["prompt_ids"] for row in rows] == [[3, 4, 5], [6, 3, 2]], rows)


@test
def transformers_names_the_fields_that_it_cannot_honour():
    python()
    result = campaign_of_models().require_success("words")
    require(result["ignored_fields"] == ["tensor_parallel_size", "gpu_memory_utilization"], result["ignored_fields"])


@test
def the_documented_python_is_an_engine():
    """The example of docs/formats.md, with an engine that makes keys and values up."""
    made = ("import numpy\n\n\ndef generate(prompt, max_tokens):\n    ids = list(prompt.encode()) + [0] * max_tokens\n"
            "    draw = numpy.random.default_rng(len(prompt)).standard_normal\n"
            "    return ids, [(draw((len(ids), 2, 8), numpy.float32), draw((len(ids), 2, 8), numpy.float32))\n"
            "                 for _ in range(3)]\n\n\n")
    with temporary() as work:
        write(work, "engine.py", made + documented("python"))
        succeed(work, spec(engine="command", engine_command=f"{python()} engine.py", page_tokens=8))
        result = results(work)
        require(result["model"]["layers"] == 3 and result["model"]["kv_heads"] == 2, result["model"])
        require(result["cache_analysis"]["counts"]["sequences"] == 3, result["cache_analysis"]["counts"])


if __name__ == "__main__":
    harness.main("test_experiments_engines", EXPECTED_CHECKS, __doc__)

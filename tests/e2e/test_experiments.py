"""End-to-end tests of kvsim-experiments: what it runs, what it refuses, and how it stops and goes on.

usage: test_experiments.py PROGRAM [PART OF A TEST'S NAME]

The figures have tests of their own, and so have the engines and the report.
"""

import contextlib
import fcntl
import functools
import json
import os
import pathlib
import pty
import re
import resource
import select
import signal
import struct
import subprocess
import termios
import time

import analyze_harness as harness
from analyze_harness import MODEL, Skip, cases, dump_file, require, temporary, test, write

TINY_BLOCK_BYTES = 6 * 2 * 16 * 2 * 32 * 4  # layers, kinds, tokens, heads, channels, float32
SHORT = {"name": "short", "prompts": ["The weather is fine.", "def f(x):\n    return", "Once upon a time there was"],
         "max_tokens": 24, "repeats": 2}
OTHER = {"name": "other", "prompts": ["import os\nimport sys\n", "Dear Sir,", "1, 2, 3, 4, 5, 6, 7, 8,"],
         "max_tokens": 24, "repeats": 2}


# ---------------------------------------------------------------------------------------------------------------------
# Running the program
# ---------------------------------------------------------------------------------------------------------------------


@functools.cache
def is_plain_build():
    return b"__asan_init" not in pathlib.Path(harness.program).read_bytes()


def slow(tokens=300, **changes):
    """An experiment that takes long enough to be disturbed; a sanitizer makes it ten times as slow."""
    tokens = tokens if is_plain_build() else tokens // 10
    return {"name": "slow", "prompts": ["A long story.", "Another long story."], "max_tokens": tokens,
            "repeats": 2} | changes


@functools.cache
def need_engine():
    with temporary() as work:
        done = harness.run("--dry-run", experiments_file(work, SHORT))
        if "no embedded engine" in done.stderr:
            raise Skip("the program was built without the engine")


def experiments_file(work, *experiments, name="experiments.json"):
    return write(work, name, json.dumps(list(experiments), indent=1))


def options_for(out, *more):
    return ["--output-dir", out, "--no-plots", "--quiet", *more]


def run(work, *experiments, out="out", more=(), **others):
    return harness.run(experiments_file(work, *experiments), *options_for(pathlib.Path(work) / out, *more), **others)


def succeed(done):
    require(done.returncode == 0, f"exit status {done.returncode}: {done.stdout}{done.stderr}")
    return done


def read(path):
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def report(out):
    return read(pathlib.Path(out) / "final_report.json")


def generation(out, name, repeat=0):
    return read(pathlib.Path(out) / ".runs" / name / str(repeat) / "generation.json")


def visible(out):
    """Name and bytes of every file but the hidden ones."""
    out = pathlib.Path(out)
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*"))
            if path.is_file() and not str(path.relative_to(out)).startswith(".")}


def complete_runs(out):
    """Complete runs with the time at which they were completed."""
    return {str(path.relative_to(out)): path.stat().st_mtime_ns
            for path in sorted(pathlib.Path(out).glob(".runs/*/[0-9]*/run.json"))}


def leftovers(out):
    """What must not be there when the program has ended: unfinished work, jobs, dumps."""
    out = pathlib.Path(out)
    return [str(path.relative_to(out)) for path in out.rglob("*")
            if re.search(r"/\.(run-|plan|results|between|final)|job\.json|/experiments\.json|\.new$|\.safetensors$",
                         "/" + str(path.relative_to(out)))]


def status_of(out):
    return {entry["name"]: entry["status"] for entry in report(out)["experiments"]}


def reason_of(out, name):
    return next(entry for entry in report(out)["experiments"] if entry["name"] == name)["failure"]


@contextlib.contextmanager
def started(work, *experiments, out="out", more=()):
    """The program at work in the background."""
    arguments = [harness.program, experiments_file(work, *experiments), *options_for(pathlib.Path(work) / out, *more)]
    process = subprocess.Popen([*map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until(condition, what, process=None, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        if process is not None and process.poll() is not None:
            raise harness.Failure(f"the program ended before {what}: {process.communicate()}")
        require(time.monotonic() < end, f"never: {what}")
        time.sleep(0.005)


def children(process):
    """Process numbers of the workers that are at work."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text().rsplit(")", 1)[1].split()[:2]
            if int(parent) == process.pid and state != "Z":
                found.append(int(path.parent.name))
    return found


def worker_of(process, kind, name):
    """Process number of the worker that does this kind of work on this experiment; None: there is none."""
    for pid in children(process):
        with contextlib.suppress(OSError):
            command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            if kind in command and f"/{name}/" in command[3]:
                return pid
    return None


def is_alive(pid):
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


# ---------------------------------------------------------------------------------------------------------------------
# What it runs
# ---------------------------------------------------------------------------------------------------------------------


@test
def shipped_experiments_are_listed_in_order():
    done = succeed(harness.run("--list"))
    names = re.findall(r"^(\w+) ", done.stdout, re.MULTILINE)
    require(names == ["general_knowledge", "repetitive_content", "code_generation", "high_temperature",
                      "long_context"], done.stdout)
    done = succeed(harness.run("--list", "--only", "long_context,code_generation"))
    require(re.findall(r"^(\w+) ", done.stdout, re.MULTILINE) == ["code_generation", "long_context"], done.stdout)


@test
def a_dry_run_counts_tokens_and_bytes_and_writes_nothing():
    need_engine()
    with temporary() as work:
        done = succeed(harness.run("--dry-run", experiments_file(work, SHORT), "--output-dir", work / "out", cwd=work,
                                   env={"TMPDIR": str(work)}))
        require(os.listdir(work) == ["experiments.json"], f"left behind: {os.listdir(work)}")
        prompts = sum(len(text.encode()) + 1 for text in SHORT["prompts"])
        require(f"{prompts} + {3 * 24} tokens each" in done.stdout, done.stdout)
        blocks = sum(-(-(len(text.encode()) + 1 + 24 - 1) // 16) for text in SHORT["prompts"])
        shown = f"{blocks * TINY_BLOCK_BYTES / 1000:.0f} kB"
        require(shown in done.stdout, f"{shown} is not in {done.stdout}")
        require("2 repeats of 3 prompts" in done.stdout and "about" in done.stdout, done.stdout)


@test
def a_campaign_leaves_results_and_a_report():
    need_engine()
    with temporary() as work:
        done = harness.run(experiments_file(work, SHORT, OTHER), "--output-dir", work / "out", "--no-plots")
        succeed(done)
        out = work / "out"
        require(f"Report     {out}/report.html" in done.stdout, done.stdout)
        require(sorted(visible(out)) == ["final_report.json", "other/results.json", "report.html",
                                         "short/results.json"], sorted(visible(out)))
        require(leftovers(out) == [], leftovers(out))
        require(status_of(out) == {"short": "complete", "other": "complete"}, status_of(out))
        require(report(out)["answer"][0] in done.stdout, done.stdout)
        require(len(complete_runs(out)) == 4, complete_runs(out))
        hashes = {read(out / path)["config_hash"] for path in complete_runs(out)}
        require(len(hashes) == 4, hashes)
        results = read(out / "short" / "results.json")
        require(results["config_hash"] == read(out / ".runs/short/0/run.json")["config_hash"], "another hash")


@test
def memory_is_what_arithmetic_says():
    need_engine()
    common = "The same beginning of every one of these texts, and then "  # 56 bytes and the first token
    prompts = [common + "one end", common + "another end of it", "something else", common]
    with temporary() as work:
        succeed(run(work, {"name": "shared", "prompts": prompts, "max_tokens": 20, "repeats": 1}))
        run_facts = generation(work / "out", "shared")
        memory = run_facts["memory"]
        cached = [len(text.encode()) + 1 + 20 - 1 for text in prompts]
        blocks = sum(-(-length // 16) for length in cached)
        require(memory["kv_reserved_bytes"] == blocks * TINY_BLOCK_BYTES, memory)
        require(memory["kv_used_bytes"] == sum(cached) * TINY_BLOCK_BYTES // 16, memory)
        require(memory["kv_partial_lost_bytes"] == memory["kv_reserved_bytes"] - memory["kv_used_bytes"], memory)
        # Three full blocks of 57 common tokens, held by three sequences: two of them need not hold their own.
        require(memory["kv_prefix_shared_bytes"] == 2 * 3 * TINY_BLOCK_BYTES, memory)
        require(memory["peak_rss_bytes"] > memory["kv_used_bytes"], memory)
        timing = run_facts["timing"]
        require(timing["prefill_tokens"] == sum(len(text.encode()) + 1 for text in prompts), timing)
        require(timing["decode_tokens"] == 4 * 19, timing)
        for text, sequence in zip(prompts, run_facts["sequences"]):
            require(sequence["prompt_ids"] == [256, *text.encode()], sequence)
            require(len(sequence["output_tokens"]) == 20 and sequence["finish"] == "length", sequence)
            require(len(sequence["token_seconds"]) == 19 and min(sequence["token_seconds"]) > 0, sequence)
            require(0 < sequence["first_token_seconds"] < timing["wall_seconds"], sequence)
            total = sequence["first_token_seconds"] + sum(sequence["token_seconds"])
            require(total <= timing["wall_seconds"] * 1.001, f"{total} of {timing}")


@test
def seeds_of_repeats_follow_each_other():
    need_engine()
    with temporary() as work:
        same = {"name": "same", "prompts": ["Once upon a time"] * 3, "max_tokens": 24, "repeats": 2, "seed": 5}
        succeed(run(work, same))
        succeed(run(work, same, out="next", more=["--seed", 6, "--repeats", 1]))
        outputs = [[sequence["output_tokens"] for sequence in generation(work / "out", "same", repeat)["sequences"]]
                   for repeat in range(2)]
        following = [sequence["output_tokens"] for sequence in generation(work / "next", "same")["sequences"]]
        require(outputs[1] == following, "seed 5, repeat 1 is not seed 6, repeat 0")
        texts = [tuple(tokens) for repeat in outputs for tokens in repeat]
        require(len(set(texts)) == 6, "sequences of one prompt share their random numbers")


@test
def the_same_seed_gives_the_same_bytes_whatever_the_jobs():
    need_engine()
    with temporary() as work:
        succeed(run(work, SHORT, OTHER, out="a", more=["--reproducible"]))
        succeed(run(work, SHORT, OTHER, out="b", more=["--reproducible", "--jobs", 3]))
        require(visible(work / "a") == visible(work / "b"), [
            name for name, content in visible(work / "a").items() if visible(work / "b").get(name) != content])


@test
def the_quick_test_is_small_and_quick():
    need_engine()
    with temporary() as work:
        begin = time.monotonic()
        succeed(harness.run("--quick-test", *options_for(work / "out")))
        seconds = time.monotonic() - begin
        require(status_of(work / "out") == {"general_knowledge": "complete"}, status_of(work / "out"))
        facts = generation(work / "out", "general_knowledge")
        require([len(sequence["output_tokens"]) for sequence in facts["sequences"]] == [128, 128], "not 2 times 128")
        require(len(complete_runs(work / "out")) == 1, complete_runs(work / "out"))
        limit = 20 if is_plain_build() else 120
        require(seconds < limit, f"{seconds:.1f} s")


@test
def fields_without_effect_are_named():
    need_engine()
    with temporary() as work:
        file = experiments_file(work, SHORT | {"tensor_parallel_size": 2, "gpu_memory_utilization": 0.5, "repeats": 1})
        done = succeed(harness.run(file, "--output-dir", work / "out", "--no-plots"))
        for name in ("tensor_parallel_size", "gpu_memory_utilization"):
            require(f"experiment short: {name} has no effect" in done.stderr, done.stderr)
            require(name in generation(work / "out", "short")["ignored_fields"], "not in the generation")
            require(name in (work / "out/short/results.json").read_text(), "not in the result")


@test
def options_replace_what_the_experiments_say():
    need_engine()
    with temporary() as work:
        succeed(run(work, SHORT | {"model": "nowhere"}, more=["--model", MODEL, "--repeats", 1, "--seed", 9, "--dtype",
                                                              "bfloat16"]))
        said = read(work / "out/.runs/short/0/experiment.json")
        require((said["seed"], said["repeats"], said["dtype"], said["model"]) == (9, 1, "bfloat16", str(MODEL)), said)
        facts = generation(work / "out", "short")
        require(facts["model"]["dtype"] == "bfloat16", facts["model"])
        require(facts["memory"]["kv_used_bytes"] * 2 == sum(
            len(text.encode()) + 24 for text in SHORT["prompts"]) * TINY_BLOCK_BYTES // 16, facts["memory"])


@test
def an_experiment_as_it_ran_can_be_run_again():
    need_engine()
    with temporary() as work:
        succeed(run(work, SHORT, more=["--reproducible"]))
        again = harness.run(work / "out/.runs/short/0/experiment.json", *options_for(work / "again", "--reproducible"))
        succeed(again)
        require(visible(work / "out") == visible(work / "again"), "another outcome")


@test
def prompts_come_from_a_file_beside_the_experiment():
    need_engine()
    with temporary() as work:
        write(work, "texts.txt", "first\\nline\n\nsecond\n")
        succeed(run(work, {"name": "x", "prompts_file": "texts.txt", "max_tokens": 2, "repeats": 1}))
        prompts = [sequence["prompt"] for sequence in generation(work / "out", "x")["sequences"]]
        require(prompts == ["first\nline", "second"], prompts)


# ---------------------------------------------------------------------------------------------------------------------
# Stopping and going on
# ---------------------------------------------------------------------------------------------------------------------


@functools.cache
def undisturbed():
    """What the two experiments give when nobody disturbs them."""
    with temporary() as work:
        succeed(run(work, SHORT, slow(), more=["--reproducible"]))
        return visible(work / "out")


def kill_and_resume(work, moment, process, out):
    """Kill the program at a moment, go on, and see that nothing was done twice or lost."""
    moment(process)
    workers = children(process)
    process.kill()
    process.wait()
    wait_until(lambda: not any(map(is_alive, workers)), "the workers of a killed program end")
    before = complete_runs(out)
    succeed(run(work, SHORT, slow(), more=["--reproducible", "--resume"]))
    after = complete_runs(out)
    require(len(after) == 4 and before.items() <= after.items(), f"done again: {before} {after}")
    require(visible(out) == undisturbed(), "another outcome than without the kill")
    require(leftovers(out) == [], leftovers(out))


def has_runs(out, count):
    return len(complete_runs(out)) >= count


@cases(("at once", lambda out, process: True),
       ("first run complete", lambda out, process: has_runs(out, 1)),
       ("in a run of the second", lambda out, process: worker_of(process, "run", "slow") and has_runs(out, 3), True),
       ("results of the second", lambda out, process: (out / "slow/results.json").exists()),
       ("final report", lambda out, process: (out / "final_report.json").exists(), True))
def a_killed_campaign_goes_on(reached, always=False):
    need_engine()
    if not always and not is_plain_build():
        raise Skip("a few moments are enough for a sanitizer")
    with temporary() as work, started(work, SHORT, slow(), more=["--reproducible"]) as process:
        out = work / "out"
        kill_and_resume(work, lambda p: wait_until(lambda: p.poll() is not None or reached(out, p), "the moment"),
                        process, out)


@test
def an_interrupt_finishes_what_is_done_and_says_how_to_go_on():
    need_engine()
    with temporary() as work, started(work, SHORT, slow(), more=["--reproducible"]) as process:
        out = work / "out"
        wait_until(lambda: has_runs(out, 3), "one run of the second experiment", process)
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, text = process.communicate(timeout=60)
        require(process.returncode == 130, f"{process.returncode}: {text}")
        require(time.monotonic() - begin < 30, f"{time.monotonic() - begin} s")
        require("interrupted" in text and "1 of 2 experiments" in text and text.rstrip().endswith("--resume"), text)
        require(f"--output-dir {out}" in text, text)
        require((out / "short/results.json").exists() and (out / "report.html").exists(), os.listdir(out))
        require(status_of(out) == {"short": "complete", "slow": "failed"}, status_of(out))
        require("interrupted" in reason_of(out, "slow"), reason_of(out, "slow"))
        require(not (out / "slow").exists(), "results of what is not complete")
        succeed(run(work, SHORT, slow(), more=["--reproducible", "--resume"]))
        require(visible(out) == undisturbed(), "another outcome than without the interrupt")


@test
def an_interrupt_before_anything_is_complete():
    need_engine()
    with temporary() as work, started(work, slow()) as process:
        wait_until(lambda: worker_of(process, "run", "slow"), "the first run", process)
        process.send_signal(signal.SIGTERM)
        _, text = process.communicate(timeout=60)
        require(process.returncode == 130 and "0 of 1 experiments" in text and "--resume" in text, text)
        require(visible(work / "out") == {} and leftovers(work / "out") == [], os.listdir(work / "out"))


@test
def what_is_complete_is_not_done_again():
    need_engine()
    with temporary() as work:
        succeed(run(work, SHORT, more=["--reproducible"]))
        runs, results = complete_runs(work / "out"), (work / "out/short/results.json").stat().st_mtime_ns
        succeed(run(work, SHORT, more=["--reproducible", "--resume"]))
        require(complete_runs(work / "out") == runs, "runs were done again")
        require((work / "out/short/results.json").stat().st_mtime_ns == results, "results were written again")
        # More repeats keep the first ones.
        succeed(run(work, SHORT, more=["--reproducible", "--resume", "--repeats", 3]))
        require(runs.items() <= complete_runs(work / "out").items() and has_runs(work / "out", 3), "not kept")
        require((work / "out/short/results.json").stat().st_mtime_ns != results, "results are old")


@test
def experiments_can_be_added():
    need_engine()
    with temporary() as work:
        succeed(run(work, SHORT, OTHER, out="both", more=["--reproducible"]))
        succeed(run(work, SHORT, more=["--reproducible"]))
        runs = complete_runs(work / "out")
        succeed(run(work, SHORT, OTHER, more=["--reproducible", "--resume"]))
        kept = runs.items() & complete_runs(work / "out").items()
        require(("/short/1/" in str(kept)) and len(complete_runs(work / "out")) == 4, f"{kept}")
        require(visible(work / "out") == visible(work / "both"), "another outcome than both at once")


@test
def other_results_are_neither_mixed_nor_overwritten():
    need_engine()
    with temporary() as work:
        out = work / "out"
        succeed(run(work, SHORT))
        before = harness.listing(out)
        done = run(work, SHORT)
        require(done.returncode == 1 and "--resume" in done.stderr and "--output-dir" in done.stderr, done.stderr)
        for change, words in (({"temperature": 0.5}, "temperature was 0.8 and is 0.5"),
                              ({"prompts": ["x", "y"]}, "prompts"),
                              ({"seed": 3}, "seed was 1 and is 3"),
                              ({"page_tokens": 8}, "page_tokens was 16 and is 8")):
            done = run(work, SHORT | change, more=["--resume"])
            require(done.returncode == 1 and "experiment short" in done.stderr and words in done.stderr, done.stderr)
        require(harness.listing(out) == before, "a refused run changed the folder")


@test
def another_model_under_the_same_name_is_another_configuration():
    need_engine()
    with temporary() as work:
        model = work / "model"
        model.mkdir()
        for name in ("config.json", "model.safetensors"):
            (model / name).write_bytes((MODEL / name).read_bytes())
        succeed(run(work, SHORT, more=["--model", model]))
        os.utime(model / "model.safetensors", (1, 1))
        done = run(work, SHORT, more=["--model", model, "--resume"])
        require(done.returncode == 1 and "files of the model" in done.stderr, done.stderr)


@test
def two_at_once_do_not_share_a_folder():
    need_engine()
    with temporary() as work, started(work, slow()) as process:
        wait_until(lambda: worker_of(process, "run", "slow"), "the first run", process)
        done = run(work, SHORT)
        require(done.returncode == 1 and "at work" in done.stderr, done.stderr)


@test
def a_terminal_shows_one_line_and_its_interrupt_reaches_the_program_alone():
    need_engine()
    with temporary() as work:
        file = experiments_file(work, slow(1200))
        pid, terminal = pty.fork()
        if pid == 0:
            os.execv(harness.program, [harness.program, str(file), "--output-dir", str(work / "out"), "--no-plots"])
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        text, asked, end = b"", False, time.monotonic() + 60
        while time.monotonic() < end:
            if select.select([terminal], [], [], 0.05)[0]:
                try:
                    piece = os.read(terminal, 4096)
                except OSError:
                    break
                if not piece:
                    break
                text += piece
            if not asked and has_runs(work / "out", 1) and b" left" in text:
                os.write(terminal, b"\x03")
                asked = True
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
        require(os.waitstatus_to_exitcode(status) == 130, text)
        lines = [line for line in text.decode(errors="replace").replace("\r\n", "\n").split("\n") if line]
        require(len(lines) <= 3, f"{len(lines)} lines: {text}")
        drawn = [re.sub("\x1b.*", "", line) for line in lines[0].split("\r")]
        require(any("repeat 1 of 2" in line and "2 prompts" in line and "tokens" in line for line in drawn), drawn)
        require(any(" left" in line for line in drawn), drawn)
        require(all(len(line) < 100 for line in drawn), max(drawn, key=len))
        require("interrupted" in lines[-1] and "0 of 1 experiments" in lines[-1], lines[-1])


# ---------------------------------------------------------------------------------------------------------------------
# Each experiment on its own
# ---------------------------------------------------------------------------------------------------------------------


@cases(("crash", signal.SIGABRT, "crashed: signal 6"), ("kill", signal.SIGKILL, "killed (signal 9)"))
def a_worker_that_dies_takes_only_its_experiment_along(number, words):
    need_engine()
    with temporary() as work, started(work, slow(), SHORT) as process:
        wait_until(lambda: worker_of(process, "run", "slow"), "the first run", process)
        time.sleep(0.2)
        os.kill(worker_of(process, "run", "slow"), number)
        _, text = process.communicate(timeout=120)
        require(process.returncode == 1, f"{process.returncode}: {text}")
        require("experiment slow failed" in text and words in text, text)
        out = work / "out"
        require(status_of(out) == {"slow": "failed", "short": "complete"}, status_of(out))
        require(words in reason_of(out, "slow"), reason_of(out, "slow"))
        succeed(run(work, slow(), SHORT, more=["--resume"]))
        require(status_of(out) == {"slow": "complete", "short": "complete"}, status_of(out))


@test
def memory_that_runs_out_is_a_failure_of_one_experiment():
    need_engine()
    if not is_plain_build():
        raise Skip("a sanitizer needs the address space")

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    with temporary() as work:
        large = {"name": "large", "prompts": ["x"] * 1000, "max_tokens": 2000, "repeats": 1}
        done = subprocess.run([harness.program, str(experiments_file(work, large, SHORT)),
                               *map(str, options_for(work / "out", "--threads", 1))], capture_output=True, text=True,
                              preexec_fn=limit, timeout=120)
        require(done.returncode == 1 and "experiment large failed" in done.stderr, done.stderr)
        require("memory" in done.stderr and "max_tokens" in done.stderr, done.stderr)
        require(status_of(work / "out") == {"large": "failed", "short": "complete"}, status_of(work / "out"))


def command(text, **fields):
    return {"name": "own", "engine": "command", "engine_command": text, "prompts": ["a", "b", "c"], "max_tokens": 8,
            "repeats": 1} | fields


@cases(("hangs", "sleep 100", ["took longer than", "--time-limit"]),
       ("hangs and ignores the request to end", "trap '' TERM; while true; do sleep 1; done", ["took longer than"]),
       ("fails", "echo disk of the engine is gone >&2; exit 3", ["status 3", "disk of the engine is gone"]),
       ("crashes", "kill -SEGV $$", ["signal 11"]),
       ("prints rubbish", "head -c 3000000 /dev/urandom; head -c 3000000 /dev/urandom >&2; exit 1", ["status 1"]),
       ("leaves nothing", "true", ["dump"]),
       ("leaves half a dump", 'head -c 300 "$WHOLE" > "$KVSIM_OUTPUT_DIR/dump.safetensors"', ["dump"]),
       ("leaves too few sequences", 'cp "$FEW" "$KVSIM_OUTPUT_DIR/dump.safetensors"', ["2 sequences"]))
def a_command_that(text, words):
    need_engine()
    with temporary() as work:
        whole = write(work, "whole.safetensors", dump_file([20, 20, 20]))
        few = write(work, "few.safetensors", dump_file([20, 20]))
        begin = time.monotonic()
        done = run(work, command(text), SHORT | {"repeats": 1}, more=["--time-limit", 1],
                   env={"WHOLE": str(whole), "FEW": str(few)})
        require(done.returncode == 1, f"{done.returncode}: {done.stderr}")
        require(done.stderr.startswith("kvsim-experiments: experiment own failed: "), done.stderr)
        require(done.stderr.count("\n") == 1, done.stderr)
        for word in words:
            require(word in done.stderr, f"'{word}' is not in {done.stderr}")
            require(word in reason_of(work / "out", "own"), reason_of(work / "out", "own"))
        require(status_of(work / "out") == {"own": "failed", "short": "complete"}, status_of(work / "out"))
        require(leftovers(work / "out") == [".runs/short/0/dump.safetensors"], leftovers(work / "out"))
        require(time.monotonic() - begin < 40, "it took long")


@test
def the_time_limit_holds_for_the_embedded_engine():
    need_engine()
    with temporary() as work:
        done = run(work, slow(2000, prompts=["x"] * 40, repeats=1), more=["--time-limit", 0.2])
        require(done.returncode == 1 and "took longer than its 0.2 s" in done.stderr, done.stderr)


@test
def files_that_cannot_grow_are_a_clear_failure():
    need_engine()
    with temporary() as work:
        succeed(run(work, SHORT))
        before = visible(work / "out")
        done = run(work, SHORT, slow(400, prompts=["x"] * 20), more=["--resume"], limit_file_bytes=2 << 20)
        require(done.returncode == 1 and "experiment slow failed" in done.stderr and "too large" in done.stderr,
                done.stderr)
        require(visible(work / "out")["short/results.json"] == before["short/results.json"], "results were lost")
        require(status_of(work / "out") == {"short": "complete", "slow": "failed"}, status_of(work / "out"))


# ---------------------------------------------------------------------------------------------------------------------
# Bad input
# ---------------------------------------------------------------------------------------------------------------------


def expect_refusal(text, words, more=()):
    """The program must refuse a file of experiments with one line that holds all words, and write nothing."""
    with temporary() as work:
        file = write(work, "bad.json", text)
        done = harness.run(file, "--output-dir", work / "out", *more)
        require(done.returncode == 2, f"exit status {done.returncode}: {done.stderr}")
        require(len(done.stderr.splitlines()) == 1 and done.stdout == "", done.stderr + done.stdout)
        for word in words:
            require(word in done.stderr, f"'{word}' is not in {done.stderr}")
        require(os.listdir(work) == ["bad.json"], os.listdir(work))


def with_field(text):
    """An experiment with one more field, on line 5."""
    return '[\n {\n  "name": "one",\n  "prompts": ["a"],\n  %s\n }\n]\n' % text


@cases(("empty", "", ["bad.json:1:", "empty"]),
       ("blank", " \n\n", ["bad.json:1:", "empty"]),
       ("no JSON", '[{"name": "x",\n}]', ["bad.json:2:", "JSON"]),
       ("empty array", "[]", ["bad.json:1:", "at least one"]),
       ("number", "7", ["bad.json:1:", "an experiment", "7"]),
       ("array of texts", '["a"]', ["bad.json:1:", "/0", "an experiment"]),
       ("member twice", '{"name": "x", "name": "y"}', ["JSON", "duplicate"]),
       ("no UTF-8", b'{"name": "\xff"}'.decode("latin-1").encode("latin-1"), ["JSON"]),
       ("no name", '{"prompts": ["a"]}', ['no "name"']),
       ("no prompts", '[{"name": "x"}]', ["/0", "experiment x", '"prompts"']),
       ("prompts twice", '{"name": "x", "prompts": ["a"], "prompts_file": "y"}', ["/prompts_file", "leave one out"]),
       ("same name", '[{"name": "x", "prompts": ["a"]},\n {"name": "x", "prompts": ["a"]}]',
        ["bad.json:2:", "/1/name", "another experiment"]))
def files(text, words):
    expect_refusal(text, words)


@cases(("unknown", '"temprature": 1', ["/0/temprature", "no field"]),
       ("escaped pointer", '"a/b~": 1', ["/0/a~1b~0"]),
       ("model", '"model": 3', ["/0/model"]),
       ("description", '"description": ["x"]', ["/0/description", "a text"]),
       ("zero max_tokens", '"max_tokens": 0', ["/0/max_tokens", "from 1", "not 0"]),
       ("negative max_tokens", '"max_tokens": -5', ["/0/max_tokens"]),
       ("text max_tokens", '"max_tokens": "64"', ["/0/max_tokens", '"64"']),
       ("real max_tokens", '"max_tokens": 1.5', ["/0/max_tokens", "1.5"]),
       ("huge max_tokens", '"max_tokens": 99999999999', ["/0/max_tokens"]),
       ("temperature", '"temperature": -0.1', ["/0/temperature", "from 0"]),
       ("temperature null", '"temperature": null', ["/0/temperature", "null"]),
       ("top_p zero", '"top_p": 0', ["/0/top_p", "over 0"]),
       ("top_p two", '"top_p": 2', ["/0/top_p"]),
       ("seed", '"seed": -1', ["/0/seed"]),
       ("repeats", '"repeats": 0', ["/0/repeats"]),
       ("tensor_parallel_size", '"tensor_parallel_size": 0', ["/0/tensor_parallel_size"]),
       ("gpu_memory_utilization", '"gpu_memory_utilization": 1.5', ["/0/gpu_memory_utilization"]),
       ("max_model_len", '"max_model_len": 1', ["/0/max_model_len"]),
       ("engine", '"engine": "vllm"', ["/0/engine", '"builtin"', '"vllm"']),
       ("page_tokens", '"page_tokens": 0', ["/0/page_tokens"]),
       ("ignore_eos", '"ignore_eos": 1', ["/0/ignore_eos", "true or false"]),
       ("dtype", '"dtype": "int8"', ["/0/dtype"]),
       ("long_prompts", '"long_prompts": "drop"', ["/0/long_prompts"]),
       ("empty command", '"engine_command": ""', ["/0/engine_command"]))
def fields(text, words):
    expect_refusal(with_field(text), ["bad.json:5:", "experiment one", *words])


@cases(("no array", '"a"', ["/prompts", "an array"]), ("no text", '["a",\n 5]', [":2:", "/prompts/1", "5"]),
       ("empty array", "[]", ["/prompts", "no prompt"]), ("empty text", '["a", ""]', ["/prompts/1", "empty"]))
def prompts(text, words):
    expect_refusal('{"name": "x", "prompts": %s}' % text, ["experiment x", *words])


@cases(("path", "../x"), ("folder", "a/b"), ("hidden", ".x"), ("empty", ""), ("option", "-x"), ("blank", "a b"),
       ("long", "x" * 65), ("letters", "gr\u00fcn"))
def names(name):
    expect_refusal(json.dumps({"name": name, "prompts": ["a"]}), ["/name", "letters, digits"])


@cases(("only", ["--only", "nobody"], "no experiment 'nobody'"), ("engine", ["--engine", "vllm"], "builtin"),
       ("command", ["--engine", "command"], "engine_command"), ("repeats", ["--repeats", "0"], "from 1"),
       ("jobs", ["--jobs", "0"], "from 1"), ("long prompts", ["--long-prompts", "x"], "refuse, cut"),
       ("limit", ["--time-limit", "-1"], "from 0"), ("seed", ["--seed", "x"], "whole number"),
       ("unknown", ["--no-such-option"], "no-such-option"), ("folder", ["--output-dir", ""], "output-dir"))
def options(arguments, words):
    with temporary() as work:
        done = harness.run(experiments_file(work, SHORT), *arguments, cwd=work)
        require(done.returncode == 2 and words in done.stderr, f"{done.returncode}: {done.stderr}")
        require(os.listdir(work) == ["experiments.json"], os.listdir(work))


@test
def a_missing_file_is_named():
    with temporary() as work:
        done = harness.run("--experiments", work / "none.json", "--output-dir", work / "out")
        require(done.returncode == 2 and "none.json" in done.stderr, done.stderr)
        done = run(work, {"name": "x", "prompts_file": "none.txt"})
        require(done.returncode == 2 and "/0/prompts_file" in done.stderr and "none.txt" in done.stderr, done.stderr)
        file = experiments_file(work, SHORT)
        done = harness.run(file, file, "--output-dir", work / "out")
        require(done.returncode == 2 and "another experiment" in done.stderr, done.stderr)


@cases(("model", {"model": "nowhere"}, [], ["model", "nowhere"]),
       ("damaged model", {"model": "."}, [], ["model", "config.json"]),
       ("context", {"max_model_len": 5000}, [], ["max_model_len", "2048"]),
       ("long prompt", {"prompts": ["short", "x" * 3000]}, [], ["prompts: prompt 2 has 3001 tokens", "--long-prompts"]),
       ("long prompt in a short context", {"max_model_len": 10}, [], ["prompts: prompt 1", "context of 10"]))
def a_failing_experiment(change, more, words):
    need_engine()
    with temporary() as work:
        done = run(work, SHORT | {"name": "bad", "repeats": 1} | change, OTHER | {"repeats": 1}, more=more)
        require(done.returncode == 1 and "experiment bad failed" in done.stderr, f"{done.returncode}: {done.stderr}")
        for word in words:
            require(word in done.stderr, f"'{word}' is not in {done.stderr}")
            require(word in reason_of(work / "out", "bad"), reason_of(work / "out", "bad"))
        require(status_of(work / "out") == {"bad": "failed", "other": "complete"}, status_of(work / "out"))
        require((work / "out/other/results.json").exists() and (work / "out/report.html").exists(), "others are gone")


@test
def long_prompts_are_cut_if_asked_and_never_in_silence():
    need_engine()
    with temporary() as work:
        long = {"name": "long", "prompts": ["y" * 150, "short"], "max_tokens": 40, "repeats": 1, "max_model_len": 100}
        done = harness.run(experiments_file(work, long), "--output-dir", work / "out", "--no-plots", "--long-prompts",
                           "cut")
        succeed(done)
        require("experiment long: 91 tokens" in done.stderr and "cut" in done.stderr, done.stderr)
        first, second = generation(work / "out", "long")["sequences"]
        require((first["prompt_tokens"], first["prompt_cut"]) == (60, 91), first["prompt_tokens"])
        require((second["prompt_tokens"], second["prompt_cut"]) == (6, 0), second["prompt_tokens"])
        require(len(first["output_tokens"]) == 40 and first["finish"] == "length", first["finish"])


@test
def a_context_that_fills_ends_a_sequence():
    need_engine()
    with temporary() as work:
        succeed(run(work, SHORT | {"max_model_len": 40, "max_tokens": 100, "repeats": 1}))
        for text, sequence in zip(SHORT["prompts"], generation(work / "out", "short")["sequences"]):
            made = len(sequence["output_tokens"])
            require(made == 40 - len(text.encode()) - 1 and sequence["finish"] == "context", sequence)


@test
def a_thousand_prompts_are_no_problem():
    need_engine()
    count = 1000 if is_plain_build() else 100
    with temporary() as work:
        many = {"name": "many", "prompts": [f"Prompt {i}" for i in range(count)], "max_tokens": 1, "repeats": 1}
        succeed(run(work, many))
        require(len(generation(work / "out", "many")["sequences"]) == count, "some are gone")
        require(status_of(work / "out") == {"many": "complete"}, status_of(work / "out"))


@test
def an_output_folder_that_cannot_be_made():
    with temporary() as work:
        write(work, "file", "x")
        done = run(work, SHORT, out="file")
        require(done.returncode == 1 and "--output-dir" in done.stderr, done.stderr)
        require((work / "file").read_text() == "x", "a file was changed")


if __name__ == "__main__":
    harness.main("test_experiments", 105, __doc__)

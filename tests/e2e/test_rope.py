#!/usr/bin/env python3
"""End-to-end tests of what kvsim-analyze knows of RoPE: --rope, --rope-config, and the warning about a wrong rotation.

usage: test_rope.py [PROGRAM]

PROGRAM is kvsim-analyze. Recorded caches come from the folder that analyze_harness.py names; what needs them is skipped,
and counted, where they are absent. The last line is `test_rope_options: N passed, N failed, N skipped`.
"""

import json

from analyze_harness import (MODEL, analyze, cases, dump_file, expect_error, main, need_engine, recorded, report_of,
                             require, run, temporary, test, validate, write)

FAST = ("--no-plots", "--metrics", "cosine", "--no-chance", "--kind", "key")


def measure(*arguments):
    """The warnings of a run that must succeed, and `input` of its report."""
    with temporary() as work:
        done = run(*arguments, *FAST, "--output-dir", work / "out")
        require(done.returncode == 0, f"exit status {done.returncode}: {done.stderr}")
        report = report_of(work / "out")
        validate(report)
        return [line for line in done.stderr.splitlines() if line.startswith("kvsim-analyze: ")], report["input"]


def expect_right(warnings, facts, limit):
    require(warnings == [], f"warned: {warnings}")
    require(facts["rope_known"] and facts["rope_check"]["residual"] < limit, f"{facts['rope_check']}")
    require(facts["rope_check"]["pairs"] > 500, f"{facts['rope_check']}")


def expect_wrong(warnings, facts, words):
    require(len(warnings) == 1 and "warning" in warnings[0] and words in warnings[0], f"warned: {warnings}")
    require(facts["rope_check"]["residual"] > 0.3, f"{facts['rope_check']}")
    require(f"{facts['rope_check']['residual']:.2g}" in warnings[0], f"no residual in {warnings[0]}")


@cases(
    ("f32", "kv/stories24.safetensors", 1e-5),
    ("bf16", "kv/repetitive_bf16.safetensors", 0.005),
)
def true_rotation(name, limit):
    expect_right(*measure("--pages", recorded(name)), limit)


@cases(
    ("theta", ["--rope", "half,theta=500000"]),
    ("style", ["--rope", "interleaved"]),
)
def wrong_rotation(arguments):
    for name in ("kv/stories24.safetensors", "kv/repetitive_bf16.safetensors"):
        expect_wrong(*measure("--pages", recorded(name), *arguments), "--rope says")


@test
def wrong_rotation_quietly():
    with temporary() as work:
        report = analyze(work / "out", "--pages", recorded("kv/stories24.safetensors"), "--rope", "interleaved",
                                *FAST)
        require(report["input"]["rope_check"]["residual"] > 0.3, "no residual")


@test
def no_check_without_a_derotated_view():
    warnings, facts = measure("--pages", recorded("kv/stories24.safetensors"), "--view", "raw,centered", "--rope",
                              "interleaved")
    require(warnings == [] and "rope_check" not in facts, f"{warnings} {facts}")


@test
def no_check_of_paged_files():
    warnings, facts = measure("--pages", recorded("kv/paged_vllm_e3.safetensors"))
    require(warnings == [] and facts["rope_known"] and "rope_check" not in facts, f"{warnings} {facts}")


@test
def dump_of_the_shipped_model():
    need_engine()
    with temporary() as work:
        dump = work / "tiny.safetensors"
        made = analyze(work / "made", "--dump", dump, "--max-tokens", "100", *FAST)
        require("rope_check" not in made["input"], "nothing to check in the engine's own pages")
        expect_right(*measure("--pages", dump), 1e-5)
        expect_right(*measure("--pages", dump, "--rope-config", MODEL), 1e-5)
        expect_right(*measure("--pages", dump, "--rope-config", MODEL / "config.json"), 1e-5)
        expect_right(*measure("--pages", dump, "--rope", "half,theta=10000,dims=32"), 1e-5)
        expect_wrong(*measure("--pages", dump, "--rope", "half,theta=1000000"), "--rope says")
        expect_wrong(*measure("--pages", dump, "--rope", "interleaved"), "--rope says")
        config = json.loads((MODEL / "config.json").read_text())
        config["rope_scaling"] = {"type": "linear", "factor": 4.0}
        write(work, "config.json", json.dumps(config))
        expect_wrong(*measure("--pages", dump, "--rope-config", work), "--rope-config says")


@test
def command_line_comes_before_the_file():
    pages = recorded("kv/stories24.safetensors")
    warnings, facts = measure("--pages", pages, "--rope", "none")
    require(warnings == [] and not facts["rope_known"] and "rope_check" not in facts, f"{warnings} {facts}")
    expect_error(["--pages", pages, "--rope", "none", "--view", "derotated"], ["--view", "--rope-config"])


@test
def rotation_of_pages_that_say_none():
    with temporary() as work:
        path = write(work, "a.safetensors", dump_file([16, 16], metadata={"rope_applied": "false"}))
        warnings, facts = measure("--pages", path, "--rope", "half")
        require(warnings == [] and facts["rope_known"], f"{warnings} {facts}")


@cases(
    ("style", "round", ["round", "interleaved"]),
    ("empty", "", ["none, half and interleaved"]),
    ("setting", "half,base=3", ["base=3", "theta"]),
    ("word", "half,theta", ["'theta'"]),
    ("theta", "half,theta=-1", ["theta", "-1"]),
    ("theta nan", "half,theta=nan", ["theta", "nan"]),
    ("odd dims", "half,dims=3", ["dims", "even"]),
    ("huge dims", "half,dims=99999999999999999999", ["dims"]),
)
def wrong_text(text, words):
    expect_error(["--pages", "x", "--rope", text], ["--rope", *words], statuses=(2,))


@test
def options_that_exclude_each_other():
    expect_error(["--rope", "half"], ["--rope", "--pages"], statuses=(2,))
    expect_error(["--rope-config", "x"], ["--rope-config", "--pages"], statuses=(2,))
    expect_error(["--pages", "x", "--rope", "half", "--rope-config", "x"], ["--rope", "--rope-config"], statuses=(2,))


@cases(
    ("absent", None, ["cannot open"]),
    ("not JSON", "{", ["config.json"]),
    ("dynamic", json.dumps({"model_type": "llama", "rope_scaling": {"type": "dynamic", "factor": 2}}), ["dynamic"]),
    ("layers that differ", json.dumps({"rope_parameters": {"full_attention": {}}}), ["full_attention"]),
)
def wrong_config(content, words):
    with temporary() as work:
        path = write(work, "a.safetensors", dump_file([16]))
        if content is not None:
            write(work, "config.json", content)
        expect_error(["--pages", path, "--rope-config", work], ["--rope-config", "config.json", *words], statuses=(1,))


@test
def rotation_wider_than_the_heads():
    with temporary() as work:
        path = write(work, "a.safetensors", dump_file([16, 16]))
        expect_error(["--pages", path, "--rope", "half,dims=64"], ["64", "channels"], statuses=(1,))


if __name__ == "__main__":
    main("test_rope_options", 24, __doc__)

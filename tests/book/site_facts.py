"""What a browser sees on a page of the built site, gathered in one visit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 375, "height": 812}

# Runs in the page once, at desktop width. Text is read from a copy without code and formulae, so
# that what is folded away counts and what is rendered does not.
STRUCTURE = """() => {
  const article = document.querySelector('article') || document.body;
  const copy = article.cloneNode(true);
  copy.querySelectorAll('script, style, mjx-container, pre, code').forEach(node => node.remove());
  const every = selector => [...article.querySelectorAll(selector)];
  return {
    text: copy.textContent,
    formulae: every('.math').length,
    rendered: every('mjx-container').length,
    unrendered: every('.math').filter(n => !n.querySelector('mjx-container')).map(
      n => n.textContent),
    formula_errors: [...document.querySelectorAll('mjx-merror, [data-mjx-error]')].map(
      n => n.getAttribute('data-mjx-error') || n.textContent),
    images_without_alt: [...document.querySelectorAll('img')].filter(n => !n.alt.trim()).map(
      n => n.getAttribute('src').slice(0, 80)),
    pictures_without_label: every('svg[role=img], figure svg').filter(
      n => !n.getAttribute('aria-label') && !n.querySelector('title')).length,
    headings: every('h1, h2, h3, h4, h5, h6').map(n => Number(n.tagName[1])),
    boxes: every('div.proof .caption-number').map(n => n.textContent.trim()),
    ids: [...document.querySelectorAll('[id]')].map(n => n.id),
    links: [...document.querySelectorAll('a[href]')].map(n => n.href),
  };
}"""

# Runs at each width: search fields that a reader sees, and what sticks out of the page.
LAYOUT = """() => {
  const seen = node => {
    const box = node.getBoundingClientRect();
    return node.checkVisibility({visibilityProperty: true, opacityProperty: true}) && box.width > 0
      && box.right > 0 && box.left < innerWidth && box.bottom > 0 && box.top < innerHeight;
  };
  const scrolls = node => ['auto', 'scroll'].includes(getComputedStyle(node).overflowX);
  const boxed = node => {
    for (let up = node.parentElement; up && up !== document.body; up = up.parentElement)
      if (scrolls(up) && up.getBoundingClientRect().right <= innerWidth + 1) return true;
    return false;
  };
  const article = document.querySelector('article') || document.body;
  const outside = [...article.querySelectorAll('*')].filter(
    n => n.checkVisibility() && !n.closest('mjx-assistive-mml')
      && n.getBoundingClientRect().right > innerWidth + 1 && !boxed(n));
  return {
    width: document.documentElement.scrollWidth,
    viewport: innerWidth,
    searches: [...document.querySelectorAll(
      '.search-button, .search-button-field, .search-button__button, input[type=search]'
    )].filter(seen).length,
    outside: outside.slice(0, 3).map(n => n.outerHTML.slice(0, 120)),
  };
}"""

# Runs in light and in dark: the least contrast between a text and what lies behind it.
COLOURS = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = text => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(
      c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = node => {
    for (let up = node; up; up = up.parentElement) {
      const colour = rgba(getComputedStyle(up).backgroundColor);
      if (colour[3] > 127) return luminance(colour);
    }
    return 1;
  };
  const article = document.querySelector('article') || document.body;
  const texts = [...article.querySelectorAll(
    'p, li, td, th, dt, dd, figcaption, h1, h2, h3, a, summary, pre span'
  )].filter(n => n.checkVisibility() && n.textContent.trim() && !n.closest('svg, .headerlink'));
  let least = 21, where = '';
  for (const node of texts) {
    const [one, two] = [luminance(rgba(getComputedStyle(node).color)), behind(node)];
    const contrast = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    if (contrast < least) [least, where] = [contrast, node.outerHTML.slice(0, 120)];
  }
  return {background: behind(document.body), contrast: least, where};
}"""

# Moves every slider to its other end, as a reader does, and tells what then does not agree with it:
# the value beside it, the alt text, or the parts of the drawing that are seen.
SLIDERS = """() => [...document.querySelectorAll('.companion-slider')].flatMap(box => {
  const slider = box.querySelector('input');
  slider.value = slider.value === slider.max ? slider.min : slider.max;
  slider.dispatchEvent(new Event('input', {bubbles: true}));
  const [value, alt] = [...box.querySelectorAll('li')[slider.value]?.children ?? []].map(
    n => n.textContent);
  const seen = [...box.querySelectorAll('[data-frame]')].filter(
    n => n.getBoundingClientRect().width + n.getBoundingClientRect().height);
  return [
    ['value', box.querySelector('output')?.textContent === value],
    ['alt text', box.querySelector('svg')?.getAttribute('aria-label') === alt],
    ['drawing', seen.length && seen.every(n => n.dataset.frame === slider.value)],
  ].filter(([, agrees]) => !agrees).map(([what]) => `${what} of #${slider.id}`);
})"""

TWO_FRAMES = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"

# Folded solutions and cells are opened first: what a reader may open is checked too.
UNFOLD = """() => {
  document.querySelectorAll('details').forEach(node => { node.open = true; });
  document.querySelectorAll('.toggle-hidden').forEach(
    node => node.classList.remove('toggle-hidden'));
}"""


@dataclass
class Facts:
    """One page, as a browser sees it."""

    name: str
    external: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    structure: dict[str, Any] = field(default_factory=dict)
    desktop: dict[str, Any] = field(default_factory=dict)
    phone: dict[str, Any] = field(default_factory=dict)
    light: dict[str, Any] = field(default_factory=dict)
    dark: dict[str, Any] = field(default_factory=dict)
    dead: list[str] = field(default_factory=list)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Keep the test's output for the test."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address at which ``folder`` is served, for the length of the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def browsing(executable: str) -> Iterator[Browser]:
    """A headless Chromium, without its sandbox, which root and containers do not have."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            yield browser
        finally:
            browser.close()


def observe(browser: Browser, address: str, name: str) -> Facts:
    """Visit the page ``name`` at ``address``: in light and dark, on a desktop and on a phone."""
    facts = Facts(name)
    context = browser.new_context(viewport=DESKTOP, color_scheme="light", reduced_motion="reduce")

    def refuse(route: Any) -> None:
        facts.external.append(route.request.url)
        route.abort()

    context.route(
        lambda url: url.startswith(("http", "ws")) and not url.startswith(address), refuse
    )
    page = context.new_page()
    page.on("pageerror", lambda error: facts.errors.append(str(error)))
    page.on("response", lambda reply: reply.status >= 400 and facts.broken.append(reply.url))
    try:
        page.goto(f"{address}/{name}", wait_until="load")
        page.evaluate("window.MathJax?.startup?.promise")
        page.evaluate(UNFOLD)
        facts.structure = page.evaluate(STRUCTURE)
        facts.desktop, facts.light = page.evaluate(LAYOUT), page.evaluate(COLOURS)
        page.emulate_media(color_scheme="dark")
        page.evaluate(TWO_FRAMES)  # the theme follows the reader's preference with its next event
        facts.dark = page.evaluate(COLOURS)
        page.set_viewport_size(PHONE)
        facts.phone = page.evaluate(LAYOUT)
        facts.dead = page.evaluate(SLIDERS)
    finally:
        context.close()
    return facts

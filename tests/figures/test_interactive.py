"""A figure with a slider: what is in its HTML, and what a browser makes of it."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from browser import CURE, browser_is_required, find_browser
from matplotlib.artist import Artist
from matplotlib.colors import to_hex
from PIL import Image
from playwright.sync_api import Browser, Page
from site_facts import DESKTOP, PHONE, browsing

from companion.figures import COLORS, Slider, draw_flow, draw_layers, slider

ROOT = Path(__file__).resolve().parents[2]
VOID = {"input"}
LAYERS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


class Parsed(HTMLParser):
    """Elements in order, each with its attributes and its text; fails where tags do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[tuple[str, list[str]]] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))
        if tag not in VOID:
            self.open.append((tag, self.elements[-1][2]))

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for _, text in self.open:
            text.append(data)

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(about, "".join(text)) for name, about, text in self.elements if name == tag]

    def one(self, tag: str) -> tuple[dict[str, str | None], str]:
        (found,) = self.all(tag)
        return found

    def values(self, attribute: str) -> list[str]:
        return [about[attribute] for _, about, _ in self.elements if attribute in about]


def field(t, z):
    return 0.9 * torch.sin(5 * t + 2.5 * z) - 1.8 * (t - 0.2) * z


STARTS = torch.linspace(-1.8, 1.8, 9, dtype=torch.float64)


def networks() -> Slider:
    """Figure 1 of the paper on neural ODEs."""
    fig, ax = plt.subplots(figsize=(5, 5))
    draw_flow(ax, field, STARTS)
    frames = [draw_layers(ax, field, STARTS, n) for n in LAYERS]
    alt = [f"Nine polygons of {n} pieces." for n in LAYERS]
    return slider(fig, frames, LAYERS, label="Layers", alt=alt, name="networks")


def maps(name: str = "maps", start: int = 0, T: int = 12) -> Slider:
    """Maps over photographs, beside a curve: many pixels, several axes."""
    fig, axes = plt.subplots(1, 3, figsize=(7, 2.5))
    frames: list[list[Artist]] = [[] for _ in range(T)]
    grid = np.linspace(0, 1, 14)
    for ax in axes[:2]:
        ax.imshow(np.random.default_rng(0).random((64, 64)), cmap="gray", extent=(0, 1, 0, 1))
        for k, frame in enumerate(frames):
            heat = np.exp(-8 * np.add.outer((grid - 0.5) ** 2, (grid - k / T) ** 2))
            frame.append(ax.imshow(heat, cmap="inferno", alpha=0.5, extent=(0, 1, 0, 1)))
    for k, frame in enumerate(frames):
        frame.append(axes[2].bar(range(3), [k, 1, 2]))
    values = [f"{k / (T - 1):.2f}" for k in range(T)]
    alt = [f'At depth {v} the map\'s "centre" <moves> right.' for v in values]
    return slider(fig, frames, values, label="Depth", alt=alt, name=name, start=start)


def two_lines(**changes: object) -> Slider:
    fig, ax = plt.subplots()
    arguments = {
        "frames": [ax.plot([0, 1]), ax.plot([1, 0])],
        "values": ("up", "down"),
        "label": "Way",
        "alt": ("Rises.", "Falls."),
        "name": "two-lines",
    }
    arguments |= {key: made(ax) if callable(made) else made for key, made in changes.items()}
    return slider(fig, **arguments)


@pytest.fixture(scope="module")
def flow() -> Slider:
    return networks()


@pytest.fixture(scope="module")
def overlays() -> Slider:
    return maps()


# --- what is stored ------------------------------------------------------------------------------


def test_it_has_a_native_slider_with_label_value_and_picture(flow):
    page = Parsed(flow.html)
    control, _ = page.one("input")
    assert control["type"] == "range"
    assert (control["min"], control["max"], control["value"]) == ("0", "9", "0")
    assert control["aria-valuetext"] == "1"
    label, written = page.one("label")
    assert (label["for"], written) == (control["id"], "Layers")
    output, value = page.one("output")
    assert (output["for"], value) == (control["id"], "1")
    picture, _ = page.one("svg")
    assert (picture["role"], picture["aria-label"]) == ("img", "Nine polygons of 1 pieces.")


def test_every_frame_has_its_parts_its_value_and_its_alt_text(overlays):
    page = Parsed(overlays.html)
    parts = [(about["data-frame"], "display:none" in about.get("style", ""))
             for _, about, _ in page.elements if "data-frame" in about]  # fmt: skip
    for k in range(12):
        hidden = [hides for frame, hides in parts if frame == str(k)]
        assert hidden == [k > 0] * 5, "two maps and three bars, seen in the first frame alone"
    texts = [text for _, text in page.all("li")]
    assert texts[3] == '0.27: At depth 0.27 the map\'s "centre" <moves> right.'
    assert len(texts) == 12


def test_another_frame_may_come_first():
    page = Parsed(maps(start=5).html)
    seen = {about["data-frame"] for _, about, _ in page.elements
            if "data-frame" in about and "display:none" not in about.get("style", "")}  # fmt: skip
    assert seen == {"5"}
    assert page.one("input")[0]["value"] == "5"
    assert page.one("output")[1] == "0.45"
    assert "0.45" in page.one("svg")[0]["aria-label"]


def test_two_figures_on_a_page_share_no_name():
    page = Parsed(maps("one").html + maps("two").html)
    ids = page.values("id")
    assert len(set(ids)) == len(ids) > 20
    text = maps("one").html
    referred = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    assert referred
    assert referred | {"slider-one"} == set(Parsed(text).values("id"))


def test_nothing_is_loaded_and_nothing_styles_the_rest_of_the_page(flow, overlays):
    for made in (flow, overlays):
        page = Parsed(made.html)
        assert not page.all("script")
        assert all(link.startswith(("#", "data:image/webp;")) for link in page.values("href"))
        assert "//" not in re.sub(r"base64,[^\"]*", "", made.html)
        rules = re.findall(r"(?:^|[{}])([^{}@]+)\{", page.one("style")[1])
        assert rules
        assert all(rule.startswith(".companion-slider ") for rule in rules)


def test_it_is_small_and_its_plain_text_short(flow, overlays):
    assert len(flow.html) < 100_000
    assert len(overlays.html) < 80_000
    assert repr(flow) == "<Slider 'networks' over 10 frames>"
    assert flow._repr_html_() == flow.html


def test_images_keep_their_pixels(overlays):
    pictures = [Image.open(io.BytesIO(base64.b64decode(data)))
                for data in re.findall(r'base64,([^"]+)', overlays.html)]  # fmt: skip
    assert sorted({picture.size for picture in pictures}) == [(14, 14), (64, 64)]
    assert len(pictures) == 2 + 2 * 12, "a photograph is stored once"
    grey = np.random.default_rng(0).random((64, 64))
    expected = (plt.get_cmap("gray")((grey - grey.min()) / np.ptp(grey)) * 255).round()[..., 0]
    photograph = np.asarray(next(p for p in pictures if p.size == (64, 64)).convert("L"))
    assert np.abs(photograph - expected).max() <= 1


def test_it_is_the_same_in_another_process(flow, overlays):
    code = (
        "import sys; sys.path[:0] = ['tests/book', 'tools']\n"
        "from tests.figures.test_interactive import maps, networks\n"
        "print(networks().html + maps().html)"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout == flow.html + overlays.html + "\n"


def test_the_figure_is_closed(flow):
    before = plt.get_fignums()
    two_lines()
    assert plt.get_fignums() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": lambda ax: [ax.plot([0, 1])]}, "frames has length 1"),
        ({"values": (1, 2, 3)}, "values has length 3, frames has length 2"),
        ({"alt": ("Rises.",)}, "alt has length 1"),
        ({"alt": ("Rises.", " ")}, r"alt\[1\] is empty"),
        ({"name": "Two lines"}, "name is 'Two lines'"),
        ({"name": ""}, "name is ''"),
        ({"start": 2}, "start is 2; the frames are numbered 0 to 1"),
        ({"start": -1}, "start is -1"),
        (
            {"frames": lambda ax: [ax.plot([0, 1]), plt.figure().text(0, 0, "there")]},
            r"frames\[1\] has .*, which is not in the figure",
        ),
        ({"frames": lambda ax: [ax.plot([0, 1])] * 2}, r"in frames\[0\] and in frames\[1\]"),
        (
            {"frames": lambda ax: [ax.plot([0, 1]), ax.text(0, 0, "")]},
            r"frames\[1\] draws nothing",
        ),
    ],
)
def test_a_mistake_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        two_lines(**changes)
    plt.close("all")


def test_what_is_no_artist_is_named():
    with pytest.raises(TypeError, match=r"frames\[1\] has None"):
        two_lines(frames=lambda ax: [ax.plot([0, 1]), None])
    plt.close("all")


# --- Figure 1 ------------------------------------------------------------------------------------


@pytest.fixture
def ax():
    fig, ax = plt.subplots()
    yield ax
    plt.close(fig)


def pieces(line) -> list[np.ndarray]:
    """The points of a line, from one gap to the next."""
    points = line.get_xydata()
    gaps = np.flatnonzero(np.isnan(points[:, 0]))
    return [piece[~np.isnan(piece[:, 0])] for piece in np.split(points, gaps + 1)[:-1]]


def test_polygons_are_those_of_euler_and_a_dot_is_where_f_is_evaluated(ax):
    asked = []

    def watched(t, z):
        asked.append((float(t), z.clone()))
        return -z + t

    lines, dots = draw_layers(ax, watched, torch.tensor([1.0, -2.0]).double(), 4, depth=2.0)
    z = np.array([1.0, -2.0])
    states = [z := z + 0.5 * (0.5 * k - z) if k >= 0 else z for k in range(-1, 4)]
    for start, polygon in enumerate(pieces(lines)):
        assert polygon[:, 1] == pytest.approx([0, 0.5, 1, 1.5, 2])
        assert polygon[:, 0] == pytest.approx([z[start] for z in states])
    evaluated = {(round(float(x), 9), t) for t, z in asked for x in z}
    assert {(round(x, 9), t) for x, t in dots.get_xydata()} == evaluated
    assert len(evaluated) == 8


def test_curves_are_those_of_the_flow_and_strokes_follow_the_field(ax):
    starts = torch.tensor([0.5, 2.0], dtype=torch.float64)
    draw_flow(ax, lambda t, z: -z, starts, density=5)
    strokes, curves = ax.lines
    for start, curve in zip(starts.tolist(), pieces(curves), strict=True):
        assert curve[:, 0] == pytest.approx(start * np.exp(-curve[:, 1]), abs=1e-7)
    drawn = pieces(strokes)
    assert len(drawn) == 25
    for (z0, t0), (z1, t1) in drawn:
        assert (z1 - z0) / (t1 - t0) == pytest.approx(-(z0 + z1) / 2)


def test_curves_stay_in_sight(ax):
    draw_flow(ax, lambda t, z: 3 * z, torch.tensor([-1.0, 2.0], dtype=torch.float64))
    left, right = ax.get_xlim()
    assert left < -np.exp(3)
    assert right > 2 * np.exp(3)


def test_a_network_has_a_layer(ax):
    with pytest.raises(ValueError, match="layers is 0"):
        draw_layers(ax, field, STARTS, 0)


# --- what a browser makes of it ------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = find_browser()
    if executable is None:
        if browser_is_required():
            pytest.fail(f"no slider was moved: {CURE}")
        pytest.skip(f"no slider was moved: {CURE}")
    with browsing(executable) as browser:
        yield browser


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Opens a page with these sliders, under the book's own style sheet."""
    contexts = []
    style = (ROOT / "book/_static/book.css").read_text(encoding="utf-8")

    def opened(*figures: Slider, theme: str = "light", **settings: object) -> Page:
        body = "".join(figure.html for figure in figures)
        sheet = {"light": "background:white;color:black", "dark": "background:black;color:white"}
        path = tmp_path / "page.html"
        path.write_text(
            f'<!doctype html><html lang="en" data-theme="{theme}"><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width"><title>Page</title>'
            # As the theme does, which would also keep hidden what has to be seen without scripts.
            f"<style>[hidden]{{display:none!important}}{style}</style>"
            f'<body style="{sheet[theme]}">{body}',
            encoding="utf-8",
        )
        contexts.append(browser.new_context(**settings))
        page = contexts[-1].new_page()
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()


def shown(page: Page, name: str) -> set[str]:
    """The frames of which something is seen."""
    return set(
        page.eval_on_selector_all(
            f".companion-slider:has(#slider-{name}) [data-frame]",
            "parts => parts.map(part => [part.dataset.frame, part.getBoundingClientRect()])"
            ".filter(([, box]) => box.width + box.height > 0).map(([frame]) => frame)",
        )
    )


@pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_arrow_keys_move_it(show, flow, overlays, theme, screen):
    page = show(flow, overlays, theme=theme, viewport=screen, color_scheme=theme)
    before = page.locator("svg").first.screenshot()
    page.get_by_label("Layers").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.locator("output").all_inner_texts() == ["4", "0.00"]
    assert page.get_by_role("img", name="Nine polygons of 4 pieces.").count() == 1
    assert page.locator("p[role=status]").first.text_content() == "Nine polygons of 4 pieces."
    assert page.get_by_label("Layers").get_attribute("aria-valuetext") == "4"
    assert (shown(page, "networks"), shown(page, "maps")) == ({"3"}, {"0"})
    assert page.locator("svg").first.screenshot() != before
    page.keyboard.press("End")
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    assert page.locator("output").all_inner_texts() == ["32", "1.00"]
    assert (shown(page, "networks"), shown(page, "maps")) == ({"9"}, {"11"})
    page.keyboard.press("Home")
    assert page.locator("output").all_inner_texts() == ["32", "0.00"]
    width, room = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= room == screen["width"]


def test_the_picture_is_as_drawn(show):
    """Frame by frame, the pixels of what should be seen, and of nothing else."""
    fig, ax = plt.subplots(figsize=(2, 2))
    ax.set_position((0, 0, 1, 1))
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.axis("off")
    ax.axhspan(0, 0.5, color=COLORS["field"])
    # The last axes hold nothing but what is hidden at first.
    beside = fig.add_axes((0.5, 0.5, 0.5, 0.5))
    beside.axis("off")
    frames = [
        ax.axvspan(0, 0.5, ymin=0.5, color=COLORS["state"]),
        beside.imshow([[0, 1], [1, 0]], cmap="gray", aspect="auto"),
        ax.plot([0.25], [0.75], "s", ms=30, color=COLORS["adjoint"]),
    ]
    made = slider(fig, frames, "abc", label="Frame", alt=["A.", "B.", "C."], name="pixels")
    page = show(made, viewport={"width": 400, "height": 400})

    def colours() -> list[str]:
        picture = Image.open(io.BytesIO(page.locator("svg").screenshot())).convert("RGB")
        places = [(0.25, 0.25), (0.625, 0.125), (0.875, 0.125), (0.25, 0.75)]
        size = picture.size[0]
        return [
            to_hex([part / 255 for part in picture.getpixel((int(x * size), int(y * size)))])
            for x, y in places
        ]

    white, black = "#ffffff", "#000000"
    state, adjoint, field = (COLORS[name].lower() for name in ("state", "adjoint", "field"))
    assert colours() == [state, white, white, field]
    page.get_by_label("Frame").focus()
    page.keyboard.press("ArrowRight")
    assert colours() == [white, black, white, field]
    page.keyboard.press("ArrowRight")
    assert colours() == [adjoint, white, white, field]


def test_without_scripts_a_frame_and_all_texts_are_seen(show):
    page = show(maps(start=3), java_script_enabled=False)
    assert page.get_by_role("img", name="At depth 0.27").is_visible()
    assert not page.locator("input").is_visible()
    assert page.locator("li").count() == 12
    assert all(text.is_visible() for text in page.locator("li").all())


def test_with_scripts_the_texts_are_for_screen_readers(show, overlays):
    page = show(overlays)
    assert not any(text.is_visible() for text in page.locator("li").all())
    status = page.locator("p[role=status]").bounding_box()
    assert status["width"] <= 1
    assert status["height"] <= 1


def test_paper_shows_the_frame_but_no_slider(show, flow):
    page = show(flow)
    page.get_by_label("Layers").focus()
    page.keyboard.press("ArrowRight")
    page.emulate_media(media="print")
    assert shown(page, "networks") == {"1"}
    assert not page.locator("input").is_visible()
    assert page.locator("output").is_visible()


def test_the_slider_is_large_enough_for_a_finger(show, flow):
    page = show(flow, viewport=PHONE)
    assert page.get_by_label("Layers").bounding_box()["height"] >= 24  # WCAG 2.2, 2.5.8
    assert page.locator("svg").bounding_box()["width"] > 300

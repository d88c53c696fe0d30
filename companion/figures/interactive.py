"""A figure with a slider, which needs no kernel, no network and no script of others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from companion.figures.svg import as_html, drawn

#: Shows the frame at which the slider stands; ``this`` is the slider. Every page that shows the
#: figure runs it as it is, with no script to load and no name that could clash.
SHOW = (
    "const box=this.closest('.companion-slider'),"
    "[value,alt]=[...box.querySelectorAll('li')[this.value].children].map(e=>e.textContent);"
    "for(const part of box.querySelectorAll('[data-frame]'))"
    "part.style.display=part.dataset.frame===this.value?'':'none';"
    "box.querySelector('svg').setAttribute('aria-label',alt);"
    "box.querySelector('[role=status]').textContent=alt;"
    "box.querySelector('output').textContent=value;"
    "this.setAttribute('aria-valuetext',value)"
)

#: Where no script runs the slider would be dead: it gives way to the descriptions of all frames.
STYLE = (
    ".companion-slider svg{display:block;width:100%;height:auto}"
    ".companion-slider .control{display:flex;align-items:center;gap:.75em;margin:.5em 0}"
    ".companion-slider input{flex:1;min-width:0;height:1.75rem;margin:0}"
    ".companion-slider output{min-width:3em;font-variant-numeric:tabular-nums}"
    ".companion-slider [role=status]"
    "{position:absolute;width:1px;height:1px;margin:0;overflow:hidden;clip-path:inset(50%)}"
    "@media(scripting:none){.companion-slider .control{display:none}"
    ".companion-slider ol[hidden]{display:block!important;list-style:none;padding:0}}"
    "@media print{.companion-slider input{display:none}}"
)


class Slider:
    """A figure of several frames, of which a slider shows one; :func:`slider` makes it.

    The last expression of a cell, it is displayed; ``html`` is what is displayed.
    """

    def __init__(self, html: str, summary: str) -> None:
        self.html = html
        self._summary = summary

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self._summary


def slider(
    figure: Figure,
    frames: Sequence[Iterable[Any]],
    values: Sequence[object],
    *,
    label: str,
    alt: Sequence[str],
    name: str,
    start: int = 0,
) -> Slider:
    """A figure with a slider over its frames, as the last expression of a cell.

    All frames are drawn into one figure, one over the other, and ``frames[i]`` lists the artists
    that are seen only while the slider stands at ``values[i]``, as for Matplotlib's
    ``ArtistAnimation``.  What belongs to no frame (axes, a field, a photograph) is always seen
    and is stored once, so that ten frames of lines take some tens of kilobytes.

    >>> import matplotlib.pyplot as plt
    >>> fig, ax = plt.subplots(figsize=(5, 3))
    >>> frames = [ax.plot([0, 1], [0, slope]) for slope in (1, 2, 3)]
    >>> slider(fig, frames, (1, 2, 3), label="Slope", name="slope",
    ...        alt=[f"A line that rises to {slope}." for slope in (1, 2, 3)])
    <Slider 'slope' over 3 frames>

    It is drawn as vector graphics.  An image is stored with its own pixels, which are shown as
    squares whatever its interpolation; so draw a photograph once, and in each frame only the
    small map that lies over it, ``ax.imshow(map, extent=..., alpha=...)``.

    Keyboard and screen reader find a native slider with its label and value; the alt text changes
    with the frame.  Where no script runs the frame ``start`` is seen, and below it the alt
    texts of all frames; on paper, the frame that was seen last.

    Args:
        figure: Matplotlib's figure; it is closed.
        frames: for each position of the slider, the artists that are seen there alone: what
            ``ax.plot``, ``ax.imshow``, ``ax.text``, ``ax.bar`` return, alone or nested in lists.
        values: what is written beside the slider at each position, such as ``[1, 2, 4]``.
        label: what the slider moves, such as "Layers".
        alt: for each position, what the figure then shows.
        name: of the figure, unique on its page: lower case letters, digits and hyphens.
        start: the position at first.

    Returns:
        The figure, which a cell displays.

    Raises:
        ValueError: There are fewer than two frames, or another number of values or of alt texts;
            an alt text is empty; an artist is in no figure, in another, in two frames, or draws
            nothing; the name or the start is not as described.
        TypeError: A frame has something else than artists.
    """
    frames = [list(_artists(frame, position)) for position, frame in enumerate(frames)]
    values = [str(value) for value in values]
    _check(figure, frames, values, alt, name, start)
    items = "".join(
        f"<li><b>{escape(value)}</b>: <span>{escape(text)}</span></li>"
        for value, text in zip(values, alt, strict=True)
    )
    width = figure.get_size_inches()[0]
    control = f"slider-{name}"
    html = (
        f'<div class="companion-slider" style="max-width:{width:g}in"><style>{STYLE}</style>'
        f"{_drawing(figure, frames, name, alt[start], start)}"
        f'<div class="control"><label for="{control}">{escape(label)}</label>'
        f'<input id="{control}" type="range" min="0" max="{len(frames) - 1}" value="{start}"'
        f' autocomplete="off" data-lm-suppress-shortcuts="true"'  # the arrow keys are not Jupyter's
        f' aria-valuetext="{escape(values[start])}" oninput="{SHOW}">'
        f'<output for="{control}" aria-live="off">{escape(values[start])}</output></div>'
        f'<p role="status"></p><ol hidden>{items}</ol></div>'
    )
    plt.close(figure)
    return Slider(html, f"<Slider {name!r} over {len(frames)} frames>")


def _artists(given: Any, position: int) -> Iterator[Artist]:
    """The artists in lists, tuples and containers of them."""
    if isinstance(given, Artist):
        yield given
    elif isinstance(given, Iterable) and not isinstance(given, str):
        for part in given:
            yield from _artists(part, position)
    else:
        raise TypeError(
            f"frames[{position}] has {given!r}; expected Matplotlib artists, as ax.plot returns"
        )


def _check(
    figure: Figure,
    frames: Sequence[Sequence[Artist]],
    values: Sequence[str],
    alt: Sequence[str],
    name: str,
    start: int,
) -> None:
    if len(frames) < 2:
        raise ValueError(f"frames has length {len(frames)}; a slider needs at least 2")
    for argument, given in (("values", values), ("alt", alt)):
        if len(given) != len(frames):
            raise ValueError(
                f"{argument} has length {len(given)}, frames has length {len(frames)}; "
                "give one for each frame"
            )
    for position, text in enumerate(alt):
        if not text.strip():
            raise ValueError(f"alt[{position}] is empty; say what the figure shows there")
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise ValueError(
            f"name is {name!r}; use lower case letters, digits and hyphens, a letter first"
        )
    if not 0 <= start < len(frames):
        raise ValueError(f"start is {start}; the frames are numbered 0 to {len(frames) - 1}")
    home: dict[int, int] = {}
    for position, frame in enumerate(frames):
        for artist in frame:
            if artist.get_figure() is not figure:
                raise ValueError(f"frames[{position}] has {artist}, which is not in the figure")
            if home.setdefault(id(artist), position) != position:
                raise ValueError(
                    f"{artist} is in frames[{home[id(artist)]}] and in frames[{position}]; "
                    "draw it once for each, or leave it out of both if it is always seen"
                )


def _drawing(
    figure: Figure, frames: Sequence[Sequence[Artist]], name: str, alt: str, start: int
) -> str:
    """The figure as one SVG element, in which each part of a frame knows its frame."""
    frame_of: dict[str, int] = {}
    for position, frame in enumerate(frames):
        for artist in frame:
            artist.set_gid(f"frame-part-{len(frame_of)}")
            frame_of[artist.get_gid()] = position
    root = drawn(figure)
    for node in root.iter():
        if (position := frame_of.pop(node.get("id"), None)) is not None:
            node.set("data-frame", str(position))
            if position != start:
                node.set("style", f"{node.get('style', '')};display:none".lstrip(";"))
    if frame_of:
        empty = min(frame_of.values())
        raise ValueError(f"an artist of frames[{empty}] draws nothing; leave it out")
    root.set("aria-label", alt)
    return as_html(root, name)

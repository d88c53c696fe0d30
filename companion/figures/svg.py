"""Matplotlib's figures as vector graphics for a page: small, and with names of their own."""

from __future__ import annotations

import base64
import io
import re
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image

NAMESPACE = "{http://www.w3.org/2000/svg}"
HREF = "{http://www.w3.org/1999/xlink}href"


def drawn(figure: Figure) -> Element:
    """What Matplotlib draws, as an SVG element.

    The element of an artist has the artist's gid as its ``id``.  Letters are outlines, so that
    they look the same everywhere, and every image keeps its own pixels, shown as squares.

    Args:
        figure: Matplotlib's figure; the interpolation of its images is changed.
    """
    for picture in figure.findobj(AxesImage):
        picture.set_interpolation("none")  # which also keeps Matplotlib from merging images
    buffer = io.BytesIO()
    with plt.rc_context({"svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg")
    return ElementTree.fromstring(buffer.getvalue())


def as_html(root: Element, name: str) -> str:
    """An SVG element of Matplotlib as a picture in a page.

    Its identifiers, random ones of Matplotlib's, become ``name`` and a number, so that the same
    figure gives the same text; its style sheet, which would hold for the whole page, is gone;
    coordinates are rounded to tenths of a point; images are packed anew.

    Args:
        root: the element, which is changed.
        name: unique on the page.
    """
    _give_own_ids(root, name)
    _shorten(root)
    root.attrib = {
        "viewBox": root.get("viewBox"),
        "role": "img",
        "aria-label": root.get("aria-label"),
        "stroke-linejoin": "round",  # all that the style sheet says
    }
    for node in root.iter():
        node.tag = node.tag.removeprefix(NAMESPACE)
        if HREF in node.attrib:
            node.set("href", node.attrib.pop(HREF))
        node.text = node.tail = None
        for child in [c for c in node if re.search("}(metadata|style)$", c.tag)]:
            node.remove(child)
    return ElementTree.tostring(root, encoding="unicode").replace(" />", "/>")


def _give_own_ids(root: Element, name: str) -> None:
    """Rename the identifiers that something refers to, and drop the others."""
    text = ElementTree.tostring(root, encoding="unicode")
    used = dict.fromkeys(re.findall(r"(?:href=\"#|url\(#)([^\")]+)", text))
    own = {old: f"{name}-{number}" for number, old in enumerate(used)}
    for node in root.iter():
        old = node.attrib.pop("id", None)
        for key, value in node.items():
            if key == HREF and value.startswith("#"):
                node.set(key, "#" + own[value[1:]])
            elif "url(#" in value:
                node.set(key, re.sub(r"(?<=url\(#)[^)]+", lambda match: own[match[0]], value))
        if old in own:
            node.set("id", own[old])


def _shorten(root: Element) -> None:
    for node in root.iter():
        if node.get(HREF, "").startswith("data:"):
            node.set(HREF, _packed(node.get(HREF)))
        else:
            for key in {"d", "x", "y"}.intersection(node.keys()):
                node.set(key, _tenths(node.get(key)))
        if "style" in node.attrib:
            node.set("style", re.sub(r"([:;])\s+", r"\1", node.get("style")))
    for marks in root.iter(f"{NAMESPACE}g"):
        styles = {mark.get("style") for mark in marks}
        if {mark.tag for mark in marks} == {f"{NAMESPACE}use"} and len(styles) == 1:
            if style := styles.pop():  # the dots of a line are all alike
                marks.set("style", style)
                for mark in marks:
                    del mark.attrib["style"]


def _tenths(numbers: str) -> str:
    def tenth(match: re.Match[str]) -> str:
        return f"{float(match[0]):.1f}".removesuffix(".0")

    return re.sub(r"\s*([A-Za-z])\s*", r"\1", re.sub(r"-?\d+\.\d+", tenth, numbers)).strip()


def _packed(uri: str) -> str:
    """An image as lossless WebP, which is half the size of Matplotlib's PNG."""
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", lossless=True)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()

"""Keep the site first-party: MathJax from the installed wheel, and nothing of thebe.

Out of the box a page would load MathJax from a content delivery network, and carry the address of
one for thebe. Here the script and its fonts are copied out of the ``sphinx-mathjax-offline``
wheel at build time, so that the site works offline and tells no other host that it is read.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

SCRIPT = (
    "tex-chtml-full.js"  # every TeX package is inside: nothing is loaded on demand but the fonts
)
FONTS = Path("output/chtml/fonts/woff-v2")


def use_own_mathjax(app: Sphinx, config: Any) -> None:
    config.mathjax_path = f"mathjax/{SCRIPT}"


def drop_thebe(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """Remove what sphinx-thebe adds to each page even when it is off."""

    def is_ours(asset: Any) -> bool:
        described = f"{getattr(asset, 'filename', asset)} {getattr(asset, 'attributes', '')}"
        return "thebe" not in described.lower()

    for kind in ("script_files", "css_files"):
        context[kind] = [asset for asset in context.get(kind, []) if is_ours(asset)]


def copy_mathjax(app: Sphinx, failure: Exception | None) -> None:
    if failure or app.builder.format != "html":
        return
    wheel = find_spec("sphinx-mathjax-offline")
    source = Path(wheel.origin).parent / "static" / "mathjax"
    target = Path(app.outdir) / "_static" / "mathjax"
    shutil.copytree(source / FONTS, target / FONTS, dirs_exist_ok=True)
    shutil.copy(source / SCRIPT, target)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", use_own_mathjax)
    app.connect(
        "html-page-context", drop_thebe, priority=900
    )  # after sphinx-thebe has added its own
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

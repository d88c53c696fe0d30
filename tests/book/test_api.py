"""The API pages describe every public name."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).resolve().parents[2] / "book/reference").glob("api*.md"))
PACKAGES = (
    "companion",
    "companion.nn",
    "companion.nn.functional",
    "companion.data",
    "companion.cam",
    "companion.cam.metrics",
)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_described(package: str) -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    described = {word.strip("`().,:") for word in text.split()}
    public = {f"{package}.{name}" for name in importlib.import_module(package).__all__}
    assert not {name for name in public - described if not name.endswith("__")}

"""`make refresh`: same notebook, same bytes; and a notebook that fails stays as it was."""

from __future__ import annotations

import base64
import hashlib
import io
import random
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import refresh
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image, ImageChops, ImageDraw, ImageStat


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, refresh.__file__, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    """A notebook as an editor leaves it: never run, with metadata of its own."""
    cells = [
        new_markdown_cell("# Title"),
        new_code_cell(
            "import sys\nprint(1)\nsys.stdout.flush()\nprint(2)", metadata={"scrolled": True}
        ),
        new_code_cell("sorted({'b', 'a'})", metadata={"tags": ["hide-input"]}),
    ]
    path = tmp_path / "notebook.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata={"widgets": {}}), path)
    return path


def test_second_refresh_changes_nothing(notebook: Path) -> None:
    first = run(notebook)
    text = notebook.read_text(encoding="utf-8")
    assert first.returncode == 0, first.stdout
    assert first.stdout.startswith("refreshed")
    assert run(notebook).stdout.startswith("unchanged")
    assert notebook.read_text(encoding="utf-8") == text
    stored = nbformat.reads(text, as_version=4)
    assert [cell.execution_count for cell in stored.cells[1:]] == [1, 2]
    assert [output.text for output in stored.cells[1].outputs] == ["1\n2\n"]
    assert dict(stored.cells[1].metadata) == {}
    assert dict(stored.cells[2].metadata) == {"tags": ["hide-input"]}
    assert list(notebook.parent.iterdir()) == [notebook]


def test_check_reports_and_writes_nothing(notebook: Path) -> None:
    before = notebook.read_bytes()
    done = run("--check", notebook)
    assert done.returncode == 1
    assert done.stdout.startswith("STALE")
    assert notebook.read_bytes() == before


def test_failing_notebook_stays_as_it_was(notebook: Path) -> None:
    broken = nbformat.read(notebook, as_version=4)
    broken.cells.append(new_code_cell("assert 1 + 1 == 3, 'sums'"))
    nbformat.write(broken, notebook)
    before = notebook.read_bytes()
    done = run(notebook)
    assert done.returncode == 1
    assert "AssertionError: sums" in done.stdout
    assert notebook.read_bytes() == before


def png(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_drawing_gets_a_palette_once() -> None:
    drawing = Image.new("RGB", (200, 200), "white")
    for radius, colour in enumerate(("navy", "crimson", "teal", "orange"), 1):
        ImageDraw.Draw(drawing).circle((100, 100), 20 * radius, outline=colour, width=3)
    small = refresh.small_png(png(drawing))
    assert len(small) < len(png(drawing))
    assert refresh.small_png(small) == small
    shown = Image.open(io.BytesIO(base64.b64decode(small))).convert("RGB")
    assert ImageChops.difference(drawing, shown).getbbox() is None


def test_photograph_is_kept() -> None:
    """More colours than a palette holds, all over the picture."""
    pixels = bytes(range(256)) * 256
    channels = [
        Image.frombytes("L", (256, 256), hashlib.shake_128(k).digest(65536)) for k in (b"r", b"g")
    ]
    noise = png(Image.merge("RGB", [*channels, Image.frombytes("L", (256, 256), pixels)]))
    assert refresh.small_png(noise) == noise


def test_missing_notebook_is_named(tmp_path: Path) -> None:
    done = run(tmp_path / "nowhere.ipynb")
    assert done.returncode == 2
    assert "nowhere.ipynb" in done.stderr


def encoded(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_drawings_become_small_and_photographs_stay() -> None:
    drawing = Image.new("RGB", (400, 300), "white")
    pen = ImageDraw.Draw(drawing)
    for i in range(60):
        pen.line((0, 5 * i, 400, 300 - 5 * i), fill=(2 * i, 3 * i, 4 * i), width=2)
    small = refresh.small_png(encoded(drawing))
    assert len(small) < 0.7 * len(encoded(drawing))
    shown = Image.open(io.BytesIO(base64.b64decode(small))).convert("RGB")
    assert max(ImageStat.Stat(ImageChops.difference(drawing, shown)).rms) < 2
    noise = random.Random(0).randbytes(3 * 128 * 128)
    photograph = encoded(Image.frombytes("RGB", (128, 128), noise))
    assert refresh.small_png(photograph) == photograph

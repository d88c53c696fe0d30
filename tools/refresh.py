"""Re-execute notebooks in place, and store them in one normal form.

    python tools/refresh.py                      every notebook of the book
    python tools/refresh.py book/x.ipynb ...     these
    python tools/refresh.py --check              change nothing; fail where a refresh would

Nothing else writes outputs. The normal form keeps diffs small: cell ids follow from the cells'
text, and there are no time stamps, versions or widget states. So a second refresh changes
nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import io
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from PIL import Image, ImageChops, ImageStat

ROOT = Path(__file__).resolve().parent.parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}
CELL_METADATA = ("mystnb", "tags")  # all that a cell may say about itself
SECONDS_PER_CELL = 120
LARGEST_COLOUR_ERROR = 2.0  # root mean square, of 255
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def notebooks() -> list[Path]:
    """Every notebook of the book."""
    return sorted(
        p for p in (ROOT / "book").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts
    )


def joined_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs with neighbouring pieces of a stream joined: where they broke is chance."""
    result: list[NotebookNode] = []
    for output in outputs:
        last = result[-1] if result else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            result.append(output)
    return result


def small_png(encoded: str) -> str:
    """A base64 PNG with a palette of 256 colours, a third of the size, where no eye sees it.

    Line drawings have few colours. A photograph has many, and is kept as it is.
    """
    picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
    if picture.mode == "P":
        return encoded
    picture = picture.convert("RGB")
    reduced = picture.quantize(256, dither=Image.Dither.NONE)
    difference = ImageChops.difference(picture, reduced.convert("RGB"))
    if max(ImageStat.Stat(difference).rms) > LARGEST_COLOUR_ERROR:
        return encoded
    buffer = io.BytesIO()
    reduced.save(buffer, "PNG", optimize=True)
    small = base64.b64encode(buffer.getvalue()).decode()
    return small if len(small) < len(encoded) else encoded


def normalise(notebook: NotebookNode) -> NotebookNode:
    """The notebook in its stored form, without what depends on when or where it ran."""
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = nbformat.from_dict(METADATA)
    taken: set[str] = set()
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        cell.id = next(
            name
            for n in range(len(taken) + 1)
            if (name := f"{digest}-{n}" if n else digest) not in taken
        )
        taken.add(cell.id)
        cell.metadata = {key: cell.metadata[key] for key in CELL_METADATA if cell.metadata.get(key)}
        cell.pop("attachments", None)
        if cell.cell_type == "code":
            cell.outputs = joined_streams(cell.outputs)
            for output in cell.outputs:
                if "metadata" in output:
                    output.metadata = {}
                if "image/png" in output.get("data", {}):
                    output.data["image/png"] = small_png(output.data["image/png"])
    return notebook


def text_of(notebook: NotebookNode) -> str:
    """The bytes to store, as text: sorted keys, one space of indentation, a newline at the end."""
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def write(path: Path, text: str) -> None:
    """Replace a file in one step, so that an interrupted refresh leaves the old one whole."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


async def executed(path: Path) -> str:
    """The text that ``path`` would have after a refresh."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=SECONDS_PER_CELL,
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
    )
    await client.async_execute()
    return text_of(normalise(notebook))


async def refresh(path: Path, check: bool, turn: asyncio.Semaphore) -> bool:
    """Bring one notebook up to date, or only compare it; whether all is well."""
    async with turn:
        start = time.perf_counter()
        try:
            text = await executed(path)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            print(f"FAILED     {path}\n{ANSI.sub('', str(error))}", flush=True)
            return False
        changed = text != path.read_text(encoding="utf-8")
        if changed and not check:
            write(path, text)
        verdict = "unchanged" if not changed else "STALE" if check else "refreshed"
        print(f"{verdict:10} {path}  {time.perf_counter() - start:.1f} s", flush=True)
        return not (changed and check)


async def refresh_all(paths: list[Path], check: bool, jobs: int) -> bool:
    turn = asyncio.Semaphore(jobs)
    return all(await asyncio.gather(*(refresh(path, check, turn) for path in paths)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "paths", nargs="*", type=Path, help="notebooks; all of the book's if none is named"
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; fail where a refresh would change"
    )
    parser.add_argument("--jobs", type=int, default=2, help="notebooks at a time (default 2)")
    options = parser.parse_args()
    missing = [str(path) for path in options.paths if not path.is_file()]
    if missing:
        parser.error(f"no such notebook: {', '.join(missing)}")
    # One thread a kernel: as many as `make test` gives it, so that both compute the same digits.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["PYTHONHASHSEED"] = "0"
    ok = asyncio.run(refresh_all(options.paths or notebooks(), options.check, options.jobs))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())

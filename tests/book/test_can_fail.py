"""The whole arrangement can fail: a wrong sign, coefficient or digit each turn it red.

Each test works on a copy of the library and of one notebook, spoils one line, and runs what `make
test` runs on the book. The copy as it is passes, so it is the spoilt line that fails.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = Path("book/adjoint/backward_solve.ipynb")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the library and of half the notebook, which is enough, in a folder of its own."""
    caches = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "companion", tmp_path / "companion", ignore=caches)
    notebook = json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8"))
    notebook["cells"] = notebook["cells"][: len(notebook["cells"]) // 2]
    (tmp_path / NOTEBOOK).parent.mkdir(parents=True)
    (tmp_path / NOTEBOOK).write_text(json.dumps(notebook), encoding="utf-8")
    return tmp_path


def spoil(path: Path, line: str, spoilt: str) -> None:
    """Replace a line that must occur exactly once, so that a moved line is noticed here."""
    text = path.read_text(encoding="utf-8")
    count = text.count(line)
    assert count == 1, f"{path.name} holds {line!r} {count} times; this test has to be adapted"
    path.write_text(text.replace(line, spoilt), encoding="utf-8")


def compare(copy: Path) -> subprocess.CompletedProcess[str]:
    """Re-execute the copied notebook against the copied library, and compare the outputs."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--nbval", "--nbval-current-env"]
    command += ["-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist"]
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    return subprocess.run(
        [*command, str(NOTEBOOK)], cwd=copy, env=environment, capture_output=True, text=True
    )


def assert_red(done: subprocess.CompletedProcess[str]) -> None:
    """One cell failed and cells before it passed: the library runs, but its numbers differ."""
    assert done.returncode == 1, done.stdout
    assert re.search(r"^1 failed, \d+ passed", done.stdout, re.MULTILINE), done.stdout


def test_untouched_copy_passes(copy: Path) -> None:
    done = compare(copy)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_flipped_sign_of_the_adjoint_fails(copy: Path) -> None:
    backsolve = copy / "companion" / "adjoint" / "backsolve.py"
    spoil(backsolve, "minus_a = [-leaves[half + i]", "minus_a = [leaves[half + i]")
    assert_red(compare(copy))


def test_wrong_tableau_entry_fails(copy: Path) -> None:
    """The entry keeps the sum of its row, so that only the numbers of the book give it away."""
    spoil(copy / "companion" / "ode" / "tableaus" / "explicit.py", '"3/40 9/40"', '"4/40 8/40"')
    assert_red(compare(copy))


def test_wrong_digit_in_a_stored_output_fails(copy: Path) -> None:
    path = copy / NOTEBOOK
    notebook = json.loads(path.read_text(encoding="utf-8"))
    printed = next(
        output["text"]
        for cell in notebook["cells"]
        for output in cell.get("outputs", ())
        if output["output_type"] == "stream" and any(c.isdigit() for c in "".join(output["text"]))
    )
    line, column = next(
        (i, j) for i, text in enumerate(printed) for j, c in enumerate(text) if c.isdigit()
    )
    digit = str((int(printed[line][column]) + 1) % 10)
    printed[line] = printed[line][:column] + digit + printed[line][column + 1 :]
    path.write_text(json.dumps(notebook), encoding="utf-8")
    assert_red(compare(copy))

"""In a real notebook: the record is stored, survives nbval, and a changed record does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from companion.proof import MIME, Record, read_ledger

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    """
import sympy as sp
from companion.proof import Theorem
x = sp.symbols("x")
A = sp.MatrixSymbol("A", 2, 2)
thm = Theorem("square", r"\\frac{d}{dx} x^2 = 2x")
thm.prove("derivative", sp.diff(x**2, x), 2 * x)
thm.check("at 3", 6.0, 6.0)
thm.refute("no transpose", A, A.T)
""",
    "thm.qed()",
]


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> Path:
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(source.strip()) for source in SOURCES]
    os.environ["PYTHONPATH"] = str(ROOT)
    try:
        NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    finally:
        del os.environ["PYTHONPATH"]
    for cell in notebook.cells:
        cell.metadata.clear()
    path = tmp_path_factory.mktemp("book") / "chapter.ipynb"
    nbformat.write(notebook, path)
    return path


def nbval(path: Path) -> subprocess.CompletedProcess:
    options = ["--nbval", "--nbval-current-env", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--rootdir", str(path.parent), str(path)],
        capture_output=True,
        text=True,
        cwd=path.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_the_output_holds_table_text_and_record(executed):
    notebook = nbformat.read(executed, as_version=4)
    nbformat.validate(notebook)
    (output,) = notebook.cells[1].outputs
    assert set(output.data) == {"text/plain", "text/html", MIME}
    assert isinstance(Record.from_json(output.data[MIME]), Record)
    assert output.data["text/plain"].startswith("Theorem square:")


def test_the_ledger_finds_it(executed):
    (record,) = read_ledger(executed.parent)
    assert record.name == "square"
    assert record.notebook == "chapter.ipynb"
    assert record.refutations[0].point.startswith("A[0,0] = ")


def test_nbval_compares_the_record(executed, tmp_path):
    """One run of nbval over a faithful and over a falsified notebook."""
    notebook = json.loads(executed.read_text())
    data = notebook["cells"][1]["outputs"][0]["data"][MIME]
    data["evidence"][0]["mutants"] += 1
    (tmp_path / "falsified.ipynb").write_text(json.dumps(notebook))
    (tmp_path / "faithful.ipynb").write_text(executed.read_text())
    done = nbval(tmp_path)
    assert "1 failed, 3 passed" in done.stdout, done.stdout + done.stderr
    assert f"mismatch '{MIME}'" in done.stdout
    assert "falsified" in done.stdout.split("short test summary")[-1]

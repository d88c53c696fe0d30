"""The command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from companion import __version__
from companion.cli import main
from tests.proof.notebooks import record, write

ROOT = Path(__file__).resolve().parents[1]


def test_ledger_is_a_table_with_aligned_columns(tmp_path, capsys):
    write(tmp_path / "adjoint" / "state.ipynb", record("a"), record("adjoint-state"))
    assert main(["ledger", "--book", str(tmp_path)]) == 0
    header, rule, *rows = capsys.readouterr().out.splitlines()
    assert header.split("  ")[0] == "theorem"
    for column in ("chapter", "proofs", "mutants refuted", "checks", "refutations", "statement"):
        start = header.index(column)
        assert rule[start] == "-"
        assert all(row[start - 1] == " " and row[start] != " " for row in rows)
    assert [row.split()[0] for row in rows] == ["a", "adjoint-state"]
    assert "3 (relative error <= 1e-7, absolute error <= 1e-9)" in rows[0]
    assert rows[0].endswith(r"\frac{d}{dx} x^2 = 2x")
    chapter = rows[0][header.index("chapter") :].split()[0]
    assert chapter == "adjoint/state.ipynb"
    assert rows[0][header.index("proofs") :].split()[0] == "2"
    assert rows[0][header.index("mutants refuted") :].split()[0] == "7"


def test_the_default_folder_is_book(tmp_path, monkeypatch, capsys):
    write(tmp_path / "book" / "a.ipynb", record("square"))
    monkeypatch.chdir(tmp_path)
    assert main(["ledger"]) == 0
    assert "square" in capsys.readouterr().out


def test_a_missing_folder_is_the_users_mistake(tmp_path, capsys):
    assert main(["ledger", "--book", str(tmp_path / "nowhere")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "is not a folder" in said.err


def test_a_book_without_theorems(tmp_path, capsys):
    assert main(["ledger", "--book", str(tmp_path)]) == 2
    assert "no theorem is recorded" in capsys.readouterr().err


def test_a_broken_notebook(tmp_path, capsys):
    (tmp_path / "a.ipynb").write_text("{")
    assert main(["ledger", "--book", str(tmp_path)]) == 2
    assert "a.ipynb is not a readable notebook" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["ledger", "extra"], ["ledger", "--book"]])
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: companion" in capsys.readouterr().err


def test_version_and_help(capsys):
    for option, said in (("--version", f"companion {__version__}"), ("--help", "ledger")):
        with pytest.raises(SystemExit) as stopped:
            main([option])
        assert stopped.value.code == 0
        assert said in capsys.readouterr().out


def test_it_runs_as_a_module_without_torch(tmp_path):
    write(tmp_path / "a.ipynb", record("square"))
    program = (
        "import sys, runpy\n"
        f"sys.argv = ['companion', 'ledger', '--book', {str(tmp_path)!r}]\n"
        "try:\n    runpy.run_module('companion', run_name='__main__')\n"
        "except SystemExit as stopped:\n    assert stopped.code == 0\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "square" in done.stdout

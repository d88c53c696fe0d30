"""The ledger reads what the notebooks store, and nothing else."""

from __future__ import annotations

import json

import pytest

from companion.proof import LedgerError, read_ledger
from tests.proof.notebooks import record, write


def test_records_come_sorted_by_path_then_by_cell(tmp_path):
    write(tmp_path / "b.ipynb", record("four"))
    write(tmp_path / "a" / "two.ipynb", record("three"))
    write(tmp_path / "a" / "one.ipynb", record("two"), record("one"))
    found = [(r.notebook, r.name) for r in read_ledger(tmp_path)]
    assert found == [
        ("a/one.ipynb", "two"),
        ("a/one.ipynb", "one"),
        ("a/two.ipynb", "three"),
        ("b.ipynb", "four"),
    ]


def test_what_a_record_says(tmp_path):
    write(tmp_path / "a.ipynb", record("square"))
    (found,) = read_ledger(tmp_path)
    assert found.statement == r"\frac{d}{dx} x^2 = 2x"
    assert [proof.label for proof in found.proofs] == ["derivative", "again"]
    assert found.mutants == 7
    assert len(found.checks) == 3
    assert found.refutations[0].point == "x = 2"


def test_builds_and_checkpoints_are_skipped(tmp_path):
    write(tmp_path / "_build" / "html" / "a.ipynb", record("copy"))
    write(tmp_path / ".ipynb_checkpoints" / "a.ipynb", record("copy"))
    assert read_ledger(tmp_path) == []


def test_a_folder_inside_a_build_folder_is_read(tmp_path):
    write(tmp_path / "_build" / "book" / "a.ipynb", record("square"))
    assert len(read_ledger(tmp_path / "_build" / "book")) == 1


def test_a_notebook_without_theorems_is_fine(tmp_path):
    write(tmp_path / "a.ipynb")
    assert read_ledger(tmp_path) == []


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"cells": 3}', '{"cells": [3]}'])
def test_a_broken_notebook_is_named(tmp_path, content):
    (tmp_path / "broken.ipynb").write_text(content)
    with pytest.raises(LedgerError, match=r"^broken.ipynb is not a readable notebook"):
        read_ledger(tmp_path)


def test_a_notebook_that_is_no_text_is_named(tmp_path):
    (tmp_path / "broken.ipynb").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LedgerError, match=r"^broken.ipynb"):
        read_ledger(tmp_path)


def test_a_broken_record_is_named(tmp_path):
    write(tmp_path / "a.ipynb", {**record("square"), "version": 0})
    with pytest.raises(LedgerError, match=r"^a.ipynb: .*version 1.*run the notebook again"):
        read_ledger(tmp_path)


def test_a_name_stands_for_one_theorem(tmp_path):
    write(tmp_path / "a.ipynb", record("square"))
    write(tmp_path / "b.ipynb", record("square"))
    with pytest.raises(LedgerError, match=r"square stands in a.ipynb and in b.ipynb"):
        read_ledger(tmp_path)


def test_a_missing_folder(tmp_path):
    with pytest.raises(LedgerError, match="is not a folder"):
        read_ledger(tmp_path / "nowhere")


def test_records_as_frontends_store_them(tmp_path):
    # Jupyter may write the JSON of a +json type as it is; nothing is wrapped in a string.
    write(tmp_path / "a.ipynb", record("square"))
    cells = json.loads((tmp_path / "a.ipynb").read_text())["cells"]
    assert isinstance(cells[1]["outputs"][1]["data"], dict)

"""The ledger page, before Sphinx renders it."""

from __future__ import annotations

import pytest
from theorem_ledger import breakable, in_reading_order, page, summary

from companion.proof import Checked, Proved, Record, Refuted


def record(name: str, notebook: str) -> Record:
    evidence = (Proved("p", 3, ""), Checked("c", "1e-7", 1), Refuted("r", "x = 1"))
    return Record(name, r"a = b, \quad c = d", "", evidence, notebook)


@pytest.mark.parametrize(
    ("statement", "formulae"),
    [
        ("a = b", "$a = b$"),
        (r"a = b, \quad c = d", "$a = b$, $c = d$"),
        (r"a = b,\qquad c = d,  \quad e", "$a = b$, $c = d$, $e$"),
        (r"f = {a, \quad b}, \quad c", r"$f = {a,\quad b}$, $c$"),
        (
            r"\begin{cases} a, \quad b \end{cases}, \quad c",
            r"$\begin{cases} a,\quad b \end{cases}$, $c$",
        ),
        (r"a, \quad {b", r"$a$, ${b$"),
        (r"a = b, \quadratic", r"$a = b, \quadratic$"),
        ("a\n  = b", "$a = b$"),
    ],
)
def test_lines_break_between_formulae_only(statement: str, formulae: str) -> None:
    assert breakable(statement) == formulae


def test_chapters_come_in_the_order_of_the_contents() -> None:
    records = [record("one", "a/late.ipynb"), record("two", "z/early.ipynb")]
    contents = ["book/index.md", "book/z/early.ipynb", "book/a/late.ipynb"]
    assert [r.name for r in in_reading_order(records, "book", contents)] == ["two", "one"]


def test_totals_and_rows() -> None:
    records = [record("one", "a.ipynb"), record("two", "a.ipynb"), record("three", "b.ipynb")]
    assert summary(records) == (
        "3 theorems: 3 exact proofs, 9 mutants refuted, 3 numerical checks, 3 wrong claims refuted."
    )
    assert summary(records[:1]).startswith("1 theorem: 1 exact proof, 3 mutants refuted")
    lines = page(records, "book")
    assert [line for line in lines if "{doc}" in line] == [
        "**{doc}`/book/a`**",
        "**{doc}`/book/b`**",
    ]
    row = lines.index("* - {prf:ref}`three`")
    assert lines[row + 1 : row + 6] == ["  - $a = b$, $c = d$", "  - 1", "  - 3", "  - 1", "  - 1"]

"""The directive ``theorem-ledger``: a table of all theorems, made from the stored outputs.

Its argument is the folder that holds the notebooks, from the source root. Each theorem is linked to
its box, and what is said about it is read from the record that its ``qed()`` left in the notebook:
the page cannot claim what no notebook shows.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from companion.proof import LedgerError, Record, read_ledger


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def evidence(record: Record) -> str:
    """What supports one theorem, in a few words."""
    bounds = ", ".join(dict.fromkeys(check.bound for check in record.checks))
    return (
        f"{counted(len(record.proofs), 'exact proof')}, "
        f"{counted(record.mutants, 'mutant')} refuted; "
        f"{counted(len(record.checks), 'check')} ({bounds}); "
        f"{counted(len(record.refutations), 'wrong claim')} refuted"
    )


def summary(records: list[Record]) -> str:
    """The totals of the book."""
    proofs, mutants, checks, refutations = (
        sum(len(r.proofs) for r in records),
        sum(r.mutants for r in records),
        sum(len(r.checks) for r in records),
        sum(len(r.refutations) for r in records),
    )
    return (
        f"{counted(len(records), 'theorem')}: {counted(proofs, 'exact proof')}, "
        f"{counted(mutants, 'mutant')} refuted, {counted(checks, 'numerical check')}, "
        f"{counted(refutations, 'wrong claim')} refuted."
    )


def in_reading_order(records: list[Record], folder: str, contents: list[str]) -> list[Record]:
    """The records as a reader of the book meets them; ``contents`` lists its pages in order."""
    place = {page.rpartition(".")[0] or page: number for number, page in enumerate(contents)}
    pages = {r.notebook: f"{folder}/{r.notebook.removesuffix('.ipynb')}" for r in records}
    return sorted(records, key=lambda record: place.get(pages[record.notebook], len(place)))


def page(records: list[Record], folder: str) -> list[str]:
    """The ledger as lines of MyST: the totals, and a table for each chapter."""
    lines = [summary(records), ""]
    for notebook, theorems in groupby(records, key=lambda record: record.notebook):
        lines += [f"**{{doc}}`/{folder}/{notebook.removesuffix('.ipynb')}`**", ""]
        lines += [":::{list-table}", ":header-rows: 1", ":widths: 20 50 30", ""]
        lines += ["* - Theorem", "  - Statement", "  - Evidence"]
        for record in theorems:
            lines.append(f"* - {{prf:ref}}`{record.name}`")
            lines.append(f"  - ${' '.join(record.statement.split())}$")
            lines.append(f"  - {evidence(record)}")
        lines += [":::", ""]
    return lines


class TheoremLedger(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        (folder,) = self.arguments
        root = Path(self.env.srcdir) / folder
        try:
            records = read_ledger(root)
        except LedgerError as problem:
            raise self.error(f"the ledger of {folder} cannot be read: {problem}") from problem
        if not records:
            raise self.error(f"no notebook in {folder} holds the record of a theorem")
        for record in records:
            self.env.note_dependency(str(root / record.notebook))
        parent = nodes.container(classes=["theorem-ledger"])
        records = in_reading_order(records, folder, list(self.env.external_site_map))
        source = StringList(page(records, folder), source=str(root))
        self.state.nested_parse(source, self.content_offset, parent)
        return [parent]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("theorem-ledger", TheoremLedger)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

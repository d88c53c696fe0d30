"""How a closed theorem is shown: an HTML table in a notebook, text elsewhere."""

from __future__ import annotations

import sys
from html import escape

from companion.proof.record import MIME, Checked, Evidence, Proved, Record

_VERBS = {"prove": "proved", "check": "checked", "refute": "refuted"}


def show(record: Record) -> None:
    """Display a record in IPython, with its JSON under its own MIME type; else print it."""
    if _in_ipython():
        from IPython.display import display  # not a dependency: only there when running in it

        bundle = {
            "text/plain": as_text(record),
            "text/html": as_html(record),
            MIME: record.to_json(),
        }
        display(bundle, raw=True)
    else:
        print(as_text(record))


def _in_ipython() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


def line(evidence: Evidence) -> str:
    """One line about one piece of evidence."""
    verb = _VERBS[evidence.kind]
    detail = found(evidence)
    return f"{verb}: {evidence.label} ({detail})" if detail else f"{verb}: {evidence.label}"


def found(evidence: Evidence) -> str:
    """What a piece of evidence rests on, in a few words."""
    if isinstance(evidence, Proved):
        return f"{evidence.mutants} mutant{'s' if evidence.mutants != 1 else ''} refuted"
    if isinstance(evidence, Checked):
        return evidence.bound
    return ""


def as_text(record: Record) -> str:
    """The record as plain text."""
    head = [f"Theorem {record.name}: {record.statement}"]
    if record.hypotheses:
        head.append(f"  assuming {record.hypotheses}")
    return "\n".join([*head, *(f"  {line(e)}" for e in record.evidence)])


def as_html(record: Record) -> str:
    """The record as an HTML table: no script, no style, one row for each piece of evidence."""
    assumed = f" Assuming {escape(record.hypotheses)}." if record.hypotheses else ""
    rows = "".join(
        f'<tr class="companion-{e.kind}"><th scope="row">{_VERBS[e.kind]}</th>'
        f"<td>{escape(e.label)}</td><td>{escape(_in_table(e))}</td></tr>"
        for e in record.evidence
    )
    return (
        '<div class="companion-theorem"><table><caption>Record of '
        f"<code>{escape(record.name)}</code>: "
        f'<span class="math notranslate nohighlight">\\({escape(record.statement)}\\)</span>.'
        f"{assumed}</caption>"
        '<thead><tr><th scope="col">Evidence</th><th scope="col">Claim</th>'
        '<th scope="col">Found</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _in_table(evidence: Evidence) -> str:
    if isinstance(evidence, Proved):
        return f"exact zero; {found(evidence)}"
    if isinstance(evidence, Checked):
        return evidence.bound
    return "false at an exact point"

"""What nbval does not see: rules that every notebook of the book obeys.

nbval compares stored outputs with fresh ones, but it passes a notebook that was never run, passes
a cell that lost its output together with its count, and never compares pictures. Each rule below
takes a notebook and yields one sentence for each fault. `test_notebooks.py` applies all rules to
all notebooks, and every rule to a notebook planted with the fault that it is there to find.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import nbformat
from refresh import normalise, text_of

from companion.proof import MIME, Record

MAX_BYTES = 300_000
MAX_LINES = 15
MAX_COLUMNS = 79
MAX_DIGITS = 4
PROVED = (
    "theorem",
    "lemma",
    "corollary",
    "proposition",
)  # the boxes that claim, so that need a proof that ran


@dataclass(frozen=True)
class Notebook:
    """A notebook as it lies on disk."""

    text: str

    @cached_property
    def cells(self) -> list[dict[str, Any]]:
        return nbformat.reads(self.text, as_version=4).cells

    @cached_property
    def code(self) -> list[dict[str, Any]]:
        """The code cells that hold something."""
        return [cell for cell in self.cells if cell.cell_type == "code" and cell.source.strip()]

    @cached_property
    def prose(self) -> list[str]:
        return [cell.source for cell in self.cells if cell.cell_type == "markdown"]


Rule = Callable[[Notebook], Iterator[str]]


def shown(cell: dict[str, Any]) -> str:
    """How a message names a cell."""
    return f"the cell that begins {cell['source'].strip().splitlines()[0][:60]!r}"


def body(cell: dict[str, Any]) -> list[ast.stmt]:
    """The statements of a cell; none where it is not Python, which another rule reports."""
    try:
        return ast.parse(cell["source"]).body
    except SyntaxError:
        return []


def calls(cell: dict[str, Any]) -> Iterator[ast.Call]:
    for statement in body(cell):
        yield from (node for node in ast.walk(statement) if isinstance(node, ast.Call))


def called(call: ast.Call) -> str:
    """The last name in what is called: `qed` for `thm.qed()`."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def mime_types(cell: dict[str, Any]) -> list[str]:
    return [kind for output in cell["outputs"] for kind in output.get("data", {})]


def texts(cell: dict[str, Any]) -> Iterator[str]:
    """What a cell printed or displayed as plain text."""
    for output in cell["outputs"]:
        yield output.get("text", "")
        yield output.get("data", {}).get("text/plain", "")


def html(cell: dict[str, Any]) -> str:
    """What a cell displayed as a piece of page."""
    return " ".join(output.get("data", {}).get("text/html", "") for output in cell["outputs"])


def sliders(cell: dict[str, Any]) -> int:
    """How many figures with a slider a cell displayed; they are HTML, and figures nonetheless."""
    return html(cell).count('class="companion-slider"')


def executed_in_order(notebook: Notebook) -> Iterator[str]:
    counts = [cell.execution_count for cell in notebook.code]
    if not counts:
        yield "it has no code cell"
    elif counts != list(range(1, len(counts) + 1)):
        yield f"it was not executed top to bottom: its cells are numbered {counts}"


def in_normal_form(notebook: Notebook) -> Iterator[str]:
    if text_of(normalise(nbformat.reads(notebook.text, as_version=4))) != notebook.text:
        yield "it is not as `make refresh` stores it (stray metadata, other ids, another order)"


def small(notebook: Notebook) -> Iterator[str]:
    size = len(notebook.text.encode())
    if size > MAX_BYTES:
        yield f"it has {size} bytes; at most {MAX_BYTES} are allowed"


def short_cells(notebook: Notebook) -> Iterator[str]:
    for cell in notebook.code:
        lines = cell.source.splitlines()
        if len(lines) > MAX_LINES:
            yield f"{shown(cell)} has {len(lines)} lines; at most {MAX_LINES} are allowed"
        for line in lines:
            if len(line) > MAX_COLUMNS:
                yield f"{shown(cell)} has {len(line)} columns; at most {MAX_COLUMNS} are allowed"


def plain_python(notebook: Notebook) -> Iterator[str]:
    for cell in notebook.code:
        try:
            ast.parse(cell.source)
        except SyntaxError:
            yield f"{shown(cell)} is not plain Python; magics and shell lines do not run everywhere"
        if any(called(call) == "glue" for call in calls(cell)):
            yield f"{shown(cell)} uses glue, which needs the book's tools in the reader's kernel"


def no_trailing_semicolon(notebook: Notebook) -> Iterator[str]:
    silent = (tokenize.COMMENT, tokenize.NEWLINE, tokenize.NL, tokenize.ENDMARKER, tokenize.DEDENT)
    for cell in notebook.code:
        try:
            tokens = [
                t
                for t in tokenize.generate_tokens(io.StringIO(cell.source).readline)
                if t.type not in silent
            ]
        except (tokenize.TokenError, SyntaxError):
            continue
        if tokens and tokens[-1].string == ";":
            yield f"{shown(cell)} ends in ';', which nbval does not honour; end it in plt.show()"


def no_stderr(notebook: Notebook) -> Iterator[str]:
    for cell in notebook.code:
        if any(
            output.output_type == "stream" and output.name == "stderr" for output in cell.outputs
        ):
            yield f"{shown(cell)} wrote to stderr"
        if any(output.output_type == "error" for output in cell.outputs):
            yield f"{shown(cell)} stores an exception; catch it and print its message instead"


def outputs_present(notebook: Notebook) -> Iterator[str]:
    for cell in notebook.code:
        tops = [s.value for s in body(cell) if isinstance(s, ast.Expr)]
        prints = any(
            isinstance(e, ast.Call) and called(e) in ("print", "prove", "check", "refute")
            for e in tops
        )
        last = body(cell)[-1] if body(cell) else None
        displays = isinstance(last, ast.Expr) and not isinstance(
            last.value, ast.Call | ast.Constant
        )
        draws = any(called(call) == "show" for call in calls(cell))
        if prints and not any(output.output_type == "stream" for output in cell.outputs):
            yield f"{shown(cell)} prints, but no printed output is stored"
        if displays and not any(output.output_type == "execute_result" for output in cell.outputs):
            yield f"{shown(cell)} ends in an expression, but no result is stored"
        if draws and not any(kind.startswith("image/") for kind in mime_types(cell)):
            yield f"{shown(cell)} shows a figure, but none is stored"
        if any(called(call) == "slider" for call in calls(cell)) and not sliders(cell):
            yield f"{shown(cell)} makes a slider, but none is stored; let it be the last expression"


def portable_digits(notebook: Notebook) -> Iterator[str]:
    for cell in notebook.code:
        for number in re.findall(r"(?<![\w.])\d+\.\d+", " ".join(texts(cell))):
            if len(number.replace(".", "").lstrip("0")) > MAX_DIGITS:
                yield (
                    f"{shown(cell)} prints {number}; more than {MAX_DIGITS} significant digits "
                    "differ from one processor to the next"
                )


def portable_text(notebook: Notebook) -> Iterator[str]:
    machine = re.compile(
        r"(?<![\w.:/])(/(home|root|Users|tmp|work|mnt|opt|usr|var)/\S*|[A-Z]:\\\w\S*)"
    )
    address = re.compile(r"\bat 0x[0-9a-f]{6,}")
    for cell in notebook.code:
        for text in (cell.source, *texts(cell)):
            if found := machine.search(text):
                yield f"{shown(cell)} names a path of one machine: {found.group()}"
            if found := address.search(text):
                yield f"{shown(cell)} prints an address in memory: {found.group()}"


def figures_described(notebook: Notebook) -> Iterator[str]:
    for cell in notebook.code:
        pictures = [kind for kind in mime_types(cell) if kind.startswith("image/")]
        about = cell.metadata.get("mystnb", {})
        figures = len(pictures) + sliders(cell)
        if figures > 1:
            yield f"{shown(cell)} draws {figures} figures; one a cell, each with its text"
        if pictures and not about.get("image", {}).get("alt", "").strip():
            yield f"{shown(cell)} draws a figure without alt text (mystnb: image: alt)"
        if figures and not about.get("figure", {}).get("caption", "").strip():
            yield f"{shown(cell)} draws a figure without a caption (mystnb: figure: caption)"
        for picture in re.findall(r"<(?:img|svg)\b[^>]*>", html(cell)):
            if not re.search(r"""\b(alt|aria-label|aria-labelledby)=["'][^"']""", picture):
                yield f"{shown(cell)} displays {picture[:40]} without alt text or aria-label"
        if sliders(cell) and re.search(r"<span>\s*</span></li>", html(cell)):
            yield f"{shown(cell)} displays a slider with a frame without alt text"
    for text in notebook.prose:
        if re.search(r"!\[\s*\]\(", text):
            yield "a picture in the text has no alt text"


def figures_asserted(notebook: Notebook) -> Iterator[str]:
    for cell in notebook.code:
        draws = sliders(cell) or any(kind.startswith("image/") for kind in mime_types(cell))
        asserts = any(isinstance(node, ast.Assert) for s in body(cell) for node in ast.walk(s))
        checks = any(
            called(call) in ("check", "assert_close", "assert_allclose") for call in calls(cell)
        )
        if draws and not (asserts or checks):
            yield f"{shown(cell)} draws a figure but asserts nothing: nbval never compares pictures"


def nothing_exempt(notebook: Notebook) -> Iterator[str]:
    for cell in notebook.code:
        tags = set(cell.metadata.get("tags", ()))
        for tag in sorted(tags & {"nbval-skip", "remove-cell", "remove-input", "remove-output"}):
            yield f"{shown(cell)} is tagged {tag}: every cell is tested, and shown"
        asserts = any(isinstance(node, ast.Assert) for s in body(cell) for node in ast.walk(s))
        if "nbval-ignore-output" in tags and not asserts:
            yield f"{shown(cell)} is tagged nbval-ignore-output but asserts nothing"


def stated(cell: dict[str, Any]) -> Iterator[str]:
    """The identifiers of the theorems that a cell begins to prove."""
    for call in calls(cell):
        if called(call) == "Theorem" and call.args and isinstance(call.args[0], ast.Constant):
            yield call.args[0].value


def boxes(text: str) -> list[str]:
    """The labels of the boxes in a text that need a proof; empty where a box has none."""
    fence = rf"^:::+\{{prf:(?:{'|'.join(PROVED)})\}}[^\n]*\n((?:[ \t]*:\w[^\n]*\n)*)"
    options = re.findall(fence, text + "\n", re.MULTILINE)
    return [(re.findall(r":label:\s*(\S+)", option) or [""])[0] for option in options]


def theorems_proved(notebook: Notebook) -> Iterator[str]:
    claimed = [name for cell in notebook.code for name in stated(cell)]
    finished = sum(called(call) == "qed" for cell in notebook.code for call in calls(cell))
    stored = [
        Record.from_json(output.data[MIME]).name
        for cell in notebook.code
        for output in cell.outputs
        if MIME in output.get("data", {})
    ]
    boxed = [label for text in notebook.prose for label in boxes(text)]
    if finished != len(claimed):
        yield f"it begins {len(claimed)} theorems and ends {finished} with .qed()"
    for name in claimed:
        if name not in stored:
            yield f"theorem {name!r} has no stored record"
        if name not in boxed:
            yield f"theorem {name!r} has no box in the text (:label: {name})"
    for name in boxed:
        if name not in claimed:
            yield f"the box {name!r} claims what no Theorem proves"
    for name in {n for names in (claimed, stored, boxed) for n in names if names.count(n) > 1}:
        yield f"theorem {name!r} occurs more than once"


def plain_latex(notebook: Notebook) -> Iterator[str]:
    private = re.compile(
        r"\\(newcommand|renewcommand|providecommand|DeclareMathOperator|def|let|require)\b"
    )
    for text in notebook.prose:
        if found := private.search(text):
            yield f"the text uses {found.group()}: private macros work on this site alone"


def colon_fences(notebook: Notebook) -> Iterator[str]:
    for text in notebook.prose:
        if found := re.search(r"^\s*`{3,}\{[^\n]*", text, re.MULTILINE):
            fence = found.group().strip()
            yield f"{fence!r} has backticks; such a block can turn into code unnoticed"


def one_title(notebook: Notebook) -> Iterator[str]:
    text = re.sub(
        r"^(```|~~~).*?^\1", "", "\n".join(notebook.prose), flags=re.MULTILINE | re.DOTALL
    )
    levels = [len(marks) for marks in re.findall(r"^(#{1,6}) ", text, re.MULTILINE)]
    if levels.count(1) != 1 or levels[0] != 1:
        yield "it must begin with its title, the one heading of the first level"
    if any(below > above + 1 for above, below in pairwise(levels)):
        yield f"its headings skip a level: {levels}"


RULES: tuple[Rule, ...] = (
    executed_in_order,
    in_normal_form,
    small,
    short_cells,
    plain_python,
    no_trailing_semicolon,
    no_stderr,
    outputs_present,
    portable_digits,
    portable_text,
    figures_described,
    figures_asserted,
    nothing_exempt,
    theorems_proved,
    plain_latex,
    colon_fences,
    one_title,
)

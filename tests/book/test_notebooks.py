"""Every notebook obeys every rule; and every rule finds the fault that it is there to find."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import notebook_rules as rules
import pytest
import yaml
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from notebook_rules import RULES, Notebook, Rule
from PIL import Image
from refresh import normalise, notebooks, text_of

from companion.figures import slider
from companion.proof import MIME, Record

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = notebooks()


def name(thing: object) -> str:
    return thing.stem if isinstance(thing, Path) else getattr(thing, "__name__", str(thing))


@pytest.mark.parametrize("rule", RULES, ids=name)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook_obeys(path: Path, rule: Rule) -> None:
    faults = list(rule(Notebook(path.read_text(encoding="utf-8"))))
    assert not faults, f"{path.relative_to(ROOT)}:\n  " + "\n  ".join(faults)


def test_the_book_is_its_table_of_contents() -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = [toc["root"], *(page["file"] for part in toc["parts"] for page in part["chapters"])]
    pages = [
        path
        for path in (ROOT / "book").rglob("*")
        if path.suffix in (".ipynb", ".md") and ".ipynb_checkpoints" not in path.parts
    ]
    assert sorted(listed) == sorted(str(p.relative_to(ROOT).with_suffix("")) for p in pages)


def test_pages_without_cells_claim_nothing() -> None:
    for path in (ROOT / "book").rglob("*.md"):
        assert rules.boxes(path.read_text(encoding="utf-8")) == [], f"{path}: no cell proves this"


def test_theorem_names_are_unique_in_the_book() -> None:
    where: dict[str, Path] = {}
    for path in NOTEBOOKS:
        for cell in Notebook(path.read_text(encoding="utf-8")).code:
            for theorem in rules.stated(cell):
                assert theorem not in where, (
                    f"{theorem} is stated in {where[theorem]} and in {path}"
                )
                where[theorem] = path
    assert where, "the book states no theorem"


# --- each rule, on a notebook planted with its fault --------------------------------------------


def stream(text: str, kind: str = "stdout") -> NotebookNode:
    return new_output("stream", name=kind, text=text)


def figure() -> NotebookNode:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "navy").save(buffer, "PNG")
    picture = base64.b64encode(buffer.getvalue()).decode()
    return new_output("display_data", data={"image/png": picture, "text/plain": "<Figure>"})


def good() -> NotebookNode:
    """A notebook without a fault: a title, a theorem with its record, a number, a figure."""
    record = new_output(
        "display_data", data={MIME: Record("rule", "1 = 1", "", ()).to_json(), "text/plain": "rule"}
    )
    box = "# Title\n\n:::{prf:theorem}\n:label: rule\n\n$1 = 1$\n:::\n\n## Proof"
    described = {"mystnb": {"image": {"alt": "A line."}, "figure": {"caption": "A line."}}}
    cells = [
        new_markdown_cell(box),
        new_code_cell(
            'thm = Theorem("rule", "1 = 1")\nprint("stated")', outputs=[stream("stated\n")]
        ),
        new_code_cell("thm.qed()", outputs=[record]),
        new_code_cell(
            "x = 1 / 4\nx",
            outputs=[new_output("execute_result", data={"text/plain": "0.25"}, execution_count=3)],
        ),
        new_code_cell("assert x < 1\nplt.show()", outputs=[figure()], metadata=described),
    ]
    for count, cell in enumerate(cells[1:], 1):
        cell.execution_count = count
    return new_notebook(cells=cells)


def stored(notebook: NotebookNode) -> Notebook:
    return Notebook(text_of(normalise(notebook)))


def test_good_notebook_has_no_fault() -> None:
    assert {name(rule): list(rule(stored(good()))) for rule in RULES} == {
        name(r): [] for r in RULES
    }


def source(index: int, text: str) -> Callable[[NotebookNode], None]:
    def plant(notebook: NotebookNode) -> None:
        notebook.cells[index].source = text

    return plant


def added_source(index: int, text: str) -> Callable[[NotebookNode], None]:
    def plant(notebook: NotebookNode) -> None:
        notebook.cells[index].source += text

    return plant


def outputs(index: int, *replacement: NotebookNode) -> Callable[[NotebookNode], None]:
    def plant(notebook: NotebookNode) -> None:
        notebook.cells[index].outputs = list(replacement)

    return plant


def metadata(index: int, **replacement: object) -> Callable[[NotebookNode], None]:
    def plant(notebook: NotebookNode) -> None:
        notebook.cells[index].metadata = nbformat.from_dict(replacement)

    return plant


def counts(*numbers: int | None) -> Callable[[NotebookNode], None]:
    def plant(notebook: NotebookNode) -> None:
        for cell, number in zip(notebook.cells[1:], numbers, strict=True):
            cell.execution_count = number

    return plant


def cleared(notebook: NotebookNode) -> None:
    for cell in notebook.cells[1:]:
        cell.outputs, cell.execution_count = [], None


def result(text: str) -> NotebookNode:
    return new_output("execute_result", data={"text/plain": text}, execution_count=3)


def page(text: str) -> NotebookNode:
    return new_output("display_data", data={"text/html": text, "text/plain": "page"})


def moving(*texts: str) -> NotebookNode:
    """A figure with a slider, with these alt texts."""
    fig, ax = plt.subplots()
    frames = [ax.plot([0, 1]) for _ in texts]
    made = slider(fig, frames, range(len(texts)), label="Place", alt=texts, name="planted")
    return page(made.html)


def emptied(output: NotebookNode, text: str) -> NotebookNode:
    output.data["text/html"] = output.data["text/html"].replace(text, "")
    return output


FAULTS: list[tuple[Rule, str, Callable[[NotebookNode], None]]] = [
    (rules.executed_in_order, "never run", cleared),
    (rules.executed_in_order, "out of order", counts(1, 3, 2, 4)),
    (rules.executed_in_order, "run on from an older session", counts(5, 6, 7, 8)),
    (rules.executed_in_order, "one cell not run", counts(1, None, 2, 3)),
    (
        rules.executed_in_order,
        "no code",
        lambda notebook: notebook.cells.__delitem__(slice(1, None)),
    ),
    (rules.small, "an output of 300 kB", outputs(1, stream("word " * 60_001))),
    (
        rules.short_cells,
        "16 lines",
        source(1, 'thm = Theorem("rule", "")\n' + "x = 1\n" * 14 + "print(1)"),
    ),
    (rules.short_cells, "80 columns", added_source(1, "\n" + "y" * 76 + " = 1")),
    (rules.plain_python, "a magic", added_source(1, "\n%matplotlib inline")),
    (rules.plain_python, "a shell line", added_source(1, "\n!pip install torch")),
    (rules.plain_python, "glue", added_source(1, '\nglue("x", 1)')),
    (rules.no_trailing_semicolon, "at the end", added_source(4, ";")),
    (rules.no_trailing_semicolon, "before a comment", added_source(4, ";  # quiet")),
    (rules.no_stderr, "a warning", outputs(1, stream("stated\n"), stream("UserWarning", "stderr"))),
    (
        rules.no_stderr,
        "an exception",
        outputs(
            1,
            stream("stated\n"),
            new_output("error", ename="ValueError", evalue="no", traceback=[]),
        ),
    ),
    (rules.outputs_present, "a lost print", outputs(1)),
    (rules.outputs_present, "a lost result", outputs(3)),
    (rules.outputs_present, "a lost figure", outputs(4)),
    (rules.portable_digits, "printed", outputs(1, stream("loss 0.12345\n"))),
    (rules.portable_digits, "displayed", outputs(3, result("tensor(1.23456e-05)"))),
    (rules.portable_text, "a path printed", outputs(1, stream("saved in /home/me/out.png\n"))),
    (rules.portable_text, "a path in the code", added_source(1, '\nopen("/tmp/x")')),
    (rules.portable_text, "an address", outputs(3, result("<object at 0x7f2b3c4d5e6f>"))),
    (
        rules.figures_described,
        "no alt text",
        metadata(4, mystnb={"figure": {"caption": "A line."}}),
    ),
    (rules.figures_described, "no caption", metadata(4, mystnb={"image": {"alt": "A line."}})),
    (rules.figures_described, "two figures", outputs(4, figure(), figure())),
    (rules.figures_described, "markdown", added_source(0, "\n\n![](picture.png)")),
    (rules.figures_described, "html", outputs(2, page("<img src='data:,'>"))),
    (rules.figures_described, "svg", outputs(2, page("<svg viewBox='0 0 1 1'></svg>"))),
    (rules.outputs_present, "a lost slider", source(3, "slider(fig, frames)")),
    (rules.figures_described, "a slider without caption", outputs(3, moving("Low.", "High."))),
    (
        rules.figures_described,
        "a slider beside a figure",
        outputs(4, figure(), moving("Low.", "High.")),
    ),
    (
        rules.figures_described,
        "a frame without alt text",
        outputs(4, emptied(moving("Low.", "High."), "High.")),
    ),
    (rules.figures_asserted, "no claim checked", source(4, "plt.show()")),
    (rules.figures_asserted, "no claim of a slider checked", outputs(3, moving("Low.", "High."))),
    (rules.nothing_exempt, "skipped", metadata(1, tags=["nbval-skip"])),
    (rules.nothing_exempt, "hidden", metadata(1, tags=["remove-input"])),
    (rules.nothing_exempt, "ignored", metadata(1, tags=["nbval-ignore-output"])),
    (rules.theorems_proved, "no qed", source(2, "thm")),
    (rules.theorems_proved, "no record", outputs(2)),
    (rules.theorems_proved, "no box", source(0, "# Title")),
    (
        rules.theorems_proved,
        "a box without label",
        source(0, "# Title\n\n:::{prf:theorem}\n$1$\n:::"),
    ),
    (
        rules.theorems_proved,
        "a box without proof",
        added_source(
            0, "\n\n::::{prf:lemma} Of [Euler]\n:class: dropdown\n:label: other\n\n$1$\n::::"
        ),
    ),
    (rules.theorems_proved, "stated twice", added_source(1, '\nthm = Theorem("rule", "again")')),
    (rules.plain_latex, "a macro", added_source(0, "\n\n$\\newcommand{\\R}{\\mathbb{R}}$")),
    (rules.plain_latex, "an operator", added_source(0, "\n\n$\\DeclareMathOperator{\\tr}{tr}$")),
    (rules.colon_fences, "backticks", added_source(0, "\n\n```{note}\nWell.\n```")),
    (rules.one_title, "no title", source(0, "## Section\n\n:::{prf:theorem}\n:label: rule\n:::")),
    (rules.one_title, "two titles", added_source(0, "\n\n# Another")),
    (rules.one_title, "a skipped level", added_source(0, "\n\n#### Deep")),
]


@pytest.mark.parametrize(
    ("rule", "fault", "plant"), FAULTS, ids=[f"{name(r)}: {f}" for r, f, _ in FAULTS]
)
def test_rule_finds_its_fault(
    rule: Rule, fault: str, plant: Callable[[NotebookNode], None]
) -> None:
    notebook = good()
    plant(notebook)
    assert list(rule(stored(notebook)))


@pytest.mark.parametrize(
    "noise",
    [
        lambda stored: stored["cells"][1]["metadata"].update(
            execution={"iopub.status.busy": "2026-01-01"}
        ),
        lambda stored: stored["metadata"].update(widgets={}),
        lambda stored: stored["metadata"]["language_info"].update(version="3.11.7"),
        lambda stored: stored["cells"][1].update(id="another"),
        lambda stored: stored["cells"][4]["outputs"][0]["metadata"].update(
            needs_background="light"
        ),
    ],
    ids=["time stamps", "widgets", "Python's version", "random ids", "output metadata"],
)
def test_normal_form_has_no_noise(noise: Callable[[dict], None]) -> None:
    noisy = json.loads(stored(good()).text)
    noise(noisy)
    text = json.dumps(noisy, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    assert list(rules.in_normal_form(Notebook(text)))
    assert text_of(normalise(nbformat.reads(text, as_version=4))) == stored(good()).text


def test_every_rule_is_shown_to_work() -> None:
    shown = {rule for rule, _, _ in FAULTS} | {rules.in_normal_form}
    assert shown == set(RULES)
    defined = re.findall(
        r"^def (\w+)\(notebook: Notebook\)", Path(rules.__file__).read_text(), re.M
    )
    assert {name(rule) for rule in RULES} == set(defined)

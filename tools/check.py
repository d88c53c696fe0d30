"""Run every check of the project, one stage after the other, and say at the end which of them hold.

A failing stage does not hide the later ones, but any failure makes the exit code 1.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from browser import CURE, browser_is_required, find_browser

ROOT = Path(__file__).resolve().parent.parent
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
# nbval runs one kernel a notebook: a notebook must stay in one worker, and its cells in order.
NOTEBOOKS = [
    "--nbval",
    "--nbval-current-env",
    "--nbval-sanitize-with",
    "tools/nbval.cfg",
    "-n",
    "2",
    "--dist",
    "loadfile",
    "-p",
    "no:randomly",
    "book",
]


@dataclass(frozen=True)
class Stage:
    """One check: what it shows, and the commands that show it."""

    title: str
    commands: tuple[list[str], ...]


SITE = Stage("site in a browser", ([*PYTEST, "-rs", "tests/book", "-m", "site"],))
STAGES = (
    Stage(
        "style and import contract",
        (
            [sys.executable, "-m", "ruff", "check", "."],
            [str(Path(sys.executable).with_name("lint-imports")), "--no-logo"],
        ),
    ),
    Stage("unit tests", ([*PYTEST, "-n", "2", "--ignore=tests/book"],)),
    Stage("notebook guard", ([*PYTEST, "-n", "2", "tests/book", "-m", "not site"],)),
    Stage("notebooks re-executed, outputs compared", ([*PYTEST, *NOTEBOOKS],)),
    Stage("strict build", ([sys.executable, "tools/build.py"],)),
    SITE,
)


def run(stage: Stage) -> str:
    """Run every command of the stage, so that all have their say, and return the verdict."""
    codes = [subprocess.run(command, cwd=ROOT).returncode for command in stage.commands]
    if any(codes):
        return "FAILED"
    if stage is SITE and find_browser() is None and not browser_is_required():
        return "NOT RUN"  # pytest skipped it: that is no success
    return "ok"


def main() -> int:
    # Kernels and test processes share the cores already; more threads would only wait.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    start = time.perf_counter()
    verdicts = []
    for number, stage in enumerate(STAGES, 1):
        print(f"\n== {number}/{len(STAGES)} {stage.title}", flush=True)
        began = time.perf_counter()
        verdicts.append((run(stage), stage.title, time.perf_counter() - began))
    holding = sum(verdict == "ok" for verdict, _, _ in verdicts)
    total = time.perf_counter() - start
    print(f"\n== {holding} of {len(STAGES)} stages hold, {total:.0f} s in all")
    for verdict, title, seconds in verdicts:
        reason = f": {CURE}" if verdict == "NOT RUN" else ""
        print(f"{verdict:8}{title} ({seconds:.0f} s){reason}")
    return int(any(verdict == "FAILED" for verdict, _, _ in verdicts))


if __name__ == "__main__":
    sys.exit(main())

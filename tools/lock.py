"""Write requirements.txt, the one pinned environment, from requirements.in.

One set of versions has to install on every Python from 3.11 to 3.13, so the resolution is
universal and prefers one version everywhere to the newest version somewhere. CUDA's packages are
left out: torch's own metadata pins them, and a torch built for the CPU alone would otherwise be
installed beside gigabytes that it cannot use.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = """\
# The one pinned environment of the book, its tests and its tools, for Python 3.11 to 3.13.
# Written by `make lock` from requirements.in; edit that file, not this one.
#
# The CUDA packages of torch (nvidia-*, cuda-*, triton) are absent on purpose: torch's own metadata
# pins them exactly, and a CPU build of torch neither needs nor installs them.
"""
CUDA = re.compile(r"(nvidia|cuda|triton)\b")


def compile_pins(source: Path) -> list[str]:
    """The pins of everything that ``source`` asks for, one requirement a line."""
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--universal",
        "--no-header",
        "--no-annotate",
        "--python-version",
        "3.11",
        "--fork-strategy",
        "fewest",
        "--upgrade",
        str(source),
    ]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return [line for line in done.stdout.splitlines() if line and not CUDA.match(line)]


def main() -> None:
    target = ROOT / "requirements.txt"
    pins = compile_pins(ROOT / "requirements.in")
    partial = target.with_suffix(".partial")
    partial.write_text(HEADER + "\n" + "\n".join(pins) + "\n", encoding="utf-8")
    os.replace(partial, target)
    print(f"requirements.txt: {len(pins)} pins")


if __name__ == "__main__":
    main()

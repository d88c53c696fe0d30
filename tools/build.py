"""Build the site from the stored outputs, with every warning an error."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "_build" / "html"


def build() -> int:
    """Build from nothing: an incremental build would pass over a page that warned last time."""
    print("Building the site from the stored outputs ...", flush=True)
    start = time.perf_counter()
    shutil.rmtree(ROOT / "_build", ignore_errors=True)
    command = [
        Path(sys.executable).with_name("jupyter-book"),
        "build",
        ".",
        "-q",
        "-n",
        "-W",
        "--keep-going",
    ]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )  # warnings go to stderr
    if done.returncode:
        print(f"{done.stdout}\nThe build FAILED: each warning above is an error.")
    else:
        print(f"built in {time.perf_counter() - start:.1f} s: {SITE / 'index.html'}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(build())

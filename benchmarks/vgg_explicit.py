"""VGG19 by the algorithms of the book: the same logits as by the vendor's, and how much memory?

One photograph's worth of random numbers at 224x224 goes through VGG19 with random weights, in
float32 and in float64, by the default kernels and within `companion.nn.explicit()`.  Each run has a
process of its own, so that its peak of resident memory is its own too: interpreter, PyTorch, the
143.7 million parameters (575 MB in float32) and everything that the forward pass makes.

The goals: logits equal to 1e-4 in float32 and 1e-10 in float64, relative in the Euclidean norm, and
the explicit run in float32 in less than 2 GB.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from typing import NamedTuple

import torch
from measure import store

from companion import nn

#: The difference of the logits that is allowed in each dtype.
BOUNDS = {"float32": 1e-4, "float64": 1e-10}
#: How much memory the explicit run in float32 may take, in bytes.
MEMORY = 2e9


class Run(NamedTuple):
    """What a process reports: the logits, and its peak of resident memory in bytes."""

    logits: list[float]
    memory: int


def forward(dtype: str, explicit: bool) -> Run:
    """One forward pass in this process, which should be a fresh one."""
    torch.set_default_dtype(getattr(torch, dtype))
    torch.manual_seed(0)
    model = nn.vgg19().eval()
    image = torch.randn(1, 3, 224, 224)
    with torch.inference_mode(), nn.explicit() if explicit else nullcontext():
        logits = model(image)[0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Run(logits.tolist(), peak if sys.platform == "darwin" else 1024 * peak)


def in_fresh_process(dtype: str, explicit: bool) -> Run:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(forward, dtype, explicit).result()


def main() -> None:
    figures: dict[str, object] = {}
    for dtype, bound in BOUNDS.items():
        default, explicit = (in_fresh_process(dtype, way) for way in (False, True))
        a, b = (torch.tensor(run.logits, dtype=torch.float64) for run in (default, explicit))
        difference = ((a - b).norm() / a.norm()).item()
        figures[dtype] = {
            "difference of the logits, relative": difference,
            "allowed": bound,
            "peak memory, default, MB": round(default.memory / 1e6),
            "peak memory, explicit, MB": round(explicit.memory / 1e6),
        }
        assert 0 < difference <= bound, f"{dtype}: the logits differ by {difference}"
        assert dtype != "float32" or explicit.memory < MEMORY, explicit.memory
    store("vgg_explicit", figures)


if __name__ == "__main__":
    main()

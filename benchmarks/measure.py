"""Timing contenders against each other: interleaved in one run, reported as ratios."""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"
#: Medians that an interval of confidence is read from.
BOOTSTRAP = 2000


def interleave(contenders: dict[str, Callable[[], object]], rounds: int = 30) -> dict[str, float]:
    """Median seconds of every contender."""
    times = interleaved(contenders, rounds)
    return {name: statistics.median(values) for name, values in times.items()}


def interleaved(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """The seconds of every contender; each round runs all of them, in turning order."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        for _ in range(3):
            run()
    names = list(contenders)
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            _wait()
            start = time.perf_counter()
            contenders[name]()
            _wait()
            times[name].append(time.perf_counter() - start)
    return times


def paired_ratio(times: list[float], base: list[float]) -> dict[str, object]:
    """How many times as long as ``base`` something takes that ran beside it in every round.

    The median of the ratios of the rounds, and the interval that holds 95 % of the medians of as
    many ratios drawn from them with replacement (the percentile bootstrap).
    """
    ratios = [a / b for a, b in zip(times, base, strict=True)]
    draw = random.Random(0)
    medians = sorted(
        statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(BOOTSTRAP)
    )
    edge = BOOTSTRAP // 40
    return {
        "median of the ratios": round(statistics.median(ratios), 3),
        "95 % interval": [round(medians[edge], 3), round(medians[-1 - edge], 3)],
    }


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def store(name: str, figures: dict[str, object]) -> None:
    """Print the figures and write them, with where they were measured, to results/NAME.json."""
    figures = {
        **figures,
        "machine": {
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }
    text = json.dumps(figures, indent=2) + "\n"
    RESULTS.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=RESULTS, delete=False) as file:
        file.write(text)
    os.replace(file.name, RESULTS / f"{name}.json")
    print(text, end="")

"""What do stiff problems cost beside SciPy's Radau and BDF, and what beside explicit steps?

Van der Pol's oscillator with mu = 1000 over one period and more, and Robertson's reaction to
t = 1e5, in float64 at several tolerances.  Evaluations of f, Jacobians and factorisations are
counts; Jacobians are exact, SciPy's are finite differences, whose evaluations of f it does not
count.  The error is the largest at the end, relative to a solution with rtol 1e-12.  The seconds
are of one thread, with the same f in torch for all.  dopri5 runs on a thousandth of the interval,
and its evaluations are scaled to the whole: stability, not accuracy, sets their number.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from measure import store
from scipy.integrate import solve_ivp
from torch import Tensor

import companion

METHODS = ("trbdf2", "kvaerno3", "kvaerno5", "kencarp4")
TOLERANCES = (1e-4, 1e-6, 1e-8)
#: The part of the interval on which the explicit method is run, and its tolerance.
PART, RTOL = 1e-3, 1e-6

Field = Callable[[Tensor, Tensor], Tensor]


def van_der_pol(t: Tensor, y: Tensor) -> Tensor:
    return torch.stack((y[1], 1000 * (1 - y[0] ** 2) * y[1] - y[0]))


def robertson(t: Tensor, y: Tensor) -> Tensor:
    first, last = -0.04 * y[0] + 1e4 * y[1] * y[2], 3e7 * y[1] ** 2
    return torch.stack((first, -first - last, last))


#: The field, the initial state, the last time, and atol / rtol.
PROBLEMS: dict[str, tuple[Field, list[float], float, float]] = {
    "van der Pol, mu = 1000": (van_der_pol, [2.0, 0.0], 2000.0, 1e-3),
    "Robertson": (robertson, [1.0, 0.0, 0.0], 1e5, 1e-6),
}


def scipy(f: Field, y0: list[float], end: float, method: str, rtol: float, atol: float):
    def in_numpy(t: float, y: np.ndarray) -> np.ndarray:
        return f(t, torch.from_numpy(y)).numpy()

    return solve_ivp(in_numpy, (0, end), np.array(y0), method=method, rtol=rtol, atol=atol)


def timed(run: Callable):
    start = time.perf_counter()
    result = run()
    return result, round(time.perf_counter() - start, 3)


def compare(problem: str, rtol: float, exact: np.ndarray) -> dict[str, dict[str, float]]:
    f, y0, end, ratio = PROBLEMS[problem]
    atol = ratio * rtol
    start = torch.tensor(y0, dtype=torch.float64)

    def error(y: np.ndarray) -> float:
        return float(f"{np.max(np.abs(y - exact) / (np.abs(exact) + ratio)):.1e}")

    def ours(method: str, end: float) -> companion.Solution:
        return companion.solve(
            f, start, [0.0, end], method=method, rtol=rtol, atol=atol, max_steps=1_000_000
        )

    rows: dict[str, dict[str, float]] = {}
    for method in METHODS:
        sol, seconds = timed(lambda method=method: ours(method, end))
        rows[method] = {
            "steps": sol.stats.accepted,
            "evaluations": sol.stats.evaluations,
            "Jacobians": sol.stats.jacobians,
            "factorisations": sol.stats.factorisations,
            "error": error(sol.y[-1].numpy()),
            "seconds": seconds,
        }
    for method in ("Radau", "BDF"):
        peer, seconds = timed(lambda method=method: scipy(f, y0, end, method, rtol, atol))
        rows[f"SciPy {method}"] = {
            "steps": len(peer.t) - 1,
            "evaluations": peer.nfev,
            "Jacobians": peer.njev,
            "factorisations": peer.nlu,
            "error": error(peer.y[:, -1]),
            "seconds": seconds,
        }
    return rows


def explicit(problem: str, rtol: float) -> int:
    """Evaluations of dopri5, scaled from a part of the interval."""
    f, y0, end, ratio = PROBLEMS[problem]
    sol = companion.solve(
        f,
        torch.tensor(y0, dtype=torch.float64),
        [0.0, PART * end],
        rtol=rtol,
        atol=ratio * rtol,
        max_steps=1_000_000,
    )
    return round(sol.stats.evaluations / PART)


def main() -> None:
    torch.set_num_threads(1)
    figures: dict[str, object] = {}
    with torch.no_grad():
        for problem, (f, y0, end, ratio) in PROBLEMS.items():
            exact = scipy(f, y0, end, "Radau", 1e-12, 1e-12 * ratio).y[:, -1]
            figures[problem] = {
                f"rtol {rtol:g}": compare(problem, rtol, exact) for rtol in TOLERANCES
            } | {"evaluations of dopri5": {f"rtol {RTOL:g}": explicit(problem, RTOL)}}
    store("stiff_against_scipy", figures)


if __name__ == "__main__":
    main()

"""How many evaluations of f do companion and torchdiffeq need for the same error?

Problems like those of DETEST (T. E. Hull, W. H. Enright, B. M. Fellen and A. E. Sedgwick, *SIAM
J. Numer. Anal.* 9 (1972) 603), in float64; every adaptive method that both libraries have; both
with rtol = atol on a ladder of tolerances.  There are no clocks: evaluations are counts, and errors
are deterministic.

The error of one run is partly chance, and two curves of work against precision cross each other
many times.  Two means take the chance out.  Every problem is solved up to several last times near
20; the error at a tolerance is the root mean square over them, the evaluations are the geometric
mean.  And as in DETEST's successor (W. H. Enright and J. D. Pryce, *ACM Trans. Math. Software* 13
(1987) 1) a line is laid through log(error) against log(tolerance), which says at what tolerance a
method attains an error on the average.  What an error costs is the least number of evaluations at
that tolerance or a smaller one: where stability and not accuracy sets the steps, a smaller one
may need fewer.  The ratio of the costs is averaged (geometric mean) over the errors between the
largest and the smallest that both contenders show; where all the errors of one are smaller than
those of the other, it is taken at the smallest error of the other.  A ratio below 1 says that
companion needs fewer evaluations.

There are three errors.  The largest at the ends of the steps is that of the method and of its step-
size control.  The largest at 41 output times and the one at the last time have the error of the
interpolation in them, too, which may undo some of that of the steps: torchdiffeq interpolates at
the last time as well, companion ends a step there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import geometric_mean

import numpy as np
import torch
import torchdiffeq
from measure import store
from scipy.integrate import solve_ivp
from torch import Tensor

import companion

#: The last times of the runs of one problem.
ENDS = (18.2, 18.8, 19.4, 20.0)
#: How many output times a run has.
OUTPUTS = 41
ERRORS = (
    "largest error at the ends of the steps",
    "largest error at 41 times",
    "error at the last time",
)
#: For every method the exponents of its largest and of its smallest tolerance, and how many.
METHODS = {
    "adaptive_heun": (-2.0, -4.0, 9),
    "fehlberg2": (-4.0, -5.5, 7),
    "bosh3": (-3.0, -5.5, 11),
    "dopri5": (-4.0, -8.0, 11),
    "dopri8": (-5.0, -10.0, 11),
}
#: Errors at which the evaluations are compared.
LEVELS = 7

Field = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """``dy/dt = f(t, y)`` from ``y0`` at 0."""

    f: Field
    y0: tuple[float, ...]


def system(*components: Callable[..., Tensor]) -> Field:
    """A field from its components, each a function of t, y1, y2, ..."""
    return lambda t, y: torch.stack([f(t, *y.unbind()) for f in components])


def b4(t: Tensor, y: Tensor) -> Tensor:
    """The integral surface of a torus."""
    a, b, c = y.unbind()
    r = torch.hypot(a, b)
    return torch.stack((-b - a * c / r, a - b * c / r, a / r))


def chain(rates: Tensor) -> Field:
    """Radioactive decay: what leaves one component enters the next."""

    def f(t: Tensor, y: Tensor) -> Tensor:
        flow = rates * y[:-1]
        zero = flow.new_zeros(1)
        return torch.cat((zero, flow)) - torch.cat((flow, zero))

    return f


def diffusion(t: Tensor, y: Tensor) -> Tensor:
    """The second difference, with zeros beyond the ends."""
    padded = torch.nn.functional.pad(y, (1, 1))
    return padded[:-2] - 2 * y + padded[2:]


def orbit(t: Tensor, y: Tensor) -> Tensor:
    """Kepler's problem in the plane."""
    return torch.cat((y[2:], -y[:2] / torch.linalg.vector_norm(y[:2]) ** 3))


def kepler(eccentricity: float) -> Problem:
    speed = math.sqrt((1 + eccentricity) / (1 - eccentricity))
    return Problem(orbit, (1 - eccentricity, 0.0, 0.0, speed))


def unit(size: int) -> tuple[float, ...]:
    return (1.0, *[0.0] * (size - 1))


PROBLEMS = {
    # One equation: decay, a Riccati-like equation, an oscillation, the logistic curve, a spiral.
    "A1": Problem(lambda t, y: -y, (1.0,)),
    "A2": Problem(lambda t, y: -(y**3) / 2, (1.0,)),
    "A3": Problem(lambda t, y: y * torch.cos(t), (1.0,)),
    "A4": Problem(lambda t, y: y / 4 * (1 - y / 20), (1.0,)),
    "A5": Problem(lambda t, y: (y - t) / (y + t), (4.0,)),
    # Small systems: two populations, a linear and a non-linear reaction, a torus, a rigid body.
    "B1": Problem(
        system(lambda t, a, b: 2 * (a - a * b), lambda t, a, b: -(b - a * b)), (1.0, 3.0)
    ),
    "B2": Problem(
        system(
            lambda t, a, b, c: -a + b, lambda t, a, b, c: a - 2 * b + c, lambda t, a, b, c: b - c
        ),
        (2.0, 0.0, 1.0),
    ),
    "B3": Problem(
        system(lambda t, a, b, c: -a, lambda t, a, b, c: a - b**2, lambda t, a, b, c: b**2),
        (1.0, 0.0, 0.0),
    ),
    "B4": Problem(b4, (3.0, 0.0, 0.0)),
    "B5": Problem(
        system(
            lambda t, a, b, c: b * c, lambda t, a, b, c: -a * c, lambda t, a, b, c: -0.51 * a * b
        ),
        (0.0, 1.0, 1.0),
    ),
    # Moderate systems: two decay chains, diffusion on a line of 10 and of 51 points.
    "C1": Problem(chain(torch.ones(9, dtype=torch.float64)), unit(10)),
    "C2": Problem(chain(torch.arange(1, 10, dtype=torch.float64)), unit(10)),
    "C3": Problem(diffusion, unit(10)),
    "C4": Problem(diffusion, unit(51)),
    # Orbits from almost round to thin.
    **{f"D{i}": kepler(e) for i, e in enumerate((0.1, 0.3, 0.5, 0.7, 0.9), 1)},
    # Equations of second order: Bessel's, van der Pol's, Duffing's, a falling body, a pursuit.
    "E1": Problem(
        system(
            lambda t, x, v: v,
            lambda t, x, v: -v / (t + 1) - (1 - 0.25 / (t + 1) ** 2) * x,
        ),
        (0.6713967071418030, 0.09540051444747446),
    ),
    "E2": Problem(
        system(lambda t, x, v: v, lambda t, x, v: (1 - x**2) * v - x),
        (2.0, 0.0),
    ),
    "E3": Problem(
        system(lambda t, x, v: v, lambda t, x, v: x**3 / 6 - x + 2 * torch.sin(2.78535 * t)),
        (0.0, 0.0),
    ),
    "E4": Problem(
        system(lambda t, x, v: v, lambda t, x, v: 0.032 - 0.4 * v**2),
        (30.0, 0.0),
    ),
    "E5": Problem(
        system(lambda t, x, v: v, lambda t, x, v: torch.sqrt(1 + v**2) / (25 - t)),
        (0.0, 0.0),
    ),
}


@dataclass(frozen=True)
class Runs:
    """What the solves with one tolerance cost on the average, and the errors by their names."""

    evaluations: float
    errors: dict[str, float]


def output_times(end: float) -> Tensor:
    return torch.linspace(0.0, end, OUTPUTS, dtype=torch.float64)


def all_times() -> Tensor:
    """The output times of the runs to every last time."""
    return torch.cat([output_times(end) for end in ENDS]).unique()


def initial(problem: Problem) -> Tensor:
    return torch.tensor(problem.y0, dtype=torch.float64)


def reference(problem: Problem) -> companion.Solution:
    """The solution at any time: dopri8 at a very tight tolerance.

    Raises:
        RuntimeError: if SciPy's DOP853 does not agree at the output times.
    """
    times, y0 = all_times(), initial(problem)
    options = {"method": "dopri8", "rtol": 1e-13, "atol": 1e-14, "max_steps": 100_000}
    ours = companion.solve(problem.f, y0, times[[0, -1]], dense=True, **options)

    def in_numpy(t: float, y: np.ndarray) -> np.ndarray:
        return problem.f(torch.tensor(t), torch.from_numpy(y)).numpy()

    span = (0, float(times[-1]))
    theirs = solve_ivp(
        in_numpy, span, np.array(problem.y0), "DOP853", times.numpy(), rtol=1e-13, atol=1e-14
    )
    difference = float((ours(times) - torch.from_numpy(theirs.y.T)).abs().max())
    if difference > 5e-10:
        raise RuntimeError(f"the references differ by {difference:.1e}")
    return ours


class Counted:
    """A field that counts its evaluations, and remembers the steps that both libraries tell it.

    Attributes:
        count: evaluations so far.
        steps: for every accepted step where it began, the state there, where it ended, and how
            many evaluations there had been by then.
    """

    def __init__(self, f: Field) -> None:
        self.f, self.count = f, 0
        self.steps: list[tuple[float, Tensor, float, int]] = []

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.count += 1
        return self.f(t, y)

    def callback_accept_step(self, t: Tensor, y: Tensor, h: Tensor) -> None:
        self.steps.append((float(t), y, float(t + h), self.count))


@dataclass(frozen=True)
class Run:
    """One solve to one last time: its evaluations, where its steps end, what it returned."""

    evaluations: int
    steps: list[tuple[float, Tensor]]
    y: Tensor


def of_companion(problem: Problem, **options) -> Iterator[Run]:
    """A solve to every last time."""
    for end in ENDS:
        f = Counted(problem.f)
        y = companion.odeint(f, initial(problem), output_times(end), **options)
        yield Run(f.count, [step[:2] for step in f.steps], y)


def of_torchdiffeq(problem: Problem, **options) -> Iterator[Run]:
    """The same; torchdiffeq's steps do not depend on the last time, so that one solve gives all."""
    f, times = Counted(problem.f), all_times()
    y = torchdiffeq.odeint(f, initial(problem), times, **options)
    for end in ENDS:
        evaluations = next(count for *_, t, count in f.steps if t >= end)
        steps = [step[:2] for step in f.steps if step[0] <= end]
        yield Run(evaluations, steps, y[torch.searchsorted(times, output_times(end))])


def errors(run: Run, end: float, exact: companion.Solution) -> tuple[float, float, float]:
    """The errors in the order of their names."""
    begins, states = zip(*run.steps, strict=True)
    at_steps = torch.stack(states) - exact(torch.tensor(begins, dtype=torch.float64))
    at_outputs = run.y - exact(output_times(end))
    return tuple(float(e.abs().max()) for e in (at_steps, at_outputs, at_outputs[-1]))


def runs(
    solves: Callable[..., Iterator[Run]],
    problem: Problem,
    method: str,
    tolerance: float,
    exact: companion.Solution,
) -> Runs:
    counts, found = [], []
    for end, run in zip(
        ENDS, solves(problem, rtol=tolerance, atol=tolerance, method=method), strict=True
    ):
        counts.append(run.evaluations)
        found.append(errors(run, end, exact))
    mean = np.sqrt(np.mean(np.square(found), axis=0))
    return Runs(geometric_mean(counts), dict(zip(ERRORS, mean, strict=True)))


@dataclass(frozen=True)
class Curve:
    """Work against precision: a line for the error, an interpolation for the evaluations.

    Exponents of the tolerances, which decrease, and logarithms of the evaluations there.
    """

    tolerances: np.ndarray
    line: tuple[float, float]
    evaluations: np.ndarray

    @classmethod
    def of(cls, exponents: np.ndarray, runs: list[Runs], error: str) -> Curve:
        errors = np.log10([max(run.errors[error], 1e-15) for run in runs])
        slope, start = np.polyfit(exponents, errors, 1)
        return cls(exponents, (slope, start), np.log10([run.evaluations for run in runs]))

    def errors(self) -> tuple[float, float]:
        """The exponents of the smallest and the largest error."""
        slope, start = self.line
        ends = slope * self.tolerances[[0, -1]] + start
        return float(ends.min()), float(ends.max())

    def cost(self, error: float) -> float:
        """The logarithm of the least evaluations for an error not above this exponent."""
        slope, start = self.line
        largest = min((error - start) / slope, self.tolerances[0])
        at_largest = np.interp(-largest, -self.tolerances, self.evaluations)
        return float(min([at_largest, *self.evaluations[self.tolerances <= largest]]))


def ratio(ours: Curve, theirs: Curve) -> float:
    """Our evaluations over theirs at equal errors, on the average over the common errors."""
    low = max(ours.errors()[0], theirs.errors()[0])
    high = max(low, min(ours.errors()[1], theirs.errors()[1]))
    levels = np.linspace(low, high, LEVELS)
    return 10 ** float(np.mean([ours.cost(e) - theirs.cost(e) for e in levels]))


def compare(problem: Problem, exact: companion.Solution, method: str) -> dict[str, float]:
    exponents = np.linspace(*METHODS[method])
    ours, theirs = (
        [runs(solves, problem, method, 10.0**x, exact) for x in exponents]
        for solves in (of_companion, of_torchdiffeq)
    )
    return {
        error: ratio(Curve.of(exponents, ours, error), Curve.of(exponents, theirs, error))
        for error in ERRORS
    }


def main() -> None:
    torch.set_num_threads(1)
    figures: dict[str, object] = {}
    with torch.no_grad():
        exact = {name: reference(problem) for name, problem in PROBLEMS.items()}
        for method in METHODS:
            ratios = {
                name: compare(problem, exact[name], method) for name, problem in PROBLEMS.items()
            }
            figures[method] = {
                error: summary({name: found[error] for name, found in ratios.items()})
                for error in ERRORS
            }
    store("work_precision", {"evaluations, companion over torchdiffeq": figures})


def summary(ratios: dict[str, float]) -> dict[str, object]:
    worst = max(ratios, key=ratios.get)
    return {
        "geometric mean": round(geometric_mean(ratios.values()), 3),
        "worst": f"{ratios[worst]:.3f} ({worst})",
        "problems": {name: round(value, 3) for name, value in ratios.items()},
    }


if __name__ == "__main__":
    main()

"""A batch with a step size for every sample: how long is a step, beside torchode?

Van der Pol's oscillator with damping 2 from 256 random states, on [0, 5] with 20 output times,
dopri5 with integral control and rtol = atol = 1e-5, in float32 and in float64, one thread, without
gradients.  A step is one trial of the whole batch, so that a solve has as many as its slowest
sample; the time of a solve includes its setup, its first step size and its outputs.  Errors are
those at the output times against SciPy's DOP853 in float64 with tolerance 1e-13.

torchode runs eagerly and without counting evaluations, which is a little faster.  What
TorchScript makes of it is measured too wherever it compiles; a torch without CUDA cannot, because
torchode's loop names ``torch.cuda.Event``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torchode
from measure import interleave, store
from scipy.integrate import solve_ivp
from torch import Tensor

import companion

TOLERANCES = {"rtol": 1e-5, "atol": 1e-5}
DAMPING = 2.0
BATCH = 256
TIMES = np.linspace(0.0, 5.0, 20)


def van_der_pol(t: Tensor, y: Tensor) -> Tensor:
    x, v = y[:, 0], y[:, 1]
    return torch.stack((v, DAMPING * (1 - x * x) * v - x), 1)


def reference(y0: Tensor) -> Tensor:
    """The states at the output times, shape (T, B, 2), by an independent solver."""

    def f(t: float, y: np.ndarray) -> np.ndarray:
        x, v = y.reshape(-1, 2).T
        return np.stack((v, DAMPING * (1 - x * x) * v - x), axis=1).ravel()

    start = y0.double().cpu().numpy().ravel()
    options = {"method": "DOP853", "t_eval": TIMES, "rtol": 1e-13, "atol": 1e-13}
    solution = solve_ivp(f, (TIMES[0], TIMES[-1]), start, **options)
    return torch.from_numpy(solution.y.T.reshape(len(TIMES), -1, 2)).to(y0.device)


class Result(NamedTuple):
    """States of shape (T, B, 2), and the trials of every sample."""

    y: Tensor
    steps: Tensor


def contenders(y0: Tensor) -> dict[str, Callable[[], Result]]:
    t = torch.tensor(TIMES, dtype=y0.dtype, device=y0.device)
    problem = torchode.InitialValueProblem(y0=y0, t_eval=t.expand(len(y0), -1).contiguous())
    term = torchode.ODETerm(van_der_pol, with_stats=False)
    eager = torchode.AutoDiffAdjoint(
        torchode.Dopri5(term=term), torchode.IntegralController(term=term, **TOLERANCES)
    ).to(y0.device)

    def ours() -> Result:
        solution = companion.solve(van_der_pol, y0, t, batched=True, **TOLERANCES)
        return Result(solution.y, solution.stats.accepted + solution.stats.rejected)

    def torchode_by(solver: torch.nn.Module) -> Callable[[], Result]:
        def theirs() -> Result:
            solution = solver.solve(problem)
            return Result(solution.ys.transpose(0, 1), solution.stats["n_steps"])

        return theirs

    found = {"companion": ours, "torchode": torchode_by(eager)}
    compiled = scripted(eager)
    if compiled is not None:
        found["torchode, TorchScript"] = torchode_by(compiled)
    return found


def scripted(solver: torch.nn.Module) -> torch.nn.Module | None:
    """The solver compiled by TorchScript, or None where that fails."""
    try:
        with warnings.catch_warnings():
            # TorchScript is deprecated, and torchode knows no other compiler.
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.script(solver)
    except RuntimeError:
        return None


def rounded(x: float | Tensor) -> float:
    return float(f"{float(x):.3g}")


def figures(dtype: torch.dtype, device: str) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    y0 = torch.randn(BATCH, 2, generator=generator).to(device, dtype)
    runs = contenders(y0)
    results = {name: run() for name, run in runs.items()}
    exact = reference(y0)
    errors = {name: result.y - exact for name, result in results.items()}
    seconds = interleave(runs, rounds=60)
    step = {name: seconds[name] / int(results[name].steps.max()) for name in runs}
    return {
        "torchode compiles by TorchScript": "torchode, TorchScript" in runs,
        "steps of the batch": {name: int(result.steps.max()) for name, result in results.items()},
        "steps of a sample, mean": {
            name: rounded(result.steps.double().mean()) for name, result in results.items()
        },
        "milliseconds a solve": {name: rounded(1e3 * s) for name, s in seconds.items()},
        "milliseconds a step": {name: rounded(1e3 * s) for name, s in step.items()},
        "times faster, a step": {
            name: rounded(step[name] / step["companion"]) for name in runs if name != "companion"
        },
        "times faster, a solve": {
            name: rounded(seconds[name] / seconds["companion"])
            for name in runs
            if name != "companion"
        },
        "largest error": {name: rounded(e.abs().max()) for name, e in errors.items()},
        "root mean square error": {
            name: rounded(e.square().mean().sqrt()) for name, e in errors.items()
        },
    }


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    store(
        "batched_against_torchode",
        {
            "float32": figures(torch.float32, device),
            "float64": figures(torch.float64, device),
            "torchode": torchode.__version__,
        },
    )


if __name__ == "__main__":
    main()

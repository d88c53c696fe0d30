"""How many bytes of tensors does the gradient of a solve hold, as the number of steps grows?

The network of odeint_against_torchdiffeq.py, a batch of 20 in float32, one output at t = 5, which
fixed steps of the midpoint rule reach in 100, 1000 and 10 000.  Bytes are counted tensor by tensor
(live_bytes.py), without those of the network, the initial state and their gradients: what is held
between the two passes, and the most that is alive at one time in either.  The growth is the
exponent of the number of steps, from one number to the next: 0 where memory is constant, 1/2 for
its square root, 1 where every step is kept.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from live_bytes import LiveBytes
from measure import store
from odeint_against_torchdiffeq import problem

import companion
from companion.adjoint import STRATEGIES

END = 5.0
STEPS = (100, 1000, 10_000)
#: The strategies that follow a solve; a steady state has no number of steps.
FOLLOWING = [name for name in STRATEGIES if name != "implicit"]


def bytes_of(strategy: str, steps: int) -> dict[str, int]:
    net, y0, _ = problem(0, "cpu")
    for x in (y0.requires_grad_(), *net.parameters()):
        # Made before the count begins, like the parameters themselves.
        x.grad = torch.zeros_like(x)
    t, control = torch.tensor([0.0, END]), companion.FixedStep(END / steps)
    options = {"method": "midpoint", "control": control, "max_steps": 2 * steps}
    with LiveBytes() as count:
        solution = companion.solve(net, y0, t, gradient=strategy, **options)
        loss = solution.y[-1].square().mean()
        held = count.now
        loss.backward()
    if solution.stats.accepted != steps:
        raise RuntimeError(f"{solution.stats.accepted} steps were taken, and {steps} expected")
    return {"held between the passes": held, "peak": count.peak}


def summary(peaks: list[int]) -> dict[str, object]:
    growth = [math.log(more / few) for few, more in pairwise(peaks)]
    times = [math.log(more / few) for few, more in pairwise(STEPS)]
    return {
        f"peak, {STEPS[-1]} steps over {STEPS[0]}": round(peaks[-1] / peaks[0], 3),
        "growth of the peak": [round(g / n, 2) for g, n in zip(growth, times, strict=True)],
    }


def main() -> None:
    torch.set_num_threads(1)
    figures: dict[str, object] = {}
    for strategy in FOLLOWING:
        rows = {steps: bytes_of(strategy, steps) for steps in STEPS}
        figures[strategy] = {
            "bytes": {f"{steps} steps": row for steps, row in rows.items()},
            **summary([row["peak"] for row in rows.values()]),
        }
    store("gradient_memory", figures)


if __name__ == "__main__":
    main()

"""Gradients by automatic differentiation of the steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.autograd import forward_ad

from companion.ode.integrate import Path, integrate
from companion.ode.problem import Problem
from companion.ode.solution import Stats


@dataclass(frozen=True)
class Direct:
    """Discretise, then optimise: autograd through every accepted step.

    The gradient is that of the numbers the solver returned, exact to rounding.  Memory grows
    with the number of evaluations of f.  Step sizes are constants for the gradient, but for the
    parts of steps that the times in t cut off: for those it is exact as well, except that Adams
    methods take their weights for constants.
    """

    def __call__(self, problem: Problem, stats: Stats) -> Path:
        nodes = problem.times
        pushed = forward_ad.unpack_dual(problem.t).tangent is not None
        if pushed or (torch.is_grad_enabled() and problem.t.requires_grad):
            # In float64 like the times themselves: a wish for gradients must not change values.
            nodes = problem.t.double().unbind()
        return integrate(problem, problem.y0, nodes, stats)

"""Gradients of the steps themselves, in little memory: the steps are taken once more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import ClassVar

from companion.adjoint.direct import Direct
from companion.adjoint.own_backward import OwnBackward, Record
from companion.adjoint.segments import Segments
from companion.ode.checkpoints import Checkpoints
from companion.ode.field import Time
from companion.ode.integrate import Path, integrate
from companion.ode.problem import Problem
from companion.ode.read_back import is_transformed
from companion.ode.scipy_march import NO_GRADIENT
from companion.ode.scipy_solver import SciPy
from companion.ode.solution import Stats


@dataclass(frozen=True)
class Checkpointed(OwnBackward):
    r"""Discretise, then optimise, and keep only a few states.

    The gradient is that of `Direct`, exact to rounding, and so are its derivatives.  The forward
    solve keeps the times of its N accepted steps and some of its states; the backward pass goes
    from one of these to the one before, takes the steps between them once more, without error
    control, and differentiates these.  Memory is that of the states kept and of the graph of the
    steps between two of them, :math:`O(\sqrt N)`; time, that of `Direct` and one evaluation of f
    for every stage of an accepted step.

    f must return the same when it is repeated.  Random numbers are drawn again as they were; what
    else f does, such as the running averages of batch normalisation, it does again.  Checkpoints
    of your own inside f need ``use_reentrant=False``.

    Under the transforms of `torch.func`, in forward mode, and with ``dense=True``, which keeps
    every step anyway, the steps are differentiated as `Direct` does.  Derivatives of second and
    higher order are exact, too; they take the memory of `Direct`.

    Args:
        checkpoints: how many states to keep at most; None lets their number grow as
            :math:`\sqrt N`.
        params: exactly the tensors, besides y0, the times and those in args, whose gradients are
            wanted; None finds what f holds and uses.

    Raises:
        TypeError, ValueError: if ``checkpoints`` is not a positive int.
        ValueError: from ``backward()``, if f returned something else when it was repeated.
    """

    checkpoints: int | None = None

    repeats_random_numbers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.checkpoints is None:
            return
        if isinstance(self.checkpoints, bool) or not isinstance(self.checkpoints, Integral):
            raise TypeError(
                f"Checkpointed: checkpoints must be an int, got {type(self.checkpoints).__name__}"
            )
        if self.checkpoints < 1:
            raise ValueError(
                f"Checkpointed: checkpoints must be at least 1, got {self.checkpoints}"
            )

    def __call__(self, problem: Problem, stats: Stats) -> Path:
        if problem.dense or is_transformed():
            return Direct()(problem, stats)
        return super().__call__(problem, stats)

    def inside(self, problem: Problem) -> Problem:
        inner = super().inside(problem)
        nodes = {t: node.detach() for t, node in problem.method.jump_nodes.items()}
        return replace(inner, method=replace(inner.method, jump_nodes=nodes))

    def record(self, problem: Problem, stats: Stats) -> Record:
        if isinstance(problem.method.scheme, SciPy):
            raise ValueError(NO_GRADIENT)
        checkpoints = Checkpoints(problem.y0[0].device, self.checkpoints)
        watched = problem.watched_by(checkpoints)
        nodes: Sequence[Time] = problem.times
        if problem.t.requires_grad:
            # As the repetition will have them, whose arithmetic is to be the same.
            nodes = problem.t.detach().double().unbind()
        path = integrate(watched, list(problem.y0), nodes, stats, checkpoints)
        if checkpoints.draws and (problem.events or problem.method.jump_t):
            raise ValueError(
                "Checkpointed cannot repeat random numbers together with events or jump times: "
                "draw them before the solve and pass them through args=, or use gradient='direct'"
            )
        return Segments(problem, path, checkpoints)

r"""The adjoint :math:`a(t) = dL/dy(t)` at any time of one solve, from one backward pass.

The backward pass of a gradient strategy goes through :math:`a(t)` for all t on its way to
:math:`dL/dy_0`, and forgets it.  Here somebody asks for it:

    with recorded() as record:
        y = solve(f, y0, [0.0, 1.0]).y
    (grads,) = torch.autograd.grad(loss(y[-1]), [record.outputs])
    t, y, a = record.adjoints(grads, torch.linspace(0, 1, 24))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_unflatten

from companion.adjoint.backsolve import Backsolve
from companion.adjoint.checkpointed import Checkpointed
from companion.adjoint.gauss import Gauss
from companion.adjoint.inquiry import Inquiry
from companion.adjoint.own_backward import Incoming, OwnBackward, present_autocast
from companion.adjoint.reversible import Reversible
from companion.ode.adams import Adams
from companion.ode.at_ends import at_ends
from companion.ode.control import PID, FixedGrid
from companion.ode.field import Leaves
from companion.ode.integrate import Path
from companion.ode.problem import Problem
from companion.ode.random import random_state
from companion.ode.read_back import all_finite, is_transformed
from companion.ode.solution import Stats

if TYPE_CHECKING:
    from companion.adjoint import Gradient

#: The strategies whose backward passes come by y(t) and a(t).
WITH_PATH = (Checkpointed, Reversible, Backsolve, Gauss)

#: Times that are meant to be the same differ by no more than so many units in the last place.
ROUNDING = 4


class Adjoints(NamedTuple):
    """The state and the adjoint of one solve at some times.

    Attributes:
        t: the times as they were asked for, shape (T,).
        y: the state there: the structure of y0, every tensor with a leading axis of length T.
        a: the adjoint there, the gradient of the loss with respect to y(t); the same structure.
    """

    t: Tensor
    y: Any
    a: Any


class Recording:
    """What `recorded` hands out: one solve and its way back.

    Attributes:
        outputs: the states that the solve has put out: leaves of a graph, which begins here.
            ``sol.y`` is a copy of them, so that what comes after may write to it.
        t0, t1: the first time of the solve and the last.
        stats: its `companion.ode.Stats`; ``stats.backward`` is that of the last `adjoints`.
    """

    def __init__(self) -> None:
        self._solve: _RecordedSolve | None = None

    @property
    def outputs(self) -> Any:
        return self._made().outputs

    @property
    def t0(self) -> float:
        return self._made().problem.times[0]

    @property
    def t1(self) -> float:
        return self._made().problem.times[-1]

    @property
    def stats(self) -> Stats:
        return self._made().stats

    def adjoints(self, grads: Any, times: Tensor | Sequence[float]) -> Adjoints:
        r"""The adjoint at any times, from one pass backwards through the solve.

        ``Backsolve`` and ``Gauss`` read a off the dense output of their backward solve; the
        others give it at the ends of the steps as the derivative of the steps that follow, exact
        but for rounding, and inside a step by the cubic Hermite polynomial (for methods of first
        order the chord), for one evaluation of f and one vector-Jacobian product at each end.
        At an output time, a includes the gradient of the loss with respect to this output, as
        the adjoint just before it does.

        May be called again, for another loss or for other times.

        Args:
            grads: the gradients of the loss with respect to ``outputs``: one tensor for each of
                its tensors, in a tree or a sequence, as `torch.autograd.grad` returns them; None
                stands for zero.
            times: where y and a are wanted, shape (T,), in any order, from ``t0`` to ``t1``.

        Returns:
            `Adjoints`: the times, the states, the adjoints.

        Raises:
            TypeError: if grads or times are no tensors or numbers.
            ValueError: if grads do not match the outputs, are all None, or are not finite; if
                times are empty, not 1-D, or outside of the solve.
            LostState: see `companion.adjoint.Reversible`.
        """
        made = self._made()
        cotangents = _cotangents(grads, made.leaves)
        t, inquiry = _inquiry(times, made.problem.times)
        made.pull_back(cotangents, inquiry)
        spec = made.problem.spec
        return Adjoints(t, *(tree_unflatten(leaves, spec) for leaves in inquiry.answers()))

    def _made(self) -> _RecordedSolve:
        if self._solve is None:
            raise ValueError(
                "recorded(): no solve has been made inside of it: record what calls "
                "companion.solve, such as an ODEBlock"
            )
        return self._solve

    def _path(self, strategy: Gradient, problem: Problem, stats: Stats) -> Path:
        """Solve, and remember what the way back needs."""
        if self._solve is not None:
            raise ValueError(
                "recorded(): a second solve inside of it, and a recording is of one: take a "
                "module that makes one of them, and another for the other"
            )
        _check(strategy, problem)
        with _not_recording(), torch.inference_mode(False), torch.no_grad():
            self._solve = _RecordedSolve(strategy, problem, stats)
        with torch.enable_grad():
            leaves = [leaf.clone() for leaf in self._solve.leaves]
        return replace(self._solve.record.path, leaves=leaves)


_RECORDING: ContextVar[Recording | None] = ContextVar("recording", default=None)


@contextmanager
def recorded() -> Iterator[Recording]:
    """Record the one solve that is made inside, for its adjoint at any time.

    The solve is made without a graph, and a graph begins with its outputs: gradients end there,
    neither y0 nor parameters get any.  The strategy of the solve has to be one that goes
    back along the solution: ``Checkpointed``, ``Reversible``, ``Backsolve`` or ``Gauss``.  With
    ``Checkpointed`` the steps end at the times in t, where a may jump.

    Recordings are of the thread, or the asynchronous task, that makes them.

    Yields:
        The `Recording`, which is complete after the solve.

    Raises:
        ValueError: if no solve is made inside, or several, or one that has no way back to look
            at: by the strategies ``Direct`` and ``Implicit``, with ``batched=True``, with events,
            ``dense=True``, a transform of torch.func, random numbers in f, or ``Checkpointed``
            steps of an Adams method.
    """
    recording = Recording()
    token = _RECORDING.set(recording)
    try:
        yield recording
    finally:
        _RECORDING.reset(token)
    recording._made()


def watched(strategy: Gradient) -> Gradient:
    """The strategy; where the solve is to be recorded, one that records and goes as it does."""
    recording = _RECORDING.get()
    if recording is None:
        return strategy
    return lambda problem, stats: recording._path(strategy, problem, stats)


def refuse_batched() -> None:
    """Raise ValueError if a solve with ``batched=True`` is to be recorded."""
    if _RECORDING.get() is not None:
        raise ValueError(
            "recorded(): with batched=True every sample has steps of its own, and no path back: "
            "leave it out, and solve with gradient='checkpointed', 'reversible', 'backsolve' or "
            "'gauss'"
        )


@contextmanager
def _not_recording() -> Iterator[None]:
    """For the solves that f makes."""
    token = _RECORDING.set(None)
    try:
        yield
    finally:
        _RECORDING.reset(token)


def _check(strategy: Gradient, problem: Problem) -> None:
    """Refuse what has no path back."""
    name = type(strategy).__name__
    if not isinstance(strategy, WITH_PATH):
        raise ValueError(
            f"recorded(): {name} keeps no path on which the adjoint could be followed: solve with "
            "gradient='checkpointed' (the same gradient as 'direct'), 'reversible', 'backsolve' "
            "or 'gauss'"
        )
    if problem.events:
        raise ValueError(
            "recorded(): a solve with an event has a last time that depends on the state: leave "
            "event out and give t the time at which it came"
        )
    if problem.dense:
        raise ValueError(
            "recorded(): dense=True keeps a graph of every step: leave it out, and ask "
            "adjoints(grads, times) for the states in between"
        )
    if is_transformed():
        raise ValueError(
            f"recorded(): {name} runs backwards only, and not under the transforms of torch.func "
            "or in forward mode: record outside of them"
        )
    if isinstance(strategy, Checkpointed) and isinstance(problem.method.scheme, Adams):
        raise ValueError(
            "recorded(): the steps of an Adams method depend on those before, so that their "
            "derivative is not an adjoint of the state alone: use gradient='gauss' or "
            "'backsolve', or a Runge-Kutta method"
        )
    strategy.check(problem)


class _RecordedSolve:
    """One solve without a graph, and what its strategy remembers of it.

    Args:
        strategy: how to solve and to go back.
        problem: what to solve.
        stats: where its evaluations are counted.

    Attributes:
        leaves: of the outputs, leaves of a graph.
        outputs: the same in the structure of the state.
    """

    def __init__(self, strategy: OwnBackward, problem: Problem, stats: Stats) -> None:
        self.problem = problem = _without_graph(strategy, problem)
        self.stats = stats
        self._autocast = present_autocast(problem)
        device = problem.y0[0].device
        before = random_state(device)
        self.record = record = strategy.record(problem, stats)
        if not all(map(torch.equal, before, random_state(device))):
            raise ValueError(
                "recorded(): f draws random numbers (dropout?), so that a(t) is that of no "
                "function: put the model into eval() mode, or draw them before the solve and pass "
                "them through args="
            )
        self._kept, self._states = record.kept, [leaf.detach() for leaf in record.path.leaves]
        self.leaves = [leaf.detach().requires_grad_() for leaf in self._states]
        self.outputs = tree_unflatten(self.leaves, problem.spec)

    def pull_back(self, grads: Leaves, inquiry: Inquiry) -> None:
        """Go back once, and answer on the way."""
        self.stats.backward = Stats()
        given = Incoming(
            self._kept, self._states, grads, [], self.stats.backward, False, False, inquiry
        )
        with _not_recording(), torch.inference_mode(False), torch.no_grad(), self._autocast:
            self.record.pull_back(given)


def _without_graph(strategy: OwnBackward, problem: Problem) -> Problem:
    """The problem that the strategy solves, apart from every graph, its outputs ends of steps."""
    inner = strategy.inside(problem)
    method = replace(inner.method, jump_nodes={})
    within = set(inner.times[1:-1])
    if isinstance(strategy, Checkpointed) and within:
        # Elsewhere a would jump inside a step.
        if isinstance(method.control, PID):
            stops = within - {*method.step_t, *method.jump_t}
            method = replace(method, step_t=(*method.step_t, *stops))
        elif isinstance(method.control, FixedGrid):
            times = tuple(sorted(within.union(method.control.times)))
            method = replace(method, control=replace(method.control, times=times))
    y0 = [leaf.detach() for leaf in inner.y0]
    return replace(inner, y0=y0, t=inner.t.detach(), method=method)


def _cotangents(grads: Any, outputs: Leaves) -> Leaves:
    """The gradients of the loss with respect to the outputs, checked."""
    found = tree_leaves(grads)
    if len(found) != len(outputs):
        raise ValueError(
            f"grads holds {len(found)} tensors, and the solve has put out {len(outputs)}: give "
            "the gradient with respect to each tensor of record.outputs"
        )
    if all(grad is None for grad in found):
        raise ValueError(
            "grads holds None alone: the loss does not depend on the outputs of the recorded "
            "solve, so that it has no adjoint: compute it from record.outputs"
        )
    cotangents = []
    for i, (grad, leaf) in enumerate(zip(found, outputs, strict=True)):
        if grad is None:
            grad = torch.zeros_like(leaf)
        if not isinstance(grad, Tensor):
            raise TypeError(f"grads[{i}] must be a tensor or None, got {type(grad).__name__}")
        if grad.shape != leaf.shape or grad.dtype != leaf.dtype or grad.device != leaf.device:
            raise ValueError(
                f"grads[{i}] is {_described(grad)}, and the output is {_described(leaf)}: give "
                "the gradient with respect to record.outputs, all of its times"
            )
        grad = grad.detach()
        if not all_finite(grad):
            raise ValueError(
                f"grads[{i}] holds NaN or infinity, and so would the adjoint: check the loss"
            )
        cotangents.append(grad)
    return cotangents


def _described(x: Tensor) -> str:
    return f"{x.dtype} of shape {tuple(x.shape)} on {x.device}"


def _inquiry(times: Any, solved: Sequence[float]) -> tuple[Tensor, Inquiry]:
    """The times asked for, as a tensor and as an inquiry."""
    try:
        t = torch.as_tensor(times, dtype=None if isinstance(times, Tensor) else torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"times must be a tensor or a sequence of numbers, got {type(times).__name__}"
        ) from error
    if t.is_complex() or t.dtype == torch.bool:
        raise TypeError(f"times has dtype {t.dtype}: times must be real numbers")
    if t.ndim != 1 or t.numel() == 0:
        raise ValueError(f"times must have shape (T,) with T >= 1, got {tuple(t.shape)}")
    t = t.detach()
    dtype = t.dtype if t.is_floating_point() else torch.float64
    low, high = sorted((solved[0], solved[-1]))
    slack = ROUNDING * torch.finfo(dtype).eps * max(abs(low), abs(high))
    asked = at_ends(t.tolist(), low, high)
    for i, time in enumerate(asked):
        # Written so that a NaN is outside.
        if not low - slack <= time <= high + slack:
            raise ValueError(
                f"times[{i}] is {time:.10g}, which is outside of the solve from {solved[0]:.10g} "
                f"to {solved[-1]:.10g}"
            )
    return t, Inquiry(asked, slack)

"""What the strategies with a backward pass of their own have in common.

Such a strategy solves without a graph and remembers what it needs.  To PyTorch the solve is one
operation, whose inputs are everything that a gradient may be wanted of.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from companion.adjoint.again import differentiable
from companion.adjoint.captured import captured, of_derived
from companion.adjoint.held import held
from companion.adjoint.inquiry import NOTHING, Inquiry
from companion.adjoint.products import derivatives, hooks_off
from companion.adjoint.trees import detached, substituted, tensors_in
from companion.ode.adams import Adams
from companion.ode.field import Leaves
from companion.ode.final import final
from companion.ode.integrate import Path, integrate
from companion.ode.problem import Problem
from companion.ode.random import random_state, set_random_state
from companion.ode.read_back import is_transformed
from companion.ode.solution import Stats


class Gradients(NamedTuple):
    """The gradients of a loss; None for those that nobody wants.

    Attributes:
        times: with respect to those in t, shape (T,); the last, which an event came before, may
            be missing.
        jumps: with respect to the jump times of f, in the order of ``method.jump_t``.
        y0: the leaves of the initial state.
        wanted: the tensors in the arguments of f, and then the parameters; None stands for zero.
    """

    times: Tensor | None
    jumps: Tensor | None
    y0: Leaves
    wanted: Sequence[Tensor | None]


class Incoming(NamedTuple):
    """What a backward pass starts from.

    Attributes:
        kept: what the record has kept.
        outputs: the states at ``path.times``, if they are needed.
        grads: the gradients of the loss with respect to them.
        wanted: the tensors of the arguments that require grad, and then the parameters of f.
        stats: where the evaluations of the backward pass are counted.
        wants_times: whether the gradients with respect to the times are wanted.
        wants_jumps: the same of the jump times.
        inquiry: what is to be told of y and a on the way.
    """

    kept: Sequence[Tensor]
    outputs: Leaves
    grads: Leaves
    wanted: Sequence[Tensor]
    stats: Stats
    wants_times: bool
    wants_jumps: bool
    inquiry: Inquiry = NOTHING


class Record(ABC):
    """What a strategy remembers of one forward solve.

    Attributes:
        path: the solution, made without a graph.
        kept: the tensors that the backward pass needs, besides the solution and the inputs.
    """

    #: Whether the backward pass looks at the values of gradients, and cannot do so at NaN.
    needs_finite: ClassVar[bool] = True
    #: Whether the backward pass needs the states that were put out.
    needs_outputs: ClassVar[bool] = True

    def __init__(self, path: Path, kept: Sequence[Tensor] = ()) -> None:
        self.path, self.kept = path, kept

    @abstractmethod
    def pull_back(self, given: Incoming) -> Gradients:
        """From the gradients with respect to the states to those with respect to everything else.

        Called without a graph, and with the autocast mode of the forward solve.
        """


class RepeatableRecord(Record):
    """One that can solve again, whose gradients have derivatives of every order."""

    @abstractmethod
    def solve_again(
        self,
        kept: Sequence[Tensor],
        t: Tensor,
        jumps: Leaves,
        y0: Leaves,
        args: tuple,
        stats: Stats,
    ) -> Leaves:
        """The states once more, with a graph whose derivatives this strategy's gradients are.

        Args:
            kept: see above.
            t: the times.
            jumps: the live jump times.
            y0: leaves of the initial state.
            args: arguments of f.
            stats: where the evaluations are counted.
        """


@dataclass(frozen=True)
class OwnBackward(ABC):
    """A strategy that does not record a graph of its solve.

    Args:
        params: exactly the tensors, besides y0, the times and the tensors in args, whose gradients
            are wanted; they may be results of other computations.  None finds them: what f holds
            (as a module, in closures, attributes, defaults, globals) and what one traced
            evaluation at the initial state uses.

    Raises:
        TypeError: if ``params`` is not an iterable of tensors.
    """

    params: Iterable[Tensor] | None = field(default=None, kw_only=True)

    #: Whether the backward pass draws the random numbers of the forward solve again.
    repeats_random_numbers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.params is None:
            return
        name = type(self).__name__
        if isinstance(self.params, Tensor) or not isinstance(self.params, Iterable):
            raise TypeError(
                f"{name}: params must be an iterable of tensors, got "
                f"{type(self.params).__name__}: write params=(x,)"
            )
        # A tensor named twice would have twice its gradient.
        params = tuple({id(p): p for p in self.params}.values())
        for p in params:
            if not isinstance(p, Tensor):
                raise TypeError(f"{name}: params holds a {type(p).__name__}, expected tensors")
        object.__setattr__(self, "params", params)

    def check(self, problem: Problem) -> None:
        """Refuse what this strategy cannot serve, before anything is solved.

        Raises:
            TypeError, ValueError: naming what would work.
        """
        # Nothing, unless a strategy says otherwise.
        return

    @abstractmethod
    def record(self, problem: Problem, stats: Stats) -> Record:
        """Solve, without a graph."""

    def solve(self, problem: Problem, stats: Stats) -> Path:
        """Solve where nobody wants a gradient."""
        return integrate(problem, list(problem.y0), problem.times, stats)

    def inside(self, problem: Problem) -> Problem:
        """The problem for the solves: with arguments that the graph outside does not reach."""
        method = replace(problem.method, jump_nodes={})
        # What was made in inference mode cannot be saved for a backward pass, its copy can.
        y0 = [leaf.clone() if leaf.is_inference() else leaf for leaf in problem.y0]
        return replace(problem, y0=y0, args=detached(problem.args), method=method)

    def __call__(self, problem: Problem, stats: Stats) -> Path:
        self.check(problem)
        name = type(self).__name__
        if is_transformed():
            raise ValueError(
                f"{name} runs backwards only: forward-mode derivatives and the transforms of "
                "torch.func need gradient='direct' or 'checkpointed'"
            )
        if not torch.is_grad_enabled():
            return self.solve(self.inside(problem), stats)
        jumps = list(problem.method.jump_nodes.values())
        inputs = [problem.t, *jumps, *problem.y0, *tensors_in(problem.args)]
        spare: list[Tensor] = []
        if self.params is not None:
            used = [p for p in self.params if p.requires_grad]
            _require_independent(used)
        else:
            leaves, derived = held(problem.f, problem.args)
            if derived:
                raise ValueError(of_derived(derived[0].grad_fn))
            if not leaves and not any(x.requires_grad for x in inputs):
                path = self._without_gradient(problem, stats)
                if path is not None:
                    return path
            used, draws = captured(problem, stats)
            if draws and not self.repeats_random_numbers:
                warnings.warn(
                    f"f draws random numbers, and the backward pass of {name} draws others, so "
                    "that the gradient is that of another f: use gradient='checkpointed' or "
                    "'direct', or draw them before the solve and pass them through args=",
                    stacklevel=2,
                )
            seen = {id(p) for p in used}
            spare = [p for p in leaves if id(p) not in seen]
        inputs = [x.clone() if x.is_inference() else x for x in (*inputs, *used, *spare)]
        inner = self.inside(problem)
        if not any(x.requires_grad for x in inputs):
            with torch.no_grad():
                return self.solve(inner, stats)
        if problem.dense:
            raise ValueError(
                f"{name} has no gradient for the dense output: use gradient='direct' or "
                "'checkpointed', leave dense out and put the times wanted into t, or solve under "
                "torch.no_grad()"
            )
        solve = _Solve(self, inner, stats, len(jumps), len(used), spare)
        leaves = _Solved.apply(solve, *inputs)
        return replace(solve.record.path, leaves=list(leaves))

    def _without_gradient(self, problem: Problem, stats: Stats) -> Path | None:
        """The solution where nothing can be seen that a gradient could be wanted of.

        If f should come to use something later, its graph is recorded as by `Direct`.

        Returns:
            None if f uses something at the beginning already.
        """
        scheme = problem.method.scheme
        is_first = isinstance(scheme, Adams) or getattr(scheme, "first_explicit", False)
        if is_first and len(problem.times) > 1:
            # The first evaluation of the solve, which is not made twice.
            device = problem.y0[0].device
            before = random_state(device)
            rates = problem.field(stats)(problem.times[0], list(problem.y0))
            if any(rate.requires_grad for rate in rates):
                # It will be evaluated here again.
                set_random_state(device, before)
                return None
            problem = replace(problem, rates=rates)
        return self.solve(problem, stats)


def _require_independent(params: Sequence[Tensor]) -> None:
    """Of a tensor and of what was computed from it, one gradient would be counted twice."""
    leaves = {id(p) for p in params if p.is_leaf}
    visited, stack = set(), [p.grad_fn for p in params if not p.is_leaf]
    while stack:
        node = stack.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if id(getattr(node, "variable", None)) in leaves:
            raise ValueError(
                "params names a tensor and another that was computed from it "
                f"(by {next(p for p in params if not p.is_leaf).grad_fn.name()}): pass the latter "
                "through args="
            )
        stack.extend(parent for parent, _ in node.next_functions)


def present_autocast(problem: Problem) -> torch.autocast:
    """The autocast mode that f is evaluated with, to be entered again for the backward pass."""
    device = problem.y0[0].device.type
    return torch.autocast(
        device,
        dtype=torch.get_autocast_dtype(device),
        enabled=torch.is_autocast_enabled(device),
    )


class _Solve:
    """One solve on its way through PyTorch.

    Its inputs are the times, the live jump times, the leaves of y0, the tensors in args that
    require grad, and the parameters, the spare ones at the end.
    """

    record: Record

    def __init__(
        self,
        strategy: OwnBackward,
        problem: Problem,
        stats: Stats,
        jumps: int,
        params: int,
        spare: Sequence[Tensor],
    ) -> None:
        self.strategy, self.problem, self.stats = strategy, problem, stats
        self.jumps, self.params = jumps, params + len(spare)
        # What f did not use at the beginning may be written to before the backward pass, as it
        # is where two networks are trained in turns.  Only if it is used must it be the same.
        self.spare, self._versions = spare, [p._version for p in spare]
        # The backward pass must evaluate the f that the forward solve evaluated.
        self.autocast = present_autocast(problem)

    def forward(self) -> tuple[Leaves, Sequence[Tensor]]:
        """The states, and what the backward pass needs besides them."""
        self.record = record = self.strategy.record(self.problem, self.stats)
        leaves, kept = record.path.leaves, record.kept
        # They are kept as saved tensors.  The states, being outputs, would be a cycle otherwise.
        record.path, record.kept = replace(record.path, leaves=[]), ()
        return leaves, kept

    def gradients(
        self, needs: Sequence[bool], inputs: Leaves, kept: Leaves, outputs: Leaves, grads: Leaves
    ) -> list[Tensor | None]:
        """Those with respect to the inputs."""
        first = 1 + self.jumps
        if self.record.needs_finite and not self._are_finite(grads):
            # What comes after a loss without a gradient has none either.
            return [torch.full_like(x, math.nan) for x in inputs]
        wanted = [*tensors_in(self.problem.args), *inputs[len(inputs) - self.params :]]
        self.stats.backward = Stats()
        given = Incoming(
            kept, outputs, grads, wanted, self.stats.backward, needs[0], any(needs[1:first])
        )
        with self.autocast, hooks_off(wanted):
            found = self.record.pull_back(given)
        for p, version, grad in zip(
            self.spare[::-1], self._versions[::-1], found.wanted[::-1], strict=False
        ):
            if grad is not None and p._version != version:
                raise RuntimeError(
                    f"a tensor of shape {tuple(p.shape)} that f uses has been modified by an "
                    "inplace operation since the solve"
                )
        times, jumps = found.times, [None] * self.jumps
        if times is not None:
            # After an event there may be times that were not reached.
            rest = times.new_zeros(len(self.problem.t) - len(times))
            times = torch.cat([times, rest]).to(self.problem.t)
        if found.jumps is not None:
            jumps = [grad.to(x) for grad, x in zip(found.jumps, inputs[1:first], strict=True)]
        return [times, *jumps, *found.y0, *found.wanted]

    def _are_finite(self, grads: Leaves) -> bool:
        try:
            return all(bool(grad.isfinite().all()) for grad in grads)
        except RuntimeError as error:
            raise RuntimeError(
                f"{type(self.strategy).__name__} goes back for one loss at a time, and not for a "
                "batch of them (is_grads_batched=True, vectorize=True): take them one after the "
                "other, or use gradient='direct' or 'checkpointed'"
            ) from error

    def differentiable_gradients(
        self, needs: Sequence[bool], inputs: Leaves, kept: Leaves, grads: Leaves
    ) -> list[Tensor | None]:
        """The gradients as functions of the inputs and of the incoming gradients."""
        count = len(inputs) - self.params
        given, params = inputs[:count], inputs[count:]
        n = len(self.problem.y0)

        def gradients(leaves: Sequence[Tensor], create_graph: bool) -> Sequence[Tensor]:
            t, *others = leaves[:count]
            args = substituted(self.problem.args, others[self.jumps + n :])
            self.stats.backward = Stats()
            with torch.enable_grad(), self.autocast:
                outputs = self.record.solve_again(
                    kept,
                    t,
                    others[: self.jumps],
                    others[self.jumps :][:n],
                    args,
                    self.stats.backward,
                )
            sources = [*leaves[:count], *params]
            wanted = [x for x, need in zip(sources, needs, strict=True) if need]
            return derivatives(outputs, wanted, leaves[count:], create_graph=create_graph)

        found = iter(differentiable(gradients, [*given, *grads], params))
        return [next(found) if need else None for need in needs]


class _Solved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, solve: _Solve, *inputs: Tensor) -> tuple[Tensor, ...]:
        leaves, kept = solve.forward()
        outputs = leaves if solve.record.needs_outputs else []
        # The times are the problem's, and what f did not use may be written to.
        used = inputs[1 : len(inputs) - len(solve.spare)]
        ctx.solve, ctx.counts = solve, (len(used), len(outputs))
        ctx.save_for_backward(*used, *outputs, *kept)
        return tuple(leaves)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        solve, (n, m) = ctx.solve, ctx.counts
        saved = ctx.saved_tensors
        inputs = (solve.problem.t, *saved[:n], *solve.spare)
        # A part of an output would tell f that it requires grad, without a graph that reaches it.
        outputs, kept = [x.detach() for x in saved[n : n + m]], saved[n + m :]
        needs = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled() and isinstance(solve.record, RepeatableRecord):
            # With create_graph=True.
            return None, *solve.differentiable_gradients(needs, inputs, kept, grads)
        with torch.no_grad():
            results = solve.gradients(needs, inputs, kept, outputs, grads)
        if not torch.is_grad_enabled():
            return None, *results
        refusal = (
            f"{type(solve.strategy).__name__} has no second derivative here: use "
            "gradient='direct' (odeint) or 'checkpointed', which have derivatives of every order"
        )
        found = [x for x in results if x is not None]
        finals = iter(final(found, (*grads, *saved), refusal))
        return None, *(x if x is None else next(finals) for x in results)

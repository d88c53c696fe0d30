"""A state that marches through time, one accepted step after another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from companion.ode.dense import Piece
from companion.ode.errors import TooManySteps
from companion.ode.field import Leaves, Time
from companion.ode.method import Method
from companion.ode.solution import Stats
from companion.ode.step import VectorField


class March(ABC):
    """The solution of ``dy/dt = field(t, y)`` on its way from one time to the next.

    Times are floats on the host.  A time may come with a *node*: the same time as a 0-dim
    tensor that requires grad.  Where a step begins or ends at such a time, or the dense output
    is asked for one, the arithmetic uses the node, and gradients with respect to it are those of
    the discrete solution.

    Attributes:
        t: present time.
        y: state at t.
        rates: ``field(t, y)``, evaluated when it is first needed.
        begin: where the last step began; None before the first.
        size: what the next step would be if nothing cut it short; None with fixed steps.
        integrals: where the field returns more tensors than the state has, the integrals of the
            others (the quadratures of an adjoint solve), from the beginning to t.  The field may
            return None for an integrand that vanishes, and None stands for a zero integral.
    """

    size: float | None = None
    #: What a user can do to need fewer steps.
    larger_steps = "or take larger steps"

    def __init__(
        self,
        field: VectorField,
        method: Method,
        t: float,
        y: Leaves,
        stats: Stats,
        node: Time | None = None,
    ) -> None:
        self.field = field
        self.method = method
        self.stats = stats
        self.t = t
        self.node: Time = t if node is None else node
        self.y = y
        self.begin: float | None = None
        self.integrals: list[Tensor | None] = []
        self._rates: Leaves | None = None

    @property
    def rates(self) -> Leaves:
        if self._rates is None:
            self._rates = self.field(self.node, self.y)
        return self._rates

    def know(self, rates: Leaves) -> None:
        """Take in ``field(t, y)`` at the beginning."""
        self._rates = rates

    def restart(self, y: Leaves) -> None:
        """Go on from another state at the same time: a jump."""
        self.y = y
        self._rates = None

    def remember(self) -> tuple:
        """What the steps from here on depend on: a pytree of tensors, numbers and None."""
        return self.t, self.node, self.y, self._rates

    def recall(self, memory: tuple) -> None:
        """Go on from where a march of the same kind was."""
        self.t, self.node, self.y, self._rates = memory

    @property
    @abstractmethod
    def piece(self) -> Piece:
        """The last step and the solution inside it."""

    @abstractmethod
    def advance(self, target: float, end: float, node: Time | None = None) -> None:
        """Take one accepted step.

        Args:
            target: a time on the way, which fixed steps meet and adaptive ones may pass.
            end: the last time at which the field may be evaluated.
            node: ``target`` as a tensor that requires grad; None for a constant.
        """

    def to(self, target: float, end: float, node: Time | None = None) -> Leaves:
        """Advance until ``target`` is reached or passed, never past ``end``.

        Returns:
            The state at ``target``; ``self.t`` may lie between ``target`` and ``end``.
        """
        while not self.has_passed(target):
            self.advance(target, end, node)
        return self.state(target, node)

    def has_passed(self, target: float) -> bool:
        """Whether the state at ``target`` is known, the last step or the present time being it."""
        if self.begin is None or self.t == target:
            return self.t == target
        return (self.t > target) == (self.t > self.begin)

    def state(self, t: float, node: Time | None = None) -> Leaves:
        """The state at the present time, or at one inside the last step."""
        # A step may have taken as a constant a time at whose node the state is wanted, or have
        # ended at a node where the state at a constant time is.
        constants = not isinstance(node, Tensor) and not isinstance(self.node, Tensor)
        if t == self.t and (node is self.node or constants):
            return self.y
        return self.piece.at(t if node is None else node)

    def shortened(self, t: float) -> Leaves:
        """The state at a time inside the last step, as a step that ends there would give it.

        Methods whose steps cannot be repeated take the solution inside the step.
        """
        return self.state(t)

    def _begin_step(self, t1: float) -> None:
        """To be called before a step is computed."""
        if self.stats.accepted + self.stats.rejected >= self.method.max_steps:
            raise TooManySteps(
                f"max_steps = {self.method.max_steps} steps did not reach the last time: "
                f"raise max_steps, {self.larger_steps}",
                t=self.t,
                h=t1 - self.t,
                steps=self.method.max_steps,
            )
        for observer in self.method.observers:
            observer.tried(self.t, self.y, t1 - self.t)

    def _end_step(self, t1: float, node: Time, y: Leaves, rates: Leaves | None) -> None:
        """To be called when a step is accepted."""
        self.stats.accepted += 1
        for observer in self.method.observers:
            observer.accepted(self.t, self.y, t1 - self.t)
        self.begin = self.t
        self.t, self.node, self.y, self._rates = t1, node, y, rates

    def _integrate(self, stages: list[Leaves], weights: Sequence[tuple[int, float]], h: Time):
        """Add ``h * sum(w_j * stages[j])`` to the integrals."""
        count = len(stages[0]) - len(self.y)
        if not count:
            return
        if not self.integrals:
            self.integrals = [None] * count
        for i in range(count):
            for j, w in weights:
                rate = stages[j][len(self.y) + i]
                if rate is None:
                    continue
                if self.integrals[i] is None:
                    self.integrals[i] = torch.zeros_like(rate)
                self.integrals[i].add_(rate, alpha=w * h)

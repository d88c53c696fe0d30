"""An initial value problem as a layer of a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from companion.adjoint import Gradient
from companion.nn.layers.augment import augmented
from companion.nn.layers.checks import require_batch, require_count
from companion.ode.at_ends import at_ends
from companion.ode.control import FixedGrid, FixedStep
from companion.ode.method import Control, Method, Scheme
from companion.ode.solution import Stats
from companion.solve import find_strategy, solve

#: The attributes of a block that say how to solve.
SETTINGS = ("method", "rtol", "atol", "control", "first_step", "max_steps", "step_t", "jump_t")


class ODEBlock(nn.Module):
    r"""A layer of continuous depth: it returns :math:`z(t_1)` of :math:`dz/dt = f(t, z)`,
    :math:`z(t_0) = x`.

    It is the limit of residual layers :math:`z + h f(t, z)` that become more and finer.  How it is
    solved and differentiated is no part of the model: all settings of the solver are plain
    attributes, which may be changed at any time (``block.method = "rk4"``,
    ``block.control = FixedStep(0.25)``), and the state_dict is that of f alone, under ``f.``.

    Shapes: (N, C, ...) -> (N, C + augment, ...); any state with an axis for the samples and one
    for the channels (or features).  The samples of a batch share the steps.

    Source: Chen, Rubanova, Bettencourt and Duvenaud, *Neural ordinary differential equations*,
    NeurIPS 2018; the channels of zeros: Dupont, Doucet and Teh, *Augmented neural ODEs*,
    NeurIPS 2019.

    Args:
        f: A module, called as ``f(t, z)`` with t a tensor of no axes and of z's dtype; returns
            dz/dt, of the shape of z.  It should be smooth (tanh, SiLU, softplus rather than ReLU),
            since methods have their order, and error estimates their meaning, for smooth fields.
        t: (t0, t1), increasing.
        method, rtol, atol, control, gradient, first_step, max_steps, step_t, jump_t: As for
            :func:`companion.solve`.  The tolerances are those of the features that a network is
            trained for, not of a trajectory that is wanted for its own sake: looser than there.
        augment: How many channels of zeros are appended to the input, along axis 1; f is to take
            and to return that many more.

    Attributes:
        stats: :class:`companion.ode.Stats` of the last forward pass, None before the first; its
            ``backward`` has those of the backward pass, when that has run.

    Raises:
        TypeError, ValueError: An argument is not as above; on a call, the input is no batch, or f
            returns something that is not like its input.
        SolverError: On a call, t1 cannot be reached.

    Example:
        >>> import torch
        >>> from companion import FixedStep
        >>> from companion.nn import ConvField
        >>> block = ODEBlock(ConvField(8))
        >>> tuple(block(torch.rand(2, 8, 7, 7)).shape)
        (2, 8, 7, 7)
        >>> block.method, block.control = "rk4", FixedStep(0.5)
        >>> z = block(torch.rand(2, 8, 7, 7))
        >>> block.stats.evaluations  # and one that finds out which parameters f has
        9
    """

    def __init__(
        self,
        f: nn.Module,
        t: Sequence[float] = (0.0, 1.0),
        *,
        method: Scheme | str = "dopri5",
        rtol: Any = 1e-3,
        atol: Any = 1e-3,
        control: Control | str | None = None,
        gradient: Gradient | str = "checkpointed",
        first_step: float | None = None,
        max_steps: int = 10_000,
        step_t: Sequence[float] | Tensor = (),
        jump_t: Sequence[float] | Tensor = (),
        augment: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(f, nn.Module):
            raise TypeError(
                f"ODEBlock: f must be a torch.nn.Module, called as f(t, z), got {type(f).__name__}"
            )
        require_count("augment", augment, least=0)
        self.f = f
        self.t = span(t)
        self.method = method
        self.rtol = rtol
        self.atol = atol
        self.control = control
        self.gradient = gradient
        self.first_step = first_step
        self.max_steps = max_steps
        self.step_t = step_t
        self.jump_t = jump_t
        self.augment = augment
        self.stats: Stats | None = None
        # What is wrong with the solver is told now, and not in the first forward pass.
        find_strategy(gradient)
        Method(method, **{name: getattr(self, name) for name in SETTINGS[1:]})

    def forward(self, x: Tensor) -> Tensor:
        """z(t1), for z(t0) = x, to which channels of zeros have been appended."""
        return self._solve(x, span(self.t), self.control)[-1]

    def trajectory(self, x: Tensor, t: Sequence[float] | Tensor) -> Tensor:
        """The state at several times, on the way of the forward pass.

        The steps are those of the forward pass: states within a step come from the method's dense
        output, also with :class:`companion.FixedStep`.  (``"reversible"`` has none: it takes
        steps that end at these times.)

        Args:
            x: The input, (N, C, ...).
            t: Times from t0 to t1, strictly increasing.

        Returns:
            (T, N, C + augment, ...), T the number of times.

        Raises:
            TypeError, ValueError: t is no sequence of numbers, or not as above.
        """
        t0, t1 = span(self.t)
        times = _times(t, t0, t1)
        nodes = [t0, *(time for time in times if t0 < time < t1), t1]
        control = self.control
        if isinstance(control, FixedStep):
            count = control.count(t1 - t0)
            grid = (t0 + (t1 - t0) * (n / count) for n in range(count))
            control = FixedGrid((*grid, t1))
        states = self._solve(x, nodes, control)
        return states[[nodes.index(time) for time in times]]

    @torch.compiler.disable  # how many steps there are is decided by numbers: nothing to trace
    def _solve(self, x: Tensor, t: Sequence[float], control: Control | str | None) -> Tensor:
        require_batch("ODEBlock", x)
        settings = {name: getattr(self, name) for name in SETTINGS} | {"control": control}
        y0 = augmented(x, self.augment)
        solution = solve(self.f, y0, t, gradient=self.gradient, **settings)
        self.stats = solution.stats
        return solution.y

    def extra_repr(self) -> str:
        told = [f"t={self.t}"]
        for name in (*SETTINGS, "gradient", "augment"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, tuple | int) and not value):
                # A tensor has a name, too, which is None.
                told.append(f"{name}={getattr(value, 'name', None) or value!r}")
        return ", ".join(told)


def span(t: Any) -> tuple[float, float]:
    """The initial time and the last."""
    if isinstance(t, Tensor) and t.requires_grad:
        raise ValueError("ODEBlock: t requires grad, but the times of a block are numbers: detach")
    times = t.tolist() if isinstance(t, Tensor) else t
    if not isinstance(times, Sequence) or not all(map(_is_number, times)):
        raise TypeError(f"ODEBlock: t must be two numbers, (t0, t1), got {t!r}")
    if len(times) != 2:
        raise ValueError(
            f"ODEBlock: t must be two numbers, (t0, t1), got {len(times)}; the states at other "
            "times are those of trajectory(x, t)"
        )
    t0, t1 = map(float, times)
    if not -math.inf < t0 < t1 < math.inf:
        raise ValueError(f"ODEBlock: t must be finite and increasing, t0 < t1, got {t!r}")
    return t0, t1


def _times(t: Any, t0: float, t1: float) -> list[float]:
    """Times between the two."""
    times = t.tolist() if isinstance(t, Tensor) else t
    if not isinstance(times, Sequence) or not all(map(_is_number, times)):
        raise TypeError(f"trajectory: t must be a sequence of numbers, got {t!r}")
    times = at_ends(list(map(float, times)), t0, t1)
    increasing = all(a < b for a, b in pairwise(times))
    if not times or not increasing or not t0 <= times[0] <= times[-1] <= t1:
        raise ValueError(
            f"trajectory: t must have times from {t0:g} to {t1:g}, strictly increasing, got {t!r}"
        )
    return times


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)

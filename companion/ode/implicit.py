r"""One step of an implicit Runge-Kutta method, differentiable by the implicit function theorem."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from companion.ode.field import Leaves, Time
from companion.ode.newton import Matrix, Newton, StageEquations, mix
from companion.ode.read_back import is_differentiated
from companion.ode.step import Step, VectorField, combine, zeros_of
from companion.ode.tableau import Tableau


def implicit_step(
    tableau: Tableau,
    field: VectorField,
    t: Time,
    y: Leaves,
    f0: Leaves | None,
    h: Time,
    newton: Newton,
) -> Step:
    r"""One step of an implicit method (formula: `companion.ode.tableau`).

    Stages that depend on each other are solved for together; those of a diagonally implicit
    method one after the other, those of Gauss and Radau in one system.  The rate of a stage is

    .. math:: k = A^{-1} z / h,

    from the increments z that Newton's method finds, and not ``field(t, y + z)``: where f is
    stiff, the latter multiplies the error that the iteration leaves in z by the Lipschitz
    constant of f (Hairer and Wanner, *Solving ODEs II*, IV.8; Hosea and Shampine, *Appl. Numer.
    Math.* 20 (1996) 21).  A method that is first-same-as-last ends in the last stage, and hands
    on its rate.

    The error estimate of a singly diagonally implicit method is multiplied by
    :math:`(I - h \gamma J)^{-1}`, as in HW (IV.8.19): otherwise it stays large where stiffness
    has long damped the error itself.

    First derivatives, in either mode, are those of the exact stages, to the accuracy of the
    iteration: with F(z, p) = 0 the equations of the stages and p all that f and the step depend
    on, :math:`dz/dp = -(\partial F/\partial z)^{-1}\, \partial F/\partial p`.  They cost an
    evaluation of f and a Jacobian a stage.  Second derivatives raise an error.

    Args:
        tableau: the method.
        field: ``field(t, leaves)``; it may return more leaves, integrands, which are evaluated
            at the solved stages and do not take part in the equations.
        t: time at the beginning.
        y: state at the beginning.
        f0: ``field(t, y)``.  Where the first stage is not that, it only serves as a first guess
            and may be None.
        h: step size, negative when time runs backwards.
        newton: solves the equations; hand the same object to the next step.

    Raises:
        NewtonFailure: if the stages could not be solved for.
        ValueError: if the derivative of f cannot be had, or is too large a matrix.
    """
    newton.begin(field, _value(t), y)
    stages: list[Leaves] = []
    for block in blocks_of(tableau.matrix):
        nodes = tableau.nodes[block.start : block.stop]
        base = [combine(y, stages, weights, h) for weights in block.before]
        if block.inverse is None:
            stages.append(f0 if block.start == 0 else field(t + nodes[0] * h, base[0]))
            end = base[0]
        else:
            known = stages if stages or f0 is None else [f0]
            solved, end, equations = _solve(block, field, t, nodes, base, known, h, newton)
            stages += solved
    error = None
    if tableau.error_weights is not None:
        error = _estimate(tableau, stages, len(y), _value(h))
        if tableau.singly is not None:
            error = newton.space.split(newton.filtered(equations, newton.space.pack(error)))
    if tableau.fsal:
        return Step(end, stages[-1], error, stages)
    return Step(combine(y, stages, tableau.solution_weights, h), None, error, stages)


class Block(NamedTuple):
    """Consecutive stages that depend on each other.

    Attributes:
        start, stop: which stages.
        before: for each of them, the non-zero weights of the stages before the block.
        matrix: the weights among themselves.
        inverse: of that matrix; None if the block is one explicit stage.
        predictors: for each of them, the weights of earlier stages, or of ``f(t0, y0)`` where
            there are none, in a first guess of its rate.
    """

    start: int
    stop: int
    before: tuple[tuple[tuple[int, float], ...], ...]
    matrix: Matrix
    inverse: Matrix | None
    predictors: Matrix


@lru_cache
def blocks_of(a: Matrix) -> tuple[Block, ...]:
    """The stages of a method in the smallest blocks that can be solved one after the other.

    Raises:
        ValueError: if the matrix of a block is singular, so that increments do not determine
            the rates.
    """
    blocks = []
    nodes = [sum(row) for row in a]
    start = 0
    while start < len(a):
        stop = start + 1
        while any(x for row in a[start:stop] for x in row[stop:]):
            stop += 1
        matrix = tuple(row[start:stop] for row in a[start:stop])
        before = tuple(
            tuple((j, x) for j, x in enumerate(row[:start]) if x) for row in a[start:stop]
        )
        inverse = None if matrix == ((0.0,),) else _inverse(matrix)
        predictors = tuple(_predictor(nodes[:start] or [0.0], node) for node in nodes[start:stop])
        blocks.append(Block(start, stop, before, matrix, inverse, predictors))
        start = stop
    return tuple(blocks)


def _inverse(matrix: Matrix) -> Matrix:
    inverse, singular = torch.linalg.inv_ex(torch.tensor(matrix, dtype=torch.float64, device="cpu"))
    if singular:
        raise ValueError(
            "stages that depend on each other have a singular matrix of weights: this method "
            "cannot be solved for the increments of its stages"
        )
    return tuple(map(tuple, inverse.tolist()))


def _predictor(nodes: Sequence[float], node: float) -> tuple[float, ...]:
    """Weights that continue the parabola through the rates at the last three distinct nodes."""
    used: list[int] = []
    for j in reversed(range(len(nodes))):
        if len(used) < 3 and all(abs(nodes[j] - nodes[i]) > 1e-3 for i in used):
            used.append(j)
    weights = [0.0] * len(nodes)
    for j in used:
        weights[j] = prod((node - nodes[i]) / (nodes[j] - nodes[i]) for i in used if i != j)
    return tuple(weights)


def _solve(
    block: Block,
    field: VectorField,
    t: Time,
    nodes: tuple[float, ...],
    base: list[Leaves],
    known: list[Leaves],
    h: Time,
    newton: Newton,
) -> tuple[list[Leaves], Leaves, StageEquations]:
    """The stages of a block, the state at the last of them, and their equations."""
    space, matrix, size = newton.space, block.matrix, _value(h)
    with torch.no_grad():
        start = torch.stack([space.pack(leaves).detach() for leaves in base])
        times = [_value(t) + node * size for node in nodes]
        equations = StageEquations(field, space, matrix, size, times, start)
        z = torch.zeros_like(start)
        if known:
            rates = [space.pack(stage).detach() for stage in known]
            z = size * mix(matrix, mix(block.predictors, rates))
        z = newton.solve(equations, z)
    values: list[Leaves] = []
    if torch.is_grad_enabled() or equations.integrands or equations.pushed:
        values = [
            field(t + node * h, _sum(leaves, space.unpack(x)))
            for node, leaves, x in zip(nodes, base, z, strict=True)
        ]
        residual = z - h * mix(matrix, [space.pack(value) for value in values])
        if is_differentiated(residual):
            z = _ImplicitFunction.apply(z, residual, *newton.exact(equations, z.detach()))
    rates = mix(block.inverse, z.unbind()) / h
    stages = [space.unpack(rate) for rate in rates]
    for stage, value in zip(stages, values, strict=False):
        stage += value[len(stage) :]
    return stages, _sum(base[-1], space.unpack(z[-1])), equations


def _sum(a: Leaves, b: Leaves) -> Leaves:
    return [x + y for x, y in zip(a, b, strict=True)]


@torch.no_grad()
def _estimate(tableau: Tableau, stages: list[Leaves], count: int, h: float) -> Leaves:
    """The error of a step as constants: it is for the step-size control alone."""
    return combine(zeros_of(stages[0][:count]), stages, tableau.error_weights, h)


def _value(x: Time) -> float:
    return float(x.detach()) if isinstance(x, Tensor) else x


class _ImplicitFunction(torch.autograd.Function):
    """A solution z of F(z, p) = 0 as a function of p: ``z - M^-1 F``, with M = dF/dz."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, residual: Tensor, lu: Tensor, pivots: Tensor) -> Tensor:
        # The residual is zero up to the tolerance: gradients must not change values.
        return z.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        _, *saved = inputs
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        residual, *factors = ctx.saved_tensors
        solved = _solved(*factors, grad, adjoint=True)
        return None, -_FirstDerivative.apply(solved, residual), None, None

    @staticmethod
    def jvp(ctx: Any, _: Any, pushed: Tensor, *constants: Any) -> Tensor:
        residual, *factors = ctx.saved_tensors
        return -_FirstDerivative.apply(_solved(*factors, pushed), residual)


def _solved(lu: Tensor, pivots: Tensor, right: Tensor, *, adjoint: bool = False) -> Tensor:
    """As `companion.ode.newton.Factors.solve`, or with the transpose, under any nest of vmaps.

    Where one vmap hides an axis of all three tensors and another an axis of the right side alone,
    as in ``vmap(jacrev(...))``, torch.linalg.lu_solve is wrong.
    """
    permutation, lower, upper = torch.lu_unpack(lu, pivots)
    solve, vector = torch.linalg.solve_triangular, right.reshape(-1, 1)

    def permuted(matrix: Tensor, vector: Tensor) -> Tensor:
        # No matrix product, which could lose digits to TF32.
        return (matrix * vector.mT).sum(-1, keepdim=True)

    if adjoint:
        vector = solve(lower.mT, solve(upper.mT, vector, upper=False), upper=True)
        vector = permuted(permutation, vector)
    else:
        vector = permuted(permutation.mT, vector)
        vector = solve(upper, solve(lower, vector, upper=False), upper=True)
    return vector.reshape(right.shape)


class _FirstDerivative(torch.autograd.Function):
    """A derivative that holds M for constant, and so cannot be differentiated itself.

    It takes the residual as a witness: whatever the derivative is differentiated by, M depends on.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(derivative: Tensor, residual: Tensor) -> Tensor:
        return derivative.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        _refuse()

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        _refuse()


def _refuse() -> None:
    raise RuntimeError(
        "second derivatives through the steps of an implicit method are not available: "
        "choose an explicit method such as 'dopri5'"
    )

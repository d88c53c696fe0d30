"""Exact evaluation of an expression at a :class:`~companion.proof.instantiate.Point`.

The recursion gives every node its value: a number, or an explicit matrix of numbers.  Variables
of a derivative, an integral, a limit or a substitution stay symbolic while their operand is
evaluated ("held"), then the operation is carried out on the explicit polynomial or elementary
function, then the variable gets its value.  Nothing here simplifies, and nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import mul
from typing import Any

import sympy as sp
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational
from sympy.logic.boolalg import BooleanAtom, BooleanFunction
from sympy.matrices.exceptions import NonInvertibleMatrixError, ShapeError
from sympy.matrices.expressions.applyfunc import ElementwiseApplyFunction

from companion.proof.errors import Unevaluable
from companion.proof.instantiate import NONCOMMUTATIVE_SIZE, Point

Scope = Mapping[Any, sp.Expr]
Value = sp.Expr | sp.ImmutableDenseMatrix

_MOST_TERMS = 1000


def value(expr: sp.Basic, point: Point) -> Value:
    """The exact value of an expression at a point.

    Args:
        expr: A scalar, an explicit matrix or a matrix expression.
        point: The instantiation of its unknowns.

    Returns:
        A SymPy number, or an explicit matrix of numbers.

    Raises:
        Unevaluable: The expression has no finite exact value there.
        ShapeError: The dimensions chosen at this point do not fit together.
    """
    try:
        result = _value(expr, point, {})
    except (ShapeError, Unevaluable):
        raise
    except NonInvertibleMatrixError as error:
        raise Unevaluable(str(error)) from error
    except (ValueError, TypeError, NotImplementedError, ArithmeticError) as error:
        # SymPy's own refusals (a limit it cannot take, a matrix that is not square, ...).
        raise Unevaluable(f"{type(error).__name__}: {error}") from error
    for entry in result if isinstance(result, sp.MatrixBase) else [result]:
        if not entry.is_number or entry.has(*_UNFINISHED):
            raise Unevaluable(f"no exact value of {sp.sstr(entry)}")
    return result


_UNFINISHED = (sp.nan, sp.zoo, sp.oo, sp.S.NegativeInfinity, sp.Integral, sp.Sum, sp.Product,
               sp.Limit, sp.Derivative, sp.Subs, sp.AccumBounds, sp.DiracDelta)  # fmt: skip


def _value(expr: sp.Basic, point: Point, scope: Scope) -> Value:
    for kind, rule in _RULES:
        if isinstance(expr, kind):
            return rule(expr, point, scope)
    if isinstance(expr, sp.Expr) and expr.args:
        arguments = [_value(a, point, scope) for a in expr.args]
        if any(isinstance(a, sp.MatrixBase) for a in arguments):
            raise Unevaluable(f"{expr.func.__name__} of a matrix is not evaluated")
        return expr.func(*arguments)
    raise Unevaluable(f"{type(expr).__name__} is not evaluated")


def _itself(expr, point, scope):
    return expr


def _symbol(expr, point, scope):
    return scope[expr] if expr in scope else point.symbol(expr)


def _idx(expr, point, scope):
    if expr in scope:
        return scope[expr]
    if expr.lower is None or expr.upper is None:
        return point.symbol(sp.Symbol(expr.name, integer=True))
    ends = [_integer(end, point, scope) for end in (expr.lower, expr.upper)]
    return point.index(expr.name, *ends)


def _indexed(expr, point, scope):
    indices = tuple(_integer(i, point, scope) for i in expr.indices)
    return _element(expr.base.label.name, indices, expr.assumptions0, point, scope)


def _element(name, indices, assumptions, point, scope):
    if (name, indices) in scope:
        return scope[name, indices]
    return point.element(name, indices, assumptions)


def _undefined(expr, point, scope):
    arguments = tuple(_value(a, point, scope) for a in expr.args)
    if any(isinstance(a, sp.MatrixBase) for a in arguments):
        raise Unevaluable(f"the undefined function {expr.func.__name__} of a matrix")
    return point.function(expr, arguments)


def _integer(expr, point, scope) -> int:
    number = _value(expr, point, scope)
    if not number.is_Integer:
        raise Unevaluable(f"{sp.sstr(expr)} is not an integer here")
    return int(number)


# Algebra ------------------------------------------------------------------------------------


def _add(expr, point, scope):
    terms = [_value(a, point, scope) for a in expr.args]
    if expr.is_Matrix or not any(isinstance(t, sp.MatrixBase) for t in terms):
        return sum(terms[1:], terms[0]) if expr.is_Matrix else sp.Add(*terms)
    terms = promoted(terms)
    return sum(terms[1:], terms[0])


def promoted(terms: list[Value]) -> list[Value]:
    """Scalars among values of noncommutative terms, as multiples of the identity."""
    one = sp.ImmutableMatrix(sp.eye(NONCOMMUTATIVE_SIZE))
    return [t if isinstance(t, sp.MatrixBase) else t * one for t in terms]


def _mul(expr, point, scope):
    factors = [_value(a, point, scope) for a in expr.args]
    return _product(factors)


def _product(factors):
    matrices = [f for f in factors if isinstance(f, sp.MatrixBase)]
    scalar = sp.Mul(*(f for f in factors if not isinstance(f, sp.MatrixBase)))
    return scalar * reduce(mul, matrices) if matrices else scalar


def _pow(expr, point, scope):
    base, exponent = (_value(a, point, scope) for a in expr.args)
    if isinstance(exponent, sp.MatrixBase):
        raise Unevaluable("a matrix as an exponent is not evaluated")
    if isinstance(base, sp.MatrixBase) and not exponent.is_Integer:
        raise Unevaluable("a fractional power of a matrix is not evaluated")
    return base**exponent


def _explicit(expr, point, scope):
    values = [_value(entry, point, scope) for entry in expr]
    if any(isinstance(v, sp.MatrixBase) for v in values):
        blocks = promoted(values)
        rows, cols = expr.shape
        return sp.ImmutableMatrix(
            sp.Matrix.vstack(
                *(sp.Matrix.hstack(*blocks[r * cols : (r + 1) * cols]) for r in range(rows))
            )
        )
    return sp.ImmutableMatrix(*expr.shape, values)


def _delta(expr, point, scope):
    i, j = (_value(a, point, scope) for a in expr.args[:2])
    return sp.KroneckerDelta(i, j)


def _piecewise(expr, point, scope):
    return sp.Piecewise(*((_value(e, point, scope), _truth(c, point, scope)) for e, c in expr.args))


def _truth(condition, point, scope):
    if isinstance(condition, BooleanAtom):
        return condition
    if isinstance(condition, Relational):
        return condition.func(*(_value(a, point, scope) for a in condition.args))
    if isinstance(condition, BooleanFunction):
        return condition.func(*(_truth(a, point, scope) for a in condition.args))
    raise Unevaluable(f"the condition {sp.sstr(condition)} is not evaluated")


# Bound variables ----------------------------------------------------------------------------


def _iterated(combine):
    def rule(expr, point, scope):
        def run(limits, scope):
            if not limits:
                return _value(expr.function, point, scope)
            *inner, limit = limits
            if len(limit) != 3:
                raise Unevaluable("a sum without bounds is not evaluated")
            variable, lower, upper = limit
            ends = [_value(end, point, scope) for end in (lower, upper)]
            if not all(end.is_Integer for end in ends):
                return _closed_form(expr, point, scope)
            low, high = map(int, ends)
            if high - low > _MOST_TERMS:
                raise Unevaluable(f"more than {_MOST_TERMS} terms")
            if high < low - 1:
                raise Unevaluable("the range of a sum or product is empty")
            return combine(
                [run(inner, {**scope, variable: sp.Integer(k)}) for k in range(low, high + 1)]
            )

        return run(expr.limits, scope)

    return rule


def _closed_form(expr, point, scope):
    """An infinite sum, if SymPy knows its value once all unknowns are numbers."""
    variables = {limit[0] for limit in expr.limits}
    body = _value(expr.function, point, {**scope, **{v: v for v in variables}})
    limits = [
        (v, *(_value(end, point, {**scope, **{w: w for w in variables}}) for end in ends))
        for v, *ends in expr.limits
    ]
    result = expr.func(body, *limits).doit()
    if result.has(sp.Sum, sp.Product):
        raise Unevaluable(f"no closed form of {sp.sstr(expr)}")
    return result


def _total(terms):
    if not terms:
        return sp.S.Zero
    return sum(terms[1:], terms[0])


def _integral(expr, point, scope):
    variables = [limit[0] for limit in expr.limits]
    held = {**scope, **{v: v for v in variables}}
    result = _value(expr.function, point, held)
    for k, limit in enumerate(expr.limits):
        if len(limit) != 3:
            raise Unevaluable("an indefinite integral has no value")
        outer = {**scope, **{v: v for v in variables[k + 1 :]}}
        ends = [_value(end, point, outer) for end in limit[1:]]
        result = _entrywise(lambda f, v=limit[0], e=ends: _integrate(f, v, *e), result)
    return result


def _integrate(integrand, variable, lower, upper):
    if integrand.is_polynomial(variable) and not lower.is_infinite and not upper.is_infinite:
        primitive = sp.Poly(integrand, variable).integrate()
        return primitive.eval(upper) - primitive.eval(lower)
    result = sp.integrate(integrand, (variable, lower, upper))
    if result.has(sp.Integral):
        raise Unevaluable(f"no closed form of the integral of {sp.sstr(integrand)}")
    return result


def _limit(expr, point, scope):
    body, variable, target, direction = expr.args
    inside = _value(body, point, {**scope, variable: variable})
    end = _value(target, point, scope) if target.is_finite is not False else target
    return _entrywise(lambda f: _taken(f, variable, end, str(direction)), inside)


def _taken(expr, variable, target, direction):
    if expr.is_rational_function(variable) and target.is_finite is not False:
        return sp.cancel(sp.expand(expr)).xreplace({variable: target})  # no value at a pole
    return sp.limit(expr, variable, target, direction)


def _derivative(expr, point, scope):
    body = expr.expr
    outer, inner, frozen = {}, dict(scope), {}
    variables = []
    for variable, count in expr.variable_count:
        count = _integer(count, point, scope)
        if isinstance(variable, sp.Symbol):
            held = variable
            inner[variable] = held
            outer[held] = _value(variable, point, scope)
        elif isinstance(variable, (sp.Indexed, sp.matrices.expressions.matexpr.MatrixElement)):
            key = _element_key(variable, point, scope)
            held = sp.Dummy(f"{key[0]}{key[1]}")
            inner[key] = held
            outer[held] = _value(variable, point, scope)
        else:
            held = sp.Dummy("xi")
            body = _freeze(body, variable, held, frozen, point, scope)
            inner[held] = held
            outer[held] = _value(variable, point, scope)
        variables.append((held, count))
    inner.update(frozen)
    result = _value(body, point, inner)

    def differentiate(entry):
        for held, count in variables:
            entry = entry.diff(held, count)
        return entry.xreplace(outer)

    return _entrywise(differentiate, result)


def _element_key(element, point, scope):
    if isinstance(element, sp.Indexed):
        name, indices = element.base.label.name, element.indices
    else:
        if not isinstance(element.parent, sp.MatrixSymbol):
            raise Unevaluable(f"a derivative with respect to {sp.sstr(element)}")
        name, indices = element.parent.name, element.indices
    return name, tuple(_integer(i, point, scope) for i in indices)


def _freeze(body, variable, held, frozen, point, scope):
    """Replace f(t) by a variable; derivatives of f(t) in the body count as independent of it."""
    binders = body.atoms(sp.Integral, sp.Sum, sp.Product, sp.Limit, sp.Subs)
    for node in binders:
        if node.has(variable) and variable.free_symbols & set(node.bound_symbols):
            raise Unevaluable(f"a derivative with respect to {sp.sstr(variable)} under a binder")
    independent = {}
    for derivative in body.atoms(sp.Derivative):
        if derivative == variable or not set(derivative.variables) & variable.free_symbols:
            continue
        if derivative.expr == variable:
            independent[derivative] = sp.Dummy("d")
        elif derivative.has(variable):
            raise Unevaluable(f"{sp.sstr(derivative)} differentiated by {sp.sstr(variable)}")
    frozen.update({dummy: _value(d, point, scope) for d, dummy in independent.items()})
    return body.xreplace({**independent, variable: held})


def _subs(expr, point, scope):
    inside = _value(expr.expr, point, {**scope, **{v: v for v in expr.variables}})
    values = {v: _value(p, point, scope) for v, p in zip(expr.variables, expr.point, strict=True)}
    return _entrywise(lambda f: f.xreplace(values), inside)


def _entrywise(operation, operand):
    if isinstance(operand, sp.MatrixBase):
        return sp.ImmutableMatrix(operand.applyfunc(operation))
    return operation(operand)


# Matrix expressions -------------------------------------------------------------------------


def _matrix_symbol(expr, point, scope):
    rows, cols = (_integer(d, point, scope) for d in expr.shape)
    assumptions = {"commutative": True}
    return sp.ImmutableMatrix(
        rows, cols, lambda r, c: _element(expr.name, (int(r), int(c)), assumptions, point, scope)
    )


def _constant(build):
    def rule(expr, point, scope):
        return sp.ImmutableMatrix(build(*(_integer(d, point, scope) for d in expr.shape)))

    return rule


def _of_matrix(operation):
    def rule(expr, point, scope):
        operand = _value(expr.args[0], point, scope)
        if not isinstance(operand, sp.MatrixBase):
            return expr.func(operand)
        return operation(operand)

    return rule


def _matrix_element(expr, point, scope):
    indices = tuple(_integer(i, point, scope) for i in expr.indices)
    matrix = _value(expr.parent, point, scope)
    if not all(0 <= i < size for i, size in zip(indices, matrix.shape, strict=True)):
        raise ShapeError(f"an index of {sp.sstr(expr)} is out of range")
    return matrix[indices]


def _hadamard(expr, point, scope):
    first, *rest = (_value(a, point, scope) for a in expr.args)
    for other in rest:
        first = first.multiply_elementwise(other)
    return first


def _hadamard_power(expr, point, scope):
    base, exponent = (_value(a, point, scope) for a in expr.args)
    return base.applyfunc(lambda entry: entry**exponent)


def _applied_elementwise(expr, point, scope):
    operand = _value(expr.expr, point, scope)
    function = expr.function
    return operand.applyfunc(
        lambda entry: _value(function.expr, point, {**scope, function.variables[0]: entry})
    )


def _block(expr, point, scope):
    rows, cols = expr.blockshape
    return sp.ImmutableMatrix(
        sp.Matrix.vstack(
            *(
                sp.Matrix.hstack(*(_value(expr.blocks[r, c], point, scope) for c in range(cols)))
                for r in range(rows)
            )
        )
    )


def _diagonal(expr, point, scope):
    operand = _value(expr.args[0], point, scope)
    return sp.ImmutableMatrix(sp.diag(*operand))


_RULES = (
    (sp.MatrixBase, _explicit),
    (sp.Number, _itself),
    (sp.NumberSymbol, _itself),
    (sp.core.numbers.ImaginaryUnit, _itself),
    (sp.Idx, _idx),
    (sp.Symbol, _symbol),
    (sp.Indexed, _indexed),
    (AppliedUndef, _undefined),
    (sp.Sum, _iterated(_total)),
    (sp.Product, _iterated(lambda factors: _product(factors) if factors else sp.S.One)),
    (sp.Integral, _integral),
    (sp.Limit, _limit),
    (sp.Derivative, _derivative),
    (sp.Subs, _subs),
    (sp.KroneckerDelta, _delta),
    (sp.Piecewise, _piecewise),
    (sp.MatrixSymbol, _matrix_symbol),
    (sp.matrices.expressions.matexpr.MatrixElement, _matrix_element),
    (sp.Identity, _constant(lambda n, m: sp.eye(n))),
    (sp.ZeroMatrix, _constant(sp.zeros)),
    (sp.OneMatrix, _constant(sp.ones)),
    (sp.HadamardProduct, _hadamard),
    (sp.HadamardPower, _hadamard_power),
    (sp.BlockMatrix, _block),
    (sp.BlockDiagMatrix, _block),
    (ElementwiseApplyFunction, _applied_elementwise),
    (sp.DiagMatrix, _diagonal),
    ((sp.Transpose, sp.transpose), _of_matrix(lambda m: m.T)),
    ((sp.Adjoint, sp.adjoint), _of_matrix(lambda m: m.H)),
    (sp.conjugate, _of_matrix(lambda m: m.C)),
    (sp.Inverse, _of_matrix(lambda m: m.inv())),
    (sp.Trace, _of_matrix(lambda m: m.trace())),
    (sp.Determinant, _of_matrix(lambda m: m.det())),
    ((sp.Add, sp.MatAdd), _add),
    ((sp.Mul, sp.MatMul), _mul),
    ((sp.Pow, sp.MatPow), _pow),
)  # fmt: skip

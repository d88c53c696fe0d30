"""Normal form of matrix expressions of symbolic size: linear combinations of words.

A word is a product of letters (matrix symbols, their transposes and inverses, explicit matrices,
and whatever else is not taken apart).  Two matrix expressions whose words and coefficients agree
are equal for every size.  Factors of shape 1 x 1 are scalars: they leave the word as traces, and a
trace is written with the least of its words under cyclic rotation and transposition.
"""

from __future__ import annotations

from itertools import pairwise

import sympy as sp
from sympy.matrices.expressions.matexpr import MatrixElement

from companion.proof.errors import BadStatement

Word = tuple[sp.Basic, ...]
Combination = dict[Word, sp.Expr]


def words(expr: sp.Basic) -> Combination:
    """A matrix expression as a linear combination of words; the empty word is the identity.

    Raises:
        BadStatement: Shapes do not fit together for every value of the dimensions.
    """
    result: Combination = {}
    for coefficient, word in _words(expr, False):
        coefficient, word = _scalars_out(coefficient, _cancelled(word))
        result[word] = result.get(word, sp.S.Zero) + coefficient
    return {word: c for word, c in result.items() if c != 0}


def is_free(letter: sp.Basic) -> bool:
    """Whether a letter is a matrix symbol, its transpose or its inverse."""
    if isinstance(letter, (sp.Transpose, sp.Inverse)):
        return is_free(letter.arg)
    return isinstance(letter, sp.MatrixSymbol)


def scalar_of_matrix(expr: sp.Expr) -> sp.Expr:
    """A trace, an entry or a determinant in terms of canonical traces, where that is possible."""
    if isinstance(expr, sp.Trace) and expr.arg.is_MatrixExpr:
        size = expr.arg.rows
        return sp.Add(*(c * _trace(w, size) for w, c in words(expr.arg).items()))
    if isinstance(expr, MatrixElement):
        if isinstance(expr.parent, sp.MatrixSymbol):
            return expr
        if expr.parent.shape == (1, 1):
            return scalar_of_matrix(sp.Trace(expr.parent))
    return expr.doit()


def indexed(expr: sp.Expr) -> sp.Expr:
    """Traces written out as sums over entries."""

    def written_out(trace: sp.Trace) -> sp.Expr:
        k = sp.Dummy("k", integer=True)
        return sp.Sum(trace.arg[k, k], (k, 0, trace.arg.rows - 1))

    return expr.replace(lambda node: isinstance(node, sp.Trace), written_out)


def check_shapes(expr: sp.Basic) -> None:
    """Raise BadStatement if a matrix expression does not fit together for every dimension."""
    for node in sp.preorder_traversal(expr):
        if isinstance(node, sp.MatMul):
            factors = [a for a in node.args if a.is_Matrix]
            for one, two in pairwise(factors):
                if not _same(one.cols, two.rows):
                    raise BadStatement(
                        f"the shapes {one.shape} of {sp.sstr(one)} and {two.shape} of "
                        f"{sp.sstr(two)} do not fit for every dimension; transpose a factor or "
                        "give the dimensions the same symbol"
                    )
        elif isinstance(node, (sp.MatAdd, sp.HadamardProduct)):
            first = node.args[0]
            for other in node.args[1:]:
                if not all(map(_same, first.shape, other.shape)):
                    raise BadStatement(
                        f"the shapes {first.shape} of {sp.sstr(first)} and {other.shape} of "
                        f"{sp.sstr(other)} differ; terms of a sum need one shape"
                    )


def _same(one: sp.Expr, two: sp.Expr) -> bool:
    return sp.expand(one - two) == 0


def _words(expr: sp.Basic, transposed: bool) -> list[tuple[sp.Expr, Word]]:
    if isinstance(expr, sp.ZeroMatrix):
        return []
    if isinstance(expr, sp.Identity):
        return [(sp.S.One, ())]
    if isinstance(expr, sp.MatAdd):
        return [pair for a in expr.args for pair in _words(a, transposed)]
    if isinstance(expr, sp.MatMul):
        scalar = sp.Mul(*(a for a in expr.args if not a.is_Matrix))
        matrices = [_words(a, transposed) for a in expr.args if a.is_Matrix]
        return _product(scalar, matrices[::-1] if transposed else matrices)
    if isinstance(expr, sp.Transpose):
        return _words(expr.arg, not transposed)
    if isinstance(expr, sp.MatPow) and expr.exp.is_Integer:  # Inverse is a MatPow of -1
        factor = _words(expr.base, transposed)
        if expr.exp < 0:
            factor = _inverse(factor, expr.rows)
        return _product(sp.S.One, [factor] * abs(int(expr.exp)))
    if isinstance(expr, sp.MatrixBase):
        return [(sp.S.One, ((expr.T if transposed else expr).as_immutable(),))]
    return [(sp.S.One, (sp.Transpose(expr) if transposed else expr,))]


def _product(scalar: sp.Expr, factors: list) -> list[tuple[sp.Expr, Word]]:
    pairs = [(scalar, ())]
    for factor in factors:
        pairs = [(c * d, v + w) for c, v in pairs for d, w in factor]
    return pairs


def _inverse(pairs: list[tuple[sp.Expr, Word]], size: sp.Expr) -> list[tuple[sp.Expr, Word]]:
    """The inverse: letter by letter for one word of square letters, else one letter."""
    if len(pairs) == 1:
        ((coefficient, word),) = pairs
        if all(_same(letter.rows, letter.cols) for letter in word):
            return _product(1 / coefficient, [_letter_inverse(w) for w in reversed(word)])
    terms = [sp.MatMul(c, *(word or (sp.Identity(size),))) for c, word in pairs]
    base = sp.MatAdd(*terms).doit(deep=False) if terms else sp.ZeroMatrix(size, size)
    return [(sp.S.One, (sp.Inverse(base),))]


def _letter_inverse(letter: sp.Basic) -> list[tuple[sp.Expr, Word]]:
    if isinstance(letter, sp.Inverse):
        return _words(letter.arg, False)
    return [(sp.S.One, (sp.Inverse(letter),))]


def _cancelled(word: Word) -> Word:
    result: list[sp.Basic] = []
    for letter in word:
        if result and _are_inverse(result[-1], letter):
            result.pop()
        else:
            result.append(letter)
    return tuple(result)


def _are_inverse(one: sp.Basic, two: sp.Basic) -> bool:
    for a, b in ((one, two), (two, one)):
        if isinstance(a, sp.Inverse) and a.arg == b:
            return True
    return False


def _scalars_out(coefficient: sp.Expr, word: Word) -> tuple[sp.Expr, Word]:
    """Move the 1 x 1 factors of a word into the coefficient."""
    segments: list[list[sp.Basic]] = [[]]
    for letter in word:
        segments[-1].append(letter)
        if letter.cols == 1:
            segments.append([])
    kept: list[sp.Basic] = []
    for segment in segments:
        if not segment:
            continue
        if segment[0].rows == 1 and segment[-1].cols == 1:
            coefficient *= _trace(tuple(segment), sp.S.One)
        else:
            kept.extend(segment)
    return coefficient, tuple(kept)


def _trace(word: Word, size: sp.Expr) -> sp.Expr:
    """The trace of a word, or of the identity of this size."""
    if not word:
        return sp.sympify(size)
    flipped = tuple(_flip(letter) for letter in reversed(word))
    rotations = [w[k:] + w[:k] for w in (word, flipped) for k in range(len(word))]
    least = min(rotations, key=lambda w: tuple(sp.default_sort_key(letter) for letter in w))
    if len(least) == 1 and least[0].is_Matrix and isinstance(least[0], sp.MatrixBase):
        return least[0].trace()
    return sp.Trace(sp.MatMul(*least)) if len(least) > 1 else sp.Trace(least[0])


def _flip(letter: sp.Basic) -> sp.Basic:
    if isinstance(letter, sp.Transpose):
        return letter.arg
    if isinstance(letter, sp.Inverse):
        ((_, (flipped,)),) = _inverse(_words(letter.arg, True), letter.rows)
        return flipped
    if isinstance(letter, sp.MatrixBase):
        return letter.T.as_immutable()
    return sp.Transpose(letter)

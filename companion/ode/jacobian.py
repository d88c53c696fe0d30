r"""The Jacobian of a vector field: dense, exact, by reverse-mode differentiation.

The derivative of f with respect to a state of several, possibly complex, tensors is a matrix only
in a space where the state is one vector.  f need not be holomorphic, so that space is real: a
complex entry counts as two real ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from companion.ode.field import Leaves, time_dtype
from companion.ode.read_back import read_back
from companion.ode.step import VectorField

#: Vector-Jacobian products taken at a time: bounds the memory of a large Jacobian.
ROWS = 512


class RealSpace:
    """The leaves of a state as one real vector.

    Args:
        y: a state, for its shapes and dtypes.

    Attributes:
        n: length of the vector.
        dtype: the widest real dtype of the leaves, and at least float32, the least for which
            there are factorisations.
        rounding: for every entry the relative size of what rounding may leave of it, a few units
            in the last place of its leaf; shape (n,).
    """

    def __init__(self, y: Leaves) -> None:
        self._shapes = [leaf.shape for leaf in y]
        self._dtypes = [leaf.dtype for leaf in y]
        self._sizes = [leaf.numel() * (2 if leaf.is_complex() else 1) for leaf in y]
        self.n = sum(self._sizes)
        self.dtype = torch.promote_types(time_dtype(y), torch.float32)
        self.rounding = torch.cat(
            [
                leaf.new_full((size,), 10 * torch.finfo(leaf.dtype).eps, dtype=self.dtype)
                for leaf, size in zip(y, self._sizes, strict=True)
            ]
        )

    def pack(self, leaves: Leaves) -> Tensor:
        """The vector, shape (n,); leaves beyond those of a state are left out."""
        parts = [
            (torch.stack((leaf.real, leaf.imag), -1) if leaf.is_complex() else leaf)
            .reshape(-1)
            .to(self.dtype)
            for leaf, _ in zip(leaves, self._shapes, strict=False)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def split(self, vector: Tensor) -> Leaves:
        """The leaves of a vector, in its precision."""
        parts = [vector] if len(self._sizes) == 1 else vector.split(self._sizes)
        return [
            torch.complex(*part.reshape(*shape, 2).unbind(-1))
            if dtype.is_complex
            else part.reshape(shape)
            for part, shape, dtype in zip(parts, self._shapes, self._dtypes, strict=True)
        ]

    def unpack(self, vector: Tensor) -> Leaves:
        """The leaves of a vector, in the precision of the state."""
        return [
            leaf.to(dtype) for leaf, dtype in zip(self.split(vector), self._dtypes, strict=True)
        ]


def jacobian(field: VectorField, space: RealSpace, t: float, x: Tensor) -> Tensor:
    """The derivative of ``field(t, y)`` with respect to y, as a matrix of constants.

    One evaluation, and one vector-Jacobian product a row, batched by ``vmap``; where vmap does
    not support an operation in the backward pass of f, one after the other.

    Args:
        field: ``field(t, leaves)``; leaves beyond those of the state are left out.
        space: where the state is a vector.
        t: time.
        x: the state as a vector, shape (n,).

    Returns:
        Shape (n, n): the derivative of the rate of entry i with respect to entry j.

    Raises:
        ValueError: if f depends on y, but in a way that autograd does not see.
    """

    def rate(x: Tensor) -> Tensor:
        return space.pack(field(t, space.unpack(x)))

    if not len(x):
        return x.new_zeros(0, 0)
    # A solve without gradients, even one in inference mode, needs this derivative nevertheless.
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone()
        try:
            x.requires_grad_()
        except RuntimeError:
            # Within a transform of torch.func only its own derivatives are to be had.
            return torch.func.jacrev(rate, chunk_size=ROWS)(x).detach()
        value = rate(x)
        rows = _rows(value, x) if value.requires_grad else None
    if rows is None:
        _require_constant(rate, x.detach(), value.detach())
        return x.new_zeros(len(x), len(x))
    return rows.detach()


def _rows(value: Tensor, x: Tensor) -> Tensor | None:
    """The Jacobian, or None where the graph of the value does not reach x."""
    identity = torch.eye(len(x), dtype=x.dtype, device=x.device)

    def products(cotangents: Tensor, batched: bool) -> Tensor | None:
        (product,) = torch.autograd.grad(
            value, x, cotangents, retain_graph=True, allow_unused=True, is_grads_batched=batched
        )
        return product

    try:
        rows = [products(some, True) for some in identity.split(ROWS)]
        return None if rows[0] is None else torch.cat(rows)
    except RuntimeError:
        # What is wrong with f itself, and not with vmap, is raised again here.
        rows = [products(one, False) for one in identity]
        return None if rows[0] is None else torch.stack(rows)


@torch.no_grad()
def _require_constant(rate: VectorField, x: Tensor, value: Tensor) -> None:
    """Without a graph from x to f, either f is constant in y, or its derivative is hidden."""
    moved = rate(x + 0.01 * (1 + x.abs()))
    if read_back(((moved != value) & value.isfinite()).any()):
        raise ValueError(
            "f(t, y) depends on y in a way that autograd does not see, but implicit methods and "
            "gradient='implicit' need the derivative: take torch.no_grad(), detach() or NumPy out "
            "of f, or choose an explicit method such as 'dopri5' and another gradient"
        )

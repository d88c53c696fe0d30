"""Which tensors does f depend on, besides its arguments?

PyTorch cannot ask a function what it closes over, but one traced evaluation can: the autograd
graph of its value ends in exactly the tensors that require grad.  A continuous adjoint
re-evaluates f later and needs to know them beforehand; one that it does not know of would
silently have a zero gradient.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from companion.adjoint.trees import detached, tensors_in
from companion.ode.problem import Problem
from companion.ode.solution import Stats


def parameters_of(f: object) -> list[Tensor]:
    """Parameters that require grad of a module, or of the module that a bound method is of."""
    owner = f if isinstance(f, nn.Module) else getattr(f, "__self__", None)
    if not isinstance(owner, nn.Module):
        return []
    return [p for p in owner.parameters() if p.requires_grad]


def captured(problem: Problem, known: Iterable[Tensor], stats: Stats) -> list[Tensor]:
    """Leaf tensors that f uses, besides its arguments and the ``known`` ones.

    Found by evaluating f once, at the initial state; the evaluation is counted in ``stats``.

    Raises:
        ValueError: if f uses a tensor that was computed from others outside of f, whose
            gradient could not be carried on from there.
    """
    known = list(known)
    with torch.enable_grad():
        # Whatever is created from here on has a larger sequence number.
        start = torch.ones((), requires_grad=True).clone().grad_fn._sequence_nr()
        args = detached(problem.args)
        y = [leaf.detach().requires_grad_() for leaf in problem.y0]
        rates = problem.field(stats, args)(problem.times[0], y)
    # A known tensor that is no leaf is where the search ends: its own history is its owner's.
    visited = {tensor.grad_fn for tensor in known}
    accounted = {id(tensor) for tensor in [*known, *y, *tensors_in(args)]}
    found: list[Tensor] = []
    stack = [rate.grad_fn for rate in rates]
    while stack:
        node = stack.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            if id(leaf) not in accounted:
                found.append(leaf)
        elif node._sequence_nr() < start:
            raise ValueError(
                "f closes over a tensor that requires grad and was computed outside of it "
                f"(by {node.name()}): pass it through args=, or name it in "
                "Backsolve(params=...), so that its gradient is not lost"
            )
        else:
            stack.extend(parent for parent, _ in node.next_functions)
    return found

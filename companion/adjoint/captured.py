"""Which tensors does f depend on, besides its arguments?

A backward pass of our own has to know beforehand whose gradients to compute; a tensor that it does
not know of would silently have a zero gradient.  Two searches together come close: one through the
objects that f holds (`companion.adjoint.held`), and one through the graph of a traced evaluation,
which ends in exactly the tensors that were used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from companion.adjoint.trees import detached, tensors_in
from companion.ode.problem import Problem
from companion.ode.random import random_state, random_state_kept
from companion.ode.solution import Stats


def captured(problem: Problem, stats: Stats) -> tuple[list[Tensor], bool]:
    """Leaf tensors that f uses, besides its arguments, and whether it draws random numbers.

    Found by evaluating f once, at the initial state; the evaluation is counted in ``stats``, and
    the random numbers that it draws are drawn again by the solve.

    Raises:
        ValueError: if f uses a tensor that was computed from others outside of f, whose
            gradient could not be carried on from there.
    """
    device = problem.y0[0].device
    # A weight that autocast has cast before, outside, would be found as the result of that.
    autocast = torch.autocast(
        device.type,
        dtype=torch.get_autocast_dtype(device.type),
        enabled=torch.is_autocast_enabled(device.type),
        cache_enabled=False,
    )
    with torch.enable_grad(), random_state_kept(device), autocast:
        # Whatever is created from here on has a larger sequence number.
        start = torch.ones((), requires_grad=True).clone().grad_fn._sequence_nr()
        args = detached(problem.args)
        # A clone of a tensor made in inference mode may require grad, the tensor may not.
        y = [
            (leaf.clone() if leaf.is_inference() else leaf.detach()).requires_grad_()
            for leaf in problem.y0
        ]
        # An f that writes to its state is to be told so by the field, not by autograd.
        before = random_state(device)
        rates = problem.field(stats, args)(problem.times[0], [leaf.clone() for leaf in y])
        draws = not all(map(torch.equal, random_state(device), before))
    accounted = {id(tensor) for tensor in [*y, *tensors_in(args)]}
    # f may return such a tensor as it is.
    found = {id(x): x for x in rates if x.requires_grad and x.is_leaf and id(x) not in accounted}
    visited = set()
    stack = [rate.grad_fn for rate in rates]
    while stack:
        node = stack.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            if id(leaf) not in accounted:
                found[id(leaf)] = leaf
        elif node._sequence_nr() < start:
            raise ValueError(of_derived(node))
        else:
            stack.extend(parent for parent, _ in node.next_functions)
    return list(found.values()), draws


def of_derived(node: Any) -> str:
    """What to do about a tensor that f uses and that another computation made."""
    return (
        "f closes over a tensor that requires grad and was computed outside of it "
        f"(by {node.name()}): pass it through args=, or name it in the strategy's params=, such as "
        "Checkpointed(params=(x,)), so that its gradient is not lost; or use gradient='direct', or "
        "detach() it"
    )

"""Which tensors does f depend on, besides its arguments?

A continuous adjoint re-evaluates f during the backward pass and has to know beforehand whose
gradients to compute; a tensor that it does not know of would silently have a zero gradient.
PyTorch cannot ask a function what it uses.  Two searches together come close: one through the
objects that f holds (modules and tensors in closures, attributes, arguments and globals), and
one through the graph of a traced evaluation, which ends in exactly the tensors that were used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from companion.adjoint.trees import detached, tensors_in
from companion.ode.problem import Problem
from companion.ode.random import random_state_kept
from companion.ode.solution import Stats


def held(f: Callable[..., Any], args: tuple) -> list[Tensor]:
    """Tensors that require grad and that f and the modules in args hold.

    Follows modules, methods, partial functions, closures, defaults, callable objects, containers
    and the globals that a function names; each tensor once, in the order in which it is met.
    """
    found: dict[int, Tensor] = {}
    seen: set[int] = set()
    stack: list[Any] = [*(x for x in _contents(args) if not isinstance(x, Tensor)), f]
    while stack:
        thing = stack.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            if thing.requires_grad:
                found[id(thing)] = thing
        else:
            stack.extend(reversed(list(_contents(thing))))
    return list(found.values())


def _contents(thing: Any) -> Iterable[Any]:
    """What is reached from an object in one step."""
    if isinstance(thing, nn.Module):
        return thing.parameters()
    if isinstance(thing, functools.partial):
        return (thing.func, *thing.args, *thing.keywords.values())
    if isinstance(thing, MethodType):
        return (thing.__self__, thing.__func__)
    if isinstance(thing, FunctionType):
        return _held_by_function(thing)
    if isinstance(thing, Mapping):
        return thing.values()
    if isinstance(thing, (tuple, list, set, frozenset)):
        return thing
    if callable(thing) and not isinstance(thing, type) and hasattr(thing, "__dict__"):
        return (*vars(thing).values(), *vars(type(thing)).values())
    return ()


def _held_by_function(function: FunctionType) -> Iterable[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    for name in function.__code__.co_names:
        thing = function.__globals__.get(name)
        # Of the globals only what can hold parameters: not the modules of Python.
        if isinstance(thing, (Tensor, nn.Module, FunctionType, functools.partial)):
            yield thing


def captured(problem: Problem, known: Iterable[Tensor], stats: Stats) -> list[Tensor]:
    """Leaf tensors that f uses, besides its arguments and the ``known`` leaves.

    Found by evaluating f once, at the initial state; the evaluation is counted in ``stats``, and
    the random numbers that it draws are drawn again by the solve.

    Raises:
        ValueError: if f uses a tensor that was computed from others outside of f, whose
            gradient could not be carried on from there.
    """
    with torch.enable_grad(), random_state_kept(problem.y0[0].device):
        # Whatever is created from here on has a larger sequence number.
        start = torch.ones((), requires_grad=True).clone().grad_fn._sequence_nr()
        args = detached(problem.args)
        # A clone of a tensor made in inference mode may require grad, the tensor may not.
        y = [
            (leaf.clone() if leaf.is_inference() else leaf.detach()).requires_grad_()
            for leaf in problem.y0
        ]
        # An f that writes to its state is to be told so by the field, not by autograd.
        rates = problem.field(stats, args)(problem.times[0], [leaf.clone() for leaf in y])
    accounted = {id(tensor) for tensor in [*known, *y, *tensors_in(args)]}
    found: dict[int, Tensor] = {}
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
            raise ValueError(
                "f closes over a tensor that requires grad and was computed outside of it "
                f"(by {node.name()}): pass it through args=, or name it in "
                "Backsolve(params=...), so that its gradient is not lost"
            )
        else:
            stack.extend(parent for parent, _ in node.next_functions)
    return list(found.values())

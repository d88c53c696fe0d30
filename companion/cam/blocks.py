"""Blocks with a depth: one solve of an ODE, or a chain of residual layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from companion.adjoint.recorded import Recording, recorded
from companion.cam.capture import InputOf, forward, hooks
from companion.cam.depths import layers_of, times_of
from companion.cam.explained import gradients, require_finite
from companion.cam.layers import Kind, Layer, find, modules_of
from companion.nn import ODEBlock
from companion.ode import Stats

_ODE_BLOCK = Kind("block", "ODE blocks", (ODEBlock,))
_BLOCK = Kind("block", "ODE blocks and Sequentials", (ODEBlock, nn.Sequential))

PullBack = Callable[[Sequence[Tensor], int], tuple[Tensor, list[Tensor]]]
"""From scores, each of shape (N,), and a sign to the states at all depths and the gradients of
every score, times the sign, with respect to them; each of shape (N, T, C, h, w)."""


class DepthPass(NamedTuple):
    """One forward pass through a block with a depth.

    Attributes:
        depth: The depths, shape ``(T,)``.
        output: What the model returned, with a graph that begins in the block.
        pull_back: The way back to all the depths.
        stats: What the solve cost, if there was one.
    """

    depth: Tensor
    output: Any
    pull_back: PullBack
    stats: Stats | None


class Continuous:
    """A module that makes one solve, whose depths are the times of that."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name, self.module = name, module

    def forward(
        self, model: nn.Module, images: Tensor, depths: int | list[float] | None
    ) -> DepthPass:
        """Run ``model``, within :func:`companion.cam.capture.as_found`; solve without a graph.

        Raises:
            ValueError: The block did not run exactly once, did not make exactly one solve, or one
                that cannot be recorded or whose state is no feature maps; or a depth outside.
        """
        record, output = self._recorded(model, images)
        _require_state(self.name, record.outputs, len(images))
        times = times_of(depths, record.t0, record.t1)

        def pull_back(scores: Sequence[Tensor], sign: int) -> tuple[Tensor, list[Tensor]]:
            (found,) = gradients(scores, (record.outputs,), [self.name], sign)
            for one in found:
                require_finite(self.name, "gradient", one)
            adjoints = [record.adjoints(one, times) for one in found]
            # The states of the way back for the first score: the others' differ by its errors.
            states = adjoints[0].y.transpose(0, 1)
            return states, [one.a.transpose(0, 1) for one in adjoints]

        depth = torch.tensor(times, dtype=torch.float64)
        return DepthPass(depth, output, pull_back, record.stats)

    def _recorded(self, model: nn.Module, images: Tensor) -> tuple[Recording, Any]:
        records: list[Recording] = []
        is_inside = False

        with ExitStack() as inside:

            def enter(_: Any) -> None:
                nonlocal is_inside
                if records:
                    raise ValueError(
                        f"block {self.name!r} ran more than once in one forward pass, so that it "
                        "has more than one state at every depth; give every use a module of its "
                        "own"
                    )
                records.append(inside.enter_context(recorded()))
                is_inside = True
                # What the block makes of the solution is a part of the graph.
                torch.set_grad_enabled(True)  # until `as_found` is left

            def leave(_: Any) -> None:
                nonlocal is_inside
                inside.close()
                is_inside = False

            try:
                with hooks([(InputOf(self.module), enter), (self.module, leave)]):
                    output = model(images.clone())  # a model may standardise its input in place
            except (TypeError, ValueError) as error:
                if is_inside and type(error) in (TypeError, ValueError):
                    raise type(error)(f"block {self.name!r}: {error}") from error
                raise
        if not records:
            raise ValueError(
                f"block {self.name!r} did not run in the forward pass; choose a block that the "
                "model calls"
            )
        return records[0], output


class Discrete:
    """Residual layers one after the other; depth n is the state behind n of them."""

    def __init__(self, name: str, layers: Mapping[str, nn.Module]) -> None:
        self.name = name
        first = next(iter(layers))
        self._places = {f"{first} (input)": InputOf(layers[first]), **layers}

    def forward(
        self, model: nn.Module, images: Tensor, depths: int | list[float] | None
    ) -> DepthPass:
        """Run ``model``, within :func:`companion.cam.capture.as_found`.

        Raises:
            ValueError: A layer that did not run exactly once, or whose output is no feature maps,
                layers in another order than given, or that change the shape; or a depth that does
                not exist.
        """
        chosen = layers_of(depths, len(self._places) - 1)
        names = [list(self._places)[n] for n in chosen]
        seen = forward(model, {name: self._places[name] for name in names}, images)
        if seen.order != tuple(names):
            raise ValueError(
                f"block: the layers run in the order {', '.join(map(repr, seen.order))}; give "
                "them in that order"
            )
        shapes = {name: tuple(x.shape[1:]) for name, x in zip(names, seen.activations, strict=True)}
        if len(set(shapes.values())) > 1:
            raise ValueError(
                f"block {self.name!r}: the state changes its shape from layer to layer, {shapes}; "
                "choose layers that keep it, or a GradCAM for each"
            )

        def pull_back(scores: Sequence[Tensor], sign: int) -> tuple[Tensor, list[Tensor]]:
            found = gradients(scores, seen.activations, names, sign)
            states = torch.stack([x.detach() for x in seen.activations], dim=1)
            return states, [torch.stack(of_score, dim=1) for of_score in zip(*found, strict=True)]

        return DepthPass(torch.tensor(chosen), seen.output, pull_back, None)


def find_block(model: nn.Module, block: Layer | Iterable[Layer] | None) -> Continuous | Discrete:
    """The block asked for, by default the model's only ODE block.

    Args:
        model: Any module.
        block: A submodule of ``model`` or its dotted name: a Sequential (or a ModuleList) is a
            chain of residual layers, any other module a block with one solve.  Several of them
            are a chain of layers, too, and so is a slice of a Sequential.

    Raises:
        ValueError: A name or a module that ``model`` does not have, or a default where there is
            not exactly one ODE block.
        TypeError: ``block`` is neither a module nor a name nor several.
    """
    if block is None:
        return _only_ode_block(model)
    if isinstance(block, nn.Sequential | nn.ModuleList) and all(
        module is not block for module in model.modules()
    ):
        block = list(block)  # a slice, which is no part of the model while its layers are
    found = find(model, block, _BLOCK)
    names = list(found)
    if not isinstance(block, nn.Module | str):
        return Discrete(f"{names[0]} to {names[-1]}", found)
    name, module = names[0], found[names[0]]
    if not isinstance(module, nn.Sequential | nn.ModuleList):
        return Continuous(name, module)
    children = [f"{name}.{child}" if name else child for child in module._modules]
    return Discrete(name, find(model, children, _BLOCK))


def _only_ode_block(model: nn.Module) -> Continuous:
    blocks = modules_of(model, _ODE_BLOCK)
    if len(blocks) == 1:
        return Continuous(*blocks[0])
    if blocks:
        names = ", ".join(repr(name) for name, _ in blocks)
        raise ValueError(f"block: {type(model).__name__} has several ODE blocks, {names}; name one")
    raise ValueError(
        f"block: {type(model).__name__} has no ODEBlock to take by default; name the module that "
        "calls companion.solve, or the Sequential of residual layers"
    )


def _require_state(name: str, outputs: Any, count: int) -> None:
    if not isinstance(outputs, Tensor):
        raise ValueError(
            f"block {name!r} solves for a {type(outputs).__name__} of tensors, expected one "
            "tensor of shape (N, C, h, w) as its state"
        )
    if outputs.ndim != 5 or outputs.shape[1] != count or not outputs.is_floating_point():
        raise ValueError(
            f"block {name!r} solves for a {outputs.dtype} state of shape "
            f"{tuple(outputs.shape[1:])}, expected feature maps of shape ({count}, C, h, w)"
        )

"""One forward pass whose graph begins at the layers that are explained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Pass(NamedTuple):
    """What one forward pass left.

    Attributes:
        activations: The outputs of the layers, in the order of the layers asked for, each of
            shape ``(N, C, h, w)``.  They are what autograd differentiates with respect to.
        output: What the model returned.
    """

    activations: tuple[Tensor, ...]
    output: Any


def forward(model: nn.Module, layers: Mapping[str, nn.Module], images: Tensor) -> Pass:
    """Run ``model`` on ``images`` and keep the outputs of ``layers``.

    Nothing below the first of the layers is recorded: it runs as under ``torch.no_grad()``, and
    its output becomes the leaf at which the graph begins.  So frozen parameters, an outer
    ``no_grad`` or ``inference_mode`` change nothing, and neither does an operation that later
    overwrites the layer's output in place, because the model goes on with a copy.

    Raises:
        ValueError: A layer did not run, ran more than once, or its output is not a floating-point
            tensor of shape ``(N, C, h, w)``.
    """
    caught: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], Tensor]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> Tensor:
            _require_maps(name, output)
            if name in caught:
                raise ValueError(
                    f"layer {name!r} ran more than once in one forward pass, so it has no one "
                    "output to explain; choose the layer before or behind it, or give every use "
                    "a module of its own"
                )
            torch.set_grad_enabled(True)  # until `forward` below leaves its no_grad block
            kept = output if output.requires_grad else output.detach().requires_grad_()
            caught[name] = kept
            return kept.clone()

        return hook

    with ExitStack() as stack:
        stack.enter_context(run_as_found(model))
        for name, module in layers.items():
            stack.callback(module.register_forward_hook(keep(name)).remove)
        output = model(images.clone() if images.is_inference() else images)
    for name in layers:
        if name not in caught:
            raise ValueError(
                f"layer {name!r} did not run in the forward pass; choose a layer that the model "
                "calls (and not only its weights)"
            )
    return Pass(tuple(caught[name] for name in layers), output)


def forward_with(
    model: nn.Module, layer: nn.Module, images: Tensor, replaced: Tensor | None
) -> Any:
    """What ``model`` returns, without a graph, when ``layer`` puts out ``replaced``, if given."""

    def hook(module: nn.Module, arguments: Any, output: Tensor) -> Tensor | None:
        return None if replaced is None else replaced.to(output)

    with ExitStack() as stack:
        stack.enter_context(run_as_found(model))
        stack.callback(layer.register_forward_hook(hook).remove)
        return model(images)


@contextmanager
def run_as_found(model: nn.Module, *, graph: bool = False) -> Iterator[None]:
    """Eagerly (a compiled graph has no hooks), leaving no trace in the model; without a graph."""
    with (
        torch.inference_mode(False),
        torch.set_grad_enabled(graph),
        torch.compiler.set_stance("force_eager"),
        _buffers_as_found(model),
    ):
        yield


def _require_maps(name: str, output: Any) -> None:
    if not isinstance(output, Tensor):
        raise ValueError(
            f"layer {name!r} returned {type(output).__name__}, expected one tensor of shape "
            "(N, C, h, w); choose a layer inside it"
        )
    if output.ndim != 4 or not output.is_floating_point():
        raise ValueError(
            f"layer {name!r} returned a {output.dtype} tensor of shape {tuple(output.shape)}, "
            "expected feature maps of shape (N, C, h, w); choose a convolutional layer"
        )


@contextmanager
def _buffers_as_found(model: nn.Module) -> Iterator[None]:
    """In training mode batch norm moves its running statistics: an explanation must not."""
    training = [module for module in model.modules() if module.training]
    kept = [
        (buffer, buffer.detach().clone())
        for module in training
        for buffer in module.buffers(recurse=False)
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)

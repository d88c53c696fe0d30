"""One forward pass whose graph begins at the layers that are explained."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Hook = Callable[[Any], Tensor | None]
"""From what a layer puts out, or takes, to what the model goes on with; None changes nothing."""


class InputOf(NamedTuple):
    """The first argument of a module, where otherwise its output is meant."""

    module: nn.Module


class Pass(NamedTuple):
    """What one forward pass left.

    Attributes:
        activations: The outputs of the layers, in the order of the layers asked for, each of
            shape ``(N, C, h, w)``.  They are what autograd differentiates with respect to.
        output: What the model returned.
        order: The names of the layers in the order in which they ran.
    """

    activations: tuple[Tensor, ...]
    output: Any
    order: tuple[str, ...]


def forward(model: nn.Module, layers: Mapping[str, nn.Module | InputOf], images: Tensor) -> Pass:
    """Run ``model`` on ``images`` and keep the outputs of ``layers``, within :func:`as_found`.

    Nothing below the first of the layers is recorded: it runs as under ``torch.no_grad()``, and
    its output becomes the leaf at which the graph begins; from there on gradients are enabled.
    An operation that later overwrites the layer's output in place changes nothing, because the
    model goes on with a copy.  (So the output is what the layer hands on, and not the tensor that
    it was given, even if an in-place layer returns that.)

    Raises:
        ValueError: A layer did not run, ran more than once, or its output is not one
            floating-point tensor of shape ``(N, C, h, w)``, or does not keep its values.
    """
    caught: dict[str, Tensor] = {}
    versions: dict[str, int] = {}

    def keep(name: str) -> Hook:
        def hook(output: Any) -> Tensor:
            _require_maps(name, output, len(images))
            if name in caught:
                raise ValueError(
                    f"layer {name!r} ran more than once in one forward pass, so it has no one "
                    "output to explain; choose the layer before or behind it, or give every use "
                    "a module of its own"
                )
            torch.set_grad_enabled(True)  # until `as_found` is left
            caught[name] = output if output.requires_grad else output.detach().requires_grad_()
            versions[name] = output._version
            return caught[name].clone()

        return hook

    with hooks((module, keep(name)) for name, module in layers.items()):
        output = model(images.clone())  # a model may standardise its input in place
    for name in layers:
        if name not in caught:
            raise ValueError(
                f"layer {name!r} did not run in the forward pass; choose a layer that the model "
                "calls (and not only its weights; TorchScript calls none)"
            )
        if caught[name]._version != versions[name]:
            raise ValueError(
                f"layer {name!r} returns its own input, which the model overwrites afterwards, so "
                "its output is lost; choose the layer before it"
            )
    return Pass(tuple(caught[name] for name in layers), output, tuple(caught))


def forward_with(
    model: nn.Module, layer: nn.Module, images: Tensor, replaced: Tensor | None
) -> Any:
    """What ``model`` returns when ``layer`` puts out ``replaced``, if given."""
    if replaced is None:
        return model(images)
    with hooks([(layer, replaced.to)]):
        return model(images)


@contextmanager
def as_found(model: nn.Module, *, graph: bool = False) -> Iterator[None]:
    """Leave no trace in the model, whatever the caller's modes; at first without a graph.

    Compiled models run eagerly, because a compiled graph calls no hooks.
    """
    with torch.inference_mode(False), torch.set_grad_enabled(graph), _eager, _own_buffers(model):
        yield


_running: ContextVar[object] = ContextVar("running")


@contextmanager
def hooks(places: Iterable[tuple[nn.Module | InputOf, Hook]]) -> Iterator[None]:
    """Hooks of this pass alone: not of other threads', nor of one that begins within it."""
    this = object()

    def of_this_pass(hook: Hook, value: Any) -> Tensor | None:
        return hook(value) if _running.get(None) is this else None

    def register(place: nn.Module | InputOf, hook: Hook) -> RemovableHandle:
        if not isinstance(place, InputOf):
            return place.register_forward_hook(
                lambda module, arguments, output: of_this_pass(hook, output)
            )

        def before(module: nn.Module, arguments: tuple) -> tuple | None:
            first = of_this_pass(hook, arguments[0] if arguments else None)
            return None if first is None else (first, *arguments[1:])

        return place.module.register_forward_pre_hook(before)

    with ExitStack() as stack:
        stack.callback(_running.reset, _running.set(this))
        for place, hook in places:
            stack.callback(register(place, hook).remove)
        yield


def _require_maps(name: str, output: Any, count: int) -> None:
    if not isinstance(output, Tensor):
        raise ValueError(
            f"layer {name!r} returned {type(output).__name__}, expected one tensor of shape "
            "(N, C, h, w); choose a layer inside it"
        )
    if output.ndim != 4 or len(output) != count or not output.is_floating_point():
        raise ValueError(
            f"layer {name!r} returned a {output.dtype} tensor of shape {tuple(output.shape)}, "
            f"expected feature maps of shape ({count}, C, h, w); choose a convolutional layer"
        )
    if output.is_inference():
        raise ValueError(f"layer {name!r} runs in inference mode, which knows no gradient")


@contextmanager
def _own_buffers(model: nn.Module) -> Iterator[None]:
    """In training mode batch norm moves its running statistics: here it moves copies of them."""
    kept = [
        (module, name, buffer)
        for module in model.modules()
        if module.training
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        for module, name, buffer in kept:
            module._buffers[name] = buffer.detach().clone()
        yield
    finally:
        for module, name, buffer in kept:
            module._buffers[name] = buffer


class _Eager:
    """``torch.compiler.set_stance("force_eager")``, which holds for all threads, for any of them.

    The stance before is restored by the thread that leaves last.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._stance: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._stance = torch.compiler.set_stance("force_eager")
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._stance.__exit__(None, None, None)


_eager = _Eager()

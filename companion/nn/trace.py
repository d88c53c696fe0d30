"""What happens in a network while it runs: every call of every layer, with its shapes and work."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch.nn import Module
from torch.utils.flop_counter import FlopCounterMode

from companion.nn.sizes import ReceptiveField
from companion.nn.windows import windows

#: Vertical and horizontal.
Fields = tuple[ReceptiveField, ReceptiveField]


@dataclass(frozen=True)
class Call:
    """One call of one module, or the sum of several.

    Attributes:
        module: The module.
        shapes: The shapes of the tensors that it returned, however they were nested.
        multiply_adds: Those of the call, without those of the modules that it called.
        fields: The receptive fields of its output, where it was reached from the input through
            layers alone whose windows are known.
        calls: How many calls these are.
    """

    module: Module
    shapes: tuple[tuple[int, ...], ...]
    multiply_adds: int
    fields: Fields | None
    calls: int = 1

    def __add__(self, other: Call) -> Call:
        """Both, of one module; with the shapes and fields of the first."""
        work = self.multiply_adds + other.multiply_adds
        return replace(self, multiply_adds=work, calls=self.calls + other.calls)


@torch.inference_mode(False)  # which keeps no versions of tensors
def trace(model: Module, shape: tuple[int, ...]) -> list[Call]:
    """Run a network on an input of the shape, and note each call of a module.

    No arithmetic is done and no memory taken: parameters and input are stood in for by tensors on
    the meta device, which have a shape and nothing else.  Where a network needs numbers, to decide
    what to do, it runs with its own parameters on zeros.

    It runs in evaluation mode, and is left as it was found, also by an exception.

    Args:
        model: Any module that takes one tensor.
        shape: The shape of the input, with the axis of the batch.

    Returns:
        The calls, in the order in which they ended.

    Raises:
        ValueError: The network does not take such an input; says in which layer it failed.
    """
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shadows = {name: torch.empty_like(tensor, device="meta") for name, tensor in own.items()}
    like = next((t for t in own.values() if t.is_floating_point()), torch.empty(0))
    try:
        return _Trace().run(model, shadows, shape, like.to("meta"))
    except ValueError:
        if like.device.type == "meta":
            raise
    # Its buffers are copied, because a forward pass may write to them.
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return _Trace().run(model, buffers, shape, like)


@dataclass
class _Running:
    """A call that has not ended.

    Attributes:
        module: The module.
        done_before: The multiply-adds done before the call.
        size: Height and width of its input, if that is one image.
        fields: The receptive fields of its input, as far as known.
        done_within: The multiply-adds of the modules that it called.
    """

    module: Module
    done_before: int
    size: tuple[int, int] | None
    fields: Fields | None
    done_within: int = 0


class _Trace:
    """The notes of one run."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.work = FlopCounterMode(display=False)
        self.running: list[_Running] = []
        # What is known of a tensor, by its id; the tensor is kept, lest another one gets its id.
        self.known: dict[int, tuple[torch.Tensor, int, Fields]] = {}

    def run(
        self,
        model: Module,
        replaced: dict[str, torch.Tensor],
        shape: tuple[int, ...],
        like: torch.Tensor,
    ) -> list[Call]:
        """The calls of a run on zeros, with some parameters and buffers replaced by others."""
        try:
            x = like.new_zeros(shape)
            self._learn(x, (ReceptiveField(), ReceptiveField()))
            with _as_found(model), self._watching(model), _whole(), torch.no_grad(), self.work:
                torch.func.functional_call(model, replaced, (x,))
        except Exception as error:
            raise ValueError(self._failure(model, shape, error)) from error
        return self.calls

    @contextmanager
    def _watching(self, model: Module) -> Iterator[None]:
        with ExitStack() as hooks:
            for module in model.modules():
                module.training = False
                before = module.register_forward_pre_hook(self._begin, with_kwargs=True)
                after = module.register_forward_hook(self._end)
                hooks.callback(before.remove)
                hooks.callback(after.remove)
            yield

    def _begin(self, module: Module, args, kwargs) -> None:
        inputs = list(_tensors((args, kwargs)))
        image = len(inputs) == 1 and inputs[0].ndim == 4
        # Now: a layer that works in place leaves another tensor behind.
        fields = self._recall(inputs[0]) if image else None
        size = tuple(inputs[0].shape[2:]) if image else None
        self.running.append(_Running(module, self._done(), size, fields))

    def _end(self, module: Module, _, output) -> None:
        call = self.running.pop()
        done = self._done() - call.done_before
        if self.running:
            self.running[-1].done_within += done
        outputs = list(_tensors(output))
        fields = self._fields(call, outputs)
        if fields is not None:
            self._learn(outputs[0], fields)
        shapes = tuple(tuple(tensor.shape) for tensor in outputs)
        self.calls.append(Call(module, shapes, done - call.done_within, fields))

    def _done(self) -> int:
        return self.work.get_total_flops() // 2

    def _learn(self, tensor: torch.Tensor, fields: Fields) -> None:
        self.known[id(tensor)] = tensor, tensor._version, fields

    def _recall(self, tensor: torch.Tensor) -> Fields | None:
        # A tensor that has been written to since, as a shortcut is added in place, is another one.
        _, version, fields = self.known.get(id(tensor), (None, None, None))
        return fields if version == tensor._version else None

    def _fields(self, call: _Running, outputs: list[torch.Tensor]) -> Fields | None:
        if len(outputs) != 1:
            return None
        if next(call.module.children(), None) is not None:
            return self._recall(outputs[0])
        if call.fields is None:
            return None
        through = windows(call.module, call.size)
        if through is None:
            return None
        vertical, horizontal = map(ReceptiveField.through, call.fields, through)
        return vertical, horizontal

    def _failure(self, model: Module, shape: tuple[int, ...], error: Exception) -> str:
        names = {module: name for name, module in model.named_modules()}
        module = self.running[-1].module if self.running else model
        first_line, *_ = str(error).splitlines() or [""]  # torch may append a stack of C++
        where = f" in layer {names[module]!r}" if names[module] else ""
        return (
            f"{type(model).__name__} does not take an input of shape {shape}, a batch of "
            f"{shape[0]}; it fails{where} with {type(error).__name__}: {first_line}"
        )


@contextmanager
def _as_found(model: Module) -> Iterator[None]:
    """Put back all attributes of all modules: flags, and what a forward pass may have stored."""
    found = [(module, dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes in found:
            vars(module).clear()
            vars(module).update(attributes)


@contextmanager
def _whole() -> Iterator[None]:
    """Have attention run as the operations it is made of; its fused one is not counted."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _tensors(value) -> Iterator[torch.Tensor]:
    """The tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from itertools.chain.from_iterable(map(_tensors, value.values()))
    elif isinstance(value, (tuple, list)):
        yield from itertools.chain.from_iterable(map(_tensors, value))

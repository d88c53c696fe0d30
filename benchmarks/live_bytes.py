"""Counting the bytes of the tensors that are alive, as PyTorch makes and drops them.

The count is exact and the same on every machine, which the resident size of a process is not: that
depends on the allocator, and never shrinks.  What a kernel needs while it runs is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that operations made while this mode was active.

    What was there before, such as parameters, is not counted.  A storage counts once, however
    many tensors share it, until the last of them is gone, be it held by Python or by a graph.

    Attributes:
        now: what is alive.
        peak: the most that was alive at one time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        #: Weak references to the storages that were met, by address, so that none is met twice.
        self._met: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for tensor in tensors((*args, *kwargs.values())):
            self._meet(tensor, new=False)
        results = func(*args, **kwargs)
        for tensor in tensors((results,)):
            self._meet(tensor, new=True)
        return results

    def _meet(self, tensor: Tensor, *, new: bool) -> None:
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address in self._met:
            return
        size = storage.nbytes() if new else 0

        def gone(_: weakref.ref) -> None:
            self.now -= size
            del self._met[address]

        self._met[address] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def tensors(things: Iterable[object]) -> Iterator[Tensor]:
    """The tensors among the arguments or results of an operation, in lists or not."""
    for thing in things:
        if isinstance(thing, Tensor):
            yield thing
        elif isinstance(thing, (list, tuple)):
            yield from tensors(thing)

"""The tensors that a function holds: in its closure, its globals, the objects behind it.

PyTorch cannot ask a function what it will use.  What it can reach is a good guess, and finds also
what is used at other times and states than those at which one has looked.
"""

from __future__ import annotations

import dis
import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

#: A container with more entries holds data and not parameters, and where more objects are in
#: reach than this, the rest is not looked at: a search must not cost more than a solve.
MOST_ENTRIES = 10_000

#: What holds nothing.
PLAIN = (type(None), str, bytes, int, float, complex, type, ModuleType, torch.dtype, torch.device)

#: The dictionaries that every module has: parameters, buffers, hooks.
_OF_MODULES = frozenset(vars(nn.Module()))


def held(f: Callable[..., Any], args: tuple) -> tuple[list[Tensor], list[Tensor]]:
    """Tensors that require grad and that f and the objects in args hold.

    Follows modules, methods, partial functions, closures, defaults, objects, containers and the
    globals that a function uses; each tensor once, in the order in which it is met.

    Returns:
        The leaves of autograd's graph among them; and the results of other computations that a
        function names itself, as a variable of its closure, a default or a global.
    """
    leaves: dict[int, Tensor] = {}
    derived: dict[int, Tensor] = {}
    seen: set[int] = set()
    # What is near comes first: if the search has to end, what is left is far from f.
    queue: deque[tuple[Any, bool]] = deque([(f, False)])
    queue.extend((x, False) for x in _inside(args) if not _is_tensor(x))
    while queue:
        thing, is_named = queue.popleft()
        if _is_tensor(thing):
            if thing.requires_grad and thing.is_leaf:
                leaves[id(thing)] = thing
            elif thing.requires_grad and is_named:
                derived[id(thing)] = thing
        elif id(thing) not in seen and len(seen) < MOST_ENTRIES:
            seen.add(id(thing))
            named = isinstance(thing, FunctionType)
            queue.extend((x, named) for x in _inside(thing) if not isinstance(x, PLAIN))
    return list(leaves.values()), list(derived.values())


def _is_tensor(thing: Any) -> bool:
    return isinstance(thing, Tensor)


def _inside(thing: Any) -> Iterable[Any]:
    """What is reached from an object in one step."""
    if isinstance(thing, nn.Module):
        return (*thing.parameters(), *(x for m in thing.modules() for x in _held_beside(m)))
    if isinstance(thing, functools.partial):
        return (thing.func, *thing.args, *thing.keywords.values())
    if isinstance(thing, MethodType):
        return (thing.__self__, thing.__func__)
    if isinstance(thing, FunctionType):
        return _named_by(thing)
    if isinstance(thing, (Mapping, tuple, list, set, frozenset)):
        if len(thing) > MOST_ENTRIES:
            return ()
        return thing.values() if isinstance(thing, Mapping) else thing
    try:
        return list(_attributes(thing))
    except Exception:
        # Proxies and the like may refuse to be looked into, with any error.
        return ()


def _held_beside(module: nn.Module) -> Iterator[Any]:
    """What a module has beside its parameters, which may be tensors or containers of tensors."""
    for name, x in vars(module).items():
        if isinstance(x, (Tensor, list, tuple, dict)) and name not in _OF_MODULES:
            yield x


def _is_of_torch(module: str) -> bool:
    """Whether this is one of PyTorch's modules, which lead everywhere and hold no parameters."""
    return module.partition(".")[0] == "torch"


def _attributes(thing: Any) -> Iterator[Any]:
    if _is_of_torch(type(thing).__module__):
        return
    yield from getattr(thing, "__dict__", {}).values()
    for kind in type(thing).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(thing, name):
                yield getattr(thing, name)
    if callable(thing):
        # Its __call__, and what this names.
        yield from (x for x in vars(type(thing)).values() if isinstance(x, FunctionType))


def _named_by(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    if _is_of_torch(function.__globals__.get("__name__", "")):
        return
    for name in _globals_of(function.__code__):
        thing = function.__globals__.get(name)
        yield thing


@functools.lru_cache(maxsize=1024)
def _globals_of(code: CodeType) -> tuple[str, ...]:
    """The names that a function looks up among the globals."""
    names = (x.argval for x in dis.get_instructions(code) if x.opname == "LOAD_GLOBAL")
    return tuple(dict.fromkeys(names))

"""Which algorithm a layer runs: the vendor's kernel, or the explicit one of the book."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Choice(threading.local):
    # Not a ContextVar, which torch.compile cannot trace; and an attribute of the object, which a
    # compiled layer is guarded by, not one of the class.
    def __init__(self) -> None:
        self.explicit = False


_choice = _Choice()


@contextmanager
def explicit() -> Iterator[None]:
    """Within the block, the layers of :mod:`companion.nn` run the algorithms that the book derives.

    Outside it they call the same kernels as ``torch.nn``.  Both give the same numbers up to
    rounding, forward and backward.  What counts is where the forward pass ran: its backward pass
    may come after the block, but not that of :func:`torch.utils.checkpoint.checkpoint`, which runs
    forward passes again.  The choice is the thread's own, and blocks may be nested.

    Example:
        >>> import torch
        >>> from companion import nn
        >>> layer = nn.Conv2d(3, 10, 5).double()
        >>> image = torch.rand(1, 3, 8, 8, dtype=torch.float64)
        >>> with nn.explicit():
        ...     by_the_book = layer(image)
        >>> torch.allclose(by_the_book, layer(image), rtol=1e-12)
        True
    """
    before = _choice.explicit
    _choice.explicit = True
    try:
        yield
    finally:
        _choice.explicit = before


def is_explicit() -> bool:
    """Whether the layers of this thread run the explicit algorithms."""
    return _choice.explicit

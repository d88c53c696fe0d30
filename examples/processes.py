"""The processes of one training, for the examples that run on one process or on many."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed


@contextmanager
def processes() -> Iterator[torch.device]:
    """The group of processes that torchrun has started, or one of this process alone.

    They talk through NCCL on GPUs, one each, and through Gloo on CPUs.

    Yields:
        The device of this process.
    """
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    backend = "nccl" if cuda else "gloo"
    if "RANK" in os.environ:
        # Started by torchrun, which tells each process where it finds the others.
        distributed.init_process_group(backend)
    else:
        distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield torch.device("cuda" if cuda else "cpu")
    finally:
        distributed.destroy_process_group()

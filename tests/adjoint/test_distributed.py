"""Two processes that train an ODE-Net together get the gradients of one that does it alone.

Both sum over the same samples, each half in a process of its own, so that with the same steps the
gradients differ by rounding only.
"""

import functools
import time
from datetime import timedelta
from itertools import product

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from companion import FixedStep, solve
from companion.adjoint import STRATEGIES
from tests.ode.problems import F64

PROCESSES = 2
#: When the processes are taken to hang.
SECONDS = 300
#: Of the optimiser: DDP notices in the second what it missed in the first.
STEPS = 2

#: Steps that do not adapt have tolerances only for what else a norm over the batch decides, such
#: as when the reversible method re-synchronises: never, so that all processes do the same.
LOOSE = {"rtol": 0.1, "atol": 0.1}
#: How to solve, and how far the gradients may be apart, relatively.
FIXED = {"t": [0.0, 1.0], "method": "rk4", "control": FixedStep(0.125), **LOOSE}, 1e-11
ADAPTIVE = {"t": [0.0, 0.6, 1.0], "rtol": 1e-9, "atol": 1e-9}, 1e-6
STEADY = {"t": [0.0, 30.0]}, 1e-11


class Field(nn.Module):
    """Contracts, so that it has steady states; one parameter is not used if so wished."""

    def __init__(self, unused):
        super().__init__()
        self.inner = nn.Linear(2, 8, dtype=F64)
        self.outer = nn.Linear(8, 2, dtype=F64)
        if unused:
            self.unused = nn.Parameter(torch.ones(3, dtype=F64))

    def forward(self, t, y):
        return 0.5 * torch.tanh(self.outer(torch.tanh(self.inner(y)))) - y


class Classifier(nn.Module):
    def __init__(self, unused, options, gradient):
        super().__init__()
        torch.manual_seed(3)
        self.field = Field(unused)
        self.head = nn.Linear(2, 3, dtype=F64)
        self.solve = functools.partial(solve, self.field, gradient=gradient, **options)

    def forward(self, x):
        return self.head(self.solve(x).y[-1])


def batch():
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(12, 2, dtype=F64, generator=generator)
    return x, torch.randint(3, (12,), generator=generator)


def train(model, x, labels):
    """The gradients of every step, by parameter; zero where there is none."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    history = []
    for _ in range(STEPS):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        history.append(
            [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
        )
        optimiser.step()
    return history


def cases():
    """For every strategy: how to solve, an unused parameter or not, told to DDP or not."""
    for name in STRATEGIES:
        if name != "implicit":
            yield name, ADAPTIVE, False, False
        options = STEADY if name == "implicit" else FIXED
        for unused, told in product((False, True), repeat=2):
            # DDP waits for gradients of all parameters that it was not told may be missing.  Of
            # those that f holds all strategies but one have a gradient, if only zero.
            if told or not unused or name != "direct":
                yield name, options, unused, told


def work(rank, folder):
    """One of the processes: trains on its part of the batch, and stores what it gets."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=PROCESSES,
        timeout=timedelta(seconds=SECONDS),
    )
    x, labels = (part.chunk(PROCESSES)[rank] for part in batch())
    found = {}
    for case in cases():
        name, (options, _), unused, told = case
        model = Classifier(unused, options, name)
        parallel = DistributedDataParallel(model, find_unused_parameters=told)
        try:
            found[title(case)] = train(parallel, x, labels)
        except Exception as error:
            found[title(case)] = repr(error)
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What each process found, case by case."""
    folder = tmp_path_factory.mktemp("processes")
    context = multiprocessing.spawn(work, (str(folder),), PROCESSES, join=False)
    end = time.monotonic() + SECONDS
    try:
        # Raises what went wrong in a process.
        while not context.join(1):
            assert time.monotonic() < end, "the processes hang"
    finally:
        for process in context.processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


def title(case):
    name, (options, _), unused, told = case
    kind = "adaptive" if options is ADAPTIVE[0] else "fixed"
    return "-".join([name, kind, *["unused"] * unused, *["told"] * told])


@pytest.mark.parametrize("case", list(cases()), ids=title)
def test_gradients_of_two_processes(together, case):
    name, (options, rtol), unused, _ = case
    expected = train(Classifier(unused, options, name), *batch())
    for process in together:
        found = process[title(case)]
        assert not isinstance(found, str), found
        for gradients, others in zip(found, expected, strict=True):
            for gradient, other in zip(gradients, others, strict=True):
                assert (gradient - other).norm() <= rtol * other.norm()


def test_the_processes_see_different_samples(together):
    """Half the batch has another gradient: what agrees above was put together by DDP."""
    case = "direct", FIXED, False, False
    x, labels = (part.chunk(PROCESSES)[0] for part in batch())
    alone = train(Classifier(False, FIXED[0], "direct"), x, labels)
    for gradient, other in zip(together[0][title(case)][0], alone[0], strict=True):
        assert (gradient - other).norm() > 1e-3 * other.norm()

"""What does a training step of an ODE-Net cost, beside torchdiffeq, and how good is its gradient?

The network is `companion.nn.ODENet` on a batch of 64 digits: forward pass, cross-entropy, backward
pass and a step of SGD, on one thread, in float32.  torchdiffeq has the same network, with the same
dopri5 and tolerances: the same stem, field and head, called without anything of `companion.solve`,
and told which parameters the field has.  Weights are random or trained (those of the book); every
seed has digits of its own, and random weights of its own.  The learning rate is so small that the
network that is timed stays the same.

Contenders are timed in pairs, ours and another one, which take turns.  A ratio is the median of
those of the pairs, with the interval of 95 % of its bootstrap: where it is wide, the machine was
not quiet.

The error of a gradient is relative to that of a solve with tolerance 1e-10 in float64, in the
Euclidean norm over all parameters.  In float32 it is the one that training has; in float64 it is
that of the method alone.  Which of two is the better at the same tolerance is up to the problem: so
the default is also timed at the first tolerance of a ladder, from the same one down by factors of
three, at which its error in float32 is not above that of odeint_adjoint.

Run:  make bench, or  python benchmarks/ode_net_training.py  with requirements-bench.txt
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torchdiffeq
from measure import interleaved, paired_ratio, store
from safetensors.torch import load_file
from torch import Tensor, nn

from companion.data import digits
from companion.nn import ODENet

WEIGHTS = Path(__file__).parents[1] / "book" / "synthesis" / "ode_net_digits.safetensors"
SEEDS = range(2)
BATCH = 64
TOLERANCES = (1e-3, 1e-5)
#: The tolerance of the gradient that all others are compared with.
EXACT = 1e-10
#: Factors of the tolerance on the ladder.
LADDER = (1, 0.3, 0.1, 0.03, 0.01)
ROUNDS = 8
DEFAULT = "checkpointed"
ADJOINT = "torchdiffeq, odeint_adjoint"

Logits = Callable[[ODENet, Tensor], Tensor]


class Case(NamedTuple):
    """A network and the digits that it is to learn from."""

    model: ODENet
    images: Tensor
    labels: Tensor

    def double(self) -> Case:
        """The same in float64; a copy."""
        return Case(copy.deepcopy(self.model).double(), self.images.double(), self.labels)


def case(weights: str, seed: int) -> Case:
    torch.manual_seed(seed)
    model = ODENet().train()
    if weights == "trained":
        model.load_state_dict(load_file(WEIGHTS))
    train, _ = digits().split()
    batch = slice(seed * BATCH, (seed + 1) * BATCH)
    return Case(model, train.images[batch], train.labels[batch])


def companion(gradient: str, tolerance: float) -> Logits:
    def logits(model: ODENet, images: Tensor) -> Tensor:
        model.block.gradient = gradient
        model.block.rtol = model.block.atol = tolerance
        return model(images)

    return logits


def peer(function: str, tolerance: float, **options) -> Logits:
    solve = getattr(torchdiffeq, function)
    settings = {"method": "dopri5", "rtol": tolerance, "atol": tolerance, **options}

    def logits(model: ODENet, images: Tensor) -> Tensor:
        field = model.block.f
        own = {"adjoint_params": tuple(field.parameters())} if "adjoint" in function else {}
        z0 = model.stem(images)
        times = torch.tensor(model.block.t, dtype=z0.dtype)
        z1 = solve(field, z0, times, **settings, **own)[-1]
        return model.classifier(model.pool(z1))

    return logits


def contenders(tolerance: float) -> dict[str, Logits]:
    seminorm = {"adjoint_options": {"norm": "seminorm"}}
    strategies = (DEFAULT, "direct", "backsolve", "reversible")
    return {name: companion(name, tolerance) for name in strategies} | {
        ADJOINT: peer("odeint_adjoint", tolerance),
        f"{ADJOINT}, seminorm": peer("odeint_adjoint", tolerance, **seminorm),
        "torchdiffeq, odeint": peer("odeint", tolerance),
    }


def gradient(logits: Logits, given: Case) -> Tensor:
    """The gradient of the loss with respect to all parameters, as one vector in float64."""
    given.model.zero_grad()
    nn.functional.cross_entropy(logits(given.model, given.images), given.labels).backward()
    return torch.cat([p.grad.flatten().double() for p in given.model.parameters()])


def training_step(logits: Logits, given: Case) -> Callable[[], None]:
    """One step of a training of its own."""
    model = copy.deepcopy(given.model)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-8)

    def step() -> None:
        optimiser.zero_grad()
        nn.functional.cross_entropy(logits(model, given.images), given.labels).backward()
        optimiser.step()

    return step


def evaluations(logits: Logits, given: Case) -> dict[str, int]:
    """How often f is called, whoever calls it."""
    calls = 0

    def called(*_: object) -> None:
        nonlocal calls
        calls += 1

    hook = given.model.block.f.register_forward_hook(called)
    loss = nn.functional.cross_entropy(logits(given.model, given.images), given.labels)
    forward = calls
    loss.backward()
    hook.remove()
    return {"forward": forward, "backward": calls - forward}


def times_faster(ours: Logits, other: Logits, given: Case) -> dict[str, object]:
    """How many times as long the other takes for a training step."""
    runs = {"ours": training_step(ours, given), "other": training_step(other, given)}
    times = interleaved(runs, ROUNDS)
    return paired_ratio(times["other"], times["ours"])


def milliseconds(logits: Logits, given: Case) -> float:
    (times,) = interleaved({"": training_step(logits, given)}, ROUNDS).values()
    return round(1e3 * statistics.median(times), 1)


def rounded(value: float) -> float:
    return float(f"{value:.1e}")


def at_equal_error(tolerance: float, given: Case, exact: Tensor, allowed: float) -> dict:
    """The default where its gradient is as good as that of odeint_adjoint, and its speed there."""
    other = peer("odeint_adjoint", tolerance)
    for factor in LADDER:
        ours = companion(DEFAULT, factor * tolerance)
        error = distance(gradient(ours, given), exact)
        if error <= allowed:
            return {
                "tolerance": rounded(factor * tolerance),
                "relative error": rounded(error),
                **times_faster(ours, other, given),
            }
    return {"tolerance": None}


def distance(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def compared(weights: str, tolerance: float, seed: int) -> dict[str, object]:
    """Errors, calls and times of all contenders on one batch."""
    given = case(weights, seed)
    double = given.double()
    exact = gradient(companion(DEFAULT, EXACT), double)
    runs = contenders(tolerance)
    errors = {name: distance(gradient(run, given), exact) for name, run in runs.items()}
    ours = runs[DEFAULT]
    return {
        "default [ms]": milliseconds(ours, given),
        "default, times faster": {
            name: times_faster(ours, run, given) for name, run in runs.items() if name != DEFAULT
        },
        "relative error of the gradient": {name: rounded(e) for name, e in errors.items()},
        "relative error of the gradient, float64": {
            name: rounded(distance(gradient(run, double), exact)) for name, run in runs.items()
        },
        "evaluations of f": {name: evaluations(run, given) for name, run in runs.items()},
        "default, at the error of odeint_adjoint": at_equal_error(
            tolerance, given, exact, errors[ADJOINT]
        ),
    }


def main() -> None:
    torch.set_num_threads(1)
    store(
        "ode_net_training",
        {
            f"{weights} weights, tolerance {tolerance:g}": {
                f"seed {seed}": compared(weights, tolerance, seed) for seed in SEEDS
            }
            for weights in ("random", "trained")
            for tolerance in TOLERANCES
        },
    )


if __name__ == "__main__":
    main()

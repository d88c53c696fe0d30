"""What does the gradient of a solve cost with every strategy, and how good is it?

The problem is that of odeint_against_torchdiffeq.py: a tanh network 2-50-2 on y**3, a batch of 20,
dopri5 with rtol 1e-6 and atol 1e-8, 20 output times, one thread.  All times are of a forward and a
backward pass together, in float32.  The error of a gradient is relative to that of a solve with
tolerance 1e-12 in float64, in the Euclidean norm over all parameters; in float64 it is the error of
the method alone, without that of the arithmetic.

The gradient of the default strategy is that of the numbers that the solver returned, so that its
error is that of the forward steps.  A continuous adjoint adds steps of its own, with tolerances of
their own, and may do better with the same tolerances.  So times are also compared at equal errors:
the default at the first tolerance of a ladder, down by factors of ten, at which its error in
float64 is not above that of torchdiffeq's odeint_adjoint with the tolerances above.

The second problem is small in its state and large in its parameters: one state of two numbers, a
network with fifty thousand parameters.  The third is a steady state, for `Implicit`.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable

import torch
import torchdiffeq
from measure import interleave, store
from odeint_against_torchdiffeq import TOLERANCES, Net, problem
from torch import Tensor, nn

import companion
from companion.adjoint import STRATEGIES, LostStateWarning

SEEDS = range(5)
#: The strategies that follow a solve; a steady state is another matter.
FOLLOWING = [name for name in STRATEGIES if name != "implicit"]
#: The one that `companion.solve` takes if none is named.
DEFAULT = inspect.signature(companion.solve).parameters["gradient"].default
#: How wide the two hidden layers of the large network are.
WIDTH = 222

Gradient = Callable[[nn.Module, Tensor, Tensor], Tensor]


def pulled_back(net: nn.Module, y: Tensor) -> Tensor:
    """The gradient of a loss with respect to the parameters, as one vector in float64."""
    net.zero_grad()
    y.abs().mean().backward()
    return torch.cat([p.grad.flatten().double() for p in net.parameters()])


def with_strategy(name: str, **options) -> Gradient:
    """The gradient by companion."""

    def run(net: nn.Module, y0: Tensor, t: Tensor) -> Tensor:
        settings = TOLERANCES | {"gradient": name} | options
        return pulled_back(net, companion.solve(net, y0, t, **settings).y)

    return run


def with_peer(function: str, **options) -> Gradient:
    """The gradient by torchdiffeq."""

    def run(net: nn.Module, y0: Tensor, t: Tensor) -> Tensor:
        solve = getattr(torchdiffeq, function)
        return pulled_back(net, solve(net, y0, t, **(TOLERANCES | options)))

    return run


ADJOINT, BACKPROPAGATION = "torchdiffeq, odeint_adjoint", "torchdiffeq, odeint"
SEMINORM = "torchdiffeq, odeint_adjoint, seminorm"
PEERS = {
    ADJOINT: with_peer("odeint_adjoint"),
    SEMINORM: with_peer("odeint_adjoint", adjoint_options={"norm": "seminorm"}),
    BACKPROPAGATION: with_peer("odeint"),
}


def distance(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def in_float64(net: Net, y0: Tensor, t: Tensor) -> tuple[Net, Tensor, Tensor]:
    return copy.deepcopy(net).double(), y0.double(), t.double()


def rounded(value: float, digits: int = 3) -> float:
    return float(f"{value:.{digits - 1}e}")


def errors(contenders: dict[str, Gradient]) -> dict[str, dict[str, list[float]]]:
    """The relative errors of the gradients for every seed, in both precisions."""
    found = {name: {"float32": [], "float64": []} for name in contenders}
    for seed in SEEDS:
        single = problem(seed, "cpu")
        double = in_float64(*single)
        exact = with_strategy("direct", rtol=1e-12, atol=1e-12)(*double)
        for name, gradient in contenders.items():
            for precision, given in (("float32", single), ("float64", double)):
                error = distance(gradient(*given), exact)
                found[name][precision].append(rounded(error))
    return found


def evaluations(name: str) -> dict[str, int]:
    """How often f is evaluated forward and backward."""
    net, y0, t = problem(0, "cpu")
    solution = companion.solve(net, y0, t, gradient=name, **TOLERANCES)
    forward = net.calls
    pulled_back(net, solution.y)
    return {"forward": forward, "backward": net.calls - forward}


def exactness() -> dict[str, float]:
    """The largest distance over the seeds from autograd through the same steps, in float64."""
    found: dict[str, list[float]] = {}
    for seed in SEEDS:
        given = in_float64(*problem(seed, "cpu"))
        direct = with_strategy("direct")(*given)
        for name in FOLLOWING:
            found.setdefault(name, []).append(distance(with_strategy(name)(*given), direct))
    return {name: rounded(max(values), 2) for name, values in found.items()}


def at_equal_error(seed: int) -> dict[str, float]:
    """How much faster the default is than torchdiffeq's adjoint when its gradient is as good."""
    given = in_float64(*problem(seed, "cpu"))
    exact = with_strategy("direct", rtol=1e-12, atol=1e-12)(*given)
    largest = distance(PEERS[ADJOINT](*given), exact)
    for exponent in range(5):
        rtol, atol = (10.0**-exponent * TOLERANCES[name] for name in ("rtol", "atol"))
        ours = with_strategy(DEFAULT, rtol=rtol, atol=atol)
        if distance(ours(*given), exact) <= largest:
            break
    seconds = interleave(
        {"default": lambda: ours(*given), "torchdiffeq": lambda: PEERS[ADJOINT](*given)}, rounds=10
    )
    return {
        "rtol": float(f"{rtol:.0e}"),
        "times faster": round(seconds["torchdiffeq"] / seconds["default"], 2),
    }


def strategies() -> dict[str, object]:
    """Every strategy and torchdiffeq's on the small network."""
    given = problem(0, "cpu")
    contenders = {name: with_strategy(name) for name in FOLLOWING} | PEERS

    def forward() -> None:
        with torch.no_grad():
            companion.solve(*given, **TOLERANCES)

    seconds = interleave(
        {"forward alone": forward}
        | {name: lambda run=run: run(*given) for name, run in contenders.items()},
        rounds=15,
    )
    least = seconds["forward alone"]
    return {
        "milliseconds": {name: round(1e3 * s, 2) for name, s in seconds.items()},
        "times the forward solve": {name: round(s / least, 2) for name, s in seconds.items()},
        "default": DEFAULT,
        "default, times faster": {
            name: round(seconds[name] / seconds[DEFAULT], 2) for name in PEERS
        },
        "evaluations of f": {name: evaluations(name) for name in FOLLOWING},
        "relative error": errors(contenders),
        "default, at the error of torchdiffeq's odeint_adjoint": {
            f"seed {seed}": at_equal_error(seed) for seed in SEEDS
        },
        "relative distance from autograd through the steps, float64": exactness(),
    }


class Large(nn.Module):
    """A vector field in the plane with many parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 2)
        )
        self.calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return self.net(y)


def many_parameters() -> dict[str, object]:
    """Two numbers, fifty thousand parameters."""
    torch.manual_seed(0)
    net = Large()
    given = (net, torch.tensor([[2.0, 0.0]]), torch.linspace(0, 5, 20))
    contenders = {name: with_strategy(name) for name in ("gauss", DEFAULT)} | PEERS
    seconds = interleave(
        {name: lambda run=run: run(*given) for name, run in contenders.items()}, rounds=10
    )
    exact = with_strategy("direct", rtol=1e-12, atol=1e-12)(*in_float64(*given))

    def count(run: Gradient) -> int:
        net.calls = 0
        run(*given)
        return net.calls

    return {
        "parameters": sum(p.numel() for p in net.parameters()),
        "milliseconds": {name: round(1e3 * s, 2) for name, s in seconds.items()},
        "gauss, times faster": {name: round(seconds[name] / seconds["gauss"], 2) for name in PEERS},
        "evaluations of f": {name: count(run) for name, run in contenders.items()},
        "relative error": {
            name: rounded(distance(run(*given), exact)) for name, run in contenders.items()
        },
    }


class Relaxation(nn.Module):
    """A flow that contracts to a steady state, which a network determines."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(50, 50)
        self.calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return torch.tanh(self.layer(y)) - y


def steady_state() -> dict[str, object]:
    """Fifty numbers at rest: through the steps, and by the implicit function theorem."""
    torch.manual_seed(0)
    net = Relaxation()
    names = ("implicit", DEFAULT, "backsolve", "gauss")

    def gradient(name: str, net: Relaxation, end: float, **options) -> Tensor:
        dtype = net.layer.weight.dtype
        settings = TOLERANCES | {"gradient": name} | options
        y = companion.solve(net, torch.zeros(50, dtype=dtype), [0.0, end], **settings).y[-1]
        net.zero_grad()
        y.square().sum().backward()
        return torch.cat([p.grad.flatten().double() for p in net.parameters()])

    # Backsolve loses its way where a flow contracts: its error says so, too.
    warnings.simplefilter("ignore", LostStateWarning)
    exact = gradient("direct", copy.deepcopy(net).double(), 80.0, rtol=1e-12, atol=1e-12)
    seconds = interleave(
        {name: lambda name=name: gradient(name, net, 40.0) for name in names}, rounds=10
    )
    return {
        "milliseconds": {name: round(1e3 * s, 2) for name, s in seconds.items()},
        "implicit, times faster": {
            name: round(seconds[name] / seconds["implicit"], 2) for name in names[1:]
        },
        "relative error": {
            name: rounded(distance(gradient(name, net, 40.0), exact)) for name in names
        },
        "relative error, float64": {
            name: rounded(distance(gradient(name, copy.deepcopy(net).double(), 40.0), exact))
            for name in names
        },
    }


def main() -> None:
    torch.set_num_threads(1)
    store(
        "gradients",
        {
            "small network": strategies(),
            "fifty thousand parameters": many_parameters(),
            "steady state": steady_state(),
        },
    )


if __name__ == "__main__":
    main()

"""How fast are odeint and odeint_adjoint beside torchdiffeq's, and whose gradient is better?

A small neural ODE, the size of torchdiffeq's first example: a tanh network 2-50-2 on y**3, a
batch of 20 in float32, dopri5 with rtol 1e-6 and atol 1e-8, 20 output times, one thread.  The
gradient error is that against a float64 gradient with tolerance 1e-12.

What a solver adds is seen beside the bare evaluations of f: as many calls, at the states that the
solver visited, without a solver around them.
"""

from __future__ import annotations

import torch
import torchdiffeq
from measure import interleave, store
from torch import Tensor, nn

import companion

TOLERANCES = {"rtol": 1e-6, "atol": 1e-8, "method": "dopri5"}


class Net(nn.Module):
    """The vector field of torchdiffeq's demo."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 2))
        for layer in (self.net[0], self.net[2]):
            nn.init.normal_(layer.weight, std=0.1)
            nn.init.zeros_(layer.bias)
        self.calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return self.net(y**3)


def problem(seed: int, device: str) -> tuple[Net, Tensor, Tensor]:
    torch.manual_seed(seed)
    net = Net().to(device)
    return net, (2 * torch.randn(20, 1, 2)).to(device), torch.linspace(0, 5, 20, device=device)


def gradient(odeint, net: Net, y0: Tensor, t: Tensor, **options) -> Tensor:
    net.zero_grad()
    odeint(net, y0, t, **(TOLERANCES | options)).abs().mean().backward()
    return torch.cat([p.grad.flatten().double() for p in net.parameters()])


def errors(seed: int, device: str) -> dict[str, float]:
    """Relative errors of both adjoint gradients."""
    net, y0, t = problem(seed, device)
    found = {
        library.__name__: gradient(library.odeint_adjoint, net, y0, t)
        for library in (companion, torchdiffeq)
    }
    net.double()
    exact = gradient(companion.odeint, net, y0.double(), t.double(), rtol=1e-12, atol=1e-12)
    return {
        name: float(f"{float((g - exact).norm() / exact.norm()):.3e}") for name, g in found.items()
    }


def main() -> None:
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net, y0, t = problem(0, device)

    def forward(odeint):
        with torch.no_grad():
            return odeint(net, y0, t, **TOLERANCES)

    visited: list[tuple[Tensor, Tensor]] = []

    def recording(t: Tensor, y: Tensor) -> Tensor:
        visited.append((t, y))
        return net(t, y)

    with torch.no_grad():
        companion.odeint(recording, y0, t, **TOLERANCES)

    def bare() -> None:
        with torch.no_grad():
            for time, y in visited:
                net(time, y)

    def count(run) -> int:
        net.calls = 0
        run()
        return net.calls

    tasks = {
        "forward": {
            "companion": lambda: forward(companion.odeint),
            "torchdiffeq": lambda: forward(torchdiffeq.odeint),
            "bare evaluations of f": bare,
        },
        "adjoint, forward and backward": {
            "companion": lambda: gradient(companion.odeint_adjoint, net, y0, t),
            "torchdiffeq": lambda: gradient(torchdiffeq.odeint_adjoint, net, y0, t),
            "torchdiffeq, seminorm": lambda: gradient(
                torchdiffeq.odeint_adjoint, net, y0, t, adjoint_options={"norm": "seminorm"}
            ),
        },
        "backpropagation, forward and backward": {
            "companion": lambda: gradient(companion.odeint, net, y0, t),
            "torchdiffeq": lambda: gradient(torchdiffeq.odeint, net, y0, t),
        },
    }
    figures: dict[str, object] = {}
    for task, runs in tasks.items():
        seconds = interleave(runs)
        figures[task] = {
            "milliseconds": {name: round(1e3 * s, 2) for name, s in seconds.items()},
            "evaluations of f": {name: count(run) for name, run in runs.items()},
            "times faster": {
                peer: round(seconds[peer] / seconds["companion"], 2)
                for peer in runs
                if peer.startswith("torchdiffeq")
            },
        }
        if "bare evaluations of f" in runs:
            least = seconds["bare evaluations of f"]
            figures[task]["times the bare evaluations of f"] = {
                name: round(seconds[name] / least, 2) for name in ("companion", "torchdiffeq")
            }
    figures["relative error of the adjoint gradient"] = {
        f"seed {seed}": errors(seed, device) for seed in range(5)
    }
    store("odeint_against_torchdiffeq", figures)


if __name__ == "__main__":
    main()

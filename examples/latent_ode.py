"""Train a latent ODE on noisy spirals, each seen at irregular times of its own.

    python examples/latent_ode.py spirals.safetensors
    python examples/latent_ode.py --decoder gru --checkpoint gru.pt gru.safetensors

A spiral runs clockwise or counter-clockwise, with a start and a growth of its own.  An encoder, a
GRU that reads the points backwards with the gaps between them, gives a Gaussian over the latent
state at time 0; a neural ODE leads it to every time; a decoder makes points of latent states
(Chen et al., Neural Ordinary Differential Equations, 2018, section 5).  The loss is the negative
ELBO, at first of the beginning of the series alone.  The weights go to the file, and what the model
has learned is measured on spirals held out: against the truth without noise, within the time that
was seen and after it.

With ``--decoder gru`` a GRU that is told the gaps takes the place of the ODE.  With ``--checkpoint
FILE`` the state of the training is stored again and again; the same command goes on from there
when it was interrupted, by whatever means, to the same losses as if it had not been.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from arguments import count, rate
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from companion import solve
from companion.nn.checkpoint import check_writable, read_checkpoint, write_checkpoint
from companion.nn.train import one_cycle
from companion.ode import SolverError

#: Time that is seen, time to which the model is asked to go on, and a stretch that nobody saw.
SEEN, UNTIL, HOLE = 6.0, 9.0, 1.5
#: Points of a spiral, and the standard deviation of their noise.
POINTS, NOISE = 20, 0.2
#: Radians per unit of time, of all spirals.
SPEED = 1.0
#: Dimensions of the latent state, and of the encoder's hidden state.
LATENT, HIDDEN = 6, 40
#: Spirals held out, and the seed of the generator that makes them.
HELD_OUT, HELD_OUT_SEED = 200, 1
#: The part of the training in which the stretch that counts grows to the whole.
GROWTH = 0.6


class Spirals(NamedTuple):
    """What is known of N spirals.

    Attributes:
        times: increasing, of each its own, shape (N, n).
        points: the positions at these times, with noise, shape (N, n, 2).
        start, growth, phase, turn: of the radius ``start + growth t`` and the angle
            ``phase + turn SPEED t``, shape (N, 1); turn is 1 for counter-clockwise and -1.
    """

    times: Tensor
    points: Tensor
    start: Tensor
    growth: Tensor
    phase: Tensor
    turn: Tensor

    def at(self, times: Tensor) -> Tensor:
        """The true positions, shape (N, T, 2), at times of shape (N, T) or (T,)."""
        radius = self.start + self.growth * times
        angle = self.phase + self.turn * SPEED * times
        return torch.stack([radius * angle.cos(), radius * angle.sin()], -1)

    def to(self, device: torch.device) -> Spirals:
        """The same on another device."""
        return Spirals(*(part.to(device) for part in self))


def spirals(count: int, seed: int) -> Spirals:
    """Spirals with parameters, times and noise drawn at random."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    growth = 0.4 * uniform(count, 1) - 0.2
    start = 1.2 + 0.8 * uniform(count, 1) - growth * UNTIL / 2
    phase = 2 * math.pi * uniform(count, 1)
    turn = 2.0 * (torch.arange(count)[:, None] % 2) - 1
    # Times outside of a hole: drawn without it, and those after its beginning moved on.
    times = (SEEN - HOLE) * uniform(count, POINTS).sort(1).values
    hole = (SEEN - HOLE) * uniform(count, 1)
    times = times + HOLE * (times > hole)
    drawn = Spirals(times, times, start, growth, phase, turn)
    noise = NOISE * torch.randn(count, POINTS, 2, generator=generator)
    return drawn._replace(points=drawn.at(times) + noise)


class LatentODE(nn.Module):
    """A variational autoencoder of time series whose latent state obeys an ODE."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.GRU(3, HIDDEN, batch_first=True)
        self.posterior = nn.Linear(HIDDEN, 2 * LATENT)
        self.field = nn.Sequential(
            nn.Linear(LATENT, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, LATENT)
        )
        self.decoder = nn.Sequential(nn.Linear(LATENT, 20), nn.Tanh(), nn.Linear(20, 2))
        self.log_noise = nn.Parameter(torch.tensor(-1.0))

    def encode(self, times: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the standard deviation of q(z(0)), shape (N, LATENT) each.

        The points are read from the last to the first, each with the time from the one before it
        (the first: from 0), which is the way that the encoder goes next.
        """
        gaps = times.diff(dim=1, prepend=torch.zeros_like(times[:, :1]))
        read = torch.cat([points, gaps[..., None]], -1).flip(1)
        return self.posterior(self.encoder(read)[1][0]).chunk(2, -1)

    def path(self, z0: Tensor, times: Tensor) -> Tensor:
        """The latent states, shape (N, T, LATENT), at increasing times > 0 of each, (N, T)."""
        times = torch.cat([torch.zeros_like(times[:, :1]), times], 1)
        sol = solve(lambda t, z: self.field(z), z0, times, batched=True, rtol=1e-3, atol=1e-3)
        return sol.y[1:].transpose(0, 1)

    def forward(self, z0: Tensor, times: Tensor) -> Tensor:
        """Positions, shape (N, T, 2)."""
        return self.decoder(self.path(z0, times))


class LatentGRU(LatentODE):
    """The same with a GRU, of about as many parameters, in the place of the ODE."""

    def __init__(self) -> None:
        super().__init__()
        del self.field
        self.lift = nn.Linear(LATENT, 20)
        self.step = nn.GRU(1, 20, batch_first=True)
        self.drop = nn.Linear(20, LATENT)

    def path(self, z0: Tensor, times: Tensor) -> Tensor:
        gaps = times.diff(dim=1, prepend=torch.zeros_like(times[:, :1]))
        return self.drop(self.step(gaps[..., None], self.lift(z0)[None])[0])


MODELS = {"ode": LatentODE, "gru": LatentGRU}


def elbo(model: LatentODE, times: Tensor, points: Tensor, until: float = SEEN) -> Tensor:
    """The evidence lower bound of each series, shape (N,), with one sample of z(0).

    Points after ``until`` are read by the encoder and count for nothing else.
    """
    mean, log_std = model.encode(times, points)
    z0 = mean + log_std.exp() * torch.randn_like(mean)
    residual = (points - model(z0, times)) / model.log_noise.exp()
    log_density = -(residual**2) / 2 - model.log_noise - math.log(2 * math.pi) / 2
    divergence = (mean**2 + (2 * log_std).exp() - 1) / 2 - log_std
    counts = (times <= until)[..., None]
    return (counts * log_density).sum((1, 2)) - divergence.sum(1)


def errors(model: LatentODE, data: Spirals) -> tuple[float, float]:
    """Root mean square error of a coordinate against the truth: in the time seen, and after it.

    Asked for are other times than those seen, of each series its own, and as dense as those.
    """
    count = round(POINTS * UNTIL / SEEN)
    generator = torch.Generator().manual_seed(0)
    times = UNTIL * torch.rand(len(data.times), count, generator=generator).sort(1).values
    times = times.to(data.times)
    with torch.no_grad():
        mean, _ = model.encode(data.times, data.points)
        squares = ((model(mean, times) - data.at(times)) ** 2).mean(-1)
    return tuple(squares[part].mean().sqrt().item() for part in (times <= SEEN, times > SEEN))


def train(model: LatentODE, data: Spirals, held_out: Spirals, options: argparse.Namespace) -> None:
    """Train in place, and say after every epoch how it goes."""
    optimiser = torch.optim.Adam(model.parameters(), lr=options.rate)
    names = ("decoder", "spirals", "epochs", "batch", "rate", "seed")
    settings = {name: getattr(options, name) for name in names}
    done = 0
    if options.checkpoint is not None:
        check_writable(options.checkpoint)
        if options.checkpoint.exists():
            state = read_checkpoint(options.checkpoint, settings)
            done = state["epochs"]
            model.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
            print(f"{options.checkpoint}: going on after epoch {done}", flush=True)

    # No bar where nobody watches.
    bar = tqdm(range(done + 1, options.epochs + 1), disable=None, unit=" epochs")
    for epoch in bar:
        # All random numbers follow from the number of the epoch, so that there is no generator
        # whose state a checkpoint could miss.
        torch.manual_seed(options.seed + epoch)
        bound = train_epoch(model, optimiser, data, epoch, options)
        if options.checkpoint is not None:
            state = {"settings": settings, "epochs": epoch}
            state |= {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
            write_checkpoint(options.checkpoint, state)
        noise, (seen, after) = model.log_noise.exp().item(), errors(model, held_out)
        bar.write(
            f"epoch {epoch}: ELBO {bound!r}, noise {noise:.3f}, "
            f"error {seen:.3f} until {SEEN:g} and {after:.3f} after it",
            file=sys.stdout,
        )


def train_epoch(
    model: LatentODE,
    optimiser: torch.optim.Optimizer,
    data: Spirals,
    epoch: int,
    options: argparse.Namespace,
) -> float:
    """Use every spiral once; the mean of the ELBO, of the part of it that counted."""
    total = 0.0
    batches = torch.randperm(len(data.times)).split(options.batch)
    for step, batch in enumerate(batches):
        progress = (epoch - 1 + (step + 0.5) / len(batches)) / options.epochs
        for group in optimiser.param_groups:
            group["lr"] = options.rate * one_cycle(progress)
        times, points = (part[batch.to(part.device)] for part in (data.times, data.points))
        # A whole turn is too much to begin with: the loss has poor minima there, at
        # curves that cut across.  The beginning is easy, and each next stretch is little new.
        until = SEEN * min(1, 1 / 6 + progress / GROWTH)
        bound = elbo(model, times, points, until).mean()
        if not bound.isfinite():
            raise FloatingPointError(
                f"the ELBO is {bound.item()} in epoch {epoch}: try a smaller --rate"
            )
        optimiser.zero_grad()
        (-bound).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 50.0)
        optimiser.step()
        total += bound.item() * len(batch)
    return total / len(data.times)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, metavar="FILE", help="where the weights go")
    parser.add_argument("--decoder", choices=MODELS, default="ode", help="what leads on; ode")
    parser.add_argument("--epochs", type=count, default=150, metavar="N", help="in all; 150")
    parser.add_argument("--batch", type=count, default=100, metavar="N", help="spirals; 100")
    parser.add_argument("--spirals", type=count, default=2000, metavar="N", help="in all; 2000")
    parser.add_argument("--rate", type=rate, default=0.01, metavar="R", help="the greatest; 0.01")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all random numbers; 0")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="written after every epoch, and gone on from",
    )
    return parser.parse_args()


def main() -> None:
    options = parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = options.output.absolute().parent
    if not folder.is_dir():  # said now, and not when all is done
        raise SystemExit(f"latent_ode.py: there is no folder {folder}")
    data = spirals(options.spirals, options.seed).to(device)
    held_out = spirals(HELD_OUT, HELD_OUT_SEED).to(device)
    print("python examples/latent_ode.py", shlex.join(sys.argv[1:]), flush=True)
    torch.manual_seed(options.seed)
    model = MODELS[options.decoder]().to(device)
    try:
        train(model, data, held_out, options)
        save_file({name: part.cpu() for name, part in model.state_dict().items()}, options.output)
    except (ValueError, FloatingPointError, SolverError, OSError) as error:
        raise SystemExit(f"latent_ode.py: {error}") from error
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()

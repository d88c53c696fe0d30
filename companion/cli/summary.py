"""``companion summary``: the table of a network."""

from __future__ import annotations

import argparse
import re

from companion.cli.mistake import Mistake


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "summary",
        help="print the layers of a network, their shapes, parameters and work",
        description="Print the layers of a network: what they return, how many parameters and "
        "multiply-adds they have, and which part of the image they see.",
    )
    parser.add_argument("network", metavar="NETWORK", help="its name, such as vgg19")
    parser.add_argument(
        "--input",
        required=True,
        type=_shape,
        metavar="SHAPE",
        help="shape of one image, CHANNELSxHEIGHTxWIDTH, such as 3x224x224",
    )
    parser.add_argument(
        "--channels-last",
        action="store_true",
        help="read and print shapes in the order of Keras: HEIGHTxWIDTHxCHANNELS",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> str:
    """The table of a network of :mod:`companion.nn.networks`.

    Raises:
        Mistake: There is no such network, or it does not take such an input.
    """
    import torch

    from companion.nn.networks import NETWORKS
    from companion.nn.summary import summary
    from companion.ode.method import suggestion

    if options.network not in NETWORKS:
        raise Mistake(
            f"unknown network {options.network!r}; {suggestion(options.network, NETWORKS)}"
        )
    with torch.device("meta"):  # shapes alone, no weights
        network = NETWORKS[options.network]()
    try:
        return str(summary(network, options.input, channels_last=options.channels_last))
    except ValueError as error:
        raise Mistake(error) from error


def _shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9][0-9]*(x[1-9][0-9]*)*", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a shape; expected positive sizes with x between them, as in 3x224x224"
        )
    return tuple(map(int, text.split("x")))

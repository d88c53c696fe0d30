"""``companion gradcam``: where a network looks in a photograph."""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from companion.cli.mistake import Mistake

_MODELS = ("efficientnet_lite0", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn")
_RULES = (
    "grad-cam",
    "grad-cam++",
    "hires-cam",
    "layer-cam",
    "xgrad-cam",
    "eigen-cam",
    "score-cam",
    "ablation-cam",
)


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "gradcam",
        help="show where a network looks in a photograph",
        description="Write a picture of the photograph, and of the photograph under the heatmap "
        "of a class; print the five most probable classes.",
    )
    parser.add_argument("image", type=Path, metavar="IMAGE", help="a JPEG, PNG, ... file")
    parser.add_argument(
        "--model",
        choices=_MODELS,
        default="efficientnet_lite0",
        metavar="NAME",
        help=f"one of {', '.join(_MODELS)} (default: efficientnet_lite0)",
    )
    parser.add_argument(
        "--layer", metavar="NAME", help="the layer to explain (default: the last convolution)"
    )
    parser.add_argument(
        "--class",
        dest="target",
        metavar="NAME|INDEX",
        help="the class to explain (default: the most probable)",
    )
    parser.add_argument(
        "--rule",
        choices=_RULES,
        default="grad-cam",
        metavar="NAME",
        help=f"one of {', '.join(_RULES)} (default: grad-cam)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the picture to write (default: IMAGE's name with -gradcam.png, in this folder)",
    )
    parser.add_argument(
        "--weights",
        default="imagenet",
        metavar="FILE",
        help="a file with the network's weights (default: the official ones)",
    )
    parser.add_argument(
        "--list-layers",
        action="store_true",
        help="print the layers that can be explained, with their maps' shapes, and write nothing",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> str:
    """Explain one photograph.

    Raises:
        Mistake: A file that cannot be read or written, weights that cannot be had, or a layer or
            class that does not exist.
    """
    from companion.data import read_image
    from companion.nn.networks import NETWORKS
    from companion.nn.pretrained.weights import WeightsError

    try:
        image = read_image(options.image)
    except (OSError, ValueError) as error:
        raise Mistake(error) from error
    if options.list_layers:
        return _layers(options.model)
    output = options.output or Path(f"{options.image.stem}-gradcam.png")
    _require_writable(output, options.image)
    try:
        model = NETWORKS[options.model](options.weights).eval()
        return _explain(model, image, output, options)
    except (ValueError, WeightsError) as error:
        raise Mistake(error) from error


def _explain(model: Any, image: Any, output: Path, options: argparse.Namespace) -> str:
    import torch

    from companion.cam import GradCAM
    from companion.nn.pretrained.imagenet import imagenet_classes, top

    names = imagenet_classes()
    shown, x = model.preprocess.crop(image), model.preprocess(image)
    cam = GradCAM(model, options.layer, rule=options.rule, names=names)
    seen = cam(x, _target(options.target))
    with torch.no_grad():
        predictions = top(model(x))
    index = int(seen.target[0])
    title = f"Dimension {index} ({names[index]})\nwith respect to layer {seen.layer}"
    heatmap = seen.heatmap(tuple(shown.shape[-2:]))[0]
    _write(output, shown, heatmap, title)
    lines = [f"{p.probability:7.2%}  {p.index:4d}  {p.name}" for p in predictions]
    if not bool((heatmap > 0).any()):
        lines.append(f"the map of {names[index]} has no positive value: the heatmap is empty")
    return "\n".join([*lines, f"written: {output}"])


def _target(text: str | None) -> int | str | None:
    """An index, if it is a number; else a name."""
    return int(text) if text is not None and re.fullmatch("-?[0-9]+", text) else text


def _layers(name: str) -> str:
    import torch

    from companion.nn.networks import NETWORKS
    from companion.nn.summary import summary
    from companion.text_table import text_table

    with torch.device("meta"):  # shapes alone, no weights
        model = NETWORKS[name]()
    side = model.preprocess.crop_size
    rows = [
        (row.name, row.kind, "x".join(map(str, row.outputs[0][1:])))
        for row in summary(model, (3, side, side)).rows
        if row.name and row.outputs and len(row.outputs[0]) == 4
    ]
    return text_table(("layer", "type", "maps"), rows)


def _require_writable(output: Path, image: Path) -> None:
    from matplotlib.backend_bases import FigureCanvasBase

    formats = FigureCanvasBase.get_supported_filetypes()
    if output.suffix.removeprefix(".").lower() not in formats:
        raise Mistake(
            f"--output: {output} has no ending of a picture; choose one of {', '.join(formats)}"
        )
    if output.is_dir():
        raise Mistake(f"--output: {output} is a folder; give the picture a name in it")
    if not output.absolute().parent.is_dir():
        raise Mistake(f"--output: there is no folder {output.absolute().parent}")
    if output.exists() and output.samefile(image):
        raise Mistake(f"--output: {output} is the photograph itself")


def _write(output: Path, image: Any, heatmap: Any, title: str) -> None:
    """Into a file beside it first, so that an interruption leaves no half a picture."""
    from matplotlib import pyplot as plt

    from companion.figures.heatmaps import draw_explanation

    with plt.rc_context({"backend": "agg"}):
        drawing = draw_explanation(image, heatmap, title)
        try:
            with tempfile.TemporaryDirectory(dir=output.absolute().parent) as folder:
                part = Path(folder) / output.name
                drawing.savefig(part, dpi=160)
                os.replace(part, output)
        except (OSError, RuntimeError) as error:  # PGF needs a TeX, for example
            raise Mistake(f"--output: {output} cannot be written: {error}") from error
        finally:
            plt.close(drawing)

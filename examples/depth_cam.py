"""Where a network of continuous depth looks, at several depths of it.

    python examples/depth_cam.py --scene 15
    python examples/depth_cam.py --class 7 --depths 9 --output seven.png photograph.png

An ODE-Net reads a scene of two handwritten digits among fragments of others, and one backward
solve for each class gives the maps of Grad-CAM at all depths (companion.cam.DepthCAM).  The picture
has a row for each class, by default for the two with the largest logits, and a column for each
depth.

The scene is one of those that the network was not trained with, or an image file: square, of any
size, in grey or made grey, with light ink on dark paper; one that is light on the whole is turned
into its negative.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from companion.cam import DepthCAM, DepthMaps, Top, overlay
from companion.data import digits, read_image, scenes
from companion.nn import ODENet
from companion.ode import SolverError

WEIGHTS = Path(__file__).parents[1] / "book" / "synthesis" / "ode_net_scenes.safetensors"
#: Pixels a side of a scene, and the seed of the generator of those held out.
SIDE, HELD_OUT_SEED = 64, 1
#: The parts of red, green and blue in grey (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    given = parser.add_mutually_exclusive_group()
    given.add_argument("image", type=Path, nargs="?", metavar="IMAGE", help="a PNG, JPEG, ... file")
    given.add_argument("--scene", type=int, default=0, metavar="N", help="number of the scene; 0")
    parser.add_argument(
        "--weights", type=Path, default=WEIGHTS, metavar="FILE", help="of an ODENet, safetensors"
    )
    parser.add_argument("--depths", type=int, default=6, metavar="K", help="evenly spaced; 6")
    parser.add_argument(
        "--class", dest="target", type=int, metavar="C", help="to explain, instead of the two"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("depth_cam.png"), metavar="FILE.png", help="the picture"
    )
    return parser.parse_args()


def network(file: Path) -> ODENet:
    """The network of these weights, which tell its width and its classes.

    Raises:
        ValueError: they are not those of an ODENet for grey images.
    """
    if not file.is_file():
        raise ValueError(f"--weights: there is no file {file}")
    try:
        state = load_file(file)
        classes, width = state["classifier.weight"].shape
        model = ODENet(classes=classes, width=width)
        model.load_state_dict(state)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"--weights: {file} has no weights of an ODENet for grey images: {error}"
        ) from error
    return model.eval()


def held_out_scene(number: int) -> tuple[Tensor, str]:
    """A scene, shape (1, 1, 64, 64), and what is in it."""
    if number < 0:
        raise ValueError(f"--scene: must be at least 0, got {number}")
    of_digits = scenes(number + 1, HELD_OUT_SEED, digits().split()[1])
    first, second = of_digits.labels[-1].tolist()
    return of_digits.images[-1:], f"scene {number}, with the digits {first} and {second}"


def image_of(file: Path) -> tuple[Tensor, str]:
    """The image of a file as the network takes it, shape (1, 1, 64, 64), and what it is."""
    image = read_image(file).float() / 255
    height, width = image.shape[1:]
    if height != width:
        raise ValueError(f"{file} has {width} x {height} pixels; crop it to a square")
    grey = (image * torch.tensor(LUMA)[:, None, None]).sum(0)[None, None]
    told = str(file)
    if grey.mean() > 0.5:
        grey, told = 1 - grey, f"the negative of {file}"
    size = (SIDE, SIDE)
    grey = F.interpolate(grey, size, mode="bilinear", align_corners=False, antialias=True)
    return grey.clamp(0, 1), told


def draw(image: Tensor, seen: DepthMaps, output: Path) -> None:
    """The image and its maps, a row for each class; into a file beside it first."""
    from matplotlib import pyplot as plt

    from companion.figures.heatmaps import draw_image
    from companion.figures.style import WIDTH, use_style

    heat = seen.heatmap((SIDE, SIDE))[0].cpu()  # class, depth, height, width
    picture = image[0].cpu()
    rows, columns = len(heat), 1 + heat.shape[1]
    with plt.rc_context({"backend": "agg"}):
        use_style()
        size = (WIDTH, rows * (WIDTH / columns + 0.25))
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, dpi=200)
        for k, row in enumerate(axes):
            draw_image(row[0], picture, f"class {int(seen.target[0, k])}")
            for i, ax in enumerate(row[1:]):
                draw_image(ax, overlay(picture, heat[k, i]), f"t = {float(seen.depth[i]):.2g}")
        with tempfile.TemporaryDirectory(dir=output.absolute().parent) as folder:
            part = Path(folder) / output.name
            figure.savefig(part)
            os.replace(part, output)
        plt.close(figure)


def report(logits: Tensor, seen: DepthMaps) -> None:
    values, classes = logits[0].topk(min(5, logits.shape[1]))
    rows = zip(classes.tolist(), values.tolist(), values.sigmoid().tolist(), strict=True)
    for index, logit, probability in rows:
        print(f"class {index}: logit {logit:6.2f}, probability {probability:6.1%}")
    for target, maps in zip(seen.target[0].tolist(), seen.map[0], strict=True):
        for depth, one in zip(seen.depth.tolist(), maps, strict=True):
            if not bool((one > 0).any()):
                print(f"the map of class {target} at depth {depth:.2g} has no positive value")
    forward, backward = seen.stats.evaluations, seen.stats.backward.evaluations
    print(f"evaluations of f: {forward} forward, {backward} backward for each class,", end=" ")
    print(f"whose {len(seen.depth)} maps they give")


def main() -> None:
    options = parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if options.output.suffix.lower() != ".png" or not options.output.absolute().parent.is_dir():
            raise ValueError(f"--output: must be a .png file in a folder, got {options.output}")
        with tqdm(total=4, disable=not sys.stderr.isatty(), leave=False) as bar:

            def stage(name: str, work: Callable[..., Any], *arguments: Any) -> Any:
                bar.set_description(name)
                result = work(*arguments)
                bar.update()
                return result

            model = stage("network", network, options.weights).to(device)
            if options.image is None:
                image, told = stage("scene", held_out_scene, options.scene)
            else:
                image, told = stage("image", image_of, options.image)
            image = image.to(device)
            targets = Top(2) if options.target is None else [[options.target]]
            seen = stage("maps", DepthCAM(model), image, targets, options.depths)
            stage("picture", draw, image, seen, options.output)
    except (ModuleNotFoundError, ValueError, SolverError, OSError) as error:
        raise SystemExit(f"depth_cam.py: {error}") from error
    with torch.no_grad():
        logits = model(image)
    print(told)
    report(logits, seen)
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()

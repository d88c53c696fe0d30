"""Reading an image file so that nothing of the image is lost."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

#: Modes of Pillow that RGB of 8 bits holds without loss, once an opaque alpha channel is dropped.
_LOSSLESS = {"1", "L", "LA", "P", "PA", "RGB", "RGBA"}


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """The image of a file, as its viewer sees it.

    What loses nothing is done: greyscale, black and white, and palettes become RGB, an opaque alpha
    channel is dropped, and the image is turned upright if its EXIF data say how.  All else is
    refused, since there is more than one way to do it: transparency, 16 bits a channel, CMYK and
    other colour spaces, animations.  Colour profiles are left out of account.

    Args:
        path: of a JPEG, PNG, or any other file that Pillow reads.

    Returns:
        RGB, uint8 of shape (3, H, W).

    Raises:
        OSError: the file cannot be read, for example because there is none.
        ValueError: it holds no image, a part of one, or one that cannot be converted without loss.
    """
    content = Path(path).read_bytes()
    if not content:
        raise ValueError(f"{path} is empty (0 bytes): was it copied or downloaded completely?")
    try:
        image = Image.open(BytesIO(content))
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} has more pixels than Pillow reads: {error}") from error
    except Exception as error:
        raise ValueError(
            f"{path} is no image that Pillow can read; it begins with {content[:8]!r}"
        ) from error
    _refuse_loss(image, path)
    try:
        image = ImageOps.exif_transpose(image)
    except Exception as error:
        # Which error depends on the format and on the place of the damage.
        raise ValueError(
            f"{path} is a damaged {image.format} image of {image.width} x {image.height} pixels "
            f"({error}): was it copied or downloaded completely?"
        ) from error
    pixels = np.array(_without_alpha(image, path).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _refuse_loss(image: Image.Image, path: str | os.PathLike[str]) -> None:
    # Pillow reads colours of 16 bits as 8 without a word; only the name of the decoder tells.
    if image.mode in {"I", "F"} or any(";16" in str(name) for name in (image.mode, image.tile)):
        raise ValueError(
            f"{path} has more than 8 bits a channel (mode {image.mode}), which uint8 cannot hold: "
            "scale it to 8 bits in the way that suits what it shows, and save that"
        )
    if image.mode not in _LOSSLESS:
        raise ValueError(
            f"{path} has the colour space {image.mode}, and how it becomes RGB depends on the "
            "device it was made for: save it as RGB with the program it comes from, or simply "
            "with Image.open(file).convert('RGB').save(new_file)"
        )
    # The further pictures of an MPO, the JPEG of many telephones, show the same as the first.
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise ValueError(f"{path} has {frames} frames: save the one you mean as a file of its own")


def _without_alpha(image: Image.Image, path: str | os.PathLike[str]) -> Image.Image:
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    opaque = np.array(image.getchannel("A")) == 255
    if not opaque.all():
        raise ValueError(
            f"{path} has an alpha channel that is transparent in {np.mean(~opaque):.1%} of the "
            "pixels, and what is behind them is not in the file: put it on a background, "
            "Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image.convert('RGBA'))"
            ".convert('RGB').save(new_file)"
        )
    return image

"""From a photograph to what a network was trained on: resize, crop, normalise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

#: The longer side of an image, in shorter ones.  Of longer images the crop shows next to nothing,
#: and what they are resized to may not fit into memory.
LONGEST = 100


@dataclass(frozen=True)
class Preprocess:
    r"""Resize the shorter side, crop the centre, normalise each channel.

    An image x with values in [0, 1] becomes :math:`(x_c - \mathrm{mean}_c) / \mathrm{std}_c` in
    each channel c.  The steps and their roundings are those of torchvision's
    ``ImageClassification`` transform on tensors.

    Attributes:
        resize: length of the shorter side after resizing (bilinear, antialiased), in pixels; the
            longer side keeps the aspect ratio, rounded down.
        crop_size: side of the square that is cut from the centre, in pixels; at most ``resize``.
        mean: what is subtracted, for red, green and blue, in units in which white is 1.
        std: what is divided by, in the same units.

    Example:
        >>> import torch
        >>> photograph = torch.full((3, 300, 400), 255, dtype=torch.uint8)
        >>> IMAGENET(photograph).shape
        torch.Size([1, 3, 224, 224])
    """

    resize: int
    crop_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if not 0 < self.crop_size <= self.resize:
            raise ValueError(
                "Preprocess: crop_size must be positive and at most resize, "
                f"got crop_size={self.crop_size} and resize={self.resize}"
            )
        if not all(s > 0 for s in self.std):
            raise ValueError(f"Preprocess: every std must be positive, got {self.std}")

    def __call__(self, image: Tensor | Image.Image) -> Tensor:
        """The network's input.

        Args:
            image: a PIL image in mode RGB, or a tensor of shape ``(3, H, W)`` or ``(N, 3, H, W)``,
                red first: uint8, or floating point with values in [0, 1].

        Returns:
            Tensor of shape ``(N, 3, crop_size, crop_size)`` (N = 1 for one image) on the image's
            device: float64 for a float64 image, float32 for any other.  It is differentiable with
            respect to a floating-point image.

        Raises:
            TypeError: image is no image of those kinds.
            ValueError: wrong shape, mode or range of values, with the cure.
        """
        x = _unit(self._cut(_batch(image)))
        mean, std = (x.new_tensor(v).view(3, 1, 1) for v in (self.mean, self.std))
        return (x - mean) / std

    def crop(self, image: Tensor | Image.Image) -> Tensor:
        """What the network sees, as a picture: resized and cropped, but not normalised.

        Args:
            image: as for the call.

        Returns:
            uint8 tensor of shape ``(N, 3, crop_size, crop_size)``, or without N if the image came
            without.
        """
        x = self._cut(_batch(image))
        if x.is_floating_point():
            x = (255 * x.detach()).round().clamp(0, 255).to(torch.uint8)
        single = isinstance(image, Image.Image) or image.dim() == 3
        return x[0] if single else x

    def _cut(self, x: Tensor) -> Tensor:
        """Resize and crop ``(N, 3, H, W)``; a uint8 image stays one, so it is rounded once."""
        height, width = x.shape[-2:]
        short, long = sorted((height, width))
        if long > LONGEST * short:
            raise ValueError(
                f"expected an image whose longer side is at most {LONGEST} times the shorter one, "
                f"got {height} x {width} pixels; cut out the part that you mean"
            )
        size = [self.resize * height // short, self.resize * width // short]
        y = x if x.is_floating_point() else x.float()
        y = interpolate(y, size=size, mode="bilinear", antialias=True)
        top, left = (round((n - self.crop_size) / 2) for n in size)
        y = y[..., top : top + self.crop_size, left : left + self.crop_size]
        return y if x.is_floating_point() else y.round().to(torch.uint8)


#: What torchvision's ImageNet networks were trained with: the mean and the standard deviation of
#: the training images.
IMAGENET = Preprocess(256, 224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

#: EfficientNet-Lite takes (x - 127) / 128 of the values 0 to 255.  The square is as wide as the
#: shorter side, so nothing of it is lost; its authors evaluated on 224/256 of it.
EFFICIENTNET_LITE = Preprocess(224, 224, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


def _unit(x: Tensor) -> Tensor:
    """Values 0 to 255 as numbers in [0, 1]; floating point is there already."""
    return x if x.is_floating_point() else x.float() / 255


def _batch(image: Tensor | Image.Image) -> Tensor:
    """The image as a batch ``(N, 3, H, W)`` of uint8, float32 or float64, or an error."""
    if isinstance(image, Image.Image):
        return _from_pil(image)[None]
    if not isinstance(image, Tensor):
        raise TypeError(
            f"expected a PIL image or a torch.Tensor, got {type(image).__name__}; an array of "
            "shape (H, W, 3)? Convert it: torch.from_numpy(array).permute(2, 0, 1)"
        )
    _require_image_shape(tuple(image.shape))
    if image.dtype != torch.uint8:
        _require_unit_range(image)
    if image.is_floating_point() and image.dtype != torch.float64:
        image = image.float()
    return image if image.dim() == 4 else image[None]


def _from_pil(image: Image.Image) -> Tensor:
    if image.mode != "RGB":
        alpha = ", with an alpha channel" if image.mode in {"RGBA", "LA", "PA"} else ""
        raise ValueError(
            f'expected a PIL image in mode "RGB", got mode "{image.mode}"{alpha}; '
            'convert it: image.convert("RGB")'
        )
    _require_image_shape((3, image.height, image.width))
    values = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return values.view(image.height, image.width, 3).permute(2, 0, 1)


def _require_image_shape(shape: tuple[int, ...]) -> None:
    if len(shape) in (3, 4) and shape[-3] == 3 and 0 not in shape:
        return
    cure = ""
    if len(shape) in (3, 4) and shape[-1] in (3, 4):
        order = "2, 0, 1" if len(shape) == 3 else "0, 3, 1, 2"
        cure = f"; channels in the last axis? Put them first: image.permute({order})"
    elif len(shape) in (3, 4) and shape[-3] == 4:
        cure = f"; an alpha channel? Drop it: image[{':3' if len(shape) == 3 else ':, :3'}]"
    elif len(shape) in (3, 4) and shape[-3] == 1:
        sizes = "3, -1, -1" if len(shape) == 3 else "-1, 3, -1, -1"
        cure = f"; a grey image? Repeat its channel: image.expand({sizes})"
    elif len(shape) == 2:
        cure = "; a grey image? Repeat it: image.expand(3, -1, -1)"
    raise ValueError(f"expected an image of shape (3, H, W) or (N, 3, H, W), got {shape}{cure}")


def _require_unit_range(image: Tensor) -> None:
    """Floating point within [0, 1], up to the rounding of an interpolation before."""
    if not image.is_floating_point():
        raise TypeError(
            f"expected an image of uint8 or floating point, got {image.dtype}; "
            "values 0 to 255? Convert it: image.to(torch.uint8)"
        )
    low, high = (v.item() for v in image.detach().aminmax())
    if low >= -1e-3 and high <= 1 + 1e-3:
        return
    if low >= 0 and 1 < high <= 255:
        cure = "values 0 to 255? Divide: image / 255"
    elif low < 0:
        cure = "has it been normalised already? Pass the image as it was before"
    else:
        cure = "is it an image?"
    raise ValueError(
        "expected a floating-point image with values in [0, 1], "
        f"got values from {low:.4g} to {high:.4g}; {cure}"
    )

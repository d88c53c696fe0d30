"""Photographs that installed packages ship."""

from __future__ import annotations

from torch import Tensor

from companion.data.images import read_image
from companion.data.packaged import packaged_file

#: Name to module, file within it, and what pip calls the package.
_SOURCES = {
    "grace_hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "matplotlib"),
    "china": ("sklearn", "datasets/images/china.jpg", "scikit-learn"),
    "flower": ("sklearn", "datasets/images/flower.jpg", "scikit-learn"),
}


def photograph(name: str) -> Tensor:
    """A photograph as :func:`read_image` gives it: uint8, shape (3, H, W).

    ========================  =========  ========================================================
    name                      H x W      what, from where
    ========================  =========  ========================================================
    ``"grace_hopper"``        600 x 512  Rear Admiral Grace Hopper in uniform; Matplotlib; public
                                         domain
    ``"china"``               427 x 640  a temple of the Summer Palace; scikit-learn; CC BY 2.0
    ``"flower"``              427 x 640  a dahlia; scikit-learn; CC BY 2.0
    ========================  =========  ========================================================

    Raises:
        ValueError: there is no photograph of the name.
        ModuleNotFoundError: the package that ships it is not installed.
    """
    if name not in _SOURCES:
        raise ValueError(f"there is no photograph {name!r}; there are {', '.join(_SOURCES)}")
    return read_image(packaged_file(*_SOURCES[name]))

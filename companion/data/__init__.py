"""Small data sets that need no network: of installed packages, or generated."""

from companion.data.digits import Digits, digits
from companion.data.images import read_image
from companion.data.photographs import photograph
from companion.data.scenes import Scenes, scenes

__all__ = ["Digits", "Scenes", "digits", "photograph", "read_image", "scenes"]

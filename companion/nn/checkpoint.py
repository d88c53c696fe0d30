"""Files that hold the state of a training, whole at every moment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def check_writable(file: Path) -> None:
    """See to it that a checkpoint can be written before there is anything to lose.

    Raises:
        ValueError: the file is a directory, or its directory is missing or cannot be written to.
    """
    if file.is_dir() or not os.access(file.parent, os.W_OK):
        raise ValueError(
            f"checkpoint must be a file in a directory that can be written to, got {file}"
        )


def write_checkpoint(file: Path, state: Mapping[str, Any]) -> None:
    """Write a file so that at every moment there is the old one or the new one, whole."""
    new = file.with_name(file.name + ".new")
    try:
        with new.open("wb") as stream:
            torch.save(dict(state), stream)
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)


def read_checkpoint(file: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The state that was written last; it cannot run code.

    Args:
        file: a checkpoint.
        settings: what the state must hold under ``"settings"``, so that going on from there is
            the same training.

    Raises:
        ValueError: the file is no checkpoint, or one of a training with other settings.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        saved = {name: state["settings"][name] for name in settings}
    except Exception as error:
        # What torch.load raises of other files is not specified, and there is much of it.
        raise ValueError(
            f"{file} is no checkpoint of such a training, or damaged ({type(error).__name__}): "
            "remove it, or give another checkpoint"
        ) from error
    for name, value in settings.items():
        if saved[name] != value:
            raise ValueError(
                f"{file} is of a training with {name} = {saved[name]}, this one has {value}: give "
                "the same, or another checkpoint"
            )
    return state

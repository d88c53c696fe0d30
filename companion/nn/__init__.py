"""Convolutional networks: layers that are drop-in for ``torch.nn``, and the book's algorithms."""

from companion.nn.choice import explicit, is_explicit

__all__ = ["explicit", "is_explicit"]

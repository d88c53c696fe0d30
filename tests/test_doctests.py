"""The examples in docstrings run."""

import doctest
import importlib
import pkgutil

import pytest

import companion

MODULES = [module.name for module in pkgutil.walk_packages(companion.__path__, "companion.")]


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_examples(name):
    # What a name stands for in its package may be the function of the same name.
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


def test_there_are_examples():
    found = [
        test
        for name in ("companion.solve",)
        for test in doctest.DocTestFinder().find(importlib.import_module(name))
        if test.examples
    ]
    assert found

"""One environment: pinned exactly, once, for every Python that the book names."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from lock import CUDA
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.11", "3.12", "3.13")


def requirements(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(text) for line in lines if (text := line.partition("#")[0].strip())]


def pins(python: str) -> dict[str, str]:
    """What requirements.txt installs on Linux with this Python."""
    here = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "implementation_name": "cpython",
    }
    chosen: dict[str, str] = {}
    for pin in requirements("requirements.txt"):
        if pin.marker is None or pin.marker.evaluate(here):
            (specifier,) = pin.specifier
            name = canonicalize_name(pin.name)
            assert specifier.operator == "==", f"{pin} is not an exact version"
            assert name not in chosen, f"{name} is pinned twice for Python {python}"
            chosen[name] = specifier.version
    return chosen


def test_every_python_gets_the_same_versions() -> None:
    assert pins("3.11") == pins("3.12") == pins("3.13")


@pytest.mark.parametrize("source", ["requirements.in", "pyproject.toml"])
def test_the_pins_satisfy(source: str) -> None:
    if source == "pyproject.toml":
        project = tomllib.loads((ROOT / source).read_text(encoding="utf-8"))["project"]
        wanted = [Requirement(text) for text in project["dependencies"]]
    else:
        wanted = requirements(source)
    pinned = pins("3.11")
    for need in wanted:
        assert need.specifier.contains(pinned[canonicalize_name(need.name)]), need


def test_nothing_is_installed_that_is_not_pinned() -> None:
    """Follow the installed packages' own requirements: each is pinned, but torch's CUDA."""
    pinned = pins("3.11")
    unpinned = {
        f"{need.name} (for {name})"
        for name in pinned
        for text in distribution(name).requires or ()
        for need in [Requirement(text)]
        if need.marker is None or need.marker.evaluate({"extra": ""})
        if canonicalize_name(need.name) not in pinned and not CUDA.match(need.name)
    }
    assert not unpinned


def test_the_library_does_not_dictate_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for text in project["dependencies"]:
        assert {specifier.operator for specifier in Requirement(text).specifier} <= {">="}, text


def test_what_only_benchmarks_need_is_pinned_and_named_once() -> None:
    pinned, extra = pins("3.11"), requirements("requirements-bench.txt")
    assert extra
    for need in extra:
        assert [specifier.operator for specifier in need.specifier] == ["=="], need
        assert need.url is None, need
        assert canonicalize_name(need.name) not in pinned, f"{need.name} is pinned already"


def test_versions_are_pinned_nowhere_else() -> None:
    elsewhere = [ROOT / "Makefile", ROOT / ".ci" / "run", *(ROOT / "tools").iterdir()]
    elsewhere += (ROOT / ".github" / "workflows").iterdir()
    for path in elsewhere:
        if path.is_file():
            pinned = re.findall(r"[\w-]+==\d[\w.]*", path.read_text(encoding="utf-8"))
            assert not pinned, f"{path} pins {pinned}; versions belong into requirements.txt"


def test_requirements_name_no_host() -> None:
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert not re.search(r"https?:|index-url|find-links", text)

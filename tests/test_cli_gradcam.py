"""``companion gradcam``: the picture, the classes, and every mistake of its user."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest
from PIL import Image

from companion.cli import main
from companion.cli.gradcam import _MODELS, _RULES


@pytest.fixture(scope="module")
def photograph():
    place = resources.files("matplotlib") / "mpl-data" / "sample_data" / "grace_hopper.jpg"
    with resources.as_file(place) as path:
        yield path


def test_the_picture_and_the_five_classes(photograph, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["gradcam", str(photograph)]) == 0
    *classes, written = capsys.readouterr().out.splitlines()
    assert written == "written: grace_hopper-gradcam.png"
    assert len(classes) == 5
    assert classes[0].split()[1:] == ["652", "military", "uniform"]
    assert [path.name for path in tmp_path.iterdir()] == ["grace_hopper-gradcam.png"]
    with Image.open(tmp_path / "grace_hopper-gradcam.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] > 1000
    half = pixels.shape[1] // 2
    assert not np.array_equal(pixels[:, :half], pixels[:, -half:])


def test_class_layer_rule_and_output(photograph, tmp_path, capsys):
    output = tmp_path / "tie.pdf"
    options = ["--class", "Windsor tie", "--layer", "head.activation", "--rule", "layer-cam"]
    assert main(["gradcam", str(photograph), *options, "--output", str(output)]) == 0
    assert output.read_bytes().startswith(b"%PDF")
    by_index = ["--class", "906", "--output", str(tmp_path / "again.png")]
    assert main(["gradcam", str(photograph), *by_index]) == 0


def test_the_layers_are_listed_without_weights(photograph, capsys):
    assert main(["gradcam", str(photograph), "--model", "vgg19", "--list-layers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["features.0", "Conv2d", "64x224x224"]
    assert any(line.split() == ["features.34", "Conv2d", "512x14x14"] for line in lines)
    assert not any("classifier" in line for line in lines)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--class", "1000"], "class 1000 does not exist"),
        (["--class", "-1"], "class -1 does not exist"),
        (["--class", ""], "no class is named ''"),
        (["--class", "²"], "no class is named '²'"),
        (["--class", "military unifrom"], "did you mean 'military uniform'"),
        (["--layer", "head.konv"], "did you mean 'head.conv'"),
        (["--layer", "classifier"], "expected feature maps"),
        (["--output", "map.txt"], "has no ending of a picture"),
        (["--output", "nowhere/map.png"], "there is no folder"),
        (["--weights", "none.pth"], "there is no such file"),
    ],
)
def test_mistakes(photograph, tmp_path, monkeypatch, capsys, options, words):
    monkeypatch.chdir(tmp_path)
    assert main(["gradcam", str(photograph), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("companion gradcam: ")
    assert words in error
    assert not any(tmp_path.iterdir())


def test_a_folder_is_no_picture(photograph, tmp_path, capsys):
    folder = tmp_path / "folder.png"
    folder.mkdir()
    assert main(["gradcam", str(photograph), "--output", str(folder)]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [folder]
    assert not any(folder.iterdir())


@pytest.mark.parametrize("error", [OSError, RuntimeError])
def test_a_picture_that_cannot_be_saved_leaves_the_old_one(
    photograph, tmp_path, monkeypatch, capsys, error
):
    output = tmp_path / "old.png"
    output.write_bytes(b"old")

    def full(*arguments, **options):
        raise error("no space left")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    assert main(["gradcam", str(photograph), "--output", str(output)]) == 2
    assert "cannot be written: no space left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [output]
    assert output.read_bytes() == b"old"


@pytest.mark.parametrize("size", [(8, 8), (4, 300)])
def test_a_tiny_and_grey_photograph(tmp_path, capsys, size):
    path = tmp_path / "grey.png"
    Image.new("L", size, 90).save(path)
    output = tmp_path / "map.png"
    assert main(["gradcam", str(path), "--output", str(output), "--class", "906"]) == 0
    assert output.exists()


def test_the_photograph_is_not_written_over(photograph, tmp_path, capsys):
    copy = tmp_path / "photo.jpg"
    copy.write_bytes(photograph.read_bytes())
    assert main(["gradcam", str(copy), "--output", str(copy)]) == 2
    assert "is the photograph itself" in capsys.readouterr().err
    assert copy.read_bytes() == photograph.read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.jpg", None, "none.jpg"),
        ("empty.jpg", b"", "is empty"),
        (".", None, "Is a directory"),
        ("text.jpg", b"not an image at all", "no image that Pillow can read"),
    ],
)
def test_files_that_are_no_photographs(tmp_path, capsys, name, content, words):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    assert main(["gradcam", str(path)]) == 2
    assert words in capsys.readouterr().err


def test_the_choices_are_those_of_the_library():
    """The command lists them without importing torch."""
    from companion.cam import RULE_NAMES
    from companion.nn import NETWORKS

    assert set(_RULES) == set(RULE_NAMES)
    with_preprocessing = {name for name in NETWORKS if name.startswith(("vgg", "efficientnet"))}
    assert set(_MODELS) == with_preprocessing

"""Images are read without loss, or refused with the file's name and a cure."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from companion.data import photograph, read_image

RANDOM = np.random.RandomState(0)
COLOUR = RANDOM.randint(0, 256, (5, 7, 3)).astype(np.uint8)
GREY = COLOUR[..., 0]


def as_tensor(pixels: np.ndarray) -> Tensor:
    return torch.tensor(pixels.transpose(2, 0, 1).copy())


def save(tmp_path: Path, image: Image.Image, name: str = "x.png", **options: object) -> Path:
    file = tmp_path / name
    image.save(file, **options)
    return file


def refused(file: Path, *words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(str(file))) as caught:
        read_image(file)
    for word in words:
        assert word in str(caught.value)


def png_of_16_bits(colour: int, channels: int) -> bytes:
    """A PNG file as the specification has it, since Pillow writes none with 16 bits a colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 2, 2, 16, colour, 0, 0, 0)
    rows = (b"\0" + b"\x12\x34" * (2 * channels)) * 2
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.tiff", "x.ppm", "x.webp"])
def test_rgb_is_read_as_it_is(tmp_path: Path, name: str) -> None:
    options = {"lossless": True} if name == "x.webp" else {}
    x = read_image(save(tmp_path, Image.fromarray(COLOUR), name, **options))
    assert x.dtype == torch.uint8
    assert x.is_contiguous()
    assert torch.equal(x, as_tensor(COLOUR))


def test_the_path_may_be_a_string(tmp_path: Path) -> None:
    assert read_image(str(save(tmp_path, Image.fromarray(COLOUR)))).shape == (3, 5, 7)


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    x = read_image(save(tmp_path, Image.fromarray(GREY)))
    assert torch.equal(x, torch.tensor(GREY).expand(3, -1, -1))


def test_black_and_white_becomes_0_and_255(tmp_path: Path) -> None:
    x = read_image(save(tmp_path, Image.fromarray(GREY > 127)))
    assert torch.equal(x, torch.tensor((GREY > 127) * np.uint8(255)).expand(3, -1, -1))


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    image = Image.fromarray(COLOUR).quantize(4)
    x = read_image(save(tmp_path, image))
    assert torch.equal(x, as_tensor(np.array(image.getpalette()).reshape(-1, 3)[np.array(image)]))
    assert x.unique(dim=1).shape[1] > 1


@pytest.mark.parametrize("grey", [False, True])
def test_an_opaque_alpha_channel_is_dropped(tmp_path: Path, grey: bool) -> None:
    image = Image.fromarray(GREY if grey else COLOUR)
    image.putalpha(255)
    expected = np.stack([GREY] * 3, 2) if grey else COLOUR
    assert torch.equal(read_image(save(tmp_path, image)), as_tensor(expected))


@pytest.mark.parametrize("grey", [False, True])
def test_a_single_pixel_that_is_not_opaque_is_refused(tmp_path: Path, grey: bool) -> None:
    image = Image.fromarray(GREY if grey else COLOUR)
    alpha = Image.new("L", image.size, 255)
    alpha.putpixel((3, 2), 254)
    image.putalpha(alpha)
    refused(save(tmp_path, image), "alpha", "2.9%", "Image.alpha_composite")


def test_a_transparent_colour_is_refused_and_only_where_it_is_used(tmp_path: Path) -> None:
    image = Image.fromarray(COLOUR)
    used = tuple(map(int, COLOUR[0, 0]))
    refused(save(tmp_path, image, transparency=used), "transparent in 2.9%")
    unused = next(c for c in ((0, 0, i) for i in range(256)) if not (c == COLOUR).all(2).any())
    file = save(tmp_path, image, "unused.png", transparency=unused)
    assert torch.equal(read_image(file), as_tensor(COLOUR))


def test_a_transparent_palette_entry_is_refused(tmp_path: Path) -> None:
    image = Image.fromarray(COLOUR).quantize(4)
    refused(save(tmp_path, image, transparency=int(np.array(image)[0, 0])), "alpha")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_data_say(tmp_path: Path, orientation: int) -> None:
    upright = {
        1: COLOUR,
        2: COLOUR[:, ::-1],
        3: COLOUR[::-1, ::-1],
        4: COLOUR[::-1],
        5: COLOUR.transpose(1, 0, 2),
        6: np.rot90(COLOUR, -1),
        7: COLOUR[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(COLOUR),
    }
    image = Image.fromarray(COLOUR)
    exif = image.getexif()
    exif[0x0112] = orientation
    x = read_image(save(tmp_path, image, exif=exif))
    assert torch.equal(x, as_tensor(upright[orientation]))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.jpg"
    file.touch()
    refused(file, "empty (0 bytes)", "completely?")


def test_more_pixels_than_pillow_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = save(tmp_path, Image.new("L", (40, 40)), "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    refused(file, "more pixels than Pillow reads", "1600 pixels")


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.jpg"
    file.write_bytes(b"<!DOCTYPE html>")
    refused(file, "no image", "<!DOCTYP")


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tiff", "x.webp", "x.gif", "x.bmp"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_a_truncated_image_is_refused(tmp_path: Path, name: str, part: float) -> None:
    noise = RANDOM.randint(0, 256, (60, 60, 3)).astype(np.uint8)
    file = save(tmp_path, Image.fromarray(noise), name)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(part * len(whole))])
    refused(file)


def test_a_truncated_image_is_told_with_its_size(tmp_path: Path) -> None:
    file = save(tmp_path, Image.fromarray(RANDOM.randint(0, 256, (60, 40), np.uint8)), "x.jpg")
    file.write_bytes(file.read_bytes()[:-500])
    refused(file, "damaged JPEG image of 40 x 60", "truncated")


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bits_in_png_are_refused(tmp_path: Path, colour: int, channels: int) -> None:
    file = tmp_path / "x.png"
    file.write_bytes(png_of_16_bits(colour, channels))
    refused(file, "more than 8 bits a channel")


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_wide_numbers_in_tiff_are_refused(tmp_path: Path, dtype: type) -> None:
    refused(save(tmp_path, Image.fromarray(GREY.astype(dtype)), "x.tiff"), "more than 8 bits")


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "YCbCr"])
def test_other_colour_spaces_are_refused(tmp_path: Path, mode: str) -> None:
    file = save(tmp_path, Image.new(mode, (4, 4)), "x.tiff")
    refused(file, f"colour space {mode}", "convert('RGB')")


def test_an_animation_is_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)]
    file = save(tmp_path, frames[0], "x.gif", save_all=True, append_images=frames[1:])
    refused(file, "2 frames")


def test_of_a_telephone_s_two_pictures_the_first_is_read(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (8, 8), "white"), Image.new("RGB", (8, 8), "black")
    file = save(tmp_path, first, "x.mpo", save_all=True, append_images=[second])
    assert (read_image(file) == 255).all()


def test_a_file_that_is_not_there_is_told_by_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.png"):
        read_image(tmp_path / "nothing.png")
    with pytest.raises(IsADirectoryError):
        read_image(tmp_path)


def test_the_photographs_are_those_of_the_packages() -> None:
    """Against the packages' own readers."""
    cbook = pytest.importorskip("matplotlib.cbook")
    with Image.open(cbook.get_sample_data("grace_hopper.jpg")) as image:
        assert torch.equal(photograph("grace_hopper"), as_tensor(np.array(image)))
    assert photograph("grace_hopper").shape == (3, 600, 512)
    datasets = pytest.importorskip("sklearn.datasets")
    for name in ("china", "flower"):
        pixels = datasets.load_sample_image(f"{name}.jpg")
        assert torch.equal(photograph(name), as_tensor(pixels))


def test_an_unknown_photograph_is_told_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'cat'; there are grace_hopper, china, flower"):
        photograph("cat")


def test_without_scikit_learn_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("companion.data.packaged.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install scikit-learn"):
        photograph("china")

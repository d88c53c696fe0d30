"""Images as the networks want them, against Pillow's resizing and written-out arithmetic."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from companion.nn.pretrained.preprocess import EFFICIENTNET_LITE, IMAGENET, Preprocess

SMALL = Preprocess(16, 14, mean=(0.5, 0.25, 0.125), std=(0.5, 0.25, 2.0))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def as_pil(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def cut_by_pillow(image: torch.Tensor, resize: int, crop: int) -> torch.Tensor:
    height, width = image.shape[1:]
    short = min(height, width)
    size = (int(resize * width / short), int(resize * height / short))
    left, top = (round((n - crop) / 2) for n in size)
    resized = as_pil(image).resize(size, Image.Resampling.BILINEAR)
    cut = resized.crop((left, top, left + crop, top + crop))
    return torch.tensor(list(cut.tobytes()), dtype=torch.uint8).view(crop, crop, 3).permute(2, 0, 1)


@settings(max_examples=50, deadline=None)
@given(height=st.integers(1, 60), width=st.integers(1, 60), seed=st.integers(0, 99))
def test_the_crop_is_pillows_to_one_grey_level(height, width, seed):
    image = noise(3, height, width, seed=seed)
    ours = SMALL.crop(image)
    assert ours.dtype == torch.uint8
    # Pillow rounds after each of the two directions, we round once.
    assert (ours.int() - cut_by_pillow(image, 16, 14).int()).abs().max() <= 1


def test_the_networks_input_is_the_normalised_crop():
    image = noise(3, 40, 30)
    mean, std = torch.tensor([0.5, 0.25, 0.125]), torch.tensor([0.5, 0.25, 2.0])
    expected = (SMALL.crop(image) / 255 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(SMALL(image), expected[None], rtol=0, atol=1e-6)


def test_one_image_by_hand():
    # 2x4 to 1x2 pixels: the antialiased bilinear filter has the weights 1 3 3 1 around each.
    preprocess = Preprocess(1, 1, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    image = torch.zeros(3, 2, 4)
    image[0] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    # Width 4 becomes 2; round(1/2) = 0 starts the crop at the left pixel, whose filter loses the
    # column that lies outside: weights 3 3 1 over 7.
    torch.testing.assert_close(preprocess(image)[0, :, 0, 0], torch.tensor([3 / 7, 0, 0]))


def test_pil_images_and_tensors_agree_and_batches_are_kept():
    images = noise(2, 3, 50, 33)
    batch = SMALL(images)
    assert batch.shape == (2, 3, 14, 14)
    for image, row in zip(images, batch, strict=True):
        assert torch.equal(SMALL(as_pil(image)), row[None])
        assert torch.equal(SMALL(image), row[None])
    assert SMALL.crop(images).shape == (2, 3, 14, 14)
    assert SMALL.crop(as_pil(images[0])).shape == SMALL.crop(images[0]).shape == (3, 14, 14)


@pytest.mark.parametrize(
    ("dtype", "result"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_floating_point_images_are_in_the_unit_interval(dtype, result):
    image = noise(3, 20, 24)
    unit = (image.double() / 255).to(dtype)
    out = SMALL(unit)
    assert out.dtype == result
    # Half a grey level of rounding in the uint8 image, and the dtype's own.
    levels = (out - SMALL(image)) * torch.tensor(SMALL.std)[:, None, None] * 255
    assert levels.abs().max() <= 0.51 + 256 * torch.finfo(dtype).eps
    assert (SMALL.crop(unit).int() - SMALL.crop(image).int()).abs().max() <= (
        2 if dtype == torch.bfloat16 else 1
    )


def test_the_crop_of_a_floating_point_image_is_rounded_to_the_nearest_grey_level():
    grey = torch.full((3, 20, 20), 0.5)  # 127.5 of 255, to even
    assert SMALL.crop(grey).unique().tolist() == [128]
    assert SMALL.crop(grey + 0.51 / 255).unique().tolist() == [128]
    assert SMALL.crop(torch.ones(3, 20, 20) + 5e-4).unique().tolist() == [255]


def test_it_is_differentiable():
    image = torch.rand(1, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    preprocess = Preprocess(4, 3, mean=SMALL.mean, std=SMALL.std)
    assert torch.autograd.gradcheck(preprocess, image)
    assert preprocess.crop(image).dtype == torch.uint8


def test_what_the_networks_were_trained_with():
    white = torch.full((3, 300, 260), 255, dtype=torch.uint8)
    assert IMAGENET(white).shape == EFFICIENTNET_LITE(white).shape == (1, 3, 224, 224)
    red, green, blue = IMAGENET(white)[0, :, 0, 0].tolist()
    assert (red, green, blue) == pytest.approx(
        ((1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225)
    )
    for value in (0, 127, 255):
        out = EFFICIENTNET_LITE(torch.full_like(white, value))
        torch.testing.assert_close(out, torch.full_like(out, (value - 127) / 128))


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ([[0]], TypeError, "got list"),
        (noise(5, 7, 3).numpy(), TypeError, r"torch.from_numpy\(array\).permute\(2, 0, 1\)"),
        (noise(3, 5, 7).long(), TypeError, r"got torch.int64.*image.to\(torch.uint8\)"),
        (noise(3, 5, 7) > 9, TypeError, "got torch.bool"),
        (noise(5, 7), ValueError, r"got \(5, 7\).*image.expand\(3, -1, -1\)"),
        (noise(5, 7, 3), ValueError, r"got \(5, 7, 3\).*image.permute\(2, 0, 1\)"),
        (noise(2, 5, 7, 3), ValueError, r"image.permute\(0, 3, 1, 2\)"),
        (noise(4, 5, 7), ValueError, r"alpha channel\? Drop it: image\[:3\]"),
        (noise(1, 4, 5, 7), ValueError, r"Drop it: image\[:, :3\]"),
        (noise(1, 5, 7), ValueError, r"image.expand\(3, -1, -1\)"),
        (noise(2, 1, 5, 7), ValueError, r"image.expand\(-1, 3, -1, -1\)"),
        (noise(1, 2, 3, 5, 7), ValueError, r"got \(1, 2, 3, 5, 7\)"),
        (noise(3, 0, 7), ValueError, r"got \(3, 0, 7\)"),
        (noise(0, 3, 5, 7), ValueError, r"got \(0, 3, 5, 7\)"),
        (noise(3, 1, 101), ValueError, "at most 100 times the shorter one, got 1 x 101 pixels"),
        (noise(3, 202, 2), ValueError, "got 202 x 2 pixels"),
        (Image.new("RGB", (0, 5)), ValueError, r"got \(3, 5, 0\)"),
        (noise(3, 5, 7).float(), ValueError, r"image / 255"),
        (IMAGENET(noise(3, 5, 7)), ValueError, "normalised already"),
        (torch.full((3, 5, 7), -0.5), ValueError, "normalised already"),
        (torch.full((3, 5, 7), torch.nan), ValueError, "got values from nan to nan"),
        (torch.full((3, 5, 7), torch.inf), ValueError, "inf; is it an image"),
        (as_pil(noise(3, 5, 7)).convert("RGBA"), ValueError, r'"RGBA", with an alpha channel'),
        (as_pil(noise(3, 5, 7)).convert("L"), ValueError, r'mode "L"; .*image.convert\("RGB"\)'),
    ],
)
def test_what_is_no_image_is_refused(image, error, message):
    for use in (SMALL, SMALL.crop):
        with pytest.raises(error, match=message):
            use(image)


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (300, 3), (2, 1)])
def test_tiny_and_narrow_images_are_enlarged(size):
    x = SMALL(torch.full((3, *size), 255, dtype=torch.uint8))
    assert torch.equal(x, SMALL(torch.full((3, 64, 64), 255, dtype=torch.uint8)))


def test_rounding_of_an_interpolation_before_is_no_reason_to_refuse():
    assert SMALL(torch.ones(3, 5, 7) + 1e-6).isfinite().all()


@pytest.mark.parametrize(
    ("resize", "crop", "std", "message"),
    [
        (16, 17, 1.0, "got crop_size=17 and resize=16"),
        (16, 0, 1.0, "crop_size must be positive"),
        (16, 14, 0.0, "every std must be positive"),
    ],
)
def test_senseless_settings_are_refused(resize, crop, std, message):
    with pytest.raises(ValueError, match=message):
        Preprocess(resize, crop, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, std))

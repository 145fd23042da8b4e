"""Resizing on the host and augmentation on the device, against Pillow, numpy and torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jax_prompt.data.transforms import (
    Augment,
    augment,
    centre,
    prepare_image,
    resize_image,
    to_model,
)

RNG = np.random.RandomState(0)
NOISE = RNG.randint(0, 256, (37, 53, 3), np.uint8)
STORED = jnp.asarray(RNG.randint(0, 256, (6, 20, 20, 3), np.uint8))
KEY = jax.random.key(0)
RUN = jax.jit(augment, static_argnums=(2, 3))
RANDOM = [
    Augment(flip=True),
    Augment('random', flip=True),
    Augment('random', pad=3),
    Augment('resized', flip=True),
    Augment('resized', kernel='bicubic'),
]


def pixels(images) -> np.ndarray:
    """Returns images in [0, 1] as uint8; they must be whole numbers of 255ths."""
    values = np.asarray(images) * 255
    assert np.abs(values - np.rint(values)).max() < 1e-4
    return np.rint(values).astype(np.uint8)


@pytest.mark.parametrize('method', ['bicubic', 'bilinear'])
@pytest.mark.parametrize('size', [16, 37, 64])
def test_squash_is_pillow(method, size):
    kind = {'bicubic': Image.Resampling.BICUBIC, 'bilinear': Image.Resampling.BILINEAR}[method]
    want = np.asarray(Image.fromarray(NOISE).resize((size, size), kind))
    got = resize_image(NOISE, size, method)
    assert np.abs(got.astype(int) - want).max() <= 1
    assert np.array_equal(prepare_image(NOISE, size, method, 'squash'), got)


@pytest.mark.parametrize('image', [NOISE, NOISE.transpose(1, 0, 2)])
@pytest.mark.parametrize('size, ratio', [(16, 0.875), (28, 0.875), (24, 1.0), (50, 0.9)])
def test_centre_is_resize_then_crop(image, size, ratio):
    shorter = int(size / ratio)
    height, width = (max(shorter, int(shorter * s / min(image.shape[:2]))) for s in image.shape[:2])
    whole = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    top, left = round((height - size) / 2), round((width - size) / 2)
    want = np.asarray(whole.crop((left, top, left + size, top + size)))
    got = prepare_image(image, size, 'bicubic', 'centre', ratio)
    assert np.abs(got.astype(int) - want).max() <= 1


def test_a_thin_image_is_cut_without_being_blown_up():
    thin = np.zeros((2, 30000, 3), np.uint8)
    thin[:, 15000:] = 255
    for method in ('bicubic', 'bilinear_tf'):
        out = prepare_image(thin, 32, method, 'centre')
        assert out.shape == (32, 32, 3)
        assert (out[:, :2] == 0).all() and (out[:, 30:] == 255).all()


@pytest.mark.parametrize('size', [16, 37, 53, 64])
def test_bilinear_tf_is_half_pixel_bilinear_without_antialias(size):
    def axis(length):
        # Pixel j lies at j + 1/2; outside the outer centres the outer pixel holds.
        place = np.clip((np.arange(size) + 0.5) * length / size, 0.5, length - 0.5)
        matrix = np.zeros((size, length))
        for i, x in enumerate(place):
            matrix[i] = np.maximum(0, 1 - np.abs(x - np.arange(length) - 0.5))
        return matrix

    down, across = axis(37), axis(53)
    want = np.einsum('ih,jw,hwc->ijc', down, across, NOISE.astype(np.float64))
    got = resize_image(NOISE, size, 'bilinear_tf').astype(np.float64)
    assert np.abs(got - want).max() <= 0.5 + 1e-3


@pytest.mark.parametrize('size', [16, 64])
def test_bilinear_tf_is_torch_interpolate(size):
    torch = pytest.importorskip('torch', reason='torch is not installed')
    image = torch.from_numpy(NOISE.transpose(2, 0, 1).astype(np.float32))[None]
    want = torch.nn.functional.interpolate(
        image, (size, size), mode='bilinear', align_corners=False, antialias=False
    )[0].numpy()
    got = resize_image(NOISE, size, 'bilinear_tf').transpose(2, 0, 1)
    assert np.abs(got - want).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: resize_image(NOISE, 8, 'cubic'), "'cubic'; allowed: .*bicubic"),
        (lambda: prepare_image(NOISE, 8, 'bicubic', 'center'), "'center'; allowed: .*centre"),
        (lambda: prepare_image(NOISE, 8, 'bicubic', 'centre', 0), 'crop_ratio is 0'),
        (lambda: Augment('crop'), "'crop'; allowed"),
        (lambda: Augment('resized', scale_min=0), 'scale_min is 0'),
        (lambda: Augment('none', pad=4), r"crop='random' only"),
        (lambda: augment(KEY, STORED, 24, Augment('random')), 'no room for a random crop of 24'),
    ],
)
def test_wrong_options_say_what_is_allowed(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_centre_cuts_keeps_or_enlarges():
    unit = np.asarray(STORED, np.float32) / 255
    # XLA may multiply by 1/255 instead: the last bit differs.
    assert np.allclose(centre(STORED, 20), unit, rtol=0, atol=1e-7)
    assert np.allclose(centre(STORED, 14), unit[:, 3:17, 3:17], rtol=0, atol=1e-7)
    # Pillow clips and rounds between its two passes: away from 0 and 255 that is one level.
    mild = STORED // 3 + 80
    for got, image in zip(np.asarray(centre(mild, 45)), np.asarray(mild), strict=True):
        want = Image.fromarray(image).resize((45, 45), Image.Resampling.BICUBIC)
        assert np.abs(got * 255 - np.asarray(want)).max() <= 1.2


def test_to_model():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    want = (np.asarray(STORED) / 255 - mean) / std
    for images in (STORED, jnp.asarray(STORED, jnp.float32) / 255):
        got = to_model(images, mean, std)
        assert got.dtype == jnp.float32 and np.allclose(got, want, atol=1e-5)


@pytest.mark.parametrize('config', RANDOM)
def test_augment_depends_on_key_and_place_alone(config):
    assert config.is_random and not Augment().is_random
    out = RUN(KEY, STORED, 16, config)
    assert out.shape == (6, 16, 16, 3) and out.dtype == jnp.float32
    assert out.min() >= 0 and out.max() <= 1
    assert np.array_equal(out, RUN(KEY, STORED, 16, config))
    assert not np.array_equal(out, RUN(jax.random.key(1), STORED, 16, config))
    # Fewer images, or others beside it, change nothing; another place does. The sampling place is
    # computed to float32 accuracy, so that resized noise may differ by 1e-5 between shapes.
    assert np.allclose(out[:4], RUN(KEY, STORED[:4], 16, config), atol=1e-4)
    others = STORED.at[0].set(0)
    assert np.array_equal(out[1:], RUN(KEY, others, 16, config)[1:])
    same = RUN(KEY, jnp.repeat(STORED[:1], 6, axis=0), 16, config)
    assert len(np.unique(np.asarray(same).reshape(6, -1), axis=0)) > 1


def test_without_augmentation_the_view_is_the_evaluations():
    for size in (14, 20, 30):
        assert np.array_equal(augment(KEY, STORED, size, Augment()), centre(STORED, size))


def test_flip_mirrors_about_half():
    images = jnp.repeat(STORED[:1], 400, axis=0)
    out = pixels(RUN(KEY, images, 20, Augment(flip=True)))
    plain = np.asarray(STORED[0])
    flipped = [np.array_equal(one, plain[:, ::-1]) for one in out]
    kept = [np.array_equal(one, plain) for one in out]
    assert all(a != b for a, b in zip(flipped, kept, strict=True))
    assert 150 < sum(flipped) < 250  # five standard deviations


@pytest.mark.parametrize('pad', [0, 3])
def test_random_crop_is_a_window(pad):
    images = jnp.repeat(STORED[:1], 300, axis=0)
    out = pixels(RUN(KEY, images, 16, Augment('random', pad=pad)))
    padded = np.pad(np.asarray(STORED[0]), ((pad, pad), (pad, pad), (0, 0)), mode='reflect')
    windows = np.lib.stride_tricks.sliding_window_view(padded, (16, 16), (0, 1))
    windows = windows.transpose(0, 1, 3, 4, 2).reshape(-1, 16 * 16 * 3)
    allowed = {window.tobytes() for window in windows}
    seen = {one.tobytes() for one in out.reshape(300, -1)}
    assert seen <= allowed
    assert len(seen) > 0.8 * len(allowed)  # (20 + 2 pad - 15)^2 places, nearly all of them


@pytest.mark.parametrize('size', [12, 33])
@pytest.mark.parametrize('kernel', ['bilinear', 'bicubic'])
def test_resized_crop_of_the_whole_image_is_pillows_resize(kernel, size):
    """scale_min = 1 leaves the whole image, whatever ratio is drawn (none other fits)."""
    images = STORED // 2 + 64  # Pillow cuts off what overshoots between the two axes
    out = RUN(KEY, images, size, Augment('resized', scale_min=1.0, kernel=kernel))
    for got, image in zip(np.asarray(out), np.asarray(images), strict=True):
        want = Image.fromarray(image).resize((size, size), Image.Resampling[kernel.upper()])
        # Pillow rounds after each axis; a bicubic kernel's weights add up to 1.25 without signs.
        most = 0.5 + 0.5 * {'bilinear': 1.0, 'bicubic': 1.25}[kernel]
        assert np.abs(got * 255 - np.asarray(want)).max() <= most + 0.01


def test_resized_crop_takes_a_box_of_allowed_area_and_ratio():
    """On an image whose colours are the coordinates, each pixel tells where it was taken."""
    length, size, count = 64, 32, 200
    ramp = np.broadcast_to(np.arange(length)[:, None] * 4, (length, length))
    image = np.stack([ramp, ramp.T, np.zeros_like(ramp)], axis=-1).astype(np.uint8)
    images = jnp.asarray(np.repeat(image[None], count, axis=0))
    out = np.asarray(RUN(KEY, images, size, Augment('resized', flip=True))) * 255 / 4
    inside = slice(4, size - 4)  # away from edges, where the ramp ends
    steps = size - 9
    height = (out[:, inside, 16, 0][:, -1] - out[:, inside, 16, 0][:, 0]) / steps * size
    across = (out[:, 16, inside, 1][:, -1] - out[:, 16, inside, 1][:, 0]) / steps * size
    width, flipped = np.abs(across), across < 0
    area, ratio = height * width / length**2, width / height
    assert 0.34 < area.min() < 0.45 and 0.85 < area.max() < 1.01
    assert 0.74 < ratio.min() < 0.85 and 1.18 < ratio.max() < 1.35
    assert 60 < flipped.sum() < 140
    # Evenly spaced: no seam, no repeated row. (The three taps of the widened kernel are off by up
    # to a tenth of a pixel.)
    assert np.allclose(np.diff(out[:, inside, 16, 0]), height[:, None] / size, atol=0.25)


def test_augment_of_a_sharded_batch_is_the_same():
    mesh = jax.make_mesh((2,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
    for config in RANDOM[2:]:
        got = RUN(KEY, jax.device_put(STORED, spec), 16, config)
        assert np.allclose(got, RUN(KEY, STORED, 16, config), atol=1e-4)

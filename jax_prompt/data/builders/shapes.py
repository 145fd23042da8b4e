"""Generated shapes as a TFDS builder: real files, six classes, no download and no other package.

An image shows one shape of random colour, place, size and angle on a background of another colour,
both with noise and a gradient; small distractors lie around it. Image i depends on i alone.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from jax_prompt.data.builders.parts import as_png, consecutive, describe

SIZE = 64
CLASSES = ('circle', 'cross', 'ring', 'square', 'star', 'triangle')
COUNTS = {'train': 600, 'validation': 150, 'test': 450}
_FINE = 4  # masks are drawn this many times larger, then averaged


class JaxPromptShapes(tfds.core.GeneratorBasedBuilder):
    """Coloured, textured shapes of 64x64 pixels, six classes."""

    VERSION = tfds.core.Version('1.0.0')
    RELEASE_NOTES: ClassVar[dict] = {'1.0.0': 'First.'}
    name = 'jax_prompt_shapes'
    url_infos: ClassVar[dict] = {}  # nothing is downloaded

    def _info(self) -> tfds.core.DatasetInfo:
        text = 'Generated images of one coloured, textured shape each.'
        return describe(self, text, SIZE, CLASSES)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        return {name: self._generate_examples(i) for name, i in consecutive(COUNTS).items()}

    def _generate_examples(self, index: range) -> Iterator[tuple[str, dict[str, Any]]]:
        for i in index:
            yield f'{i:05d}', {'image': as_png(draw(i)), 'label': i % len(CLASSES)}


def draw(i: int) -> np.ndarray:
    """Draws image i, of class i modulo 6.

    Returns:
      [64, 64, 3] uint8.
    """
    rng = np.random.RandomState(i)  # legacy: its streams are frozen
    back, front = rng.uniform(0, 255, (2, 3))
    while np.abs(back - front).sum() < 150:  # visible
        front = rng.uniform(0, 255, 3)
    image = _texture(rng, back)
    for _ in range(rng.randint(0, 5)):
        centre, radius = rng.uniform(0, 1, 2), rng.uniform(0.02, 0.05)
        image = _paint(image, _ellipse(centre, radius), rng.uniform(0, 255, 3))
    radius = rng.uniform(0.2, 0.38)
    centre = rng.uniform(radius, 1 - radius, 2)
    mask = _mask(CLASSES[i % len(CLASSES)], centre, radius, rng.uniform(0, 2 * np.pi))
    image = _paint(image, mask, _texture(rng, front))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _texture(rng: np.random.RandomState, colour: np.ndarray) -> np.ndarray:
    """Returns a field of a colour with noise and a gradient, [64, 64, 3] float64."""
    down, across = np.meshgrid(*[np.linspace(-1, 1, SIZE)] * 2, indexing='ij')
    slope = rng.uniform(-30, 30, 2)
    light = slope[0] * down + slope[1] * across
    noise = rng.normal(0, rng.uniform(2, 15), (SIZE, SIZE, 1))
    return colour + light[:, :, None] + noise


def _paint(image: np.ndarray, mask: np.ndarray, colour: np.ndarray) -> np.ndarray:
    share = mask[:, :, None]
    return image * (1 - share) + colour * share


def _mask(shape: str, centre: np.ndarray, radius: float, angle: float) -> np.ndarray:
    """Returns a shape's coverage [64, 64] in [0, 1]; lengths are shares of the side."""
    if shape == 'circle':
        return _ellipse(centre, radius)
    if shape == 'ring':
        return _ellipse(centre, radius) - _ellipse(centre, radius * 0.6)
    if shape == 'cross':
        thick, long = 0.3 * radius, 0.95 * radius
        corners = [(thick, long), (thick, thick), (long, thick)]
        points = [point for turn in range(4) for point in _turn(corners, turn * np.pi / 2)]
        # Each quarter is turned by 90 degrees, so the outline closes.
        return _polygon(centre, _turn(points, angle))
    count, inner = {'square': (4, 1.0), 'triangle': (3, 1.0), 'star': (5, 0.4)}[shape]
    tips = 2 * count if inner < 1 else count
    around = [angle + 2 * np.pi * k / tips for k in range(tips)]
    lengths = [radius * (inner if inner < 1 and k % 2 else 1.0) for k in range(tips)]
    points = [(r * np.sin(a), r * np.cos(a)) for r, a in zip(lengths, around, strict=True)]
    return _polygon(centre, points)


def _turn(points: list[tuple[float, float]], angle: float) -> list[tuple[float, float]]:
    sin, cos = np.sin(angle), np.cos(angle)
    return [(y * cos + x * sin, x * cos - y * sin) for y, x in points]


def _polygon(centre: np.ndarray, points: list[tuple[float, float]]) -> np.ndarray:
    from PIL import Image, ImageDraw

    scale = SIZE * _FINE
    canvas = Image.new('L', (scale, scale))
    around = [((centre[1] + x) * scale, (centre[0] + y) * scale) for y, x in points]
    ImageDraw.Draw(canvas).polygon(around, fill=255)
    return np.asarray(canvas.reduce(_FINE), np.float64) / 255


def _ellipse(centre: np.ndarray, radius: float) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    return _polygon(centre, [(radius * np.sin(a), radius * np.cos(a)) for a in angles])

"""Rendered scenes as TFDS builders: count, position, orientation and distance, no download.

In the spirit of VTAB's structured group (object count and distance of CLEVR, position and
orientation of dSprites): what is asked is where or how many, not what. Backgrounds are textured,
objects are coloured at random and distractors lie between them, so that neither colour nor the
mean of an image gives the label away. Scene i depends on its task and on i alone.

- count: how many large shapes, 1 to 6, among dots and lines.
- position: in which eighth of the width the one triangle lies, among discs and squares.
- orientation: which of 8 ways an arrow points, to +-12 degrees.
- distance: in which of 6 ranges the nearest of three balls stands on the ground; balls have two
  sizes, so that the size in the image alone does not tell.
"""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from jax_prompt.data.builders.parts import as_png, consecutive, describe

SIZE = 32
COUNTS = {'train': 800, 'validation': 200, 'test': 2000}
_FINE = 4  # scenes are drawn this many times larger, then averaged
_SIDE = SIZE * _FINE

Colour = tuple[int, ...]


class JaxPromptScenes(tfds.core.GeneratorBasedBuilder):
    """Scenes of 32x32 pixels; the configs are the tasks."""

    BUILDER_CONFIGS: ClassVar[list] = [
        tfds.core.BuilderConfig(name=name, version='1.0.0')
        for name in ('count', 'position', 'orientation', 'distance')
    ]
    VERSION = tfds.core.Version('1.0.0')
    RELEASE_NOTES: ClassVar[dict] = {'1.0.0': 'First.'}
    name = 'jax_prompt_scenes'
    url_infos: ClassVar[dict] = {}  # nothing is downloaded

    def _info(self) -> tfds.core.DatasetInfo:
        text = 'Rendered scenes that ask how many, where, which way or how far.'
        return describe(self, text, SIZE, CLASSES[self.builder_config.name])

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        return {name: self._generate_examples(i) for name, i in consecutive(COUNTS).items()}

    def _generate_examples(self, index: range) -> Iterator[tuple[str, dict[str, Any]]]:
        for i in index:
            image, label = draw(self.builder_config.name, i)
            yield f'{i:05d}', {'image': as_png(image), 'label': label}


def draw(task: str, i: int) -> tuple[np.ndarray, int]:
    """Draws scene i of a task.

    Returns:
      The image, [32, 32, 3] uint8, and its label.
    """
    rng = np.random.RandomState(1_000_000 * (1 + list(CLASSES).index(task)) + i)
    label = i % len(CLASSES[task])
    scene = _Scene(rng)
    _RENDER[task](scene, rng, label)
    return scene.finish(), label


class _Scene:
    """A canvas with a textured background; lengths and places are shares of the side."""

    def __init__(self, rng: np.random.RandomState):
        from PIL import Image, ImageDraw

        self.rng = rng
        self.back = rng.uniform(40, 215, 3)
        grid = rng.normal(0, 1, (6, 6, 3)) * rng.uniform(5, 22)
        coarse = np.clip(self.back + grid, 0, 255).astype(np.uint8)
        self.image = Image.fromarray(coarse).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        self.pen = ImageDraw.Draw(self.image)

    def colour(self) -> Colour:
        """Returns a colour that is visible on the background."""
        while True:
            colour = self.rng.uniform(0, 255, 3)
            if np.abs(colour - self.back).sum() > 170:
                return tuple(int(c) for c in colour)

    def polygon(self, x: float, y: float, points: np.ndarray, colour: Colour) -> None:
        """Fills a polygon of points [n, 2] around (x, y)."""
        corners = [((x + dx) * _SIDE, (y + dy) * _SIDE) for dx, dy in points]
        self.pen.polygon(corners, fill=colour)

    def shape(self, kind: str, x: float, y: float, radius: float, colour: Colour) -> None:
        """Fills a disc, or a square or triangle turned at random."""
        if kind == 'disc':
            box = [(v + s * radius) * _SIDE for s in (-1, 1) for v in (x, y)]
            self.pen.ellipse(box, fill=colour)
            return
        corners = {'square': 4, 'triangle': 3}[kind]
        angles = self.rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(corners) / corners
        self.polygon(x, y, radius * np.stack([np.cos(angles), np.sin(angles)], axis=1), colour)

    def clutter(self, dots: int, lines: int) -> None:
        """Draws small dots and thin lines."""
        for _ in range(dots):
            x, y, radius = self.rng.uniform((0, 0, 0.01), (1, 1, 0.03))
            self.shape('disc', x, y, radius, self.colour())
        for _ in range(lines):
            ends = self.rng.uniform(0, _SIDE, 4).tolist()
            self.pen.line(ends, fill=self.colour(), width=_FINE // 2)

    def finish(self) -> np.ndarray:
        """Returns the scene with noise, [32, 32, 3] uint8."""
        small = np.asarray(self.image.reduce(_FINE), np.float64)
        noise = self.rng.normal(0, self.rng.uniform(1, 8), small.shape)
        return np.clip(np.rint(small + noise), 0, 255).astype(np.uint8)


def _apart(rng: np.random.RandomState, count: int, distance: float, margin: float) -> np.ndarray:
    """Returns places [count, 2] with at least that distance between them."""
    while True:
        places: list[np.ndarray] = []
        for _ in range(60 * count):
            place = rng.uniform(margin, 1 - margin, 2)
            if all(np.hypot(*(place - other)) >= distance for other in places):
                places.append(place)
            if len(places) == count:
                return np.stack(places)


def _count(scene: _Scene, rng: np.random.RandomState, label: int) -> None:
    scene.clutter(rng.randint(0, 7), rng.randint(0, 3))
    for x, y in _apart(rng, label + 1, 0.26, 0.13):
        kind = ('disc', 'square', 'triangle')[rng.randint(3)]
        scene.shape(kind, x, y, rng.uniform(0.08, 0.13), scene.colour())


def _position(scene: _Scene, rng: np.random.RandomState, label: int) -> None:
    scene.clutter(rng.randint(0, 4), rng.randint(0, 3))
    x = (label + rng.uniform(0.1, 0.9)) / 8
    y = rng.uniform(0.15, 0.85)
    for _ in range(rng.randint(1, 4)):
        place = rng.uniform(0.1, 0.9, 2)
        if np.hypot(*(place - (x, y))) > 0.3:
            kind = ('disc', 'square')[rng.randint(2)]
            scene.shape(kind, place[0], place[1], rng.uniform(0.08, 0.14), scene.colour())
    scene.shape('triangle', x, y, rng.uniform(0.12, 0.17), scene.colour())


_ARROW = np.array(
    [(1.0, 0.0), (0.1, 0.75), (0.1, 0.28), (-1.0, 0.28), (-1.0, -0.28), (0.1, -0.28), (0.1, -0.75)]
)


def _orientation(scene: _Scene, rng: np.random.RandomState, label: int) -> None:
    scene.clutter(rng.randint(0, 6), rng.randint(0, 3))
    angle = 2 * np.pi * label / 8 + np.deg2rad(rng.uniform(-12, 12))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    points = rng.uniform(0.2, 0.32) * _ARROW @ turn
    x, y = rng.uniform(0.35, 0.65, 2)
    scene.polygon(x, y, points, scene.colour())


def _distance(scene: _Scene, rng: np.random.RandomState, label: int) -> None:
    horizon = rng.uniform(0.2, 0.35)
    ground = tuple(int(c) for c in rng.uniform(40, 215, 3))
    scene.pen.rectangle([0, horizon * _SIDE, _SIDE, _SIDE], fill=ground)
    scene.clutter(rng.randint(0, 4), 0)
    nearest = 1.0 + 0.5 * (label + rng.uniform(0.1, 0.9))  # ranges of .5 from 1 to 4
    others = rng.uniform(nearest + 0.4, nearest + 4.0, 2)
    for depth in sorted([nearest, *others], reverse=True):  # far ones first
        foot = horizon + (0.97 - horizon) / depth
        radius = (0.18, 0.28)[rng.randint(2)] / depth
        scene.shape('disc', rng.uniform(0.12, 0.88), foot - radius, radius, scene.colour())


CLASSES = {
    'count': tuple(str(n) for n in range(1, 7)),
    'position': tuple(f'eighth_{n}' for n in range(8)),
    'orientation': tuple(f'{45 * n}_degrees' for n in range(8)),
    'distance': tuple(f'range_{n}' for n in range(6)),
}
_RENDER: dict[str, Callable[[_Scene, np.random.RandomState, int], None]] = {
    'count': _count,
    'position': _position,
    'orientation': _orientation,
    'distance': _distance,
}

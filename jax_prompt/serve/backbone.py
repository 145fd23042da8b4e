"""Many tuned tasks on one frozen backbone.

    backbone = Backbone('ViT-B_16.npz')
    backbone.add('flowers', 'flowers.safetensors')
    backbone.add('birds', 'birds.safetensors')
    probabilities = backbone.predict(images, ['flowers', 'birds', 'flowers'])

What a pack adds is a pytree. Packs of one kind are stacked (`group.py`); a batch gathers each
image's own leaves, and one program maps over images while the backbone is held. So prompts, LoRA,
SSF, adapters, equilibrium blocks and heads all take one way, and none is a special case here. What
methods need of the frozen network itself (the features of linear, mlp and LION) is computed once an
image, whatever tasks ask for it.

Calls are safe from several threads: one runs after the other.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jax_prompt.core.tree import flatten
from jax_prompt.data.given import check_images
from jax_prompt.packs.file import Pack, read_pack
from jax_prompt.packs.load import check_pack
from jax_prompt.runs.inputs import stored_view
from jax_prompt.serve.frozen import Frozen
from jax_prompt.serve.group import Group, power
from jax_prompt.serve.kind import Kind, kind_of
from jax_prompt.serve.programs import mixed_logits, shared_features
from jax_prompt.serve.task import Answer, Task


class Backbone:
    """One frozen backbone on the device, and the packs that are served from it.

    Args:
      weights: the backbone's file, or its name in the table of backbones; '': it is looked for
        where the first pack says (docs/packs.md).
      max_batch: most images of a device call; a power of two.
      capacity: slots that each kind of pack starts with; a power of two.
      budget_mb: most device memory for packs, in MB (1e6 bytes). Each kind has one slot at least.

    Raises:
      FileNotFoundError: no such weights file.
      ValueError: a name that the table has not, or a number that is no power of two.
    """

    def __init__(
        self,
        weights: str | Path = '',
        *,
        max_batch: int = 64,
        capacity: int = 8,
        budget_mb: float = 1000.0,
    ):
        for name, value in (('max_batch', max_batch), ('capacity', capacity)):
            if value < 1 or power(value) != value:
                raise ValueError(f'{name} is {value}; allowed: powers of two, 1 or more')
        self.max_batch, self._capacity, self._budget = max_batch, capacity, budget_mb * 1e6
        self._frozen = Frozen(weights)
        self._tasks: dict[str, tuple[Task, Any]] = {}  # with the key of its group
        self._groups: dict[Any, Group] = {}
        self._warmed: set[Any] = set()
        self._lock = threading.RLock()

    @property
    def tasks(self) -> dict[str, Task]:
        """The tasks by name."""
        return {name: task for name, (task, _) in self._tasks.copy().items()}

    @property
    def label(self) -> str:
        """Name of the backbone's weights; '' before the first pack."""
        return self._frozen.label

    @property
    def sizes(self) -> tuple[int, ...]:
        """Batch sizes that programs are compiled for; others are padded to the next."""
        return tuple(1 << i for i in range(self.max_batch.bit_length()))

    @property
    def device_bytes(self) -> dict[str, int]:
        """Bytes on the device: {'backbone', 'packs'}."""
        packs = sum(group.bytes for group in self._groups.values())
        return {'backbone': self._frozen.bytes, 'packs': packs}

    def resident(self) -> list[str]:
        """Returns the names of the tasks whose packs are on the device."""
        with self._lock:
            return sorted(name for group in self._groups.values() for name in group.resident)

    def add(self, name: str, pack: Pack | str | Path) -> Task:
        """Adds a task, or replaces it; a batch sees the old pack or the new one.

        Args:
          name: the task.
          pack: its pack, or the pack's file.

        Raises:
          FileNotFoundError: the pack or the backbone's file is not found.
          ValueError: the pack is damaged, needs another backbone, or its method changes the
            backbone. A task of that name stays as it was.
        """
        if not isinstance(pack, Pack):
            pack = read_pack(pack)
        result = pack.header.result
        if 'backbone' in pack.tree:
            raise ValueError(
                f'{name}: method {result["method"]} changes weights of the backbone, which all '
                'tasks share; predict with jax_prompt.packs.load.load_pack'
            )
        with self._lock:
            config, loaded = self._frozen.open(pack, name)
            program = check_pack(pack, config, loaded, name)
            if program.classifier.mixes_examples:
                raise ValueError(
                    f"{name}: an image's result depends on the others of its batch (option "
                    'faithful), so it has none in a batch of several tasks; tune without'
                )
            kind = kind_of(program, config.model.frozen_dtype)
            view = stored_view(config, program.image_size)
            task = Task(name, tuple(result['classes']), result['method'], pack.sha256, view)
            leaves = flatten({'tuner': {}, **pack.tree})
            dtypes = {path: leaf.dtype for path, leaf in leaves.items()}
            key = (kind.sized(2, 1), tuple(sorted((p, str(d)) for p, d in dtypes.items())))
            before = self._tasks.get(name)
            if before and before[1] != key:
                self.remove(name)
            if key not in self._groups:
                self._groups[key] = Group(kind, dtypes, self._capacity, self._may_grow)
            self._groups[key].add(name, leaves, kind)
            self._tasks[name] = (task, key)
        return task

    def remove(self, name: str) -> None:
        """Removes a task.

        Raises:
          KeyError: there is none of that name.
        """
        with self._lock:
            _, key = self._tasks.pop(name)
            self._groups[key].remove(name)

    def predict(self, images: Any, tasks: str | Sequence[Any]) -> list[Any]:
        """Computes class probabilities, each image for its own task.

        Args:
          images: [n, S, S, 3] or a list of [S, S, 3]: uint8, or floats in [0, 1].
          tasks: the name of the task of each image, or of all; in the place of a name a tuple of
            names asks for several tasks of one image.

        Returns:
          For each image its probabilities [K] float32, K the task's own; of a tuple, a tuple.

        Raises:
          KeyError: a task that is not there.
          ValueError: images of another shape, dtype or range.
          NonFiniteLogits: a task's network gives logits that are not finite.
        """
        names = [tasks] * len(images) if isinstance(tasks, str) else list(tasks)
        if len(names) != len(images):
            raise ValueError(f'{len(images)} images and {len(names)} tasks; give a task an image')
        asked = [
            (i, name)
            for i, entry in enumerate(names)
            for name in ((entry,) if isinstance(entry, str) else entry)
        ]
        found = iter(self.answer(images, asked))
        return [
            next(found).probabilities
            if isinstance(entry, str)
            else tuple(next(found).probabilities for _ in entry)
            for entry in names
        ]

    def answer(self, images: Any, asked: Sequence[tuple[int, str]]) -> list[Answer]:
        """Computes the logits of images for tasks.

        Args:
          images: as in `predict`.
          asked: (index of the image, name of the task), as many as wanted.

        Returns:
          An answer for each of `asked`.

        Raises:
          KeyError: a task that is not there.
          ValueError: images of another shape, dtype or range.
        """
        images = [np.asarray(image) for image in images]
        for image in {(x.shape, x.dtype): x for x in images}.values():
            check_images(image[None])
        with self._lock:
            tasks = [self._tasks[name] for _, name in asked]
            features: dict[Any, np.ndarray] = {}
            calls = []
            for place in self._batches(images, asked, tasks):
                group = self._groups[tasks[place[0]][1]]
                calls.append((place, self._call(group, images, asked, place, features)))
        answers: dict[int, Answer] = {}
        for place, out in calls:
            rows = np.asarray(out)
            for i, row in zip(place, rows, strict=False):
                task = tasks[i][0]
                answers[i] = Answer(task, row[: len(task.classes)])
        return [answers[i] for i in range(len(asked))]

    def warm(self, sizes: Sequence[int] = ()) -> None:
        """Compiles the programs of all tasks that are there, where that was not done.

        Args:
          sizes: batch sizes; (): all.
        """
        with self._lock:
            firsts = {key: task for task, key in self._tasks.values()}
        for key, task in firsts.items():
            group, side = self._groups[key], task.view.size
            for size in sizes or self.sizes:
                made = (group.kind, group.capacity, group.masked, side, size)
                if made not in self._warmed:
                    image = np.zeros((side, side, 3), np.uint8)
                    self.answer([image] * size, [(i, task.name) for i in range(size)])
                    self._warmed.add(made)

    def _may_grow(self, before: int, after: int) -> bool:
        """Whether a stack of packs may take more bytes of the budget."""
        others = sum(group.bytes for group in self._groups.values()) - before
        return others + after <= self._budget

    def _batches(self, images: list, asked: Sequence, tasks: list) -> list[list[int]]:
        """Parts what is asked into device calls: one kind of pack, one shape of image each.

        Returns:
          Indices into `asked`. A call has at most `max_batch` of them, and as many tasks at most as
          its group has slots.
        """
        alike: dict[Any, list[int]] = {}
        for i, ((image, _), (_, key)) in enumerate(zip(asked, tasks, strict=True)):
            shown = images[image]
            alike.setdefault((key, shown.shape, shown.dtype), []).append(i)
        out = []
        for (key, *_), places in alike.items():
            slots = self._groups[key].capacity
            # Tasks together, so that a call asks for few; the sort keeps the order within a task.
            if len({asked[i][1] for i in places}) > slots:
                places.sort(key=lambda i: asked[i][1])
            call: list[int] = []
            names: set[str] = set()
            for i in places:
                names.add(asked[i][1])
                if len(call) == self.max_batch or len(names) > slots:
                    out.append(call)
                    call, names = [], {asked[i][1]}
                call.append(i)
            out.append(call)
        return out

    def _call(
        self, group: Group, images: list, asked: Sequence, place: list[int], features: dict
    ) -> jax.Array:
        """Runs one device call; returns logits [padded size, K]."""
        kind = group.kind
        padded = place + place[:1] * (power(len(place)) - len(place))
        own, lengths = group.gather([asked[i][1] for i in padded])
        shown = [asked[i][0] for i in padded]
        network: Any = kind.classifier.backbone
        frozen = self._frozen.tree(network.config, kind.frozen_dtype)
        raw = None
        if kind.shares_features:
            self._compute_features(kind.bare, frozen, images, shown, features)
            raw = np.stack([features[kind.bare, i] for i in shown])
        if kind.from_features:
            return mixed_logits(kind, own, {}, None, raw, lengths)
        stack = np.stack([images[i] for i in shown])
        return mixed_logits(kind, own, frozen, stack, raw, lengths)

    def _compute_features(
        self, kind: Kind, frozen: Any, images: list, shown: list[int], features: dict
    ) -> None:
        """Computes the features of images that no task of this call has asked for so far."""
        missing = [i for i in dict.fromkeys(shown) if (kind, i) not in features]
        if missing:
            padded = missing + missing[:1] * (power(len(missing)) - len(missing))
            rows = shared_features(kind, frozen, np.stack([images[i] for i in padded]))
            features |= {(kind, i): row for i, row in zip(missing, np.asarray(rows), strict=False)}

"""What makes one ResNet differ from another, checked."""

import itertools
from dataclasses import dataclass
from typing import ClassVar

from jax_prompt.backbones.staged_config import StagedConfig
from jax_prompt.core.spec import BackboneSpec, Site, Stage, check_choices, check_numbers

_ALLOWED = {
    'block': ('basic', 'bottleneck'),
    'stem': ('imagenet', 'small'),
    'pool': ('mean',),
    'remat': ('none', 'full'),
    'dtype': ('float32', 'bfloat16'),
}


@dataclass(frozen=True)
class ResNetConfig(StagedConfig):
    """What makes one ResNet differ from another.

    Layers are residual blocks, numbered through all stages. The first block of a stage may halve
    the grid and widen the channels, by a shortcut that is a convolution of its own; it is then a
    run by itself, and the stage's other blocks, which are alike, are the next one.

    Attributes:
      block: 'basic' (two 3x3 convolutions) or 'bottleneck' (1x1, 3x3, 1x1 to 4 times the width).
      depths: blocks of each stage.
      image_size: side of the square image in pixels. The network itself takes images of any size.
      width: channels of the stem, and of the 3x3 convolutions of the first stage; each further
        stage is twice as wide.
      stem: 'imagenet' (7x7 of stride 2, then a maximum over 3x3 of stride 2) or 'small' (3x3 of
        stride 1), for images of about 32 pixels.
      pool: 'mean', over the pixels.
      norm_epsilon: epsilon of every batch norm.
      batch_statistics: whether batch norms normalise by the batch in training, and their running
        statistics follow it; False: they are constants of the network.
      momentum: share of a batch's statistics in the running ones (as torch counts it).
      remat: 'none', or 'full': the backward pass keeps each block's input and recomputes the block.
      scan: whether like blocks run as a loop of the compiled program or unrolled.
      dtype: dtype of the convolutions and of the pixels between them, 'float32' or 'bfloat16';
        batch norms and the pooling compute in float32.
    """

    family: ClassVar[str] = 'resnet'

    block: str
    depths: tuple[int, ...]
    image_size: int
    width: int = 64
    stem: str = 'imagenet'
    pool: str = 'mean'
    norm_epsilon: float = 1e-5
    batch_statistics: bool = False
    momentum: float = 0.1
    remat: str = 'none'
    scan: bool = True
    dtype: str = 'float32'

    def __post_init__(self):
        object.__setattr__(self, 'depths', tuple(self.depths))  # a saved identity has a list
        check_numbers(self)
        check_choices(self, _ALLOWED)
        if not self.depths or min(self.depths) < 1:
            raise ValueError(f'depths is {self.depths}; give one positive number for each stage')
        for name in ('width', 'image_size'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} is {getattr(self, name)}; at least 1')
        if not 0.0 < self.momentum <= 1.0:
            raise ValueError(f"momentum is {self.momentum}; allowed: (0, 1] (torch's is 0.1)")

    @property
    def seams(self) -> tuple[int, ...]:
        """Layers at which blocks are parted in any case: the first of each run of like blocks."""
        split = (
            (first, first + 1) if self.downsamples(first) and depth > 1 else (first,)
            for first, depth in zip(self.starts, self.depths, strict=True)
        )
        return tuple(first for both in split for first in both)

    @property
    def feature_dim(self) -> int:
        """Width of the pooled feature, which is that of the last stage."""
        return self.outputs_of(self.depth - 1)

    @property
    def stem_kernel(self) -> int:
        """Side of the stem's kernel in pixels."""
        return 7 if self.stem == 'imagenet' else 3

    @property
    def stem_stride(self) -> int:
        """Step of the stem's convolution in pixels."""
        return 2 if self.stem == 'imagenet' else 1

    def stage_of(self, layer: int) -> int:
        """Returns the index of the stage that a block is in."""
        return max(i for i, first in enumerate(self.starts) if first <= layer)

    def inputs_of(self, layer: int) -> int:
        """Returns the channels that enter a block."""
        return self.outputs_of(layer - 1) if layer else self.width

    def outputs_of(self, layer: int) -> int:
        """Returns the channels that leave a block."""
        return self.width_of(self.stage_of(layer)) * (4 if self.block == 'bottleneck' else 1)

    def stride_of(self, layer: int) -> int:
        """Returns by how much a block divides the grid."""
        return 2 if layer in self.starts[1:] else 1

    def downsamples(self, layer: int) -> bool:
        """Whether a block's shortcut is a convolution."""
        return self.stride_of(layer) > 1 or self.inputs_of(layer) != self.outputs_of(layer)

    def grid_of(self, stage: int) -> int:
        """Returns the pixels along one side that leave a block of a stage."""
        return -(-self.image_size // (self._reduction * 2**stage))

    @property
    def _reduction(self) -> int:
        return 4 if self.stem == 'imagenet' else 1

    def spec(self) -> BackboneSpec:
        """Returns what tuners, methods and the engine may know of this ResNet.

        There is no norm after the last layer, and there are no tokens: no site 'norm', and no place
        for prompts (`num_heads` is 0).
        """
        edges = (*self.seams, self.depth)
        stages = tuple(self._run(first, last) for first, last in itertools.pairwise(edges))
        kernel, stride = self.stem_kernel, self.stem_stride
        return BackboneSpec(
            family=self.family,
            num_layers=self.depth,
            width=stages[0].width,
            feature_dim=self.feature_dim,
            image_size=self.image_size,
            patch_size=self._reduction,
            num_patches=stages[0].num_patches,
            num_heads=0,
            sites=stages[0].sites,
            outer={
                'stem_conv': Site(3, self.width, 'stem_conv', kernel=kernel, stride=stride),
                'stem_norm': Site(self.width, self.width, 'stem_norm'),
            },
            stages=stages,
            projection='conv2',  # 3x3, or the second 3x3 of a basic block
        )

    def _run(self, first: int, last: int) -> Stage:
        return Stage(
            first=first,
            num_layers=last - first,
            width=self.outputs_of(first),
            num_patches=self.grid_of(self.stage_of(first)) ** 2,
            num_heads=0,
            sites=self.sites_of(first),
        )

    def sites_of(self, layer: int) -> dict[str, Site]:
        """Returns the named operations of a block, in their order.

        'shortcut' is what the branch is added to: the block's input, or 'down_norm' of it.
        """
        stage, stride = self.stage_of(layer), self.stride_of(layer)
        inputs, middle, outputs = (
            self.inputs_of(layer),
            self.width_of(stage),
            self.outputs_of(layer),
        )
        if self.block == 'basic':  # (inputs, outputs, kernel, stride)
            convs = [(inputs, middle, 3, stride), (middle, outputs, 3, 1)]
        else:  # "v1.5": the 3x3 has the stride
            convs = [(inputs, middle, 1, 1), (middle, middle, 3, stride), (middle, outputs, 1, 1)]
        sites: dict[str, Site] = {}
        for i, (into, out, kernel, step) in enumerate(convs, 1):
            sites[f'conv{i}'] = Site(into, out, f'conv{i}', kernel=kernel, stride=step)
            sites[f'norm{i}'] = Site(out, out, f'norm{i}')
        if self.downsamples(layer):
            sites['down_conv'] = Site(inputs, outputs, 'down_conv', stride=stride)
            sites['down_norm'] = Site(outputs, outputs, 'down_norm')
        return {**sites, 'shortcut': Site(outputs, outputs)}

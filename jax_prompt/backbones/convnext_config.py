"""What makes one ConvNeXt differ from another, checked."""

from dataclasses import dataclass
from typing import ClassVar

from jax_prompt.backbones.staged_config import StagedConfig
from jax_prompt.core.spec import BackboneSpec, Site, Stage, check_choices, check_numbers

KERNEL = 7  # side of the depthwise kernels, in pixels
MLP_RATIO = 4
_ALLOWED = {
    'pool': ('mean',),
    'remat': ('none', 'full'),
    'dtype': ('float32', 'bfloat16'),
}


@dataclass(frozen=True)
class ConvNeXtConfig(StagedConfig):
    """What makes one ConvNeXt differ from another.

    Attributes:
      width: channels of the first stage; each further stage is twice as wide.
      depths: blocks of each stage.
      image_size: side of the square image in pixels. The network itself takes images of any size.
      patch_size: side of a patch of the stem, in pixels.
      pool: 'mean', over the pixels.
      norm_epsilon: epsilon of every LayerNorm but the last.
      pool_epsilon: epsilon of the last LayerNorm, after pooling (Hugging Face: 1e-12).
      drop_path_rate: stochastic depth of the last block, growing linearly from 0.
      remat: 'none', or 'full': the backward pass keeps each block's input and recomputes the block.
      scan: whether the blocks of a stage run as a loop of the compiled program or unrolled.
      dtype: dtype of the convolutions and products, 'float32' or 'bfloat16'; norms stay float32.
    """

    family: ClassVar[str] = 'convnext'

    width: int
    depths: tuple[int, ...]
    image_size: int
    patch_size: int = 4
    pool: str = 'mean'
    norm_epsilon: float = 1e-6
    pool_epsilon: float = 1e-6
    drop_path_rate: float = 0.0
    remat: str = 'none'
    scan: bool = True
    dtype: str = 'float32'

    def __post_init__(self):
        object.__setattr__(self, 'depths', tuple(self.depths))  # a saved identity has a list
        check_numbers(self)
        check_choices(self, _ALLOWED)
        if not self.depths or min(self.depths) < 1:
            raise ValueError(f'depths is {self.depths}; give one positive number for each stage')
        unit = self.patch_size * 2 ** (len(self.depths) - 1)
        if self.image_size < unit or self.image_size % self.patch_size:
            raise ValueError(
                f'image_size is {self.image_size}; allowed: multiples of {self.patch_size}, at '
                f'least {unit}, which is one pixel of the last stage'
            )

    def grid_of(self, stage: int) -> int:
        """Returns the pixels along one side in a stage."""
        return self.image_size // self.patch_size // 2**stage

    def spec(self) -> BackboneSpec:
        """Returns what tuners, methods and the engine may know of this ConvNeXt.

        There are no tokens, and so no place for prompts (`num_heads` is 0).
        """
        outer = {
            'patch_embed': Site(3 * self.patch_size**2, self.width, 'patch_embed'),
            'patch_norm': Site(self.width, self.width, 'patch_norm'),
            'norm': Site(self.feature_dim, self.feature_dim, 'norm', before=-1),
        }
        for i, first in enumerate(self.starts[1:]):
            d, name = self.width_of(i), down_name(first)
            outer[f'{name}_norm'] = Site(d, d, f'{name}/norm', first)
            outer[name] = Site(4 * d, 2 * d, f'{name}/conv', first)
        stages = tuple(self._stage(i) for i in range(len(self.depths)))
        return BackboneSpec(
            family=self.family,
            num_layers=self.depth,
            width=self.width,
            feature_dim=self.feature_dim,
            image_size=self.image_size,
            patch_size=self.patch_size,
            num_patches=stages[0].num_patches,
            num_heads=0,
            sites=stages[0].sites,
            outer=outer,
            stages=stages,
            projection='fc1',
        )

    def _stage(self, i: int) -> Stage:
        d, m = self.width_of(i), MLP_RATIO * self.width_of(i)
        sites = {
            'dwconv': Site(d, d, 'dwconv', kernel=KERNEL),
            'ln1': Site(d, d, 'ln1'),
            'fc1': Site(d, m, 'mlp/fc1'),
            'fc2': Site(m, d, 'mlp/fc2'),
            'shortcut': Site(d, d),
        }
        return Stage(self.starts[i], self.depths[i], d, self.grid_of(i) ** 2, 0, sites)


def down_name(first: int) -> str:
    """Returns the name of what stands before the stage whose first block this is: `down_03`."""
    return f'down_{first:02d}'

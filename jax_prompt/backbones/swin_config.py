"""What makes one Swin Transformer differ from another, checked."""

import math
from dataclasses import dataclass
from typing import ClassVar

from jax_prompt.backbones.staged_config import StagedConfig
from jax_prompt.core.spec import (
    BackboneSpec,
    Site,
    Stage,
    block_sites,
    check_choices,
    check_numbers,
)

_ALLOWED = {
    'pool': ('mean_prompts', 'mean'),
    'remat': ('none', 'save', 'full'),
    'dtype': ('float32', 'bfloat16'),
}


@dataclass(frozen=True)
class SwinConfig(StagedConfig):
    """What makes one Swin differ from another.

    Attributes:
      width: D of the first stage; each further stage is twice as wide.
      depths: blocks of each stage.
      num_heads: H of each stage.
      window: patches along one side of a window; in a stage whose grid is smaller, the grid's.
      patch_size: side of a patch in pixels.
      image_size: side of the square image in pixels. What patches, windows or merging do not divide
        is padded.
      mlp_ratio: hidden width of the MLP over D.
      pool: 'mean_prompts' (over patch and prompt tokens, as the released VPT code does) or 'mean'
        (over patch tokens alone). Without prompts both are the same.
      norm_epsilon: epsilon of every LayerNorm.
      qkv_bias: whether the qkv projection has a bias.
      drop_path_rate: stochastic depth of the last block, growing linearly from 0.
      remat: 'none', 'save' or 'full', see `backbones.stack`.
      scan: whether the blocks of a stage run as a loop of the compiled program or unrolled.
      dtype: dtype of the products, 'float32' or 'bfloat16'; norms and softmax stay float32.
    """

    family: ClassVar[str] = 'swin'

    width: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window: int
    patch_size: int
    image_size: int
    mlp_ratio: float = 4.0
    pool: str = 'mean_prompts'
    norm_epsilon: float = 1e-5
    qkv_bias: bool = True
    drop_path_rate: float = 0.0
    remat: str = 'none'
    scan: bool = True
    dtype: str = 'float32'

    def __post_init__(self):
        for name in ('depths', 'num_heads'):  # a saved identity has lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_numbers(self)
        check_choices(self, _ALLOWED)
        if not self.depths or min(self.depths) < 1 or len(self.depths) != len(self.num_heads):
            raise ValueError(
                f'depths is {self.depths} and num_heads {self.num_heads}; give one positive number '
                'for each stage in both'
            )
        for i, heads in enumerate(self.num_heads):
            if self.width_of(i) % heads:
                raise ValueError(
                    f'stage {i} has width {self.width_of(i)}, which is no multiple of its {heads} '
                    'heads; change width or num_heads'
                )
        for name in ('window', 'patch_size', 'image_size'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} is {getattr(self, name)}; at least 1')

    def mlp_dim_of(self, stage: int) -> int:
        """Returns the hidden width of the MLPs of a stage."""
        return int(self.width_of(stage) * self.mlp_ratio)

    def grid_of(self, stage: int) -> int:
        """Returns the patches along one side in a stage."""
        return math.ceil(math.ceil(self.image_size / self.patch_size) / 2**stage)

    def window_of(self, stage: int) -> int:
        """Returns the patches along one side of a window in a stage."""
        return min(self.window, self.grid_of(stage))

    def spec(self) -> BackboneSpec:
        """Returns what tuners, methods and the engine may know of this Swin."""
        outer = {
            'patch_embed': Site(3 * self.patch_size**2, self.width, 'patch_embed'),
            'patch_norm': Site(self.width, self.width, 'patch_norm'),
            'norm': Site(self.feature_dim, self.feature_dim, 'norm', before=-1),
        }
        for i, first in enumerate(self.starts[1:]):
            d, name = self.width_of(i), merge_name(first)
            outer[f'{name}_norm'] = Site(4 * d, 4 * d, f'{name}/norm', first)
            outer[name] = Site(4 * d, 2 * d, f'{name}/reduction', first)
        stages = tuple(self._stage(i) for i in range(len(self.depths)))
        return BackboneSpec(
            family=self.family,
            num_layers=self.depth,
            width=self.width,
            feature_dim=self.feature_dim,
            image_size=self.image_size,
            patch_size=self.patch_size,
            num_patches=stages[0].num_patches,
            num_heads=stages[0].num_heads,
            sites=stages[0].sites,
            outer=outer,
            stages=stages,
            windowed=True,
        )

    def _stage(self, i: int) -> Stage:
        d = self.width_of(i)
        sites = block_sites(d, self.mlp_dim_of(i))
        patches = self.grid_of(i) ** 2
        return Stage(self.starts[i], self.depths[i], d, patches, self.num_heads[i], sites)


def merge_name(first: int) -> str:
    """Returns the name of the merging before the stage whose first block this is: `merge_02`."""
    return f'merge_{first:02d}'

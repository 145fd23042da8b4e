"""What makes one Vision Transformer differ from another, checked."""

from dataclasses import dataclass
from typing import ClassVar

from jax_prompt.core.spec import BackboneSpec, Site, block_sites, check_choices, check_numbers

_POOLS = ('cls', 'mean', 'mean_prompts')
_REMATS = ('none', 'save', 'full')
_DTYPES = ('float32', 'bfloat16')


@dataclass(frozen=True)
class ViTConfig:
    """What makes one ViT differ from another.

    Attributes:
      width: D, token width.
      depth: L, number of blocks.
      num_heads: H.
      mlp_dim: hidden width of the MLP.
      patch_size: side of a patch in pixels.
      image_size: side of the square image in pixels, a multiple of the patch size.
      class_token: whether there is a class token.
      class_position: whether the position embedding has a first row for the class token.
      num_registers: register tokens after the class token.
      layer_scale: whether each residual branch is scaled per channel.
      pool: 'cls', 'mean' (over patch tokens) or 'mean_prompts' (over patch and prompt tokens, as
        the released VPT code does for MAE).
      norm_after_pool: whether the final norm comes after pooling instead of before.
      norm_epsilon: epsilon of every LayerNorm.
      qkv_bias: whether the qkv projection has a bias.
      drop_path_rate: stochastic depth of the last block, growing linearly from 0.
      patch_drop_rate: share of patch tokens left out of each training image (FLIP,
        arXiv:2212.00794), which makes pretraining cheaper; only where training starts at images.
      remat: 'none', 'save' or 'full', see `backbones.stack`.
      scan: whether blocks run as a loop of the compiled program (one block compiled) or one after
        the other (all compiled; faster where blocks are tiny, see docs/performance.md).
      dtype: dtype of the products, 'float32' or 'bfloat16'; norms and softmax stay float32.
    """

    family: ClassVar[str] = 'vit'

    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    patch_size: int
    image_size: int
    class_token: bool = True
    class_position: bool = True
    num_registers: int = 0
    layer_scale: bool = False
    pool: str = 'cls'
    norm_after_pool: bool = False
    norm_epsilon: float = 1e-6
    qkv_bias: bool = True
    drop_path_rate: float = 0.0
    patch_drop_rate: float = 0.0
    remat: str = 'none'
    scan: bool = True
    dtype: str = 'float32'

    def __post_init__(self):
        check_numbers(self)
        check_choices(self, {'pool': _POOLS, 'remat': _REMATS, 'dtype': _DTYPES})
        if self.width % self.num_heads:
            raise ValueError(f'width {self.width} is no multiple of {self.num_heads} heads')
        if self.image_size % self.patch_size:
            below = self.image_size // self.patch_size * self.patch_size
            raise ValueError(
                f'image_size {self.image_size} is no multiple of the patch size {self.patch_size}; '
                f'take {below or self.patch_size} or {below + self.patch_size}'
            )
        if self.pool == 'cls' and not self.class_token:
            raise ValueError("pool 'cls' needs a class token; allowed without one: 'mean'")
        if self.class_position and not self.class_token:
            raise ValueError('class_position needs a class token; set class_position=False')

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def seams(self) -> tuple[int, ...]:
        """Layers at which blocks are parted in any case: the last, which can be another program."""
        return (self.depth - 1,)

    @property
    def num_lead(self) -> int:
        """Class and register tokens, which stand before prompts and patches."""
        return int(self.class_token) + self.num_registers

    def spec(self) -> BackboneSpec:
        """Returns what tuners, methods and the engine may know of this ViT."""
        d = self.width
        return BackboneSpec(
            family=self.family,
            num_layers=self.depth,
            width=d,
            feature_dim=d,
            image_size=self.image_size,
            patch_size=self.patch_size,
            num_patches=self.grid**2,
            num_heads=self.num_heads,
            sites=block_sites(d, self.mlp_dim),
            outer={
                'patch_embed': Site(3 * self.patch_size**2, d, 'patch_embed'),
                'norm': Site(d, d, 'norm', before=-1),
            },
            num_lead=self.num_lead,
        )

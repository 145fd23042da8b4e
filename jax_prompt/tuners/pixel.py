"""Pixel prompts: a learned border around the image, or learned channels beside its colours.

Jia et al., "Visual Prompt Tuning", arXiv:2203.12119, as its released code prompts a ResNet, which
has no tokens for a prompt to stand among:

- `BorderPrompt` ('pad'): a border of p pixels, so that the image grows from S to S + 2p pixels a
  side. Trainable scalars: 12 p (S + p).
- `ChannelPrompt` ('below'): p learned maps [S, S] are joined to the image as further input
  channels, and the first convolution gets as many further slices of its kernel [k, k, 3 + p, C].
  Trainable scalars: p S^2 + k^2 p C.

As in that code, prompts are pixels in [0, 1]. They start uniform and are normalised by ImageNet's
mean and standard deviation before they enter the network. A convolution is linear in its input
channels, so the output of the new slices is added to the output of the frozen ones, and the
backbone needs no change. Both run on transformers too, where the paper has tokens. There a border
lies inside the image, because the grid of patches must stay.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jax_prompt.core.colour import IMAGENET_MEAN, IMAGENET_STD
from jax_prompt.core.ranges import at_least, check_values
from jax_prompt.core.spec import BackboneSpec
from jax_prompt.core.tree import Tree
from jax_prompt.core.tuner import Place, Tuner
from jax_prompt.nn.convolution import convolve_like
from jax_prompt.nn.layers import patches

BORDERS = ('auto', 'outside', 'inside')
STEMS = ('stem_conv', 'patch_embed')  # the sites of a first convolution


@dataclass(frozen=True)
class BorderPrompt(Tuner):
    """A learned border around the image, the same for all images.

    Attributes:
      num_prompts: width p of the border in pixels.
      border: 'outside' makes the image larger, for a ResNet. 'inside' resizes the image to S - 2p
        pixels, so that it has S again with its border (12 p (S - p) scalars). 'auto' is 'outside'
        on a ResNet and 'inside' on backbones with a fixed grid of tokens.
    """

    num_prompts: int = at_least(10, 1, 10_000)
    border: str = 'auto'

    def __post_init__(self):
        check_values(self)
        if self.border not in BORDERS:
            raise ValueError(f'border is {self.border!r}; allowed: {", ".join(map(repr, BORDERS))}')

    def init(self, key: jax.Array, spec: BackboneSpec) -> Tree:
        """Returns {'shared': {'top', 'bottom' [p, T, 3], 'left', 'right' [I, p, 3]}}, float32.

        U(0, 1); T is the side of the image with its border, I without: S + 2p and S outside, S and
        S - 2p inside.

        Raises:
          ValueError: an image that may not grow, or whose border leaves nothing of it.
        """
        p, size, grows = self.num_prompts, spec.image_size, spec.can_grow
        if self.border == 'outside' and not grows:
            raise ValueError(
                f"border is 'outside' on a {spec.family}, whose grid of patches can't grow; "
                "allowed: 'inside' and 'auto', or prompts as tokens (method=vpt_shallow)"
            )
        inside = self.border == 'inside' or not grows
        if inside and size <= 2 * p:
            raise ValueError(
                f'num_prompts is {p}; a border inside an image of {size} pixels leaves nothing of '
                f'it: at most {(size - 1) // 2}'
            )
        inner = size - 2 * p if inside else size
        shapes = {
            'top': (p, inner + 2 * p, 3),
            'bottom': (p, inner + 2 * p, 3),
            'left': (inner, p, 3),
            'right': (inner, p, 3),
        }
        keys = jax.random.split(key, len(shapes))
        drawn = {n: jax.random.uniform(k, shapes[n]) for n, k in zip(shapes, keys, strict=True)}
        return {'shared': drawn}

    def image(self, place: Place, image: jax.Array) -> jax.Array:
        """Returns the image in its border, [B, T, T, 3].

        Raises:
          ValueError: an image of another size than the backbone's.
        """
        own = {
            name: jnp.broadcast_to(
                ((leaf - jnp.asarray(IMAGENET_MEAN)) / jnp.asarray(IMAGENET_STD)).astype(
                    image.dtype
                ),
                (image.shape[0], *leaf.shape),
            )
            for name, leaf in place.shared.items()
        }
        inner, outer = own['left'].shape[1], own['top'].shape[2]
        if image.shape[1:3] == (outer, outer):  # it lies inside
            shape = (image.shape[0], inner, inner, 3)
            image = jax.image.resize(image, shape, 'linear', antialias=True)
        elif image.shape[1:3] != (inner, inner):
            raise ValueError(
                f'images of shape {image.shape} in a border made for {inner} pixels; resize them'
            )
        row = jnp.concatenate([own['left'], image, own['right']], axis=2)  # [B, I, T, 3]
        return jnp.concatenate([own['top'], row, own['bottom']], axis=1)


@dataclass(frozen=True)
class ChannelPrompt(Tuner):
    """Learned input channels, the same for all images, and the kernel that reads them.

    Attributes:
      num_prompts: p, channels.
      faithful: on a backbone with a 'stem_conv' (a ResNet), train that convolution's own kernel and
        its norm's scale and bias too, as the released code does (it also normalises by the batch
        there, which isn't done).
    """

    num_prompts: int = at_least(10, 1, 10_000)
    faithful: bool = False

    def __post_init__(self):
        check_values(self)

    def init(self, key: jax.Array, spec: BackboneSpec) -> Tree:
        """Returns {'shared': {'maps' [S, S, p], 'kernel' [k, k, p, C]}}, float32.

        The maps are U(0, 1), the kernel Xavier uniform of the whole widened convolution, as in the
        released code: training doesn't start from the frozen network.

        Raises:
          ValueError: a backbone without such a first layer, or `faithful` without 'stem_conv'.
        """
        found = [name for name in STEMS if name in spec.outer]
        if not found:
            raise ValueError(
                f'a {spec.family} has none of the sites {STEMS}, by which channels enter; it has '
                f'{sorted(spec.outer)}'
            )
        if self.faithful and found[0] != 'stem_conv':
            raise ValueError(
                'faithful is True; the released code has these channels on a ResNet alone, and '
                f'this is a {spec.family}: allowed: False'
            )
        site = spec.outer[found[0]]
        k = spec.patch_size if found[0] == 'patch_embed' else site.kernel
        p, size = self.num_prompts, spec.image_size
        bound = math.sqrt(6.0 / (k * k * (3 + p + site.outputs)))
        keys = jax.random.split(key, 2)
        shape = (k, k, p, site.outputs)
        return {
            'shared': {
                'maps': jax.random.uniform(keys[0], (size, size, p)),
                'kernel': jax.random.uniform(keys[1], shape, jnp.float32, -bound, bound),
            }
        }

    def trains(self, path: str, spec: BackboneSpec) -> bool:
        """Whether the leaf at this path of the backbone's tree trains."""
        group, _, leaf = path.partition('/')
        own = {spec.outer[n].weights for n in ('stem_conv', 'stem_norm') if n in spec.outer}
        return self.faithful and group in own and leaf in ('kernel', 'scale', 'bias')

    def after(self, place: Place, site: str, x: jax.Array, y: jax.Array) -> jax.Array:
        """Returns y + conv(maps, kernel) at the first convolution, in the dtype of y.

        Raises:
          ValueError: an image of another size than the maps.
        """
        if site not in STEMS:
            return y
        maps, kernel = place.shared['maps'], place.shared['kernel']
        more, k = x.shape[1] - maps.shape[0], kernel.shape[0]
        if not 0 <= more < k:  # a Swin pads its image to whole patches
            raise ValueError(
                f'an image of {x.shape[1]} pixels and learned channels of {maps.shape[0]}; give '
                'the backbone images of its image_size, and no border outside them (vpt_pad)'
            )
        maps = (maps - sum(IMAGENET_MEAN) / 3.0) / (sum(IMAGENET_STD) / 3.0)
        maps = jnp.pad(maps, ((0, more), (0, more), (0, 0)))[None].astype(y.dtype)
        kernel = kernel.astype(y.dtype)
        if site == 'patch_embed':
            own = patches(maps, k) @ kernel.reshape(-1, y.shape[-1])  # [1, N, D]
            return y + own.reshape(1, *y.shape[1:])  # tokens, or a map [1, H / p, W / p, D]
        return y + convolve_like(maps, kernel, y)  # [1, H / s, W / s, C]

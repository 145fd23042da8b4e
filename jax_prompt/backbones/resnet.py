"""Residual networks, v1.5: convolutions in four stages, for all methods and all checkpoints.

He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385; the stride of a
bottleneck stands in its 3x3 convolution, as in torchvision, timm and Hugging Face.

Layers are residual blocks, numbered through all stages; what enters a block is a feature map
[B, H, W, C]. Blocks of a run, which are alike, are stacked and scanned (`backbones.stack`). There
are no tokens and no position of one: images may be of any size, and a tuner may enlarge them
(`Tuner.image`). A tuner that joins channels to the image need not widen the stem: convolutions are
linear, so theirs is added at the site 'stem_conv'.

Batch norms are constants of the network, unless the configuration has `batch_statistics`: then they
normalise by the batch in training (`nn.batch_norm`).
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_prompt.backbones.resnet_config import ResNetConfig
from jax_prompt.backbones.stack import Stack, check_cuts, check_images
from jax_prompt.core.spec import FEATURES, IMAGE, Cut, Site
from jax_prompt.core.tree import Put, Tree, keep, segment_name, segments, stack_layers
from jax_prompt.core.tuner import Place, Tuner
from jax_prompt.nn.batch_norm import BatchNorm
from jax_prompt.nn.convolution import convolve, max_pool

# He et al., "Delving Deep into Rectifiers", arXiv:1502.01852, as torchvision starts a ResNet.
_INIT = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class Conv(nn.Module):
    """A convolution without bias.

    Attributes:
      site: its widths, kernel and stride.
    """

    site: Site

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, inputs] to [B, H / stride, W / stride, outputs]."""
        site = self.site
        shape = (site.kernel, site.kernel, site.inputs, site.outputs)
        kernel = self.param('kernel', _INIT, shape)
        return convolve(x, kernel.astype(x.dtype), site.stride)


class Block(nn.Module):
    """A residual block, relu(branch(x) + shortcut(x)), with the tuner's hooks.

    Attributes:
      config: the ResNet's configuration.
      layer: the block's index, or that of one like it.
    """

    config: ResNetConfig
    layer: int

    @nn.compact
    def __call__(self, x: jax.Array, tuner: Tuner, place: Place) -> jax.Array:
        """Maps [B, H, W, C] to [B, H / stride, W / stride, D]."""
        cfg = self.config
        sites, by_batch = cfg.sites_of(self.layer), cfg.batch_statistics and place.train

        def normed(x: jax.Array, conv: str, norm: str) -> jax.Array:
            y = tuner.after(place, conv, x, Conv(sites[conv], name=conv)(x))
            z = BatchNorm(cfg.norm_epsilon, cfg.momentum, name=norm)(y, by_batch)
            return tuner.after(place, norm, y, z)

        y, last = x, 2 if cfg.block == 'basic' else 3
        for i in range(1, last + 1):
            y = normed(y, f'conv{i}', f'norm{i}')
            y = nn.relu(y) if i < last else y
        shortcut = normed(x, 'down_conv', 'down_norm') if 'down_conv' in sites else x
        shortcut = tuner.after(place, 'shortcut', shortcut, shortcut)
        return tuner.after(place, 'block', x, nn.relu(y + shortcut)).astype(x.dtype)


class ResNet(nn.Module):
    """The backbone: images to pooled features, or any stretch of that way.

    Attributes:
      config: its configuration.
      seams: layers at which the stacked blocks are cut into segments, besides the ends of runs.
    """

    config: ResNetConfig
    seams: tuple[int, ...] = ()

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        tuner: Tuner | None = None,
        tuner_params: Tree | None = None,
        *,
        key: jax.Array | None = None,
        train: bool = False,
        start: Cut = IMAGE,
        stop: Cut = FEATURES,
        bare_patches: bool = False,
    ) -> Any:
        """Runs the network from `start` to `stop`.

        Args:
          x: normalised images [B, H, W, 3] float32 if `start` is the image, else the feature map
            [B, H, W, C] that enters block `start`.
          tuner: answers the hooks; None adds nothing.
          tuner_params: the tuner's parameters, {'shared': ..., 'layers': {'stage_00': ...}} with a
            stage for each run of like blocks, and its probes as {'probe': ...} where it has any.
          key: random key of the hooks; None: nothing is random.
          train: whether this is a training step.
          start: where x stands. A block must be a seam, a run's first, or 0.
          stop: FEATURES for pooled features, or the block whose input is wanted, likewise.
          bare_patches: not to be had: there is no patch embedding.

        Returns:
          Features [B, D] float32, or a feature map [B, H, W, C] in the configuration's dtype.

        Raises:
          ValueError: images of another size, a start or stop that is no seam, or bare patches.
        """
        tuner, params, cfg = tuner or Tuner(), tuner_params or {}, self.config
        if bare_patches:
            raise ValueError('a ResNet has no patch embeddings; take a ViT or a Swin')
        seams = (*cfg.run_starts, *self.seams)
        check_cuts('ResNet', cfg.depth, seams, start, stop)
        place = Place.outside(params, x if start.at_image else None, key, train)
        if start.at_image:
            check_images('ResNet', x, cfg.image_size)
            x = self._embed(tuner.image(place, x), tuner, place)
        spec, rates = cfg.spec(), jnp.zeros(cfg.depth)
        for first, last in segments(cfg.depth, seams):
            inside = first >= max(start.block, 0) and last <= stop.block
            if not (inside or self.is_initializing()):
                continue  # a prefix needs no parameters beyond its stop
            block = Block(cfg, first, parent=None)
            blocks = self.param(
                segment_name(first, last), partial(_init_blocks, block, last - first)
            )
            if inside:
                # A loop of one turn would only cost.
                stack = Stack(spec, seams, rates, cfg.remat, cfg.scan and last - first > 1)
                apply = partial(_apply_block, block, tuner)
                x = stack.run(apply, blocks, x, tuner, params, place, (first, last))
        return self._pool(x, tuner, place) if stop.block >= cfg.depth else x

    def _embed(self, images: jax.Array, tuner: Tuner, place: Place) -> jax.Array:
        """Images [B, H, W, 3] to the feature map [B, H / 4, W / 4, C] that enters block 0."""
        cfg = self.config
        images = images.astype(cfg.dtype)
        conv = Conv(cfg.spec().outer['stem_conv'], name='stem_conv')
        y = tuner.after(place, 'stem_conv', images, conv(images))
        norm = BatchNorm(cfg.norm_epsilon, cfg.momentum, name='stem_norm')
        z = norm(y, cfg.batch_statistics and place.train)
        x = nn.relu(tuner.after(place, 'stem_norm', y, z)).astype(cfg.dtype)
        return max_pool(x) if cfg.stem == 'imagenet' else x

    def _pool(self, x: jax.Array, tuner: Tuner, place: Place) -> jax.Array:
        """A feature map [B, H, W, D] to features [B, D] float32."""
        pixels = x.reshape(x.shape[0], -1, x.shape[-1]).astype(jnp.float32)  # [B, N, D]
        features = jnp.mean(pixels, axis=1)
        asked = tuner.facts(self.config.spec()).needs_tokens
        return tuner.pool(place, pixels, features) if asked else features


def _init_blocks(block: Block, count: int, key: jax.Array) -> Tree:
    dummy = jnp.zeros((1, 2, 2, block.config.inputs_of(block.layer)))
    make = lambda k: block.init(k, dummy, Tuner(), Place())['params']  # noqa: E731
    return jax.vmap(make)(jax.random.split(key, count))


def _apply_block(
    block: Block, tuner: Tuner, weights: Tree, x: jax.Array, place: Place, rate: Any
) -> jax.Array:
    del rate  # no stochastic depth
    out: Any = block.apply({'params': weights}, x, tuner, place)
    return out


def adapt(tree: Tree, config: ResNetConfig, seams: tuple[int, ...] = (), put: Put = keep) -> Tree:
    """Turns a checkpoint's per-layer tree into the running form of `config`.

    Args:
      tree: `block_00/...` form (`weights.load`).
      config: the ResNet to run.
      seams: as in `ResNet`.
      put: as in `core.tree.stack_layers`.

    Returns:
      The tree that `ResNet(config, seams)` takes.
    """
    return stack_layers(tree, (*config.run_starts, *seams), put)

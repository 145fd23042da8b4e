"""BackboneSpec: what a tuner, a method and the engine may know of a backbone.

A backbone's own configuration (heads, window sizes, normalisation) stays in its file; this is the
part that others build on: how many layers take prompts, how wide tokens are, which named
operations exist and how wide their inputs and outputs are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Site:
    """A named operation y = op(x) of every layer.

    Attributes:
      inputs: width of x, in channels.
      outputs: width of y, in channels.
      weights: path of its own weights in a layer's tree (outside the layers: in the backbone's),
        which hold a 'kernel' [..., outputs] or a 'scale' [outputs], and a 'bias' where it has one;
        '': it has none of its own.
      before: outside the layers: the layer before which it runs; -1: after them all.
      kernel: side of a convolution's square kernel, in pixels, padded by kernel // 2 zeros on each
        side; its 'kernel' is [kernel, kernel, inputs, outputs]. 1: a product, or no convolution.
      stride: step of a convolution along both axes, in pixels.
    """

    inputs: int
    outputs: int
    weights: str = ''
    before: int = 0
    kernel: int = 1
    stride: int = 1


@dataclass(frozen=True)
class Stage:
    """A run of layers that are alike: as wide, with as many tokens and the same sites.

    Attributes:
      first: index of its first layer in the backbone.
      num_layers: its layers.
      width: D of its tokens or pixels, in channels.
      num_patches: N, patch tokens (or pixels of its output) of one image in it.
      num_heads: H, attention heads (0 where there is no attention).
      sites: the named operations of one of its layers.
    """

    first: int
    num_layers: int
    width: int
    num_patches: int
    num_heads: int
    sites: Mapping[str, Site] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class BackboneSpec:
    """A backbone as seen from outside.

    Attributes:
      family: its name, 'vit', 'swin', 'resnet' or 'convnext', for messages. Nothing depends on it:
        what tuners ask of a backbone are its sites and the properties below.
      num_layers: L, blocks that call the hooks.
      width: D, token width in channels. Where stages differ, this and what follows down to `sites`
        (but for the feature and the image) are those of the first.
      feature_dim: width of the pooled feature that the head receives.
      image_size: side of the square input image, in pixels.
      patch_size: side of a patch, in pixels.
      num_patches: N, patch tokens of one image.
      num_heads: H, attention heads (0 where there is no attention).
      sites: the named operations of a layer that call `after`, with their widths.
      outer: those outside the layers, called once: where the image enters, the final norm. An image
        enters at 'patch_embed', a product of patches of `patch_size` that do not overlap, or at
        'stem_conv', a convolution.
      num_lead: class and register tokens, which stand before the patches.
      stages: the runs of like layers, in order; (): all layers are alike.
      windowed: whether attention is among the tokens of a window, with a table of relative position
        biases ('relative_bias'), and not among all tokens of an image.
      projection: the site that a low-rank update changes by default. Every layer has it.
    """

    family: str
    num_layers: int
    width: int
    feature_dim: int
    image_size: int
    patch_size: int
    num_patches: int
    num_heads: int
    sites: Mapping[str, Site] = field(default_factory=dict, hash=False)
    outer: Mapping[str, Site] = field(default_factory=dict, hash=False)
    num_lead: int = 0
    stages: tuple[Stage, ...] = ()
    windowed: bool = False
    projection: str = 'qkv'

    @property
    def has_tokens(self) -> bool:
        """Whether layers map tokens [B, T, D], with attention among them, so that prompts fit.

        Other layers map feature maps [B, H, W, D].
        """
        return self.num_heads > 0

    @property
    def can_grow(self) -> bool:
        """Whether the network also takes images larger than `image_size`: its grid is not fixed."""
        return not self.has_tokens

    @property
    def attends_globally(self) -> bool:
        """Whether attention is among all tokens of an image, and all layers have as many.

        Such attention asks `Tuner.key_bias`, which can leave prompts out.
        """
        return self.has_tokens and not self.windowed and not self.stages

    def runs(self, layers: range | None = None) -> dict[str, 'BackboneSpec']:
        """Returns each stage as a backbone of its own, by name; {'': this} where there are none.

        Args:
          layers: those of interest, consecutive; None: all. A stage counts only those among its
            own, and is left out where there are none.
        """
        layers = range(self.num_layers) if layers is None else layers
        if not self.stages:
            return {'': replace(self, num_layers=len(layers))}
        found = {}
        for i, stage in enumerate(self.stages):
            stop = stage.first + stage.num_layers
            count = min(layers.stop, stop) - max(layers.start, stage.first)
            if count > 0:
                found[_stage_name(i)] = replace(
                    self,
                    num_layers=count,
                    width=stage.width,
                    num_patches=stage.num_patches,
                    num_heads=stage.num_heads,
                    sites=stage.sites,
                    stages=(),
                )
        return found

    def stage_index(self, layer: int) -> int:
        """Returns the index of the stage that a layer belongs to; 0 without any."""
        return max((i for i, stage in enumerate(self.stages) if stage.first <= layer), default=0)

    def stage_of(self, layer: int) -> tuple[str, int]:
        """Returns (name, first layer) of the stage that a layer belongs to; ('', 0) without any."""
        if not self.stages:
            return '', 0
        index = self.stage_index(layer)
        return _stage_name(index), self.stages[index].first

    def sites_of(self, layer: int) -> Mapping[str, Site]:
        """Returns the named operations of a layer."""
        return next(iter(self.runs(range(layer, layer + 1)).values())).sites

    def trained_from(self, group: str, layer: int) -> bool:
        """Whether the weights under `group` outside the layers act at or after a layer's input.

        Args:
          group: the first name of a path in the backbone's tree.
          layer: the first layer that trains.
        """
        own = [s for s in self.outer.values() if s.weights.split('/')[0] == group]
        return any(s.before < 0 or s.before > layer for s in own)


def check_choices(config: object, allowed: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError where an attribute of a backbone's configuration is none of its choices."""
    for name, values in allowed.items():
        if getattr(config, name) not in values:
            raise ValueError(f'{name} is {getattr(config, name)!r}; allowed: {list(values)}')


# What the numbers of a backbone's configuration may be, in any family: least and most.
_RANGES: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(('width', 'num_heads', 'mlp_dim', 'window', 'patch_size'), (1, 2**16)),
    **{'depth': (1, 1000), 'depths': (0, 1000), 'image_size': (1, 4096)},
    **{'num_registers': (0, 1000), 'mlp_ratio': (0.01, 100.0)},
    **dict.fromkeys(('norm_epsilon', 'pool_epsilon'), (0.0, 1.0)),
    **dict.fromkeys(('drop_path_rate', 'patch_drop_rate'), (0.0, 1.0)),
}


def check_numbers(config: object) -> None:
    """Raises ValueError where a number of a backbone's configuration can't be meant."""
    for name, (least, most) in _RANGES.items():
        value = getattr(config, name, least)
        for one in value if isinstance(value, tuple) else (value,):
            if not isinstance(one, int | float) or not least <= one <= most:
                raise ValueError(f'{name} is {value!r}; at least {least:g}, at most {most:g}')


def block_sites(width: int, mlp_dim: int) -> dict[str, Site]:
    """Returns the sites of a pre-norm transformer block.

    Args:
      width: D, of its tokens.
      mlp_dim: hidden width of its MLP.
    """
    d, m = width, mlp_dim
    return {
        'shortcut1': Site(d, d),
        'ln1': Site(d, d, 'ln1'),
        'qkv': Site(d, 3 * d, 'attn/qkv'),
        'proj': Site(d, d, 'attn/proj'),
        'attn': Site(d, d),
        'shortcut2': Site(d, d),
        'ln2': Site(d, d, 'ln2'),
        'fc1': Site(d, m, 'mlp/fc1'),
        'fc2': Site(m, d, 'mlp/fc2'),
        'mlp': Site(d, d),
    }


def _stage_name(index: int) -> str:
    return f'stage_{index:02d}'


@dataclass(frozen=True, order=True)
class Cut:
    """The place before which nothing trainable acts; all before it is a constant of the image.

    Attributes:
      block: tokens entering this block are the constant; -1: the image itself; num_layers or more:
        the pooled features.
    """

    block: int

    @property
    def at_image(self) -> bool:
        return self.block < 0


IMAGE = Cut(-1)
FEATURES = Cut(10**6)

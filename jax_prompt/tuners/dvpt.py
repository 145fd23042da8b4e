"""Dynamic visual prompt tuning: prompts that depend on the image.

Ruan et al., "Dynamic Visual Prompt Tuning of Vision Transformer for Parameter Efficient Transfer
Learning" (DVPT), section 3.2. A small Meta-Net sees the image and adds an instance-wise clue pi to
the learned prompts of the first block:

    P(x) = P + pi(x)
    [x_1, Z_1, E_1] = L_1([x_0, P(x), E_0])                                (eq. 7)
    [x_i, Z_i, E_i] = L_i([x_{i-1}, P_{i-1}, E_{i-1}])     i = 2..L        (eq. 8)

Deep is eq. 7 and 8: P_{i-1} are read as VPT-deep's own static prompts of block i, which the paper
does not define. Shallow keeps Z_{i-1} in their place (eq. 5), so the dynamic prompts stay in the
sequence. The paper has no released code. What it leaves open, and what is done here:

- The Meta-Net: "4 linear layers", no widths, no activation. Here k = `meta_layers` dense layers of
  `meta_width` = m inside, exact GELU between them; the last one starts at zero, so that DVPT starts
  as VPT, and has no bias, which would only be a second P.
- What it sees: "the input image". Here the mean of the patch tokens that enter block 1, normalised
  over channels without parameters (their scale differs between checkpoints), or the image itself
  pooled to 8 x 8 pixels.

Trainable scalars, I = D or 192 inputs, O = D shared or P * D specific:

    I m + m + (k - 2) (m^2 + m) + m O    for the Meta-Net, and P * D shallow or L * P * D deep.

On ViT-B with P = 10, m = 64, k = 4: 641,216 deep and specific (0.75 % of 85.8 M), 198,848 deep and
shared. The specific last layer grows with P: at P = 20 take m = 32 to stay below 1 %.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from jax_prompt.core.facts import Facts
from jax_prompt.core.ranges import at_least
from jax_prompt.core.spec import IMAGE, BackboneSpec
from jax_prompt.core.staged import per_stage
from jax_prompt.core.tree import Tree
from jax_prompt.core.tuner import Place
from jax_prompt.nn.layers import dropout, gelu, pooled_pixels
from jax_prompt.tuners.vpt import VPT

DYNAMICS = ('specific', 'shared')
INPUTS = ('patches', 'pixels')
_GRID = 8  # side of the pooled image that the Meta-Net sees where its input is the pixels


@dataclass(frozen=True)
class DVPT(VPT):
    """Prompts with an instance-wise clue at the first block.

    Attributes:
      dynamic: 'specific' makes a clue for each prompt (better in Table 3); 'shared' makes one for
        all.
      meta_layers: number of linear layers k of the Meta-Net, at least 2 (Table 2: 2, 4 or 6).
      meta_width: inner width m of the Meta-Net.
      meta_input: input of the Meta-Net: 'patches', the mean patch token at block 1, or 'pixels',
        the image.
    """

    dynamic: str = 'specific'
    meta_layers: int = at_least(4, 2, 1000)
    meta_width: int = at_least(64, 1)
    meta_input: str = 'patches'

    def __post_init__(self):
        super().__post_init__()
        for name, value, allowed in (
            ('dynamic', self.dynamic, DYNAMICS),
            ('meta_input', self.meta_input, INPUTS),
        ):
            if value not in allowed:
                raise ValueError(f'{name} is {value!r}; allowed: {", ".join(map(repr, allowed))}')

    def facts(self, spec: BackboneSpec) -> Facts:
        """States VPT's facts; where the Meta-Net sees pixels, training starts from the image."""
        own = super().facts(spec)
        return replace(own, cut=IMAGE) if self.meta_input == 'pixels' else own

    def init(self, key: jax.Array, spec: BackboneSpec) -> Tree:
        """Returns VPT's prompts and {'shared': {'meta': ...}}, float32.

        Kernels are normal with variance 2 / inputs; biases and the last kernel are 0. Deep, each
        stage has a Meta-Net of its own, {'meta': {'stage_00': ...}}, for its first block.
        """
        key, meta_key = jax.random.split(key)
        if self.deep:
            meta = per_stage(meta_key, spec, self._init_meta)
        else:
            meta = self._init_meta(meta_key, spec)
        params = super().init(key, spec)
        return {**params, 'shared': {**params.get('shared', {}), 'meta': meta}}

    def _init_meta(self, meta_key: jax.Array, spec: BackboneSpec) -> Tree:
        inputs = 3 * _GRID**2 if self.meta_input == 'pixels' else spec.width
        clues = self.num_prompts if self.dynamic == 'specific' else 1
        meta: Tree = {}
        for i, own in enumerate(jax.random.split(meta_key, self.meta_layers - 1)):
            kernel = jax.random.normal(own, (inputs, self.meta_width)) * (2.0 / inputs) ** 0.5
            meta[_name(i)] = {'kernel': kernel, 'bias': jnp.zeros(self.meta_width)}
            inputs = self.meta_width
        last = jnp.zeros((self.meta_width, clues * spec.width))
        meta[_name(self.meta_layers - 1)] = {'kernel': last}
        return meta

    def prompts(self, place: Place, tokens: jax.Array) -> jax.Array:
        """Returns this layer's prompts, P(x) [B, P, D] at the first (of a stage, where deep).

        Args:
          place: the layer; `place.prompts_at` says how many tokens stand before the patches.
          tokens: the block's input without prompts, [B, C + N, D].

        Raises:
          ValueError: the Meta-Net sees pixels, and the run starts past the image.
        """
        static = (place.params if self.deep else place.shared)['prompts']  # [P, D]
        shape = (tokens.shape[0], *static.shape)

        def dynamic() -> jax.Array:
            return static + self._clue(place, tokens)  # [B, P, D]

        def still() -> jax.Array:
            return jnp.broadcast_to(static, shape)

        # All blocks share one compiled body; the Meta-Net runs in the first one's turn only.
        first = place.layer == place.stage_start
        prompts = jax.lax.cond(first, dynamic, still) if self.deep else dynamic()
        if not (place.train and self.dropout_rate):
            return prompts
        key = None if place.key is None else jax.random.fold_in(place.key, 0)
        return dropout(key, prompts, self.dropout_rate)

    def _clue(self, place: Place, tokens: jax.Array) -> jax.Array:
        """Returns pi(x) [B, P, D], or [B, 1, D] where it is shared."""
        x, meta = self._seen(place, tokens), place.shared['meta']
        meta = meta.get(place.stage, meta)  # the stage's own, where stages have their own
        for i in range(self.meta_layers):
            layer = meta[_name(i)]
            x = (x if i == 0 else gelu(x)) @ layer['kernel']
            x = x + layer['bias'] if 'bias' in layer else x
        return x.reshape(x.shape[0], -1, tokens.shape[-1])  # [B, 1 or P, D]

    def _seen(self, place: Place, tokens: jax.Array) -> jax.Array:
        """Returns what the Meta-Net sees, [B, D] or [B, 192] float32."""
        if self.meta_input == 'patches':
            lead = place.prompts_at[0]
            mean = jnp.mean(tokens[:, lead:].astype(jnp.float32), axis=1)  # [B, D]
            return jax.nn.standardize(mean, axis=-1, epsilon=1e-6)
        if place.image is None:
            raise ValueError(
                "meta_input is 'pixels', and this caller starts past the image; start from the "
                "image, or take meta_input='patches'"
            )
        return pooled_pixels(place.image, _GRID)  # [B, 192]


def _name(i: int) -> str:
    return f'linear_{i:02d}'

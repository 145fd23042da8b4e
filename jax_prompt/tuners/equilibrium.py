"""Equilibrium blocks: a layer whose output is the fixed point of a small network.

z* = f(z*, x). The same block serves images (3x3 convolutions on [B, H, W, C]) and features
(products on [B, C]); what differs is the shape of its kernels. Three kinds:

- 'clipped': f(z, x) = x + C2 relu(C1 z + b), both kernels scaled down so that their product is a
  contraction of modulus kappa at most (`nn.bounds.operator_bound`). No normalisation lies inside
  the loop: a group norm has no Lipschitz bound of its own.
- 'opteq': f(z, x) = x + C^T relu(C z + b), one kernel, symmetric Jacobian, clipped likewise. Xie et
  al., "Optimization Induced Equilibrium Networks", arXiv:2105.13228.
- 'tutorial': f(z, x) = N3(relu(z + N2(x + C2 N1(relu(C1 z))))), group norms N, kernels unbounded:
  the "ResNet layer" of Kolter, Duvenaud and Johnson, "Deep Implicit Layers" (NeurIPS 2020
  tutorial), which LION's paper most probably means. Nothing makes it converge: see
  `tuners/lion.py`.

Several layers are one function with one solve, each adding x; their moduli multiply to kappa.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jax_prompt.core.tree import Tree
from jax_prompt.nn.bounds import operator_bound
from jax_prompt.nn.convolution import convolve, transpose_kernel

KINDS = ('clipped', 'opteq', 'tutorial')


@dataclass(frozen=True)
class EquilibriumBlock:
    """The function of a fixed point.

    Attributes:
      channels: C, of z and x.
      inner: channels between the two kernels.
      side: k, side of the convolutions' kernels; 0: products on [B, C].
      layers: layers inside f.
      kind: see the file's head.
      kappa: largest modulus of contraction of 'clipped' and 'opteq'; 0: kernels are not clipped.
    """

    channels: int
    inner: int
    side: int = 0
    layers: int = 1
    kind: str = 'clipped'
    kappa: float = 0.9

    def init(self, key: jax.Array) -> Tree:
        """Returns the parameters, float32: kernels N(0, .05^2) and N(0, .01^2), biases 0.

        The tutorial's kernels are both N(0, .01^2).
        """
        keys = jax.random.split(key, self.layers)
        return {f'layer_{i:02d}': self._init_layer(keys[i]) for i in range(self.layers)}

    def _init_layer(self, key: jax.Array) -> Tree:
        first, second = jax.random.split(key)
        sides = (self.side, self.side) if self.side else ()
        into = jax.random.normal(first, (*sides, self.channels, self.inner))
        back = jax.random.normal(second, (*sides, self.inner, self.channels))
        if self.kind == 'tutorial':
            norms = {'norm1': self.inner, 'norm2': self.channels, 'norm3': self.channels}
            made = {
                name: {'scale': jnp.ones(width), 'bias': jnp.zeros(width)}
                for name, width in norms.items()
            }
            return {'in': {'kernel': 0.01 * into}, 'out': {'kernel': 0.01 * back}, **made}
        layer: Tree = {'in': {'kernel': 0.05 * into, 'bias': jnp.zeros(self.inner)}}
        if self.kind == 'clipped':
            layer['out'] = {'kernel': 0.01 * back}
        return layer

    def prepare(self, params: Tree) -> Tree:
        """Returns the parameters that `cell` takes: clipped once, outside the loop."""
        if self.kind == 'tutorial' or not self.kappa:
            return params
        # Each of the 2 x layers kernels gets its share; a tied kernel counts twice.
        share = self.kappa ** (0.5 / self.layers)
        return {
            name: {part: _clip(leaves, share) for part, leaves in layer.items()}
            for name, layer in params.items()
        }

    def cell(self, args: tuple[Tree, jax.Array], z: jax.Array) -> jax.Array:
        """Computes f(z, x).

        Args:
          args: (what `prepare` returns, x [B, ..., C]).
          z: [B, ..., C].
        """
        params, x = args
        for i in range(self.layers):
            z = self._layer(params[f'layer_{i:02d}'], x, z)
        return z

    def _layer(self, layer: Tree, x: jax.Array, z: jax.Array) -> jax.Array:
        kernel = layer['in']['kernel'].astype(z.dtype)
        h = _apply(z, kernel)  # [B, ..., inner]
        if self.kind == 'tutorial':
            h = _group_norm(jax.nn.relu(h), layer['norm1'], 8 if self.inner % 8 == 0 else 1)
            back = _apply(h, layer['out']['kernel'].astype(z.dtype))
            groups = self.channels if self.side else 1
            y = _group_norm(x + back, layer['norm2'], groups)
            return _group_norm(jax.nn.relu(z + y), layer['norm3'], groups)
        h = jax.nn.relu(h + layer['in']['bias'].astype(z.dtype))
        if self.kind == 'opteq':
            back = transpose_kernel(kernel) if self.side else kernel.T
        else:
            back = layer['out']['kernel'].astype(z.dtype)
        return x + _apply(h, back)


@jax.custom_vjp
def with_penalty(x: jax.Array, penalty: jax.Array) -> jax.Array:
    """Returns x, and adds the scalar `penalty` to whatever loss is differentiated through x.

    The loss's value does not show it, its gradients do, whatever the loss's scale.
    """
    del penalty
    return x


with_penalty.defvjp(lambda x, _: (x, None), lambda _, g: (g, jnp.ones(())))


def _apply(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return x @ kernel if kernel.ndim == 2 else convolve(x, kernel)


def _clip(leaves: Tree, share: float) -> Tree:
    factor = jnp.minimum(1.0, share / operator_bound(leaves['kernel']))
    return {**leaves, 'kernel': leaves['kernel'] * factor}


def _group_norm(x: jax.Array, params: Tree, groups: int, epsilon: float = 1e-5) -> jax.Array:
    """Normalises each image's groups of channels [B, ..., C] to mean 0, variance 1."""
    shape = x.shape
    y = x.astype(jnp.float32).reshape(shape[0], -1, groups, shape[-1] // groups)
    y = jax.nn.standardize(y, axis=(1, 3), epsilon=epsilon).reshape(shape)
    return (y * params['scale'] + params['bias']).astype(x.dtype)

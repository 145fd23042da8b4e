"""LION: two equilibrium blocks at the ends of a frozen backbone, blended in by learned gates.

Wang et al., "LION: Implicit Vision Prompt Tuning" (AAAI 2024).

    x~ = alpha1 x     + beta1 P1(x)              (eq. 1)    before the backbone F
    z~ = alpha2 F(x~) + beta2 MLP(P2(F(x)))      (eq. 2)    between backbone and head
    alpha, beta = softmax of two logits          (eq. 3)

P1(x) = s z* + o is an equilibrium block of 3x3 convolutions on the image, with a scale and an
offset a channel outside the loop. P2 is one of products: u = U F(x) + b, h* = f(h*, u), and MLP one
dense layer from h*. F(x) is the feature of the raw image, a constant that the engine caches where
no augmentation is random, so that a step runs the backbone once.

The paper has no released code and leaves open what an equilibrium block is; the kinds are those of
`tuners/equilibrium.py`. With 'clipped', the default, every solve converges: the block is a
contraction by construction. With 'tutorial' nothing bounds it; watch the share converged that the
metrics report, and use `gradient='one_step'` or the `jacobian` penalty.

At the start C2 is small, so P1 is close to the identity and x~ to x whatever the gates; P2 adds
little at beta2 = .12.
"""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp

from jax_prompt.core.facts import Facts
from jax_prompt.core.ranges import at_least, between, check_values, part, share
from jax_prompt.core.spec import FEATURES, IMAGE, BackboneSpec
from jax_prompt.core.tree import Tree
from jax_prompt.core.tuner import Place, Tuner
from jax_prompt.deq.fixed_point import Cell, Gradient, fixed_point, probe
from jax_prompt.deq.jacobian import jacobian_penalty
from jax_prompt.deq.solver import CONVERGED, Solver, residuals
from jax_prompt.nn.layers import pooled_pixels
from jax_prompt.tuners.equilibrium import KINDS, EquilibriumBlock, with_penalty

INPUTS = ('raw', 'prompted', 'image')
# m of P2, from the trainable counts of the paper's tables: ResNet-50 96,702, ViT-B 123,578, Swin-B
# 241,854.
_OF_MAPS, _OF_TOKENS, _OF_WINDOWS = 22, 71, 105
_Problem = tuple[Cell, tuple[Tree, jax.Array], jax.Array]  # f, its arguments, where a solve begins
_GRID = 8  # side of the pooled image that P2 sees where its input is the image


@dataclass(frozen=True)
class LION(Tuner):
    """The two prompt blocks.

    Attributes:
      image_block: True uses the block P1 on the image.
      feature_block: True uses the block P2 on the features.
      channels: number of channels c inside P1.
      width: width m of P2; 0: the paper's width for a backbone without tokens (ResNet: 22), with
        tokens (ViT: 71), or with attention in windows (Swin: 105).
      layers: number of layers inside each block, 1 to 4.
      block: kind of the blocks: 'clipped', 'opteq' or 'tutorial' (`tuners/equilibrium.py`).
      kappa: modulus of contraction of 'clipped' and 'opteq' blocks; 0: kernels are not clipped.
      input: input of P2: 'raw', the features F(x) of the unprompted image (eq. 2); 'prompted', the
        features F(x~); 'image', x itself pooled to 8 x 8 pixels (step iii of the paper's text).
      solver: iteration that solves a block: 'anderson', 'damped' or 'plain'.
      damping: step size of 'damped', or mixing of 'anderson'.
      rtol: relative residual at which a forward solve ends in training.
      max_iter: largest number of iterations of a forward solve in training.
      eval_rtol: relative residual at which a forward solve ends in evaluation.
      eval_max_iter: largest number of iterations of a forward solve in evaluation.
      jacobian: weight of the Jacobian penalty in the loss; 0: no penalty. Use it for blocks that
        nothing bounds ('tutorial', or kappa=0).
      gradient: gradient of a solve: 'implicit', 'one_step', 'phantom' or 'neumann'
        (`deq/fixed_point.py`).
      gradient_terms: number of terms of 'phantom' and 'neumann'.
      backward_rtol: relative residual at which the implicit backward solve ends.
      backward_max_iter: largest number of iterations of the implicit backward solve.
    """

    image_block: bool = True
    feature_block: bool = True
    channels: int = at_least(64, 1)
    width: int = at_least(0)
    layers: int = between(1, 1, 4)
    block: str = 'clipped'
    kappa: float = share(0.9)
    input: str = 'raw'
    solver: str = 'anderson'
    damping: float = part(1.0)
    rtol: float = at_least(1e-3)
    max_iter: int = at_least(30, 1)
    eval_rtol: float = at_least(1e-4)
    eval_max_iter: int = at_least(60, 1)
    jacobian: float = at_least(0.0)
    gradient: str = 'implicit'
    gradient_terms: int = at_least(5, 1)
    backward_rtol: float = at_least(1e-3)
    backward_max_iter: int = at_least(30, 1)

    def __post_init__(self):
        if not (self.image_block or self.feature_block):
            raise ValueError(
                'image_block and feature_block are both False; keep one, or take method=linear'
            )
        check_values(self)
        for name, value, allowed in (('block', self.block, KINDS), ('input', self.input, INPUTS)):
            if value not in allowed:
                raise ValueError(f'{name} is {value!r}; allowed: {", ".join(map(repr, allowed))}')
        self._forward(train=True), self._forward(train=False), self._backward()  # check theirs

    def facts(self, spec: BackboneSpec) -> Facts:
        """States that P2 sees the features of the raw image, and that P2 alone starts there."""
        from_image = self.image_block or self.input == 'image'
        return replace(
            super().facts(spec),
            cut=IMAGE if from_image else FEATURES,
            needs_raw=self.feature_block and self.input == 'raw',
        )

    def init(self, key: jax.Array, spec: BackboneSpec) -> Tree:
        """Returns {'shared': {'p1'?, 'p2'?}}, float32."""
        first, second = jax.random.split(key)
        blocks: Tree = {}
        if self.image_block:
            blocks['p1'] = {
                **self._p1.init(first),
                'scale': jnp.ones(3),
                'offset': jnp.zeros(3),
                'gates': jnp.zeros(2),
            }
        if self.feature_block:
            blocks['p2'] = self._init_p2(second, spec)
        return {'shared': blocks}

    def _init_p2(self, key: jax.Array, spec: BackboneSpec) -> Tree:
        width = self.width or _paper_width(spec)
        inputs = 3 * _GRID**2 if self.input == 'image' else spec.feature_dim
        keys = jax.random.split(key, 3)
        into = jax.random.normal(keys[0], (inputs, width)) / inputs**0.5
        # Small, not zero: robust training holds a weight of 0 at 0.
        out = 0.02 * jax.random.normal(keys[1], (width, spec.feature_dim))
        return {
            'into': {'kernel': into, 'bias': jnp.zeros(width)},
            **_p2(self, width).init(keys[2]),
            'out': {'kernel': out, 'bias': jnp.zeros(spec.feature_dim)},
            'gates': jnp.array([1.0, -1.0]),  # beta .12
        }

    @property
    def _p1(self) -> EquilibriumBlock:
        return EquilibriumBlock(3, self.channels, 3, self.layers, self.block, self.kappa)

    def image(self, place: Place, image: jax.Array) -> jax.Array:
        """Returns alpha1 x + beta1 P1(x) (eq. 1), [B, H, W, 3]."""
        if not self.image_block:
            return image
        params = place.shared['p1']
        z = self._solve(_problem(self._p1, params, image), place, 'p1')
        prompt = params['scale'] * z + params['offset']
        return _blend(params['gates'], image, prompt)

    def features(self, place: Place, features: jax.Array, raw: jax.Array | None) -> jax.Array:
        """Returns alpha2 F(x~) + beta2 MLP(P2(.)) (eq. 2), [B, D].

        Raises:
          ValueError: P2's input is not at hand.
        """
        if not self.feature_block:
            return features
        params = place.shared['p2']
        h = self._solve(self._feature_problem(params, place, features, raw), place, 'p2')
        prompt = h @ params['out']['kernel'] + params['out']['bias']
        return _blend(params['gates'], features, prompt)

    def residuals(
        self, place: Place, image: jax.Array, features: jax.Array, raw: jax.Array | None
    ) -> dict[str, jax.Array]:
        """Returns the residual of each block's solve after each of its evaluations.

        Args:
          place: of an evaluation, or of training.
          image: [B, H, W, 3].
          features: F(x~), [B, D].
          raw: F(x), [B, D].

        Returns:
          ||f(z) - z|| / ||f(z)|| of the best point so far by block, 'p1' and 'p2', [steps, B]
          float32 with the largest number of iterations as steps. It rests where a solve has ended.
        """
        problems, own = {}, place.shared
        if self.image_block:
            problems['p1'] = _problem(self._p1, own['p1'], image)
        if self.feature_block:
            problems['p2'] = self._feature_problem(own['p2'], place, features, raw)
        solver = self._forward(place.train)
        return {
            name: residuals(partial(cell, args), x, solver)
            for name, (cell, args, x) in problems.items()
        }

    def _feature_problem(
        self, params: Tree, place: Place, features: jax.Array, raw: jax.Array | None
    ) -> _Problem:
        seen = self._p2_input(place, features, raw)
        u = seen @ params['into']['kernel'] + params['into']['bias']  # [B, m]
        return _problem(_p2(self, u.shape[-1]), params, u)

    def _p2_input(self, place: Place, features: jax.Array, raw: jax.Array | None) -> jax.Array:
        if self.input == 'prompted':
            return features
        seen = raw if self.input == 'raw' else place.image
        if seen is None:
            raise ValueError(f'P2 takes the {self.input} input, which this caller did not pass')
        if self.input == 'image':
            return pooled_pixels(seen, _GRID)  # [B, 192]
        return jax.lax.stop_gradient(seen).astype(features.dtype)

    def _forward(self, train: bool) -> Solver:
        rtol, steps = (self.rtol, self.max_iter) if train else (self.eval_rtol, self.eval_max_iter)
        return Solver(method=self.solver, max_iter=steps, rtol=rtol, damping=self.damping)

    def _backward(self) -> Gradient:
        solver = replace(
            self._forward(train=True), max_iter=self.backward_max_iter, rtol=self.backward_rtol
        )
        return Gradient(kind=self.gradient, terms=self.gradient_terms, solver=solver)

    def _solve(self, problem: _Problem, place: Place, name: str) -> jax.Array:
        cell, args, x = problem
        forward, seen = self._forward(place.train), place.probe.get(name)
        z = fixed_point(cell, args, x, forward, self._backward(), seen)
        if self.jacobian and place.train and place.key is not None:
            key = jax.random.fold_in(place.key, 3)
            z = with_penalty(z, self.jacobian * jacobian_penalty(cell, args, z, key))
        return z

    def probes(self, batch_size: int) -> Tree:
        """Returns a zero probe for each block; its cotangent says how the solves went."""
        names = [n for n, on in (('p1', self.image_block), ('p2', self.feature_block)) if on]
        return {name: probe(batch_size) for name in names}

    def diagnose(self, probes: Tree, weights: jax.Array) -> dict[str, jax.Array]:
        """Returns steps, residuals and shares converged of each block's solves.

        Args:
          probes: cotangents of `probes`, leaves [B, 6].
          weights: [B], 1 for a real example, 0 for padding.
        """
        out = {}
        total = jnp.maximum(jnp.sum(weights), 1.0)
        for name, seen in probes.items():
            columns = seen.T  # [6, B]
            for i, way in enumerate(('forward', 'backward')):
                steps, residual, status = columns[3 * i : 3 * i + 3]
                # A solve without one finite evaluation reports infinity; it counts as 1 here.
                finite = jnp.where(jnp.isfinite(residual), residual, 1.0)
                kept = jnp.where(weights > 0, finite, 0.0)
                fine = jnp.where(status == CONVERGED, weights, 0.0)
                out[f'{name}_{way}_steps'] = jnp.sum(jnp.where(weights > 0, steps, 0.0)) / total
                out[f'{name}_{way}_residual'] = jnp.sum(kept) / total
                out[f'{name}_{way}_residual_worst'] = jnp.max(kept)
                out[f'{name}_{way}_converged'] = jnp.sum(fine) / total
        return out


def _problem(block: EquilibriumBlock, params: Tree, x: jax.Array) -> _Problem:
    layers = {k: v for k, v in params.items() if k.startswith('layer_')}
    return block.cell, (block.prepare(layers), x), x


def _paper_width(spec: BackboneSpec) -> int:
    if not spec.has_tokens:
        return _OF_MAPS
    return _OF_WINDOWS if spec.windowed else _OF_TOKENS


def _p2(tuner: LION, width: int) -> EquilibriumBlock:
    return EquilibriumBlock(width, width, 0, tuner.layers, tuner.block, tuner.kappa)


def _blend(gates: jax.Array, x: jax.Array, prompt: jax.Array) -> jax.Array:
    alpha, beta = jax.nn.softmax(gates)
    return (alpha * x + beta * prompt).astype(x.dtype)

"""Fixed points z* = f(args, z*) as a differentiable function of args.

Memory does not grow with the steps of the solver: nothing of the forward solve is kept but z*. By
the implicit function theorem the gradient for a cotangent g is

    u (df/dargs)(args, z*),     u = g + u J,     J = (df/dz)(args, z*),

and u is a fixed point itself, solved from u = g (Bai et al., "Deep Equilibrium Models",
arXiv:1909.01377). One `jax.vjp` of f at z* serves both that solve and the gradient. Cheaper
gradients replace u by an early iterate of u <- (1 - d) u + d (g + u J) from u = 0:

- 'one_step': u = g, the gradient of one application of f at z* (Fung et al., "JFB: Jacobian-Free
  Backpropagation for Implicit Networks", arXiv:2103.12803);
- 'neumann': k iterates at d = 1, the series g + g J + ... + g J^(k-1);
- 'phantom': k iterates at d < 1 (Geng et al., "On Training Implicit Models", arXiv:2111.05177).
  Theirs unrolls k damped steps of f from z*; here J is taken at z* in all of them, which is the
  same at a fixed point and keeps the memory of one step.

z* and its report carry the name 'fixed_point' for `jax.checkpoint`: under the policy
`save_only_these_names('fixed_point')` the rematerialised forward pass does not solve again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jax_prompt.deq.solver import CONVERGED, NONFINITE, Report, Solver, norm, relative, solve

Cell = Callable[[Any, jax.Array], jax.Array]

KINDS = ('implicit', 'one_step', 'phantom', 'neumann')
NAME = 'fixed_point'  # of z* and its report, for policies of jax.checkpoint
PROBE = 6  # forward steps, residual, status; backward steps, residual, status


@dataclass(frozen=True)
class Gradient:
    """How to differentiate a fixed point.

    Attributes:
      kind: 'implicit' (exact, by a second solve), 'one_step', 'phantom' or 'neumann'.
      terms: k of 'phantom' and 'neumann'.
      damping: d of 'phantom', in (0, 1].
      solver: of the backward solve of 'implicit'.
    """

    kind: str = 'implicit'
    terms: int = 5
    damping: float = 0.5
    solver: Solver = field(default_factory=Solver)

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f'kind {self.kind!r}, allowed: {", ".join(KINDS)}; choose one')
        if self.terms < 1:
            raise ValueError(f'terms {self.terms}, allowed: at least 1; the usual value is 5')
        if not 0 < self.damping <= 1:
            raise ValueError(
                f'damping {self.damping}, allowed: above 0 and at most 1; the usual value is 0.5'
            )


IMPLICIT = Gradient()


def probe(batch_size: int) -> jax.Array:
    """Returns the zeros [B, 6] whose gradient reports on both solves; see `fixed_point`."""
    return jnp.zeros((batch_size, PROBE), jnp.float32)


def fixed_point(
    f: Cell,
    args: Any,
    z0: jax.Array,
    forward: Solver,
    backward: Gradient = IMPLICIT,
    probe: jax.Array | None = None,
) -> jax.Array:
    """Solves z = f(args, z), differentiably in args by reverse mode.

    Args:
      f: (args, z [B, ...]) -> [B, ...], each sample of z independently of the others.
      args: any tree of arrays: parameters, inputs, and every other traced value that f uses; f must
        not close over one. Leaves that are integers or random keys have no gradient.
      z0: where to begin, [B, ...], floating. Its gradient is zero. Under `shard_map` it must vary
        over the mesh axes that the result varies over: `jnp.zeros_like(x)` does.
      forward: the solver.
      backward: the gradient.
      probe: None or `probe(B)`. Nothing is computed from it, but its gradient [B, 6] float32 is
        (steps, residual, status) of the forward solve and then of the backward solve, as in
        `Report`: what a training step wants to log, without a callback. Truncated gradients report
        their number of terms, the residual of the u that they use, and status CONVERGED unless that
        is not finite.

    Returns:
      z* [B, ...] in z0's dtype. Samples that did not converge yield their best point, and gradients
      as though that were the fixed point; look at the report.

    Raises:
      ValueError: z0 is not floating, or f changes its shape.
    """
    return _solved(f, forward, backward, args, z0, probe)[0]


def fixed_point_with_report(
    f: Cell,
    args: Any,
    z0: jax.Array,
    forward: Solver,
    backward: Gradient = IMPLICIT,
    probe: jax.Array | None = None,
) -> tuple[jax.Array, Report]:
    """The same, returning (z*, report of the forward solve); the report has no gradient."""
    return _solved(f, forward, backward, args, z0, probe)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _solved(
    f: Cell,
    forward: Solver,
    backward: Gradient,
    args: Any,
    z0: jax.Array,
    probe: jax.Array | None,
) -> tuple[jax.Array, Report]:
    del backward, probe
    return solve(lambda z: f(args, z), z0, forward)


def _forward(f, forward, backward, args, z0, probe):
    solution = _solved(f, forward, backward, args, z0, probe)
    z, report = jax.tree.map(lambda x: checkpoint_name(x, NAME), solution)
    return (z, report), (args, z, report, probe)


def _backward(f, forward, backward, saved, cotangents):
    args, z, report, probe = saved
    fz, pull = jax.vjp(f, args, z)
    dtype = jnp.promote_types(z.dtype, jnp.float32)
    g = cotangents[0].astype(dtype)
    scale = _power_of_two(g)
    g = g / scale

    def transposed(u: jax.Array) -> jax.Array:
        return g + pull(u.astype(fz.dtype))[1].astype(dtype)

    if backward.kind == 'implicit':
        u, back = solve(transposed, g, backward.solver)
        args_bar, _ = pull((u * scale).astype(fz.dtype))
    else:
        u = _truncated(transposed, g, backward)
        args_bar, z_bar = pull((u * scale).astype(fz.dtype))
        back = _truncated_report(g, u, g + z_bar.astype(dtype) / scale, backward)
    if probe is not None:
        columns = [x.astype(probe.dtype) for x in (*report, *back)]
        probe = jnp.stack(columns, axis=-1)  # [B, 6]
    return args_bar, jnp.zeros_like(z), probe


_solved.defvjp(_forward, _backward)


def _power_of_two(g: jax.Array) -> jax.Array:
    """Returns the power of two below max |g| of each sample, [B, 1, ...].

    The backward solve is linear, so that it may work at unit scale: squares of the small gradients
    of a mean over many elements would underflow, and `atol` would depend on the loss's scale.
    """
    largest = jnp.max(jnp.abs(g), axis=tuple(range(1, g.ndim)), keepdims=True)
    usable = (largest > jnp.finfo(g.dtype).tiny) & jnp.isfinite(largest)
    _, exponent = jnp.frexp(jnp.where(usable, largest, 1.0))
    return jnp.where(usable, jnp.ldexp(jnp.ones_like(largest), exponent - 1), 1.0)


def _terms(config: Gradient) -> tuple[int, float]:
    """Returns k and d of the truncated gradients."""
    return {
        'one_step': (1, 1.0),
        'neumann': (config.terms, 1.0),
        'phantom': (config.terms, config.damping),
    }[config.kind]


def _truncated(
    transposed: Callable[[jax.Array], jax.Array], g: jax.Array, config: Gradient
) -> jax.Array:
    """Returns the k-th iterate of u <- (1 - d) u + d (g + u J) from u = 0."""
    terms, damping = _terms(config)

    def step(_: Any, u: jax.Array) -> jax.Array:
        return (1.0 - damping) * u + damping * transposed(u)

    return jax.lax.fori_loop(1, terms, step, damping * g)


def _truncated_report(g: jax.Array, u: jax.Array, after: jax.Array, config: Gradient) -> Report:
    """Reports on a truncated u, where `after` is g + u J."""
    terms, _ = _terms(config)
    residual = relative(norm(after - u), norm(after)).astype(jnp.float32)
    steps = jnp.zeros_like(residual, dtype=jnp.int32) + terms
    status = jnp.where(jnp.isfinite(residual), CONVERGED, NONFINITE).astype(jnp.int32)
    return Report(steps, residual, status)

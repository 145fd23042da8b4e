"""Solves z = f(z) for a batch of independent samples: Anderson's method, damped or plain iteration.

Each sample has its own mixing, its own stopping test and its own status, and what is done with it
hangs on these alone: a result never depends on the other samples of the batch, a sample that has
stopped is frozen exactly, and one that yields NaN leaves the others as they are. The mixing of
Anderson's method is in `deq/anderson.py`.

The state is float32 (float64 where z0 is), whatever f computes in.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_prompt.deq.anderson import LARGEST_MEMORY, History, empty, mix

CONVERGED, MAX_ITER, NONFINITE = 0, 1, 2

METHODS = ('anderson', 'damped', 'plain')


@dataclass(frozen=True)
class Solver:
    """How to solve z = f(z).

    Attributes:
      method: 'anderson', 'damped' (z + damping * r) or 'plain' (f(z)).
      max_iter: evaluations of f at most.
      rtol: a sample has converged where ||f(z) - z|| <= rtol * ||f(z)|| + atol. 1e-3 suits float32;
        an f that computes in bfloat16 has a floor near 2e-3 and wants 1e-2.
      atol: absolute floor of that test, for fixed points at or near zero.
      memory: m, points that Anderson's method mixes; 1 is damped iteration.
      damping: beta of Anderson's method, step of damped iteration; in (0, 1].
      ridge: added to the unit diagonal of the Gram matrix. Below about 1e-7 float32 loses it.
      restart: a residual above this times the best drops Anderson's history; infinity never does.
      fixed_length: run `lax.scan` for exactly max_iter steps, which reverse-mode differentiation
        can unroll, at the memory of all steps. For tests; samples stop as they do otherwise.
    """

    method: str = 'anderson'
    max_iter: int = 30
    rtol: float = 1e-3
    atol: float = 1e-12
    memory: int = 5
    damping: float = 1.0
    ridge: float = 1e-6
    restart: float = 2.0
    fixed_length: bool = False

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f'method {self.method!r}, allowed: {", ".join(METHODS)}; choose one')
        allowed = {
            'max_iter': (self.max_iter >= 1, 'at least 1', '30'),
            'rtol': (0 <= self.rtol < math.inf, 'finite and not negative', '1e-3'),
            'atol': (0 <= self.atol < math.inf, 'finite and not negative', '1e-12'),
            'memory': (1 <= self.memory <= LARGEST_MEMORY, f'1 to {LARGEST_MEMORY}', '5'),
            'damping': (0 < self.damping <= 1, 'above 0 and at most 1', '1.0'),
            'ridge': (0 < self.ridge < math.inf, 'finite and above 0', '1e-6'),
            'restart': (self.restart > 1, 'above 1', '2.0, or float("inf") for no restarts'),
        }
        for name, (good, what, usual) in allowed.items():
            if not good:
                value = getattr(self, name)
                raise ValueError(f'{name} {value}, allowed: {what}; the usual value is {usual}')


class Report(NamedTuple):
    """How the solution of each sample went; each field [B].

    Attributes:
      steps: evaluations of f until the sample stopped, int32.
      residual: ||f(z) - z|| / ||f(z)|| of the point returned, float32; infinite where no evaluation
        was finite.
      status: CONVERGED, MAX_ITER (the tolerance was not reached) or NONFINITE, int32.
    """

    steps: jax.Array
    residual: jax.Array
    status: jax.Array


class _State(NamedTuple):
    """The loop's state; n is the size of a sample."""

    z: jax.Array  # where f is evaluated next, [B, n]
    best: jax.Array  # f at the point of the smallest residual, [B, n]
    best_norm: jax.Array  # that residual's norm, [B]
    residual: jax.Array  # and relative to ||f||, [B]
    steps: jax.Array  # [B] int32
    status: jax.Array  # [B] int32; MAX_ITER until the sample stops
    history: History | None


def solve(
    f: Callable[[jax.Array], jax.Array], z0: jax.Array, config: Solver
) -> tuple[jax.Array, Report]:
    """Solves z = f(z), each sample of the batch on its own.

    Args:
      f: maps [B, ...] to [B, ...], each sample independently of the others.
      z0: where to begin, [B, ...], floating. f is given this dtype; it may return another.
      config: method and tolerances.

    Returns:
      (z, report): z [B, ...] in z0's dtype is f at the point of the smallest residual, which is the
      last point where the sample converged. A sample whose f overflows or is NaN stops with the
      best point before that and status NONFINITE; it is z0 where f(z0) is so already.

    Raises:
      ValueError: z0 is not floating or has no batch axis, or f changes the shape.
    """
    advance, state = _begin(f, z0, config)
    if config.fixed_length:
        state, _ = _every_step(advance, state, config)
    else:
        _, state = jax.lax.while_loop(
            lambda c: (c[0] < config.max_iter) & jnp.any(c[1].status == MAX_ITER),
            lambda c: (c[0] + 1, advance(*c)),
            (jnp.zeros((), jnp.int32), state),
        )
    report = Report(state.steps, state.residual.astype(jnp.float32), state.status)
    return state.best.reshape(z0.shape).astype(z0.dtype), report


def residuals(f: Callable[[jax.Array], jax.Array], z0: jax.Array, config: Solver) -> jax.Array:
    """Returns how far `solve` has come after each evaluation of f, [config.max_iter, B] float32.

    A row's residual is that of `Report`, of the best point so far. Errors are those of `solve`.
    """
    return _every_step(*_begin(f, z0, config), config)[1].astype(jnp.float32)


def _every_step(
    advance: Callable[[jax.Array, _State], _State], state: _State, config: Solver
) -> tuple[_State, jax.Array]:
    """Takes max_iter steps; returns the last state and the residual after each, [max_iter, B]."""

    def one(state: _State, step: jax.Array) -> tuple[_State, jax.Array]:
        state = advance(step, state)
        return state, state.residual

    return jax.lax.scan(one, state, jnp.arange(config.max_iter))


def _begin(
    f: Callable[[jax.Array], jax.Array], z0: jax.Array, config: Solver
) -> tuple[Callable[[jax.Array, _State], _State], _State]:
    """Returns what advances a state by one step, (step, state) -> state, and the first state."""
    if z0.ndim < 1 or not jnp.issubdtype(z0.dtype, jnp.floating):
        raise ValueError(
            f'z0 {z0.dtype}{list(z0.shape)}, allowed: floating [B, ...]; cast or reshape it'
        )
    batch = z0.shape[0]
    dtype = jnp.promote_types(z0.dtype, jnp.float32)

    def flat_f(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        given = z.astype(z0.dtype)
        fz = f(given.reshape(z0.shape))
        if fz.shape != z0.shape:
            raise ValueError(f'f returns {list(fz.shape)} for {list(z0.shape)}; keep the shape')
        return given.astype(dtype), fz.astype(dtype).reshape(batch, -1)

    def advance(step: jax.Array, state: _State) -> _State:
        return _advance(flat_f, config, step, state)

    return advance, _start(z0.astype(dtype).reshape(batch, -1), config)


def _start(z0: jax.Array, config: Solver) -> _State:
    # All are made of z0, so that under shard_map they vary over the same mesh axes.
    infinite = jnp.full_like(z0, jnp.inf, shape=z0.shape[:1])
    integers = jnp.zeros_like(z0, shape=z0.shape[:1], dtype=jnp.dtype('int32'))
    history = empty(z0, config.memory) if config.method == 'anderson' else None
    return _State(z0, z0, infinite, infinite, integers, integers + MAX_ITER, history)


def _advance(
    f: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    config: Solver,
    step: jax.Array,
    state: _State,
) -> _State:
    """One evaluation of f (which also returns z as f was given it) and one move."""
    z, fz = f(state.z)
    r = fz - z  # [B, n]
    r_norm, f_norm = norm(r), norm(fz)
    running = state.status == MAX_ITER
    finite = jnp.isfinite(r_norm) & jnp.isfinite(f_norm)
    converged = running & finite & (r_norm <= config.rtol * f_norm + config.atol)
    better = converged | (running & finite & (r_norm < state.best_norm))
    status = jnp.where(
        converged, CONVERGED, jnp.where(running & ~finite, NONFINITE, state.status)
    ).astype(jnp.int32)
    best = jnp.where(better[:, None], fz, state.best)
    ahead = fz if config.method == 'plain' or config.damping == 1.0 else z + config.damping * r
    history = state.history
    if history is not None:
        history, mixed, again = mix(history, step, ahead, r, r_norm, config.restart, config.ridge)
        ahead = jnp.where(again[:, None], best, mixed)
    return _State(
        # Samples that have stopped are still given to f: at a finite point.
        z=jnp.where((status == MAX_ITER)[:, None], ahead, best),
        best=best,
        best_norm=jnp.where(better, r_norm, state.best_norm),
        residual=jnp.where(better, relative(r_norm, f_norm), state.residual),
        steps=state.steps + running.astype(jnp.int32),
        status=status,
        history=history,
    )


def norm(x: jax.Array) -> jax.Array:
    """Euclidean norm of each sample of x [B, ...], as [B]; 0 has gradient 0, NaN stays."""
    squares = jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim)))
    zero = squares == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squares)))


def relative(residual: jax.Array, size: jax.Array) -> jax.Array:
    """Returns residual / size, 0 where both are."""
    return residual / (size + jnp.finfo(size.dtype).tiny)

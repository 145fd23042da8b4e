"""The work of a step: operations of its matrix products and convolutions, read from its program.

A step's speed is read beside the rate at which the machine multiplies matrices
(`bench_rates.py`). `work` counts what the program computes, with what its backward pass computes
again, and scanned blocks as often as they run.
"""

import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core
from jax.interpreters import partial_eval


def work(jaxpr: core.Jaxpr) -> float | None:
    """Counts the operations of products and convolutions: 2 for each multiplication.

    Args:
      jaxpr: a traced program. What its results do not need is not counted: a backward pass of our
        own also names the gradients of frozen kernels.

    Returns:
      The count; of the branches of a condition the largest. None where a loop has products and no
      fixed number of turns (the solves of LION), so that they can't be counted.
    """
    needed, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _count(needed)


def _count(jaxpr: core.Jaxpr) -> float | None:
    total = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == 'dot_general':
            total += _of_product(equation)
        elif name == 'conv_general_dilated':
            total += _of_convolution(equation)
        parts = [_count(inner) for inner in _inner(equation.params)]
        if None in parts or (name == 'while' and any(parts)):
            return None
        inside = [part for part in parts if part is not None]
        if name == 'cond':
            total += max(inside, default=0.0)
        else:
            total += equation.params.get('length', 1) * sum(inside)
    return total


def _inner(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """Yields the programs that an equation calls."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def _of_product(equation: Any) -> float:
    """2 x the elements of the result x the length of what is summed."""
    (contracted, _), _ = equation.params['dimension_numbers']
    x, y = equation.invars[0].aval, equation.outvars[0].aval
    return 2.0 * math.prod(y.shape) * math.prod(x.shape[axis] for axis in contracted)


def _of_convolution(equation: Any) -> float:
    """2 x the elements of the result x the kernel's for one output channel."""
    kernel, y = equation.invars[1].aval, equation.outvars[0].aval
    channels = kernel.shape[equation.params['dimension_numbers'].rhs_spec[0]]
    return 2.0 * math.prod(y.shape) * math.prod(kernel.shape) / channels

"""Times a fixed-point layer, forward and backward, beside other libraries and unrolling.

    python launch/speed/bench_deq.py --out deq.json

Two cells: residual convolutions on images [8, 64, 64, 3] and a residual MLP on vectors [64, 768],
their weights scaled so that the Jacobian at the solution has the spectral radius of `CELLS`. Each
contender computes sum(g z*) and its gradient with respect to the weights and the input; the error
of that gradient against a tight solve stands beside its time, since tolerances mean different
things: per sample here, over the whole batch in jaxopt and optimistix. torchdeq runs once more with
a small cotangent, as that of a mean is: its ridge is absolute. Contenders run in turns.
"""

import argparse
import functools
import importlib
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bench_machine import machine

from jax_prompt.deq.fixed_point import Gradient, fixed_point, probe
from jax_prompt.deq.jacobian import spectral_radius
from jax_prompt.deq.solver import Solver
from jax_prompt.door import enter
from jax_prompt.nn.convolution import convolve as convolution

# Shape of z, inner width, spectral radius.
CELLS: dict[str, tuple[tuple[int, ...], int, float]] = {
    'image': ((8, 64, 64, 3), 48, 0.85),
    'vector': ((64, 768), 64, 0.79),
}
SMALL = 1e-4  # of a mean loss, say
STEPS = (5, 20, 80)

Run = Callable[[], Any]


def cell(args: dict[str, jax.Array], z: jax.Array, convolve: Any = convolution) -> jax.Array:
    """Returns x + C2 relu(C1 z + b), with convolutions or products."""
    product = convolve if z.ndim == 4 else jnp.matmul
    inner = jax.nn.relu(product(z, args['first']) + args['bias'])
    return args['x'] + product(inner, args['second'])


def plain_cell(z: jax.Array, args: dict[str, jax.Array]) -> jax.Array:
    """The same for libraries that transpose it: `convolve` has its own VJP, without a JVP."""
    layout = ('NHWC', 'HWIO', 'NHWC')

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=layout)

    return cell(args, z, convolve)


def problem(shape: tuple[int, ...], inner: int, rho: float) -> tuple[Any, jax.Array]:
    """Returns the arguments of `cell` at that spectral radius, and a cotangent."""
    rng = np.random.default_rng(0)
    window = (3, 3) if len(shape) == 4 else ()
    shapes = {
        'first': (*window, shape[-1], inner),
        'bias': (inner,),
        'second': (*window, inner, shape[-1]),
        'x': shape,
    }
    args = {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}
    args['bias'] *= 0.1
    for name in ('first', 'second'):
        args[name] /= np.prod(shapes[name][:-1]) ** 0.5

    @jax.jit
    def radius(args):
        z = fixed_point(cell, args, args['x'], Solver(rtol=1e-5, max_iter=200))
        return jnp.max(spectral_radius(cell, args, z, jax.random.key(0), 60))

    args['second'] = 0.1 * args['second']
    for _ in range(12):
        args['second'] = args['second'] * (rho / radius(args)) ** 0.7
    print(f'{shape}: spectral radius {float(radius(args)):.3f}')
    return args, jnp.asarray(rng.normal(size=shape), jnp.float32)


def compiled(layer: Callable[[Any], jax.Array], args: Any, g: jax.Array) -> tuple[Run, float]:
    """Returns a call for (loss, gradient) and its temporary memory in MB."""
    step = jax.jit(jax.value_and_grad(lambda args, g: jnp.sum(g * layer(args))))
    program = step.lower(args, g).compile()
    memory: Any = program.memory_analysis()
    return lambda: program(args, g), memory.temp_size_in_bytes / 1e6


def ours(
    rtol: float, max_iter: int = 30, f: Any = cell, **options: Any
) -> Callable[[Any], jax.Array]:
    """This library's layer."""
    solver = Solver(rtol=rtol, max_iter=max_iter)
    backward = Gradient(solver=solver, **options)
    return lambda args: fixed_point(f, args, args['x'], solver, backward)


def unrolled(args: Any, steps: int = 20) -> jax.Array:
    """Plain iteration, differentiated step by step."""
    z = args['x']
    for _ in range(steps):
        z = cell(args, z)
    return z


def jaxopt_layers(rtol: float, size: float) -> dict[str, Callable[[Any], jax.Array]]:
    """Anderson's method of jaxopt with its default backward solve and with BiCGStab."""
    import jaxopt
    from jaxopt import linear_solve

    def layer(solve):
        options = {'maxiter': 30, 'tol': rtol * size, 'implicit_diff_solve': solve}
        solver = jaxopt.AndersonAcceleration(plain_cell, **options)
        return lambda args: solver.run(args['x'], args).params

    bicg = functools.partial(linear_solve.solve_bicgstab, tol=rtol, maxiter=30)
    return {'jaxopt, default backward': layer(None), 'jaxopt, BiCGStab': layer(bicg)}


def optimistix_layers(rtol: float, size: float) -> dict[str, Callable[[Any], jax.Array]]:
    """Optimistix's plain iteration (it has no Anderson) with GMRES backward."""
    import lineax
    import optimistix

    # Its tolerances are of each element, root mean square over all.
    solver: Any = optimistix.FixedPointIteration(rtol, rtol * size, norm=optimistix.rms_norm)
    gmres = lineax.GMRES(rtol, rtol, norm=optimistix.rms_norm)

    def layer(args: Any) -> jax.Array:
        adjoint = optimistix.ImplicitAdjoint(gmres)
        options: Any = {'max_steps': 200, 'adjoint': adjoint}
        return optimistix.fixed_point(plain_cell, solver, args['x'], args, **options).value

    return {'optimistix, plain + GMRES': layer}


def torchdeq_call(args: Any, g: jax.Array, rtol: float) -> Run:
    """Returns torchdeq's (loss, gradient) of the same cell, as JAX lays it out."""
    import torch
    import torchdeq

    options = {'f_solver': 'anderson', 'b_solver': 'anderson', 'f_tol': rtol, 'b_tol': rtol}
    limits = {'f_max_iter': 30, 'b_max_iter': 30, 'f_stop_mode': 'rel', 'b_stop_mode': 'rel'}
    layer = torchdeq.get_deq(core='sliced', ift=True, **options, **limits)
    image = g.ndim == 4

    def to_torch(name: str, array: Any) -> Any:
        if image and name in ('first', 'second'):
            array = array.transpose(3, 2, 0, 1)
        elif image and name != 'bias':
            array = array.transpose(0, 3, 1, 2)
        return torch.tensor(np.ascontiguousarray(array))

    def to_numpy(name: str, tensor: Any) -> np.ndarray:
        array = tensor.detach().numpy()
        if image and name != 'bias':
            array = array.transpose((2, 3, 1, 0) if name in ('first', 'second') else (0, 2, 3, 1))
        return array

    leaves = {k: to_torch(k, np.asarray(v)).requires_grad_() for k, v in args.items()}
    cotangent = to_torch('g', np.asarray(g))
    convolve = functools.partial(torch.nn.functional.conv2d, padding=1)

    def f(z: Any) -> Any:
        if image:
            bias = leaves['bias'][:, None, None]
            inner = torch.relu(convolve(z, leaves['first']) + bias)
            return leaves['x'] + convolve(inner, leaves['second'])
        inner = torch.relu(z @ leaves['first'] + leaves['bias'])
        return leaves['x'] + inner @ leaves['second']

    def call() -> Any:
        outputs, _ = layer(f, leaves['x'].detach())
        loss = (cotangent * outputs[-1]).sum()
        grads = torch.autograd.grad(loss, list(leaves.values()))
        return loss.item(), {k: to_numpy(k, t) for k, t in zip(leaves, grads, strict=True)}

    return call


def contenders(
    args: Any, g: jax.Array, rtol: float
) -> tuple[dict[str, tuple[Run, float]], list[str]]:
    """Returns name -> (call, memory in MB), and what is missing."""
    runs = {'jax_prompt': compiled(ours(rtol), args, g)}
    runs['jax_prompt, cotangent x 1e-4'] = compiled(ours(rtol), args, g * SMALL)
    if g.ndim == 4:
        runs['jax_prompt, plain cell'] = compiled(
            ours(rtol, f=lambda args, z: plain_cell(z, args)), args, g
        )
    runs['jax_prompt, one step'] = compiled(ours(rtol, kind='one_step'), args, g)
    runs['unrolled 20'] = compiled(unrolled, args, g)
    size = float(jnp.linalg.norm(fixed_point(cell, args, args['x'], Solver(max_iter=100))))
    others = {
        'jaxopt': lambda: jaxopt_layers(rtol, size),
        'optimistix': lambda: optimistix_layers(rtol, size / g.size**0.5),
    }
    missing = []
    for module in (*others, 'torchdeq'):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')  # jaxopt announces its end, torchdeq bad escapes
                importlib.import_module(module)
        except ImportError as error:
            missing.append(f'{module} ({error})')
            continue
        if module == 'torchdeq':
            runs['torchdeq'] = torchdeq_call(args, g, rtol), float('nan')
            small = torchdeq_call(args, g * SMALL, rtol)
            runs['torchdeq, cotangent x 1e-4'] = small, float('nan')
        else:
            for name, layer in others[module]().items():
                runs[name] = compiled(layer, args, g)
    return runs, missing


def error_of(result: Any, reference: Any, scale: float) -> float:
    """Largest error of a gradient's leaves, relative to each leaf's norm."""
    pairs = [(np.asarray(result[1][k]) / scale, np.asarray(v)) for k, v in reference.items()]
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Times all contenders on one cell and prints them."""
    args, g = problem(*CELLS[name])
    _, reference = compiled(ours(1e-7, max_iter=300), args, g)[0]()
    runs, missing = contenders(args, g, options.rtol)
    times: dict[str, list[float]] = {n: [] for n in runs}
    errors = {}
    for n, (call, _) in runs.items():
        errors[n] = error_of(call(), reference, SMALL if 'x 1e-4' in n else 1.0)
    for _ in range(options.turns):
        for n, (call, _) in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            times[n].append(time.perf_counter() - start)
    base = statistics.median(times['jax_prompt'])
    table = {}
    print(f'{"":32}{"ms":>9}{"ratio":>8}{"MB":>9}{"error":>10}')
    for n, (_, memory) in runs.items():
        seconds = statistics.median(times[n])
        table[n] = {'ms': 1e3 * seconds, 'ratio': seconds / base, 'error': errors[n]}
        table[n] |= {'best_ms': 1e3 * min(times[n])}
        table[n] |= {'temp_mb': memory} if memory == memory else {}
        print(f'{n:32}{1e3 * seconds:9.1f}{seconds / base:8.2f}{memory:9.1f}{errors[n]:10.1e}')
    for n in missing:
        print(f'not installed, left out: {n}')
    by_steps = {n: compiled(ours(options.rtol, max_iter=n), args, g)[1] for n in STEPS}
    print('MB at most ' + ', '.join(f'{n} steps: {mb:.2f}' for n, mb in by_steps.items()))
    figures = {'contenders': table, 'missing': missing, 'temp_mb_by_steps': by_steps}
    return figures | mean_steps(args, g, options.rtol)


def mean_steps(args: Any, g: jax.Array, rtol: float) -> dict[str, Any]:
    """Returns and prints the mean steps of both solves."""
    solver = Solver(rtol=rtol)

    def loss(p: jax.Array) -> jax.Array:
        return jnp.sum(g * fixed_point(cell, args, args['x'], solver, Gradient(solver=solver), p))

    seen = np.asarray(jax.jit(jax.grad(loss))(probe(len(g))))
    forward, backward = float(seen[:, 0].mean()), float(seen[:, 3].mean())
    print(f'mean steps: {forward:.1f} forward, {backward:.1f} backward\n')
    return {'forward_steps': forward, 'backward_steps': backward}


def main() -> None:
    """Parses the arguments, measures, prints and writes JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--rtol', type=float, default=1e-4)
    parser.add_argument('--turns', type=int, default=7, help='timings of each contender')
    parser.add_argument('--cells', nargs='+', choices=list(CELLS), default=list(CELLS))
    parser.add_argument('--out', type=Path, help='JSON file of the figures')
    options = parser.parse_args()
    device = jax.devices()[0]
    figures: dict[str, Any] = {
        'device': f'{device.platform} {device.device_kind}',
        'machine': machine(),
        'versions': {'jax': jax.__version__},
        'rtol': options.rtol,
        'turns': options.turns,
    }
    print(figures)
    figures['cells'] = {name: measure(name, options) for name in options.cells}
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
    enter(main)

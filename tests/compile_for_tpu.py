"""Compiles the steps of small networks for a slice of eight TPUs. It needs libtpu, and no TPU.

    pip install -e '.[test,tpu]' && python tests/compile_for_tpu.py

Without an argument it compiles every program of `test_lowering.PROGRAMS`, which takes two minutes.
It prints a line of JSON for each: the network, the method, the devices that share each frozen
weight, the processor time in seconds, and the collective operations as [kind, devices, times].
`test_tpu.py` gives it a list of [network, method, fsdp].
"""

import json
import sys
import time
from typing import Any

from jax_prompt.runs.topology import tpu_slice


def compiled(name: str, method: str, fsdp: int, devices: Any) -> dict:
    """Compiles one step for devices of `tpu_slice`.

    Returns:
      What is printed of it.

    Raises:
      ValueError: it does not fit the memory of a chip.
    """
    from test_lowering import shapes_for

    from jax_prompt.train.step import make_step

    start = time.process_time()
    shapes = shapes_for(name, method, devices, engine={'fsdp': fsdp})
    need = shapes.need(make_step, shapes.step())
    if need.too_much or need.total <= 0:
        raise ValueError(f'{name}, {method}: {need.too_much or "it takes no memory"}')
    return {
        'program': [name, method, fsdp],
        'seconds': round(time.process_time() - start, 1),
        'found': [(one.kind, one.devices, one.times) for one in need.found],
    }


def main() -> None:
    """Compiles the programs that the argument lists, or all."""
    devices = tpu_slice('v5e:2x4')  # chooses the platform before JAX starts
    from test_lowering import PROGRAMS

    everything = [(name, method, 1) for name, method in PROGRAMS]
    for program in json.loads(sys.argv[1]) if len(sys.argv) > 1 else everything:
        print(json.dumps(compiled(*program, devices)), flush=True)


if __name__ == '__main__':
    main()

"""TPU slices that are not there: descriptions of their devices, for which programs compile.

The compiler of TPUs comes with the package libtpu and needs no TPU.
"""

import os
from collections.abc import Sequence
from typing import Any

import jax


def tpu_slice(name: str) -> Sequence[Any]:
    """Returns the devices of a slice, 'v5e:4x4' for example.

    Where nothing says which platforms JAX may take, it takes the CPU from now on: it would look for
    a TPU otherwise, and there is none.

    Raises:
      ValueError: libtpu is not installed, or there is no such slice.
    """
    os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')  # no question to Google's cloud
    os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')  # it takes no chip, so needs no lock
    if not getattr(jax.config, 'jax_platforms', None):
        jax.config.update('jax_platforms', 'cpu')
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(platform='tpu', topology_name=name)
    except Exception as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        if isinstance(error, ImportError) or 'not installed' in said:
            why = "needs the TPU compiler; pip install 'jax-prompt[tpu]'"
        elif 'INVALID_ARGUMENT' in said:
            why = 'is no TPU slice; give KIND:SHAPE such as v5e:2x4, v5e:4x4, v5p:2x2x1, v6e:2x4'
        else:
            why = 'can not be described'
        raise ValueError(f'--topology={name} {why} ({said})') from error
    return list(found.devices)

"""How processes of one machine divide it: a GPU each, or the cores where there is no GPU.

A process of JAX takes all GPUs of its machine and reserves three quarters of their memory, and on a
CPU it makes as many threads as there are cores. So several of them on one machine disturb each
other, unless each sees only its share.
"""

import itertools
import os
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import NamedTuple


class Share(NamedTuple):
    """What one process has of its machine.

    Attributes:
      name: 'GPU 0', or 'cores 0-3'.
      environment: variables that are set for it.
      cores: cores that it may run on; (): all.
    """

    name: str
    environment: Mapping[str, str]
    cores: tuple[int, ...] = ()


def shares(count: int, gpus: Sequence[str], cores: Sequence[int]) -> list[Share]:
    """Divides a machine among processes: a GPU each, or the cores where there is no GPU.

    Args:
      count: processes.
      gpus: the GPUs, as CUDA_VISIBLE_DEVICES names them.
      cores: numbers of the cores.

    Raises:
      ValueError: more processes than there are GPUs, or cores.
    """
    have, what = (len(gpus), 'GPUs') if gpus else (len(cores), 'cores')
    if not 1 <= count <= have:
        raise ValueError(
            f'workers is {count}, and this machine has {have} {what}; allowed: 1 to {have}'
        )
    if gpus:
        return [Share(f'GPU {gpu}', {'CUDA_VISIBLE_DEVICES': gpu}) for gpu in gpus[:count]]
    ends = [have * i // count for i in range(count + 1)]
    parts = [tuple(cores[a:b]) for a, b in itertools.pairwise(ends)]
    return [Share(_named(part), {}, part) for part in parts]


def find_gpus() -> list[str]:
    """Returns the NVIDIA GPUs that JAX would take here; asked of the driver, as JAX takes them all.

    There is none where JAX_PLATFORMS excludes them, or where JAX is installed without CUDA.
    """
    platforms = os.environ.get('JAX_PLATFORMS', '')
    if platforms and not {'cuda', 'gpu'} & set(platforms.split(',')):
        return []
    if not any('cuda' in entry.name for entry in metadata.entry_points(group='jax_plugins')):
        return []
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    if visible is not None:
        return visible_gpus(visible)
    try:
        command = ['nvidia-smi', '-L']
        listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(i) for i in range(sum(s.startswith('GPU ') for s in listed.stdout.splitlines()))]


def visible_gpus(value: str) -> list[str]:
    """Returns the GPUs of a value of CUDA_VISIBLE_DEVICES, up to the first that is none.

    >>> visible_gpus('2,GPU-8a1f, 0'), visible_gpus('1,-1,0'), visible_gpus('')
    (['2', 'GPU-8a1f', '0'], ['1'], [])
    """
    names = [name.strip() for name in value.split(',')]
    return list(itertools.takewhile(lambda name: name not in ('', '-1'), names))


def find_cores() -> list[int]:
    """Returns the numbers of the cores that this process may run on."""
    if hasattr(os, 'sched_getaffinity'):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _named(cores: Sequence[int]) -> str:
    if len(cores) > 1 and cores[-1] - cores[0] == len(cores) - 1:
        return f'cores {cores[0]}-{cores[-1]}'
    return f'core{"s" if len(cores) > 1 else ""} {", ".join(map(str, cores))}'

"""What a result says of where it came from: versions, machine, memory, and what it measured."""

import platform
import resource
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax

import jax_prompt
from jax_prompt.core.checksum import hash_tree
from jax_prompt.core.tree import Tree
from jax_prompt.runs.config import RunConfig

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def versions() -> dict[str, str]:
    """Returns the versions that a number depends on."""
    found = {'jax_prompt': jax_prompt.__version__, 'python': platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Returns the device kind, their number, and the system."""
    device = jax.devices()[0]
    return {
        'platform': device.platform,
        'device': device.device_kind,
        'num_devices': jax.device_count(),
        'num_processes': jax.process_count(),
        'system': platform.platform(),
    }


def measured_hash(config: RunConfig, trained: Tree, frozen: Tree) -> str:
    """Returns the SHA-256 of what a result measured, beside the pretrained weights.

    Args:
      config: the run.
      trained: the trained tree that was evaluated.
      frozen: the frozen tree. Prompts that do not train are part of what was measured.
    """
    prompts = {} if config.train_prompts else {'tuner': frozen.get('tuner', {})}
    return hash_tree({'trained': trained, 'fixed': prompts})


def peak_memory_mb() -> float:
    """Returns the peak memory in MB (1e6 bytes): the device's own, or the process's on CPU.

    On CPU it is the resident set of the whole process, Python and libraries included.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    if 'peak_bytes_in_use' in stats:
        return stats['peak_bytes_in_use'] / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == 'darwin' else peak * 1024 / 1e6


def conclusion(result: Mapping[str, Any]) -> str:
    """Returns what a result comes to, in a line."""
    test = result['test_accuracy']
    shown = 'no test split' if test is None else f'test accuracy {100 * test:.2f} %'
    return (
        f'{result["method"]}: {shown}, {result["num_trainable"]} trained parameters, '
        f'{result["seconds_total"]:.1f} s'
    )

"""Set before JAX starts: tests run on eight simulated CPU devices and share compiled programs.

Most of the suite's time is XLA's: some 18,000 programs are compiled, each of which runs once or
twice on a few small arrays. They are compiled in haste: LLVM's optimisations are off, and so are
the MLIR emitters of fusions where this jaxlib can do without. What is computed stays the same up to
rounding. Tests that are marked `optimised` hold results to that rounding; `tests/test_optimised.py`
runs them in a process of their own, compiled as a user's programs are. XLA_FLAGS in the environment
wins: `XLA_FLAGS=--xla_backend_optimization_level=3` runs the
suite on programs compiled as a user's are, in twice the time.
"""

import atexit
import gc
import os
import sys
import time
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

_ROOT = Path(__file__).resolve().parents[1]

os.environ['JAX_PLATFORMS'] = 'cpu'
_given = os.environ.get('XLA_FLAGS', '')
_FLAGS = {'--xla_force_host_platform_device_count': '8'}
if '--xla_backend_optimization_level' not in _given:
    _FLAGS['--xla_backend_optimization_level'] = '0'
    _FLAGS['--xla_cpu_parallel_codegen_split_count'] = '1'
    if metadata.version('jaxlib').startswith('0.10.'):  # one that lacks a flag ends the process
        _FLAGS['--xla_cpu_use_fusion_emitters'] = 'false'
_missing = [f'{name}={value}' for name, value in _FLAGS.items() if name not in _given]
os.environ['XLA_FLAGS'] = ' '.join([_given, *_missing]).strip()  # workers have it as given
_HASTY = '--xla_backend_optimization_level=0' in os.environ['XLA_FLAGS']
# The workers and their subprocesses compile much the same.
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(_ROOT / '.pytest_cache' / 'xla'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '0')
# Where in the code each operation stands is of use to who reads the programs, and takes its time.
os.environ.setdefault('JAX_TRACEBACK_IN_LOCATIONS_LIMIT', '0')


_MAPS = Path('/proc/self/maps')
_MOST_MAPS = 58_000  # Linux aborts a process that reaches some 65,000
_tests_to_next_look = [1]
# Tracing makes many objects that live long; Python shall not look for circles in them all the time.
gc.set_threshold(200_000, 20, 20)


# They take longest, and start first: the last file to end then is a short one.
_FIRST = (
    'tests/test_notebook.py',
    'tests/test_methods.py',
    'tests/train/test_processes.py',
    'tests/tuners/test_lion.py',
    'tests/runs/test_run.py',
    'tests/tuners/test_resnet_methods.py',
    'tests/search/test_population.py',
    'tests/data/test_tfds.py',
    'tests/train/test_mesh.py',
    'tests/train/test_implicit.py',
    'tests/train/test_loop.py',
    'tests/runs/test_resnet_run.py',
    'tests/runs/test_embedded.py',
    'tests/tuners/test_convnext_methods.py',
    'tests/train/test_micro_batch.py',
    'tests/serve/test_backbone.py',
    'tests/suite/test_suite.py',
    'tests/test_lowering.py',
    'tests/backbones/test_swin.py',
    'tests/launch/test_speed.py',
    'tests/test_optimised.py',
    'tests/search/test_padding.py',
)


def pytest_configure(config: pytest.Config) -> None:
    """Lets a worker of xdist, which has reported all, end at once: to free its gigabytes object by
    object takes seconds."""
    if hasattr(config, 'workerinput'):
        atexit.register(os._exit, 0)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file():
    """Looks for no doctests in tests: they are the package's, and to look takes seconds."""
    found = yield
    return [collector for collector in found if type(collector).__name__ != 'DoctestModule']


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves `optimised` tests to their own process, and sorts the slow files to the front."""
    apart = [item for item in items if _HASTY and item.get_closest_marker('optimised')]
    if apart:
        items[:] = [item for item in items if item not in apart]
        config.hook.pytest_deselected(items=apart)
    place = {name: i for i, name in enumerate(_FIRST)}
    items.sort(key=lambda item: place.get(item.nodeid.split('::')[0], len(_FIRST)))


def _processor_time() -> float:
    """Returns the seconds of this process and of its children that have ended."""
    return time.process_time() + sum(os.times()[2:4])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    """Writes how long a test takes to the file JAX_PROMPT_TIMES, for `tests/slowest.py`."""
    before = _processor_time()
    done = yield
    if file := os.environ.get('JAX_PROMPT_TIMES'):
        with open(file, 'a', encoding='utf-8') as out:
            out.write(f'{_processor_time() - before:.3f} {item.nodeid}\n')
    return done


@pytest.fixture(autouse=True, scope='module')
def _one_mlir_context():
    """Lets a file's programs share one MLIR context. JAX makes one for each program, and to load
    the dialects into it takes longer than to lower a small program."""
    mlir = sys.modules.get('jax._src.interpreters.mlir')
    make = getattr(mlir, 'make_ir_context', None)
    if make is None:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlir, 'make_ir_context', cache(make))
        yield


@pytest.fixture(autouse=True, scope='module')
def _garbage_is_of_this_file():
    """Lets the collector pass over what was there before a file's tests: modules and traced
    programs that stay. Late in a worker's life a look at all of them takes seconds."""
    gc.collect(1)
    gc.freeze()


@pytest.fixture(autouse=True)
def _forget_programs():
    """Drops compiled programs before they are too many: JAX keeps each, with several maps of memory
    for every kernel. As it drops them seldom, a worker's files share what they compile."""
    yield
    _tests_to_next_look[0] -= 1
    if _tests_to_next_look[0] > 0 or not _MAPS.exists():
        return
    with open(_MAPS, encoding='utf-8') as file:
        count = sum(1 for _ in file)
    if count > _MOST_MAPS:
        import jax

        jax.clear_caches()
        gc.unfreeze()
        gc.collect()
        count = 0
    _tests_to_next_look[0] = 1 + (_MOST_MAPS - count) // 4_000  # a test's maps are fewer by far


@pytest.fixture(scope='session')
def shared_real() -> Path:
    """The folder of real weights and images that measurements use; no part of the project."""
    default = _ROOT / '../shared'
    folder = (Path(os.environ.get('JAX_PROMPT_SHARED', default)) / 'real').resolve()
    if not folder.is_dir():
        pytest.skip('no real weights and images here; JAX_PROMPT_SHARED names their folder')
    return folder


@pytest.fixture(scope='session')
def pack(tmp_path_factory):
    """A packed npz of dark and bright noise: 24 train, 8 val, 10 test images of 32 px."""
    from small_data import encode

    path = tmp_path_factory.mktemp('data') / 'task.npz'
    rng = np.random.default_rng(0)
    label = (np.arange(42) % 2).astype(np.int32)
    files = [
        encode((rng.integers(0, 120, (32, 32, 3)) + 90 * bright).astype(np.uint8))
        for bright in label
    ]
    np.savez(
        path,
        bytes=np.frombuffer(b''.join(files), np.uint8),
        offset=np.cumsum([0, *map(len, files)]).astype(np.int64),
        label=label,
        split=np.repeat([0, 1, 2], [24, 8, 10]).astype(np.uint8),
        classes=np.array(['dark', 'bright']),
    )
    return path


@pytest.fixture(scope='session')
def weights():
    """The weights of vit_micro that ship with the package."""
    from jax_prompt.backbones.table import find_weights

    return find_weights('vit_micro')


@pytest.fixture
def make_config(pack, weights):
    """Returns a function that makes a small run's config."""

    from jax_prompt.runs.config import resolve

    def make(**changes):
        base = {
            'data': str(pack),
            'backbone': 'vit_micro',
            'weights': str(weights),
            'method': 'vpt_deep',
            'num_prompts': 2,
            'epochs': 2,
            'batch_size': 8,
            'lr': 1e-2,
            'search': False,
            'optim': {'name': 'adamw'},
            'engine': {'num_devices': 1, 'checkpoint_seconds': 0.0, 'eval_batch_size': 8},
        }
        return resolve(base | changes)

    return make

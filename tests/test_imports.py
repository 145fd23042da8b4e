"""The arrows: which room of the package imports which, and what it imports from outside."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'jax_prompt'

# What each room may import from the package, besides itself. A room is a folder of the package or
# a module at its top; 'backbones.table' names one module of a room.
FAMILIES = ('vit', 'swin', 'resnet', 'convnext')
CONFIGS = ['backbones.staged_config', *(f'backbones.{name}_config' for name in FAMILIES)]
TABLES = [
    *('backbones.table', 'backbones.published', 'backbones.entry', 'backbones.architectures'),
    *CONFIGS,
]
BELOW_MODEL = ['core', 'nn', 'deq', 'backbones', 'tuners', 'method', 'methods']
BELOW_ENGINE = [*BELOW_MODEL, 'model', 'weights', 'data']
BELOW_RUNS = [*BELOW_ENGINE, 'evals', 'train', 'calibrate', 'search']
BELOW_DOORS = [*BELOW_RUNS, 'runs', 'suite', 'report', 'packs', 'serve', 'door']
ARROWS = {
    '': ['api'],  # jax_prompt/__init__.py, when one of its names is asked for
    'core': [],
    'nn': ['core'],
    'deq': ['core'],
    'backbones': ['core', 'nn', 'deq'],
    'tuners': ['core', 'nn', 'deq'],
    'method': ['core'],
    'methods': ['core', 'nn', 'deq', 'backbones', 'tuners', 'method'],
    'model': BELOW_MODEL,
    # Which leaves a network has, and of which shapes, its init alone says (`leaf_shapes`).
    'weights': ['core', *TABLES, 'backbones.families'],
    'data': ['core', *TABLES],
    'report': BELOW_ENGINE,
    'evals': BELOW_ENGINE,
    'train': [*BELOW_ENGINE, 'evals'],
    'calibrate': [*BELOW_ENGINE, 'evals', 'train'],
    'search': [*BELOW_ENGINE, 'evals', 'train'],
    'runs': BELOW_RUNS,
    'suite': [*BELOW_RUNS, 'runs', 'report'],
    'packs': [*BELOW_RUNS, 'runs', 'report'],
    'serve': [*BELOW_RUNS, 'runs', 'packs'],
    'door': ['core'],
    'api': BELOW_DOORS,
    'cli': BELOW_DOORS,
}

# Outside the package: what may be imported at the head of a file, and what inside a function.
ALWAYS = {'jax', 'flax', 'optax', 'numpy'}
INSIDE = {
    *('ml_dtypes', 'safetensors', 'PIL', 'orbax', 'tqdm', 'chex', 'array_record', 'sklearn'),
    *('tensorflow_datasets', 'ml_collections', 'absl', 'matplotlib', 'requests'),
    *('starlette', 'uvicorn', 'python_multipart'),
}
NEVER = {'torch', 'torchvision', 'timm', 'transformers', 'tensorflow', 'tf_keras', 'keras'}


class Import(NamedTuple):
    """One imported module: where, its full name, and whether importing the file runs it."""

    file: str
    line: int
    name: str
    at_head: bool


def imports_of(path: Path, root: Path = ROOT) -> list[Import]:
    """Lists the imports of a file, in whatever function they stand."""
    return list(_imports_in(path.read_text(encoding='utf-8'), path, root))


@cache
def _imports_in(text: str, path: Path, root: Path) -> list[Import]:
    file = path.relative_to(root).as_posix()
    found: list[Import] = []

    def visit(node: ast.AST, at_head: bool) -> None:
        at_head = at_head and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if isinstance(node, ast.Import):
            found.extend(Import(file, node.lineno, a.name, at_head) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ''
            if node.level:
                package = path.parent.relative_to(root).parts
                package = package[: len(package) - (node.level - 1)]
                module = '.'.join([*package, *([module] if module else [])])
            # `from package import module` names a module too.
            names = [module]
            if module.split('.')[0] in ('jax_prompt', 'launch', 'configs', 'tests'):
                names = [f'{module}.{a.name}' for a in node.names]
            found.extend(Import(file, node.lineno, name, at_head) for name in names)
        for child in ast.iter_child_nodes(node):
            visit(child, at_head)

    visit(ast.parse(text), True)
    return found


def sources(folder: Path = PACKAGE) -> list[Path]:
    return sorted(folder.rglob('*.py'))


def room_of(file: str) -> str:
    """Returns the room of a file of the package: 'core' for jax_prompt/core/tree.py."""
    part = file.split('/')[1]
    return '' if part == '__init__.py' else part.removesuffix('.py')


def breaks_arrow(item: Import) -> bool:
    if item.name.split('.')[0] != 'jax_prompt':
        return False
    room, target = room_of(item.file), item.name.removeprefix('jax_prompt').removeprefix('.')
    if not target or target.startswith('__'):  # the package itself: its version
        return False
    allowed = [*([room] if room else []), *ARROWS[room]]
    return not any(target == name or target.startswith(f'{name}.') for name in allowed)


def breaks_outside(item: Import) -> bool:
    top = item.name.split('.')[0]
    if top == 'jax_prompt' or top in sys.stdlib_module_names or top in ALWAYS:
        return False
    if top == 'tensorflow_datasets':
        # A builder is a subclass of tfds's own; the module that defines it is imported when asked.
        if item.file.startswith('jax_prompt/data/builders/'):
            return False
        return item.at_head or not item.file.startswith('jax_prompt/data/')
    if top in ('ml_collections', 'absl'):
        allowed = item.file == 'jax_prompt/runs/config_file.py' or room_of(item.file) == 'cli'
        return item.at_head or not allowed
    if top == 'matplotlib':
        return item.at_head or room_of(item.file) != 'report'
    return item.at_head or top not in INSIDE


def show(items: list[Import]) -> list[str]:
    return [f'{i.file}:{i.line} imports {i.name}' for i in items]


ALL = [item for path in sources() for item in imports_of(path)]


def test_every_room_has_its_arrows():
    rooms = {room_of(path.relative_to(ROOT).as_posix()) for path in sources()}
    assert rooms <= ARROWS.keys(), f'rooms without arrows: {sorted(rooms - ARROWS.keys())}'


def test_rooms_import_only_what_lies_below_them():
    assert not show([item for item in ALL if breaks_arrow(item)])


def test_arrows_have_no_cycle():
    depends = {room: {t.split('.')[0] for t in to} for room, to in ARROWS.items()}
    while depends:
        free = {room for room, to in depends.items() if not to & depends.keys() - {room}}
        assert free, f'a cycle among {sorted(depends)}'
        depends = {room: to for room, to in depends.items() if room not in free}


def test_outside_imports_are_declared_and_lazy():
    assert not show([item for item in ALL if breaks_outside(item)])


def test_builders_are_imported_only_when_asked():
    eager = [
        item
        for item in ALL
        if item.at_head
        and item.name.startswith('jax_prompt.data.builders')
        and not item.file.startswith('jax_prompt/data/builders/')
    ]
    assert not show(eager)


def test_no_other_framework_in_the_package():
    assert not show([item for item in ALL if item.name.split('.')[0] in NEVER])


def test_nothing_imports_the_scripts():
    tops = {'launch', 'configs', 'tests'}
    assert not show([item for item in ALL if item.name.split('.')[0] in tops])


@pytest.mark.parametrize(
    ('file', 'code'),
    [
        ('backbones/x.py', 'from jax_prompt.tuners.vpt import VPT'),
        ('tuners/x.py', 'def f():\n    from jax_prompt import backbones'),
        ('core/x.py', 'from ..nn import layers'),
        ('evals/x.py', 'import jax_prompt.train.step'),
        ('train/x.py', 'from jax_prompt.runs.config import RunConfig'),
        ('runs/x.py', 'from jax_prompt.report import rows'),
        ('data/x.py', 'from jax_prompt.backbones import swin'),
        ('data/x.py', 'import tensorflow_datasets as tfds'),
        ('train/x.py', 'def f():\n    import tensorflow_datasets'),
        ('train/step.py', 'def f():\n    from ml_collections import ConfigDict'),
        ('runs/run.py', 'def f():\n    from absl import flags'),
        ('suite/x.py', 'from jax_prompt.cli import main'),
        ('cli/x.py', 'from absl import flags'),
        ('cli/x.py', 'def f():\n    import matplotlib'),
        ('weights/x.py', 'if True:\n    import torch'),
        ('evals/x.py', 'import sklearn.metrics'),
        ('nn/x.py', 'class A:\n    import chex'),
    ],
)
def test_broken_arrows_are_seen(tmp_path, file, code):
    path = tmp_path / 'jax_prompt' / file
    path.parent.mkdir(parents=True)
    path.write_text(code)
    assert [i for i in imports_of(path, tmp_path) if breaks_arrow(i) or breaks_outside(i)]


# Runs with everything from outside blocked but jax, flax, optax, numpy and what these need.
# Flax asks for orbax on installation but not on import, so orbax and its own needs are blocked.
_ALONE = """
import importlib, importlib.metadata, pkgutil, re, sys

def closure(names):
    seen, todo = set(), list(names)
    while todo:
        name = re.sub('[-_.]+', '-', todo.pop()).lower()
        if name in seen or name == 'orbax-checkpoint':
            continue
        seen.add(name)
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        todo += [re.match('[A-Za-z0-9._-]+', n)[0] for n in needs if 'extra' not in n]
    return seen

allowed = closure(['jax', 'flax', 'optax', 'numpy'])
allowed -= {'pillow', 'safetensors', 'tqdm', 'chex', 'scikit-learn', 'tensorstore'}
owners = importlib.metadata.packages_distributions()

class Block:
    def find_spec(self, name, path=None, target=None):
        top = name.partition('.')[0]
        own = {re.sub('[-_.]+', '-', d).lower() for d in owners.get(top, [])}
        if not own or own & allowed or top == 'jax_prompt':  # no owner: Python's own
            return None
        raise ModuleNotFoundError(f'{name} is blocked', name=name)

sys.meta_path.insert(0, Block())
import jax_prompt
names = [m.name for m in pkgutil.walk_packages(jax_prompt.__path__, 'jax_prompt.')
         if not m.name.startswith('jax_prompt.data.builders')]
for name in names:
    importlib.import_module(name)
for name in ('PIL', 'orbax', 'sklearn', 'tensorflow_datasets', 'ml_collections', 'chex', 'tqdm'):
    assert name not in sys.modules, name

import jax, jax.numpy as jnp, numpy as np
from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.methods import get_method
from jax_prompt.model import build_classifier
model = build_classifier(ViTConfig(16, 2, 2, 32, 8, 16), get_method('vpt_deep'), 3, num_prompts=2)
rng, shapes = np.random.default_rng(0), jax.eval_shape(model.init, jax.random.key(0))
params = jax.tree.map(lambda s: rng.standard_normal(s.shape, s.dtype), shapes)
images = jnp.ones((2, 16, 16, 3))
loss = lambda p: jnp.sum(model.apply(p, images, key=jax.random.key(1), train=True) ** 2)
grads = jax.jit(jax.grad(loss))(params)
assert jnp.any(grads['tuner']['layers']['prompts'] != 0)
print(len(names), 'modules')
"""


def test_models_and_engine_run_with_jax_flax_optax_and_numpy_alone(tmp_path):
    script = tmp_path / 'alone.py'
    script.write_text(f'import sys\nsys.path.insert(0, {str(ROOT)!r})\n{_ALONE}')
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[0]) > 15

"""A finished run's network as weights of their own, which anybody reads as a plain backbone.

What a method trained in the backbone stays where it is (`full`, `retrain`, `partial`, `bias`); what
it added as a change of weights is merged into them (`lora`, `ssf`); what is no change of weights
(prompts, adapters, ...) can't be exported, and the run itself is what predicts with it.
"""

import hashlib
from dataclasses import dataclass, fields, replace

import jax
import numpy as np

from jax_prompt.backbones.architectures import Config
from jax_prompt.backbones.table import TABLE
from jax_prompt.core.tree import Tree, flatten, merge, unflatten, unstack_layers
from jax_prompt.core.tuner import Tuner, adds_nothing, overrides
from jax_prompt.methods import METHODS, get_method
from jax_prompt.runs.backbone import build_backbone
from jax_prompt.runs.restore import Restored
from jax_prompt.weights.identity import Identity, listed
from jax_prompt.weights.origin import differences, listed_arch

# How a run computes, which is no property of the weights.
_OF_THE_RUN = ('dtype', 'scan', 'remat', 'drop_path_rate', 'patch_drop_rate', 'batch_statistics')


@dataclass(frozen=True)
class Exported:
    """What is written.

    Attributes:
      tree: the backbone's parameters in per-layer form, numpy.
      head: {'kernel' [D, K], 'bias' [K]}: logits = features @ kernel + bias.
      classes: names of the K classes.
      identity: of these weights, with a name of their own.
      changed: whether the run changed the backbone at all.
      notes: what a reader of the file should know.
    """

    tree: Tree
    head: Tree
    classes: tuple[str, ...]
    identity: Identity
    changed: bool
    notes: tuple[str, ...]


def exported(run: Restored, name: str = '') -> Exported:
    """Merges what a run trained into the backbone's weights.

    Args:
      run: a finished run.
      name: the tag that these weights get; '': method, data and checksum.

    Raises:
      ValueError: the method adds to the backbone what is no change of its weights; or the name is
        that of published weights.
    """
    classifier, method = run.program.classifier, run.config.method
    params = jax.tree.map(np.asarray, merge(run.trainable, run.frozen))
    fits = [name for name, row in METHODS.items() if merges(row.tuner)]
    wrong = [part for part in method.split('+') if not merges(get_method(part).tuner)]
    if wrong:
        raise ValueError(
            f"method {wrong[0]} adds to the backbone what is no change of its weights, so it can't "
            f'be exported; allowed: {", ".join(fits)}. Predict with the run itself '
            '(jax-prompt predict)'
        )
    try:
        added = params.get('tuner', {})
        merged = classifier.tuner.merged(params['backbone'], added, classifier.spec)
    except ValueError as error:
        where, reason = run.config.backbone, str(error).partition(';')[0]
        raise ValueError(
            f"method {method} can't be merged into {where}: {reason}. Predict with the run itself "
            '(jax-prompt predict)'
        ) from error
    tree = jax.tree.map(np.asarray, unstack_layers(merged))
    config = classifier.backbone.config
    tree, config, notes = _own_positions(run, tree, config)
    arch = listed_arch(run.config.backbone)
    _check_name(f'{arch}.{name}' if name else '')
    digest = _digest(tree)
    base = listed(arch)
    kept = {n.name: getattr(base, n.name) for n in fields(base) if n.name in _OF_THE_RUN}
    parent = run.result['weights']
    data = ''.join(c if c.isalnum() else '_' for c in run.result['data'].rsplit('/', 1)[-1])
    tag = name or '_'.join((method.replace('+', '_'), data[:40], digest[:8]))
    identity = Identity(
        name=f'{arch}.{tag}',
        source=f'{method} on {run.result["data"]}',
        sha256=digest,
        format='jax_prompt',
        mean=tuple(run.result['mean']),
        std=tuple(run.result['std']),
        overrides=differences(replace(config, **kept), base),
        parent=f'{parent["name"]} {parent["sha256"]}' if parent else '',
    )
    classes = tuple(run.result['classes'])
    changed = bool(run.trainable.get('backbone') or run.trainable.get('tuner'))
    return Exported(tree, params['head'], classes, identity, changed, notes)


def _check_name(name: str) -> None:
    if name in TABLE and not TABLE[name].packaged:
        raise ValueError(f'{name} are published weights; give yours a name of their own (--name)')
    if name and not name.partition('.')[2].replace('_', '').isalnum():
        raise ValueError(f'the name is {name!r}; allowed: letters, digits and _')


def _own_positions(
    run: Restored, tree: Tree, config: Config
) -> tuple[Tree, Config, tuple[str, ...]]:
    """Gives positions that did not train the grid of the original file again.

    A run resizes them to its own image size. Where they trained, they stay at the run's, which is
    said.
    """
    flat, notes = flatten(tree), []
    names = [path for path in flat if path.rsplit('/', 1)[-1] in ('pos_embed', 'relative_bias')]
    trained = flatten(unstack_layers(run.trainable.get('backbone', {})))
    frozen = [path for path in names if path not in trained]
    if frozen and run.result['weights']:
        known = Identity.from_dict(run.result['weights'])
        original = flatten(build_backbone(run.config, known).tree or {})
        flat |= {path: np.asarray(original[path]) for path in frozen}
    size = listed(listed_arch(run.config.backbone)).image_size
    if config.image_size != size:
        where = (
            'and so are their positions' if set(names) - set(frozen) else 'positions are as read'
        )
        notes.append(
            f'these weights were tuned at {config.image_size} px, {where}; the file says so, and '
            f'what is tuned from it runs at {config.image_size} px unless image_size is given'
        )
    return unflatten(flat), config, tuple(notes)


def _digest(tree: Tree) -> str:
    digest = hashlib.sha256()
    for path, leaf in flatten(tree).items():
        digest.update(path.encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()


def merges(kind: type[Tuner]) -> bool:
    """Whether what a kind of tuner adds is a change of weights, which `merged` folds into them."""
    return adds_nothing(kind) or overrides(kind, 'merged')

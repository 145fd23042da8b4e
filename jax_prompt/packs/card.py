"""The card of a pack: a page of Markdown that says what it is and what it was measured on."""

from collections.abc import Sequence
from typing import Any

from jax_prompt.core.printable import some
from jax_prompt.core.tree import count
from jax_prompt.packs.file import Pack
from jax_prompt.report.escape import for_markdown

_NAMED_CLASSES = 20  # a card lists as many
_ACCURACIES = (
    ('test', 'test_accuracy', 'after the last epoch; read once, after training'),
    ('test', 'test_accuracy_best_val', 'of the epoch that was best on val'),
    ('val', 'val_accuracy', 'after the last epoch'),
    ('val', 'best_val_accuracy', 'of the best epoch'),
)


def card(pack: Pack, name: str = '') -> str:
    """Returns a pack's card, Markdown.

    Args:
      pack: the pack.
      name: its title; '': method and data.
    """
    result, backbone = pack.header.result, pack.header.backbone
    data = result['data'].rstrip('/').rsplit('/', 1)[-1]
    title = name or f'{result["method"]} on {data}'
    classes = result['classes']
    lines = [
        f'# {for_markdown(title)}',
        '',
        f'A tuned task for {for_markdown(backbone.label)}, written by jax_prompt '
        f'{for_markdown(result["versions"].get("jax_prompt", "?"))}. The file holds what was '
        'trained, and not the backbone.',
        '',
        *_table(('fact', 'value'), _facts(pack)),
        '',
        '## Measured',
        '',
        *_table(('split', 'images', 'accuracy', 'which weights'), _measured(result)),
        '',
        *(f'- {for_markdown(line)}' for line in _protocol(pack)),
        '',
        f'## Classes ({len(classes)})',
        '',
        for_markdown(some(classes, _NAMED_CLASSES, str)),
        '',
        '## Use',
        '',
        '```python',
        'import jax_prompt',
        '',
        "tuned = jax_prompt.load('FILE')  # weights='PATH' if its backbone is not found",
        "classes = tuned.predict(['image.jpg'])",
        '```',
        '',
        f'It needs the file of {for_markdown(backbone.label)} with SHA-256 `{backbone.sha256}`. '
        'Another one is refused.',
    ]
    return '\n'.join(lines) + '\n'


def _facts(pack: Pack) -> list[tuple[str, str]]:
    """Returns the rows of the card's first table."""
    config, result, backbone = pack.header.config, pack.header.result, pack.header.backbone
    options = {**config.tuner_options}
    options.pop('kept', None)  # indices of what was not pruned
    shown = ', '.join(f'{key}={value}' for key, value in sorted(options.items()))
    resized = {'squash': 'squashed', 'centre': f'centre crop of {config.input.crop_ratio:g}'}
    return [
        ('method', config.method + (f' ({shown})' if shown else '')),
        ('prompts', 'as they were initialised' if not config.train_prompts else ''),
        ('pruned', 'yes' if config.tuner.get('kept') else ''),
        ('backbone', f'{backbone.label} ({backbone.parent or backbone.source})'),
        (
            'image size',
            f'{config.image_size} px, {config.input.resize}, '
            f'{resized.get(config.input.crop, config.input.crop)}',
        ),
        ('pool', config.model.pool),
        ('mean', ', '.join(f'{value:g}' for value in result['mean'])),
        ('std', ', '.join(f'{value:g}' for value in result['std'])),
        (
            'trained parameters',
            f'{result["num_trainable"]:,}, {result["num_trainable_head"]:,} of them in the head',
        ),
        ('stored parameters', f'{count(pack.tree):,}'),
        ('data', result['data'].rstrip('/').rsplit('/', 1)[-1]),
        ('data fingerprint', result['data_fingerprint']),
        ('seed', str(result['seed'])),
        ('checksum', pack.sha256),
        ('versions', ', '.join(f'{k} {v}' for k, v in sorted(result['versions'].items()))),
    ]


def _measured(result: dict[str, Any]) -> list[tuple[str, ...]]:
    sizes = result['num_examples']
    return [
        (split, str(sizes.get(split, '')), f'{100 * result[key]:.2f} %', words)
        for split, key, words in _ACCURACIES
        if result[key] is not None
    ]


def _protocol(pack: Pack) -> list[str]:
    """Returns how the accuracies were come by."""
    config, result = pack.header.config, pack.header.result
    used = f'lr {result["lr"]:g}, weight decay {result["weight_decay"]:g}'
    lines = [f'Trained on {result["trained_on"]}, {config.epochs} epochs, {used}.']
    if config.search:
        after = 'then trained again' if config.refit else 'and the chosen one is this'
        lines.append(f'{len(config.candidates)} candidates were compared on val, {after}.')
    else:
        lines.append('Hyperparameters were given; this run compared none.')
    if result['test_accuracy'] is None:
        lines.append('There was no test split.')
    if result['trained_on'] != 'train':
        lines.append('The accuracies on val are those of the search, before val was trained on.')
    return lines


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table; rows whose last cell is empty are left out."""
    lines = ['| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head)]
    return lines + ['| ' + ' | '.join(map(for_markdown, row)) + ' |' for row in rows if row[-1]]

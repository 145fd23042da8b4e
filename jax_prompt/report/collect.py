"""Makes rows of the table of results from finished run directories."""

import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jax_prompt.core.json_file import load_object
from jax_prompt.methods import get_method
from jax_prompt.report.rows import Row

# How prompts are built by default (`calibrate.spt.Calibration`, which a report can't import), and
# what a label calls that.
CALIBRATION = {'construction': 'random', 'fraction': 1.0, 'layers': 'own', 'faithful': False}
_CALIBRATION = {name: name for name in CALIBRATION} | {'faithful': 'faithful_calibration'}
_CHOSEN = ('lr', 'weight_decay', 'head_weight_decay', 'num_prompts')
# Of the configuration: what a row says elsewhere, and what changes no result.
_ELSEWHERE = (
    'data',
    'weights',
    'weights_format',
    'method',
    'backbone',
    'seed',
    'tuner',
    'transform',
)
_NEUTRAL = {
    'input': ('data_dir', 'workers', 'budget_mb', 'cache_mb', 'image_cache'),
    'model': ('remat', 'scan'),
    'calibration': ('budget_mb',),
    'engine': (
        *('eval_batch_size', 'steps_per_call', 'checkpoint_seconds', 'snapshot_every'),
        *('num_devices', 'fsdp', 'min_converged', 'on_unconverged'),
    ),
}
# What a row takes from result.json as it is; what else it needs of it, and of config.json.
_SAME = (
    *('method', 'backbone', 'seed', 'trained_on', 'num_trainable', 'num_trainable_head'),
    *('images_per_second', 'peak_memory_mb', 'versions', 'machine'),
)
_NEEDED = (
    *_SAME,
    *('data', 'data_fingerprint', 'weights', 'seconds_total'),
    *('test_accuracy', 'test_accuracy_best_val'),
)
_CONFIGURED = ('method', 'tuner', 'transform')


def from_workdir(workdir: str | Path, task: str = '', benchmark: str = '') -> Row:
    """Makes the row of a run directory of `jax-prompt train`.

    Args:
      workdir: the run's folder.
      task: the task's name; '': the name of the run's data.
      benchmark: what the task belongs to.

    Raises:
      FileNotFoundError: the run is not finished.
      ValueError: it has no test split.
    """
    path, result = Path(workdir) / 'result.json', read_result(workdir, _NEEDED)
    config = load_object(Path(workdir) / 'config.json', 'put it back from a copy', _CONFIGURED)
    ended = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    try:
        return from_result(result, config, task, benchmark, ended.isoformat(timespec='seconds'))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f'{path} and the config.json beside it make no row: {error}') from error


def read_result(workdir: str | Path, needed: Collection[str] = ()) -> dict[str, Any]:
    """Reads the result.json of a run directory.

    Raises:
      FileNotFoundError: the run is not finished.
      ValueError: the file is damaged, or lacks a key that is needed.
    """
    path = Path(workdir) / 'result.json'
    if not path.is_file():
        raise FileNotFoundError(
            f'{path} is missing: the run is not finished; start jax-prompt train again on {workdir}'
        )
    way_out = 'remove it and start jax-prompt train again: it is made anew from the last checkpoint'
    return load_object(path, way_out, needed)


def from_result(
    result: Mapping[str, Any],
    config: Mapping[str, Any],
    task: str,
    benchmark: str,
    finished: str,
) -> Row:
    """Makes the row of a finished run.

    Args:
      result: content of result.json.
      config: content of config.json.
      task: the task's name; '': the name of the run's data.
      benchmark: what the task belongs to.
      finished: when the run ended, ISO 8601.

    Raises:
      ValueError: the run has no test split.
    """
    if result['test_accuracy'] is None:
        raise ValueError(
            f'the run on {result["data"]!r} has no test accuracy; give its data a test split, or '
            'set input.test_fraction'
        )
    return Row(
        task=task or result['data'],
        benchmark=benchmark,
        data=result['data_fingerprint'],
        options=options_of(config),
        weights=result['weights'] or {},
        hyperparameters=hyperparameters_of(config),
        chosen={name: result[name] for name in _CHOSEN if name in result},
        accuracy=result['test_accuracy'],
        accuracy_best_val=result['test_accuracy_best_val'],
        seconds=result['seconds_total'],
        finished=finished,
        **{name: result[name] for name in _SAME},
    )


def options_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what differs from the method's defaults, of the content of config.json.

    These are the method's options, how its prompts are built where it is calibrated, and whether
    prompts are frozen, so that each line of SPT's ablations is a method of its own in a report.
    """
    method = get_method(config['method'])
    asked = {**config['tuner'], **config['transform']}
    defaults = json.loads(json.dumps({**method.options(), **method.transform_options()}))
    if method.calibrated:
        own = config.get('calibration', {})
        asked |= {label: own[name] for name, label in _CALIBRATION.items() if name in own}
        asked |= {'calibrate_data': config.get('calibrate_data', '')}
        defaults |= {label: CALIBRATION[name] for name, label in _CALIBRATION.items()}
        defaults |= {'calibrate_data': ''}
    if method.has_prompts:
        asked |= {'train_prompts': config.get('train_prompts', True)}
        defaults |= {'train_prompts': True}
    return {name: value for name, value in asked.items() if value != defaults.get(name)}


def hyperparameters_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what of the content of config.json changes a result and no other field says."""
    kept = {name: value for name, value in config.items() if name not in _ELSEWHERE}
    for part, names in _NEUTRAL.items():
        own = kept.get(part, {})
        kept[part] = {name: value for name, value in own.items() if name not in names}
    return kept

"""What the header of a pack says, checked name by name.

A pack comes from elsewhere. Each value is of its kind and within bounds, or the pack is refused.
What is read here becomes a run's configuration and result, as `runs.restore` gives them.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jax_prompt.core.printable import printable
from jax_prompt.runs.config import RunConfig, resolve
from jax_prompt.weights.identity import Identity

SCHEMA = 1  # of the packs that this version writes and reads
_MOST_NAME = 1000  # characters of a text in it
_MOST_CLASSES = 100_000
_DEEPEST = 10  # levels of lists and objects
_LARGEST = 2**53  # whole numbers up to this one are the same in every reader of JSON


class Header(NamedTuple):
    """What a pack says of its tensors.

    Attributes:
      config: the run's configuration, whose numbers of prompts and pruning are those that it chose.
      result: what the run's result.json says of what it measured, of its data and its origin.
      backbone: which weights it was tuned on.
      content: SHA-256 of these weights as they were read (`checksum.hash_tree` of the tree in
        per-layer form). A converted file with the same values has the same one.
    """

    config: RunConfig
    result: dict[str, Any]
    backbone: Identity
    content: str


def to_json(header: Header) -> dict[str, Any]:
    """Returns the header as JSON-able values; what `from_json` reads back."""
    kept = {name: header.result[name] for name in _FIELDS if name in header.result}
    values = {
        'schema': SCHEMA,
        'config': header.config.to_dict(),
        'result': kept,
        'content': header.content,
    }
    return json.loads(json.dumps(values, allow_nan=False))


def from_json(values: Any) -> Header:
    """Checks the values of a header.

    Raises:
      ValueError: another schema, or a value that is missing, of another kind or out of bounds. The
        file is not named.
    """
    check_schema(values)
    if values.keys() != {'schema', 'config', 'result', 'content'}:
        raise ValueError(f'its header holds {printable(str(sorted(values))[:200])}')
    result, config = values['result'], values['config']
    if not isinstance(result, dict) or not isinstance(config, dict):
        raise ValueError('its configuration or its result is no object')
    unknown = sorted(result.keys() - _FIELDS.keys())
    missing = [name for name in _FIELDS if name not in result and name not in _OPTIONAL]
    if unknown or missing:
        raise ValueError(f'its result lacks {missing[:5]} and has {str(unknown[:5])[:200]} besides')
    for name, value in result.items():
        if not _FIELDS[name](value):
            raise ValueError(f'{name} of its result is {printable(repr(value)[:80])}')
    if not _is_digest(values['content']):
        raise ValueError('content of its header is no SHA-256')
    try:
        backbone, resolved = Identity.from_dict(result['weights']), resolve(config)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(
            f'its configuration is none of this version of jax_prompt ({str(error)[:300]}); '
            f'jax_prompt {printable(result["versions"].get("jax_prompt", "?"))} wrote it'
        ) from error
    for name in ('method', 'backbone', 'seed'):
        if result[name] != getattr(resolved, name):
            raise ValueError(f'its {name} is {result[name]!r} and {getattr(resolved, name)!r}')
    return Header(resolved, result, backbone, values['content'])


def check_schema(values: Any) -> None:
    """Checks that this version reads packs of a header's schema, and that its values are bounded.

    Raises:
      ValueError: another schema (says what to do), or texts, numbers or depths out of bounds.
    """
    if not isinstance(values, dict):
        raise ValueError('its header is no object')
    schema = values.get('schema')
    if schema != SCHEMA or isinstance(schema, bool | float):
        raise ValueError(
            f'its schema is {printable(str(schema)[:40])}; this version of jax_prompt reads schema '
            f'{SCHEMA}. Install the version that wrote it, or write it again from its run'
        )
    if not _is_plain(values):
        raise ValueError('its header holds texts, numbers or depths out of bounds')


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _MOST_NAME


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and not value.strip('0123456789abcdef')


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (
        number and abs(value) <= _LARGEST
        if isinstance(value, int)
        else number and math.isfinite(value)
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def _is_share(value: Any) -> bool:
    return value is None or (_is_number(value) and 0 <= value <= 1)


def _is_colour(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))


def _is_std(value: Any) -> bool:
    return _is_colour(value) and min(value) > 0


def _are_classes(value: Any) -> bool:
    texts = (
        isinstance(value, list) and 2 <= len(value) <= _MOST_CLASSES and all(map(_is_text, value))
    )
    return texts and len(set(value)) == len(value)


def _are_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_text(k) and _is_count(v) for k, v in value.items())


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_text(k) and _is_text(v) for k, v in value.items())


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Whether JSON values are within bounds: texts, numbers, and how deep they lie."""
    if isinstance(value, dict):
        inside = (_is_text(name) and _is_plain(one, depth + 1) for name, one in value.items())
        return depth < _DEEPEST and all(inside)
    if isinstance(value, list):
        return depth < _DEEPEST and all(_is_plain(one, depth + 1) for one in value)
    return value is None or isinstance(value, bool) or _is_text(value) or _is_number(value)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _are_lines(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _maybe(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


# What of a result.json goes into a pack, and what each value may be.
_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    'method': _is_text,
    'backbone': _is_text,
    'seed': _is_count,
    'classes': _are_classes,
    'weights': _is_object,
    'mean': _is_colour,
    'std': _is_std,
    'data': _is_text,
    'data_fingerprint': _is_text,
    'num_examples': _are_counts,
    'trained_on': _is_text,
    'trained_sha256': _is_digest,
    'num_trainable': _is_count,
    'num_trainable_head': _is_count,
    'test_accuracy': _is_share,
    'test_loss': _maybe(_is_number),
    'test_accuracy_best_val': _is_share,
    'val_accuracy': _is_share,
    'best_val_accuracy': _is_share,
    'best_val_epoch': _maybe(_is_count),
    'lr': _is_number,
    'weight_decay': _is_number,
    'head_weight_decay': _is_number,
    'num_prompts': _is_count,
    'seconds_total': _is_number,
    'versions': _are_texts,
    'machine': _is_object,
    'weights_notes': _are_lines,
}
_OPTIONAL = ('num_prompts', 'machine', 'weights_notes', 'seconds_total')

"""Every number of the configuration declares its range, and refuses what lies outside."""

import dataclasses
import math

import pytest

from jax_prompt.core.ranges import Range, at_least, check_values, range_of
from jax_prompt.methods import METHODS
from jax_prompt.runs.config import RunConfig, resolve
from jax_prompt.suite.suite import Benchmark

BASE = {
    'data': 'digits',
    'backbone': 'vit_micro',
    'method': 'vpt_deep',
    'search_lrs': (0.1,),
    'optim': {'warmup_epochs': 0.0},
}
SECTIONS = [f.name for f in dataclasses.fields(RunConfig) if dataclasses.is_dataclass(f.type)]
TRIED = (0, -1, 10**30, 1e300, math.nan, math.inf, -math.inf, True, 'ten', None)


def _numbers(kind):
    """Returns the fields of a dataclass that hold numbers."""
    kinds = ('int', 'float')
    return [
        f
        for f in dataclasses.fields(kind)
        if getattr(f.type, '__name__', '') in kinds
        or str(f.type).startswith(('tuple[i', 'tuple[f'))
    ]


def _inside(field, value):
    """Whether a value is allowed: a number of the field's kind within its range."""
    if isinstance(value, bool | str) or value is None:
        return False
    whole = field.type is int or str(field.type).startswith('tuple[int')
    if whole and not isinstance(value, int):
        return False
    return math.isfinite(value) and value in range_of(field)


def _walk(kind, make, path=''):
    for field in _numbers(kind):
        assert isinstance(range_of(field), Range), f'{path}{field.name} declares no range'
        for value in TRIED:
            one = (value,) if str(field.type).startswith('tuple') else value
            try:
                make(field.name, one)
                accepted = True
            except ValueError as error:
                text, accepted = str(error), False
                assert field.name in text, text
                assert '\n' not in text
                assert len(text) < 200, text
            if accepted:
                assert _inside(field, value), f'{path}{field.name} takes {value}'


def test_top_keys():
    _walk(RunConfig, lambda name, value: resolve(BASE | {name: value}))
    assert len(_numbers(RunConfig)) > 10


@pytest.mark.parametrize('section', SECTIONS)
def test_sections(section):
    kind = next(f.type for f in dataclasses.fields(RunConfig) if f.name == section)
    base = BASE.get(section, {})
    _walk(kind, lambda name, value: resolve(BASE | {section: base | {name: value}}), f'{section}.')


def test_options_of_methods():
    for name, row in METHODS.items():
        base = BASE | {'method': name}
        for key, kind in (('tuner', row.tuner), ('transform', row.transform)):
            if kind is not None:

                def make(option, value, base=base, key=key):
                    if option == 'num_prompts':
                        return resolve(base | {option: value})
                    return resolve(base | {key: {option: value}})

                _walk(kind, make, f'{name}.{key}.')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'engine': {'steps_per_call': -3}}, 'engine.steps_per_call is -3; at least 1'),
        ({'model': {'patch_drop_rate': 1.0}}, r'model.patch_drop_rate is 1.0; allowed: \[0, 1\)'),
        ({'engine': {'eval_batch_size': 0}}, 'engine.eval_batch_size is 0; at least 1'),
        ({'seed': 10**20}, 'seed is 1000000.*; at most 4294967295'),
        ({'lr': math.nan}, 'lr is nan; finite, at least 0'),
        ({'tuner': {'zzz': 1}}, "no option 'zzz'; allowed"),
        ({'tuner': 5}, r'tuner\.KEY'),
        ({'model': {'mean': (0.5,)}}, 'model.mean is .*three numbers'),
        ({'epochs': True}, 'epochs is True; allowed: a whole number'),
    ],
)
def test_what_trained_nothing_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        resolve(BASE | change)


def test_types_are_checked_where_no_config_is():
    @dataclasses.dataclass
    class Options:
        name: str = 'a'
        count: int = at_least(3, 1)

    check_values(Options())
    for wrong, message in (({'name': 5}, 'name is 5'), ({'count': 2.0}, 'count is 2.0')):
        with pytest.raises(ValueError, match=message):
            check_values(Options(**wrong))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'seeds': (0, -1)}, 'seed is -1; at least 0'),
        ({'seeds': (0.5,)}, 'seed is 0.5; allowed: a whole number'),
        ({'num_prompts': {'digits': 0}}, 'num_prompts is 0; at least 1'),
    ],
)
def test_numbers_of_a_benchmark(change, message):
    values = {'name': 'own', 'tasks': ('digits',), 'run': resolve(BASE)}
    with pytest.raises(ValueError, match=message):
        Benchmark(**values | change)

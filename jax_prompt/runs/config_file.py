"""What a file of configs/ needs: its argument, and the ConfigDict that it returns."""

from typing import Any

from jax_prompt.methods import get_method
from jax_prompt.runs.config import RunConfig

_GRIDS = ('search_lrs', 'search_weight_decays', 'search_head_weight_decays', 'search_num_prompts')


def parse_arg(arg: str | None, **defaults: str) -> dict[str, str]:
    """Parses a config's argument 'k=v,k=v' over defaults.

    Raises:
      ValueError: a key that the config does not take.
    """
    out = dict(defaults)
    for part in (arg or '').split(','):
        if not part:
            continue
        name, equals, value = part.partition('=')
        if not equals or name not in defaults:
            raise ValueError(
                f'{part!r} in the config argument; allowed: {sorted(defaults)} as k=v,k=v'
            )
        out[name] = value
    return out


def to_config_dict(config: RunConfig) -> Any:
    """Returns the locked ConfigDict of a RunConfig, for `get_config` in configs/."""
    from ml_collections import ConfigDict

    method = get_method(config.method)
    values = config.to_dict() | {
        'tuner': {**method.settable(), **config.tuner},
        'transform': {**method.transform_options(), **config.transform},
    }
    values |= {name: tuple(values[name]) for name in _GRIDS}
    if not method.has_prompts:  # a key that does nothing is none
        del values['num_prompts'], values['search_num_prompts']
    return ConfigDict(values).lock()

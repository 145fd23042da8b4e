"""Many tuned tasks from one frozen backbone: mixed batches, a server, and exported programs.

>>> from jax_prompt.serve import Backbone, load_exported

`load_exported` needs jax alone, so what else the room needs is imported when it is asked for.
"""

from importlib import import_module
from typing import Any

_HOME = {'Backbone': 'backbone', 'load_exported': 'exported'}
__all__ = ['Backbone', 'load_exported']


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}; it has {__all__}')
    return getattr(import_module(f'{__name__}.{_HOME[name]}'), name)

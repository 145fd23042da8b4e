"""jax_prompt: tune frozen vision backbones with a few thousand parameters, in JAX and Flax.

    tuned = jax_prompt.tune('FOLDER', backbone='vit_micro', method='spt_deep')
    tuned.predict('IMAGE_OR_FOLDER')

`tune`, `load` and `Tuned` are imported when they are asked for: the package itself imports nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax_prompt.api import Tuned, load, tune

__version__ = '0.1.0'
__all__ = ['Tuned', '__version__', 'load', 'tune']


def __getattr__(name: str) -> Any:
    if name in ('Tuned', 'load', 'tune'):
        from jax_prompt import api

        return getattr(api, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}; it has {__all__}')


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

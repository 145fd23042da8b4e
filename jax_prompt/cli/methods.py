"""The table of methods: jax-prompt methods.

A column a family says whether the method fits it. Methods can be combined: method=spt_deep+lora.
`jax-prompt train --config tune:method=M --help` lists the options of one.
"""

from collections.abc import Sequence

from jax_prompt.backbones.table import lookup
from jax_prompt.cli.parser import make_parser
from jax_prompt.cli.table import format_table
from jax_prompt.core.method import Method
from jax_prompt.methods import METHODS, check_fits

_FAMILIES = {'vit': 'vit_micro', 'swin': 'swin_micro', 'resnet': 'resnet_micro'}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a row a method."""
    make_parser('methods', __doc__).parse_args(arguments)
    rows = [
        (row.name, *('yes' if fits(row, arch) else '-' for arch in _FAMILIES.values()), row.summary)
        for row in METHODS.values()
    ]
    print(format_table(('method', *_FAMILIES, 'what trains, beside the head'), rows))


def fits(method: Method, backbone: str) -> bool:
    """Whether a method can tune a backbone."""
    try:
        check_fits(method, method.make_tuner(), lookup(backbone).config.spec())
    except ValueError:
        return False
    return True

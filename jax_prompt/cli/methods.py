"""The table of methods: jax-prompt methods.

A column a family says whether the method fits it. Methods can be combined: method=spt_deep+lora.
`jax-prompt train --config tune:method=M --help` lists the options of one.
"""

from collections.abc import Sequence

from jax_prompt.backbones.architectures import ARCHITECTURES, Config
from jax_prompt.cli.parser import make_parser
from jax_prompt.cli.table import print_table
from jax_prompt.method import Method
from jax_prompt.methods import METHODS, check_fits

# The first network of each family.
_FAMILIES = {network.family: network for network in reversed([*ARCHITECTURES.values()])}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a row a method."""
    make_parser('methods', __doc__).parse_args(arguments)
    names = [*reversed(_FAMILIES)]
    rows = [
        (row.name, *('yes' if fits(row, _FAMILIES[name]) else '-' for name in names), row.summary)
        for row in METHODS.values()
    ]
    print_table(('method', *names, 'what trains, beside the head'), rows)


def fits(method: Method, network: Config) -> bool:
    """Whether a method can tune a network."""
    try:
        check_fits(method, method.make_tuner(), network.spec())
    except ValueError:
        return False
    return True

"""The table of named tasks: jax-prompt tasks [--data_dir DIR].

In front of any of them, fewshotK/, fractionP/ or longtailR/ takes a subset: fewshot8/vtab/dtd. The
last column says whether its data is on this machine; jax-prompt prepare-data --check says more.
"""

from collections.abc import Sequence

from jax_prompt.cli.parser import make_parser
from jax_prompt.cli.table import print_table
from jax_prompt.data.preflight import find_state
from jax_prompt.data.tasks import ALL


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a row a task."""
    parser = make_parser('tasks', __doc__)
    parser.add_argument('--data_dir', default='', help="default: TFDS's own")
    args = parser.parse_args(arguments)
    rows = []
    for task in ALL:
        sizes = ' + '.join(map(str, task.sizes)) if task.sizes else 'as stored'
        state = find_state(task.name, args.data_dir or None).state
        rows.append((task.name, str(task.num_classes), sizes, state, task.note))
    print_table(('task', 'classes', 'train + val + test', 'data', 'what it is'), rows)

"""Prepare the data of tasks for reading without TensorFlow, or see what is missing.

    jax-prompt prepare-data --check [--task vtab] [--data_dir DIR]      what is there
    jax-prompt prepare-data --task vtab/dtd [--data_dir DIR]            download, array_record
    jax-prompt prepare-data --convert DIR/dtd/3.0.1 --data_dir NEW_DIR  tfrecord -> array_record

`--task` takes names of tasks or of groups (vtab, fgvc), several with commas.
"""

from collections.abc import Sequence
from pathlib import Path

from jax_prompt.cli.parser import make_parser
from jax_prompt.data.convert import convert
from jax_prompt.data.preflight import READY, find_state, prepare
from jax_prompt.data.tasks import ALL, find_task


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0 where all data asked for is ready, 1 where some is not."""
    parser = make_parser('prepare-data', __doc__)
    parser.add_argument('--task', default='', help='tasks or groups; with --check: default all')
    parser.add_argument('--data_dir', default='', help="default: TFDS's own")
    parser.add_argument('--check', action='store_true', help='only say what is there')
    parser.add_argument('--convert', default='', help='folder of one version, as DIR/dtd/3.0.1')
    parser.add_argument('--no_checksums', action='store_true', help='convert without comparing')
    args = parser.parse_args(argv)
    data_dir = args.data_dir or None
    if args.convert:
        if data_dir is None:
            raise ValueError('--convert needs --data_dir, where the converted data goes')
        folder, target = Path(args.convert).expanduser(), Path(data_dir).expanduser()
        print(convert(folder, target, check=not args.no_checksums, report=print))
        return 0
    names = expand(args.task)
    if args.check:
        return check(names, data_dir)
    if not args.task:
        raise ValueError('name a task: --task vtab/dtd; or look at all: --check')
    for name in names:
        if find_state(name, data_dir).state != READY:
            print(prepare(name, data_dir))
    return 0


def expand(asked: str) -> list[str]:
    """Returns the names of tasks that are asked for; '': all.

    Raises:
      ValueError: a name of neither a task nor a group.
    """
    if not asked:
        return [task.name for task in ALL]
    names = []
    for one in asked.split(','):
        group = [task.name for task in ALL if task.name.startswith(f'{one}/')]
        names += group or [find_task(one).name]
    return names


def check(names: Sequence[str], data_dir: str | None) -> int:
    """Prints the state of each task; returns 0 where all are ready, else 1."""
    states = [find_state(name, data_dir) for name in names]
    width = max(len(name) for name in names)
    for state in states:
        print(f'{state.task:{width}}  {state.state:7}  {state.detail}')
        for line in state.todo:
            print(f'{"":{width}}           {line}')
        if state.todo and state.licence:
            print(f'{"":{width}}           licence: {state.licence}')
    ready = sum(state.state == READY for state in states)
    print(f'{ready} of {len(states)} tasks are ready')
    return 0 if ready == len(states) else 1

"""Named tasks: what stands behind a name, one row each.

Tables: VTAB-1k in `vtab.py`, FGVC in `fgvc.py`, whole sets in `regular.py`, and below the tasks
that need no download. In front of any of them, the prefixes of `subset_names.py` name subsets:
'fewshot8/food101', 'fraction10/fgvc/cub'.
"""

import difflib
from dataclasses import replace

from jax_prompt.data import fgvc, regular, vtab
from jax_prompt.data.subset_names import parse_subset
from jax_prompt.data.task import Task

__all__ = ['ALL', 'TASKS', 'Task', 'find_task', 'nearest_tasks']

TASKS = (
    Task('digits', 'digits', 10, (800, 200, 797), 'handwritten digits of scikit-learn, 32 px'),
    Task('shapes', 'shapes', 6, (600, 150, 450), 'generated coloured shapes, 64 px'),
    Task('count', 'scenes/count', 5, (800, 200, 1000), 'how many balls are warm, 32 px'),
    Task('position', 'scenes/position', 6, (800, 200, 1000), 'where light falls on a ball, 32 px'),
    Task('orientation', 'scenes/orientation', 6, (800, 200, 1000), 'how its stripes run, 32 px'),
    Task('distance', 'scenes/distance', 4, (800, 200, 1000), 'how far it is, by its size, 32 px'),
)


ALL = (*TASKS, *vtab.TASKS, *fgvc.TASKS, *regular.TASKS)


def find_task(name: str) -> Task:
    """Returns a named task, or a subset of one.

    Raises:
      ValueError: there is none of that name; the nearest are named.
    """
    subset = parse_subset(name)
    if subset is not None:
        kind, amount, rest = subset
        task = find_task(rest)
        sizes: tuple[int, int, int] | None = None
        if kind == 'fewshot' and task.sizes is not None:
            train, val = amount * task.num_classes, min(amount, 4) * task.num_classes
            sizes = (train, val, task.sizes[2])
        note = f'{kind} {amount} of {task.note}'
        return replace(task, name=name, data=name, sizes=sizes, note=note, rule=None)
    for task in ALL:
        if task.name == name:
            return task
    near = f'; nearest: {nearest_tasks(name)}' if nearest_tasks(name) else ''
    raise ValueError(f'task is {name!r}; allowed: {[task.name for task in ALL]}{near}')


def nearest_tasks(name: str) -> list[str]:
    """Returns the names of tasks that look most like a name, the nearest first."""
    names = [task.name for task in ALL]
    ends = {task.name.rpartition('/')[2]: task.name for task in ALL}
    close = difflib.get_close_matches(name, names, n=3)
    close += [ends[one] for one in difflib.get_close_matches(name, ends, n=3)]
    return list(dict.fromkeys(close))[:3]

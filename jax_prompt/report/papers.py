"""The results tables of the papers, as data: each figure with its table.

`papers.csv` holds one printed figure a line, as printed. Of LION two versions are known (arXiv v1,
and v3, which is the paper of AAAI 2024); their tables hold the same figures, which stand here once.
"""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib import resources

from jax_prompt.data import fgvc, vtab
from jax_prompt.data.task import Task

Groups = Mapping[str, tuple[str, ...]]


def _groups(tasks: Iterable[Task]) -> Groups:
    """Returns the names of tasks by group, without 'vtab/' or 'fgvc/'."""
    found: dict[str, tuple[str, ...]] = {}
    for task in tasks:
        found[task.group] = (*found.get(task.group, ()), task.name.partition('/')[2])
    return found


# Benchmarks of the papers: groups of tasks, named as in `data/tasks.py` (without 'vtab/', 'fgvc/').
# LION's 'Flower' is five species in its text, and the 102 of the work that it cites in few-shot.
BENCHMARKS: Mapping[str, Groups] = {
    'vtab': _groups(vtab.TASKS),
    'fgvc': _groups(fgvc.TASKS),
    'lion': {
        'LION': (*('cifar10', 'cifar100', 'imagenet100', 'flowers5', 'dogs', 'cars', 'clothing'),)
    },
    'longtail': {
        'Long-tailed': ('cifar10_lt100', 'cifar10_lt50', 'cifar100_lt100', 'cifar100_lt50')
    },
    'fewshot': {
        'Few-shot': (
            *('fewshot8/oxford_iiit_pet', 'fewshot8/food101', 'fewshot8/cars'),
            'fewshot8/oxford_flowers102',
        )
    },
}


@dataclass(frozen=True)
class Paper:
    """A paper.

    Attributes:
      short: the name that tables use.
      title: its title.
      where: venue and arXiv id.
    """

    short: str
    title: str
    where: str


PAPERS = {
    'lion': Paper(
        'LION',
        'LION: Implicit Vision Prompt Tuning',
        'AAAI 2024, doi:10.1609/aaai.v38i6.28345, arXiv:2303.09992 v1 and v3',
    ),
    'dvpt': Paper(
        'DVPT',
        'Dynamic Visual Prompt Tuning for Parameter Efficient Transfer Learning',
        'PRCV 2023, arXiv:2309.06123',
    ),
    'spt': Paper(
        'SPT', 'Revisiting the Power of Prompt for Visual Tuning', 'ICML 2024, arXiv:2402.02382'
    ),
}


@dataclass(frozen=True)
class Figure:
    """One printed figure.

    Attributes:
      paper: a key of `PAPERS`.
      table: 'Table 1'.
      method: as the paper names it.
      ours: the label of the method here (`rows.label`), '' where there is none.
      backbone: as the paper names it.
      pretraining: likewise; 'none' for training from scratch.
      benchmark: a key of `BENCHMARKS`, or 'construction' (time to build prompts).
      task: a task or a group of the benchmark; of a group it is the mean.
      metric: 'accuracy', 'wins' (tasks of the group better than Full) or 'time'.
      printed: the figure, with the digits of the paper.
      unit: '%', '1' (a fraction), 'd' (days), 's' (seconds), '' (a count).
      trainable_m: printed trainable parameters in millions; '' where the table has none.
      note: setting.
    """

    paper: str
    table: str
    method: str
    ours: str
    backbone: str
    pretraining: str
    benchmark: str
    task: str
    metric: str
    printed: str
    unit: str
    trainable_m: str
    note: str

    @property
    def value(self) -> float:
        """The figure in percent, seconds or as a count."""
        return float(Decimal(self.printed) * _SCALE[self.unit])

    @property
    def line(self) -> tuple[str, ...]:
        """What figures of one line of a table share, over the tables of a paper."""
        return (
            self.paper,
            self.method.lower(),
            self.backbone,
            self.pretraining,
            self.benchmark,
            self.note if 'frozen' in self.note else '',
        )


_SCALE = {'%': Decimal(1), '1': Decimal(100), 'd': Decimal(86400), 's': Decimal(1), '': Decimal(1)}


@cache
def load() -> tuple[Figure, ...]:
    """Reads all figures."""
    text = (resources.files('jax_prompt.report') / 'papers.csv').read_text(encoding='utf-8')
    return tuple(Figure(**row) for row in csv.DictReader(text.splitlines()))

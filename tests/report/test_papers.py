"""The papers' figures against themselves: means, wins, gains and repetitions."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal

import pytest

from jax_prompt.data import fgvc, vtab
from jax_prompt.data.tasks import find_task
from jax_prompt.methods import METHODS, get_method
from jax_prompt.report import papers
from jax_prompt.report.collect import CALIBRATION

FIGURES = papers.load()


def find(**wanted):
    found = [f for f in FIGURES if all(getattr(f, k) == v for k, v in wanted.items())]
    assert len(found) == 1, found
    return found[0]


def test_every_table_is_there():
    counts = Counter((f.paper, f.table) for f in FIGURES)
    assert counts == {
        ('lion', 'Table 1'): 2 * 7 * 7,
        ('lion', 'Table 2'): 2 * 7 * 7,
        ('lion', 'Table 3'): 4 * 4 * 8,
        ('lion', 'Table 4'): 2 * 4 * 3,
        ('dvpt', 'Table 1'): 11 * 22 + 10 * 3,
        ('dvpt', 'Table 2'): 3 * 5,
        ('dvpt', 'Table 3'): 2 * 3,
        ('spt', 'Table 1'): 4 * 5,
        ('spt', 'Table 2'): 12 * 9,
        ('spt', 'Table 3'): 12 * 6,
        ('spt', 'Table 4a'): 5 * 4,
        ('spt', 'Table 4b'): 5 * 4,
        ('spt', 'Table S2'): 4 * 4,
        ('spt', 'Table S3'): 9 * 19,
        ('spt', 'Table S4'): 12 * 4 - 1,  # LoRA has no FGVC figure
    }


def test_benchmarks_have_the_papers_numbers_of_tasks():
    sizes = {name: [len(t) for t in groups.values()] for name, groups in papers.BENCHMARKS.items()}
    assert sizes == {'vtab': [7, 4, 8], 'fgvc': [5], 'lion': [7], 'longtail': [4], 'fewshot': [4]}


def test_benchmarks_are_the_tables_of_tasks():
    for name, table in (('vtab', vtab.TASKS), ('fgvc', fgvc.TASKS)):
        groups = {}
        for task in table:
            groups.setdefault(task.group, set()).add(task.name.removeprefix(f'{name}/'))
        assert groups == {group: set(t) for group, t in papers.BENCHMARKS[name].items()}
    for name in ('lion', 'longtail', 'fewshot'):
        for tasks in papers.BENCHMARKS[name].values():
            assert [find_task(task).name for task in tasks] == list(tasks)


def test_printed_parameter_counts_hold_the_head():
    counts = {
        (f.method, f.benchmark): float(f.trainable_m) for f in FIGURES if f.table == 'Table S4'
    }
    for name, table in (('vtab', vtab.TASKS), ('fgvc', fgvc.TASKS)):
        head = sum(769 * task.num_classes for task in table) / len(table) / 1e6
        assert counts['Linear', name] == pytest.approx(head, abs=0.005)
        prompts = 12 * 20 * 768 / 1e6
        assert counts['SPT-Deep', name] == pytest.approx(head + prompts, abs=0.005)


def test_figures_name_known_tasks_and_methods():
    for figure in FIGURES:
        assert figure.paper in papers.PAPERS
        assert 0.0 < figure.value <= 100.0 or figure.metric != 'accuracy'
        if figure.benchmark != 'construction':
            groups = papers.BENCHMARKS[figure.benchmark]
            assert figure.task in {*groups, *(t for names in groups.values() for t in names)}
        name, _, rest = figure.ours.partition('(')
        if name:
            options = dict(part.split('=') for part in rest.rstrip(')').split(',') if part)
            method = get_method(name)
            assert name in METHODS
            known = {*method.options(), *method.transform_options()}
            known |= {'train_prompts'} if method.has_prompts else set()
            known |= {*CALIBRATION} if method.calibrated else set()
            assert set(options) <= known, figure.ours


def test_ablations_and_baselines_have_the_labels_of_runs_here():
    labels = {
        ('lion', 'Table 1', 'VPT', 'ResNet-50'): {'vpt_pad'},
        ('lion', 'Table 2', 'VPT', 'ViT-B'): {'vpt_deep'},
        # Reduction rates of 768: 64 and 8.
        ('dvpt', 'Table 1', 'Adapter-64', 'ViT-B/16'): {'adapter(hidden=12)'},
        ('dvpt', 'Table 1', 'Adapter-8', 'ViT-B/16'): {'adapter(hidden=96)'},
        ('spt', 'Table 4a', 'Random init', 'ViT-B/16'): {'vpt_deep(train_prompts=False)'},
        ('spt', 'Table 4a', 'Random sample', 'ViT-B/16'): {'spt_deep(train_prompts=False)'},
        ('spt', 'Table 4b', 'K-means', 'ViT-B/16'): {'spt_deep(construction=kmeans)'},
        ('spt', 'Table S2', 'last PL, Deep', 'ViT-B/16'): {'spt_deep(layers=last)'},
    }
    for key, want in labels.items():
        own = [f for f in FIGURES if (f.paper, f.table, f.method, f.backbone) == key]
        assert {f.ours for f in own} == want, key
    ablations = [f for f in FIGURES if f.table in ('Table 4a', 'Table 4b', 'Table S2')]
    assert len(ablations) == 56 and all(f.ours for f in ablations)


def rounding(figure: papers.Figure) -> float:
    """Half a unit of the last printed digit, in the unit of `Figure.value`."""
    half = Decimal(1).scaleb(int(Decimal(figure.printed).as_tuple().exponent)) / 2
    return replace(figure, printed=str(half)).value


@dataclass(frozen=True)
class Mean:
    """A printed mean beside what its own figures give.

    Attributes:
      printed: the printed mean.
      recomputed: the mean of the printed figures of its tasks.
      rounding: how far the two may lie apart by the rounding of all printed figures.
    """

    printed: papers.Figure
    recomputed: float
    rounding: float

    @property
    def agrees(self) -> bool:
        """Whether rounding explains the difference."""
        return abs(self.printed.value - self.recomputed) <= self.rounding + 1e-9


def means(figures: Iterable[papers.Figure]) -> Iterator[Mean]:
    """Recomputes every printed mean whose tasks are all printed somewhere in the same paper."""
    found: dict[tuple[str, ...], dict[str, papers.Figure]] = {}
    figures = [f for f in figures if f.metric == 'accuracy']
    for figure in figures:
        found.setdefault(figure.line, {}).setdefault(figure.task, figure)
    for figure in figures:
        tasks = papers.BENCHMARKS[figure.benchmark].get(figure.task, ())
        own = [found[figure.line].get(task) for task in tasks]
        known = [f for f in own if f is not None]
        if not tasks or len(known) < len(own):
            continue
        mean = sum(f.value for f in known) / len(known)
        slack = sum(map(rounding, known)) / len(known)
        yield Mean(figure, mean, slack + rounding(figure))


def conflicts(figures: Iterable[papers.Figure]) -> list[tuple[papers.Figure, papers.Figure]]:
    """Returns pairs of figures of the same line and task that no rounding reconciles."""
    seen: dict[tuple[str, ...], papers.Figure] = {}
    out = []
    for figure in figures:
        if figure.metric == 'time':  # one a share of the data
            continue
        first = seen.setdefault((*figure.line, figure.task, figure.metric), figure)
        if abs(first.value - figure.value) > rounding(first) + rounding(figure) + 1e-9:
            out.append((first, figure))
    return out


def wins(figures: Iterable[papers.Figure]) -> Iterator[tuple[papers.Figure, int]]:
    """Yields each printed count of wins against Full, and the count that its table gives."""
    figures = list(figures)
    value = {(f.paper, f.table, f.method, f.task): f.value for f in figures if f.metric != 'wins'}
    for figure in figures:
        if figure.metric == 'wins':
            paper, table = figure.paper, figure.table
            tasks = papers.BENCHMARKS[figure.benchmark][figure.task]
            pairs = [
                (value[paper, table, figure.method, task], value[paper, table, 'Full', task])
                for task in tasks
            ]
            yield figure, sum(mine > full for mine, full in pairs)


def test_printed_means_agree_with_their_tasks_within_rounding():
    found = list(means(FIGURES))
    # DVPT: 11 methods x 3 groups. SPT: means of FGVC in tables 2, 3, S4; groups of VTAB where
    # table S3 has the tasks (two pretrainings in table 2, the third in table S4).
    assert len(found) == 33 + (12 + 12 + 11) + (3 * 3 * 2 + 3 * 3)
    assert [m for m in found if not m.agrees] == []


def test_a_wrong_mean_is_seen():
    full = [f for f in FIGURES if (f.paper, f.table, f.method) == ('dvpt', 'Table 1', 'Full')]
    wrong = [
        papers.Figure(**{**vars(f), 'printed': '76.08'}) if f.task == 'Natural' else f for f in full
    ]
    assert [m.printed.task for m in means(wrong) if not m.agrees] == ['Natural']


def test_tables_of_a_paper_do_not_contradict_each_other():
    assert conflicts(FIGURES) == []
    changed = [
        papers.Figure(**{**vars(f), 'printed': '77.0'})
        if (f.table, f.method, f.task) == ('Table S4', 'SSF', 'Natural')
        else f
        for f in FIGURES
    ]
    assert conflicts(changed) == []  # SSF's Natural stands in one table alone
    doubled = [f for f in FIGURES if (f.table, f.method, f.task) == ('Table S4', 'SSF', 'FGVC')]
    other = papers.Figure(**{**vars(doubled[0]), 'printed': '91.0'})
    assert len(conflicts([*FIGURES, other])) == 1


def test_printed_wins_are_those_of_the_table():
    counts = list(wins(FIGURES))
    assert len(counts) == 30
    assert [(f.method, f.task) for f, count in counts if f.value != count] == []
    dvpt = {f.task: count for f, count in counts if f.method == 'DVPT'}
    assert sum(dvpt.values()) == 17


def test_printed_gains_follow_from_the_figures_within_rounding():
    groups = {}
    for figure in FIGURES:
        if figure.table in ('Table 4a', 'Table 4b', 'Table S2'):
            depth = figure.method.partition(', ')[2]
            key = (figure.table, figure.pretraining, figure.task, depth)
            groups.setdefault(key, []).append(figure)
    off = []
    for first, *others in groups.values():
        assert 'gain' not in first.note
        for figure in others:
            gain = float(re.search(r'gain \+([\d.]+)', figure.note)[1])
            difference = figure.value - first.value
            assert gain == pytest.approx(difference, abs=0.1 + 1e-9), figure
            if abs(gain - difference) > 0.05:
                off.append((figure.table, figure.method, figure.task, figure.note))
    assert len(groups) == 12
    # 39.2 - 25.3 = 13.9: explained by subtracting before rounding.
    frozen = 'prompts frozen; printed gain +13.8'
    assert off == [('Table 4a', 'K-means', 'cub', frozen)]


@pytest.mark.parametrize(
    ('wanted', 'value'),
    [
        ({'paper': 'dvpt', 'table': 'Table 1', 'method': 'DVPT', 'task': 'svhn_cropped'}, 80.3),
        (
            {
                **{'paper': 'spt', 'table': 'Table S3', 'method': 'SPT-Deep', 'task': 'eurosat'},
                'pretraining': 'MAE ImageNet-1K',
            },
            93.3,
        ),
        (
            {
                **{'paper': 'lion', 'table': 'Table 3', 'method': 'LION', 'backbone': 'Swin-B'},
                'task': 'fewshot8/food101',
            },
            69.76,
        ),
    ],
)
def test_single_figures(wanted, value):
    assert find(**wanted).value == pytest.approx(value)


def test_units():
    days = find(paper='spt', table='Table 1', method='K-means', printed='27.30')
    assert days.value == 27.3 * 86400
    assert rounding(days) == 0.005 * 86400
    full = find(paper='spt', table='Table S4', method='Full', task='Structured')
    assert (full.value, rounding(full), full.trainable_m) == (47.64, 0.005, '85.84')


def test_ablations_repeat_the_main_table():
    main = {
        f.task: f
        for f in FIGURES
        if (f.paper, f.table, f.method, f.metric) == ('dvpt', 'Table 1', 'DVPT', 'accuracy')
    }
    again = [f for f in FIGURES if f.method in ('DVPT, 4 layers', 'shared dynamic prompt')]
    assert len(again) == 8
    for figure in again:
        printed = main[figure.task]
        assert figure.value == pytest.approx(
            printed.value, abs=rounding(printed) + rounding(figure)
        )

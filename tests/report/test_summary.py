"""The report's numbers: closed forms of its means, its holes, its wins. Rows are made up."""

import csv
import io
import math
from dataclasses import replace

import pytest
from small_rows import GROUPS, TASKS, WEIGHTS, full_set, make

from jax_prompt.report import papers
from jax_prompt.report.published import published
from jax_prompt.report.rows import Row
from jax_prompt.report.summary import TableCell, Wins, belonging, mean_of, measured
from jax_prompt.report.tables import make_tables, show, to_csv


def one(rows_, groups=GROUPS, **more):
    lines = measured(rows_, groups, **more)
    assert len(lines) == 1
    return lines[0]


def test_means_and_spreads_in_closed_form():
    line = one(full_set('vpt_deep', 0.2))
    assert line.tasks['c'].mean == pytest.approx(41.0)
    assert line.tasks['c'].sd == pytest.approx(1.0)  # of 40, 41, 42
    assert line.groups['Few'].mean == pytest.approx((21 + 31) / 2)
    assert line.groups['Many'].mean == pytest.approx((41 + 51 + 61) / 3)
    assert line.mean.mean == pytest.approx((21 + 31 + 41 + 51 + 61) / 5)
    assert line.mean_of_groups.mean == pytest.approx((26 + 51) / 2)
    assert [c.sd for c in (*line.groups.values(), line.mean, line.mean_of_groups)] == [
        pytest.approx(1.0)
    ] * 4  # every task moves with the seed, so their means do
    assert (line.trainable.mean, line.trainable_head.mean) == (1.0, 1.5)
    assert line.seconds.mean == pytest.approx(11.0)
    assert line.seeds == '3'


def test_spread_of_a_mean_is_that_of_the_seeds_means():
    values = {('a', 0): 0.1, ('a', 1): 0.3, ('b', 0): 0.6, ('b', 1): 0.4}
    line = one([make('lora', t, s, v) for (t, s), v in values.items()], {'Few': ('a', 'b')})
    assert line.tasks['a'].sd == pytest.approx(100 * math.sqrt(0.02))
    assert line.groups['Few'].sd == pytest.approx(0.0, abs=1e-9)  # 35 with both seeds


def test_different_seeds_have_a_mean_and_no_spread():
    line = one(full_set('lora', 0.1, seeds=(0, 1))[:-1])
    assert line.groups['Few'].sd is not None
    assert line.groups['Many'].mean is not None and line.groups['Many'].sd is None
    assert line.mean.sd is None and line.mean_of_groups.sd is None
    assert line.seeds == '1-2'
    assert one([make('lora', t, 0, 0.5) for t in TASKS]).mean == TableCell(50.0, None, 1)


def test_a_missing_task_is_a_named_hole_everywhere():
    failed = Row('d', 'lora', 'vit_b16', 0, status='failed', reason='out of memory',
                 weights=WEIGHTS)  # fmt: skip
    line = one([*full_set('lora', 0.1, ('a', 'b', 'e')), failed])
    missing = ('c (not run)', 'd (failed: out of memory)')
    assert line.groups['Few'].mean is not None
    assert line.groups['Many'] == TableCell(holes=missing)
    for cell in (line.mean, line.mean_of_groups, line.trainable, line.seconds):
        assert (cell.mean, cell.holes) == (None, missing)
    assert show(line.mean) == '\u2013 (misses: c, d)'
    tables = {table.name: table for table in make_tables([line], [], GROUPS)}
    assert [row[-1] for row in tables['holes'].body] == list(missing)
    found = list(csv.DictReader(io.StringIO(to_csv([line]))))
    many = next(row for row in found if row['name'] == 'Many')
    assert (many['mean'], many['holes']) == ('', '; '.join(missing))


def test_a_failed_seed_beside_a_finished_one_counts_as_not_run():
    failed = Row('a', 'lora', 'vit_b16', 7, status='failed', reason='x', weights=WEIGHTS)
    line = one([*full_set('lora', 0.1), failed])
    assert line.tasks['a'].count == 3


def test_many_missing_tasks_are_counted_in_the_cell():
    holes = tuple(f't{i} (not run)' for i in range(5))
    assert show(TableCell(holes=holes)) == '\u2013 (misses 5: t0, …)'


def test_runs_with_other_settings_do_not_mix():
    mixed = full_set('lora', 0.1, seeds=(0,), hyperparameters={'epochs': 10, 'lr': 1})
    mixed += [make('lora', 'a', 1, 0.9, hyperparameters={'epochs': 5, 'lr': 1})]
    line = one(mixed)
    assert line.tasks['a'].holes == ('a (mixes runs that differ in epochs)',)
    assert line.mean.mean is None
    searched = full_set('lora', 0.1, seeds=(0,), chosen={'lr': 0.1})
    searched += [make('lora', 'a', 1, 0.9, chosen={'lr': 0.2})]  # an outcome, not a setting
    assert one(searched).tasks['a'].count == 2


def test_lines_are_methods_with_options_on_a_backbone_and_weights():
    lines = measured(
        [
            *full_set('vpt_deep', 0.1),
            *full_set('linear', 0.1),
            *full_set('adapter', 0.1, options={'hidden': 8}),
            *full_set('adapter', 0.1),
            *full_set('linear', 0.1, weights={'source': 'v.npz', 'sha256': 'f' * 16}),
        ],
        GROUPS,
    )
    assert [(line.label, line.weights) for line in lines] == [
        ('linear', 'v.npz ffffffff'),
        ('linear', 'w.npz 01234567'),
        ('vpt_deep', 'w.npz 01234567'),
        ('adapter', 'w.npz 01234567'),
        ('adapter(hidden=8)', 'w.npz 01234567'),
    ]


def test_wins_are_counted_where_both_have_the_task():
    mine = [make('lora', t, 0, v) for t, v in zip('abcd', (0.6, 0.5, 0.4, 0.7), strict=True)]
    full = [make('full', t, 0, 0.5) for t in 'abce']
    elsewhere = [make('lora', t, 0, 0.9, weights={}) for t in TASKS]
    lines = {(x.label, x.weights[:4]): x for x in measured([*mine, *full, *elsewhere], GROUPS)}
    wins = lines['lora', 'w.np'].wins
    assert wins == {'Few': Wins(1, 2, 2), 'Many': Wins(0, 1, 3), '': Wins(1, 3, 5)}  # a tie: none
    assert lines['full', 'w.np'].wins == {}
    assert lines['lora', 'none'].wins == {}  # other weights, no reference
    text = make_tables(list(lines.values()), [], GROUPS)[0].body
    assert {'1 of 3 (2 not compared)', '\u2013'} == {row[-4] for row in text}


def test_best_validation_epoch_is_another_column():
    found = full_set('lora', 0.1, accuracy_best_val=0.25)
    assert one(found, accuracy='best_val').mean.mean == pytest.approx(25.0)
    found[0] = replace(found[0], accuracy_best_val=None)
    assert one(found[:1], accuracy='best_val').tasks['a'].holes == ('a (has no validation epochs)',)
    with pytest.raises(ValueError, match="accuracy is 'best'"):
        measured([], GROUPS, accuracy='best')


def test_rows_of_other_benchmarks_and_of_val_stay_out():
    good = make('lora', 'a', 0, 0.5)
    val = make('lora', 'a', 1, 0.5, split='val', trained_on='train')
    other = make('lora', 'a', 2, 0.5, benchmark='other')
    own = make('lora', 'a', 3, 0.5, benchmark='mine')
    foreign = make('lora', 'z', 0, 0.5)
    named = make('lora', 'mine/b', 4, 0.5)
    assert belonging([good, val, other, own, foreign, named], GROUPS, 'mine') == [
        *(good, own, replace(named, task='b'))
    ]


def test_groups_must_not_overlap():
    with pytest.raises(ValueError, match="'a'"):
        measured([], {'x': ('a',), 'y': ('a', 'b')})


def test_papers_lines_of_vtab():
    lines = published(papers.load(), papers.BENCHMARKS['vtab'], 'vtab')
    found = {(x.paper.split(' (')[0], x.label, x.weights): x for x in lines}
    supervised = 'supervised ImageNet-21K'
    dvpt = found['DVPT', 'DVPT', supervised]
    assert (dvpt.paper, dvpt.groups['Natural']) == (
        'DVPT (Table 1)',
        TableCell(79.9, note='Table 1'),
    )
    assert {group: wins.won for group, wins in dvpt.wins.items()} == {
        **{'Natural': 6, 'Specialized': 3, 'Structured': 8},
        '': 17,
    }
    ssf = found['SPT', 'SSF', supervised]  # groups only
    assert ssf.mean.mean == pytest.approx((7 * 81.57 + 4 * 86.55 + 8 * 58.96) / 19)
    assert ssf.trainable_head.mean == 0.24
    assert ssf.tasks['dtd'].holes == ('dtd (not printed)',)
    mae = found['SPT', 'SPT-Deep', 'MAE ImageNet-1K']
    assert mae.paper == 'SPT (Table 2, S3)'
    assert (mae.groups['Natural'].mean, mae.tasks['dtd'].mean) == (67.19, 64.1)
    assert not [x for x in lines if 'layers' in x.label]  # ablations on a few tasks


def test_measured_beside_printed():
    groups = papers.BENCHMARKS['vtab']
    run = [make('vpt_deep', task, 0, 0.8) for names in groups.values() for task in names]
    tables = make_tables(measured(run, groups), published(papers.load(), groups, 'vtab'), groups)
    beside = next(table for table in tables if table.name == 'beside')
    assert ('80.00 / 78.48 (+1.52)', '80.00 / 82.43 (-2.43)', '80.00 / 54.98 (+25.02)') in [
        row[-3:] for row in beside.body
    ]
    assert 'w.npz 01234567' in beside.notes[-1] and beside.head[:2] == ('method', 'paper')


def test_mean_of_nothing_missing_is_exact():
    assert mean_of([TableCell(1.0, None, 2), TableCell(2.0, None, 1)]) == TableCell(1.5, None, 1)

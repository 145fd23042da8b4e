"""Runs of different settings in one report: what is flagged, and which benchmarks rows name."""

import csv
import io
from pathlib import Path

import pytest
from small_rows import GROUPS, full_set, make

from jax_prompt.cli.report import main
from jax_prompt.report import rows, write
from jax_prompt.report.scatter import make_scatters
from jax_prompt.report.settings import by_settings, differing
from jax_prompt.report.summary import measured
from jax_prompt.report.tables import make_tables, show, to_csv


@pytest.fixture(name='report')
def _report(monkeypatch):
    monkeypatch.setattr(write, 'draw', lambda scatters, out: None)
    return write


def uneven():
    """Runs whose task 'c' alone has other settings than the rest."""
    other = {'epochs': 5, 'optim': {'clip': 1.0, 'lr': 0.1}}
    usual = {'epochs': 10, 'optim': {'clip': None, 'lr': 0.1}}
    return [
        *full_set('lora', 0.1, ('a', 'b', 'd', 'e'), hyperparameters=usual),
        *full_set('lora', 0.1, ('c',), hyperparameters=other),
        *full_set('linear', 0.1, hyperparameters=usual),
    ]


def test_settings_that_differ_are_named_at_any_depth():
    one = make('lora', 'a', 0, 0.5, hyperparameters={'epochs': 1, 'optim': {'clip': 1, 'x': None}})
    two = make('lora', 'a', 1, 0.5, hyperparameters={'epochs': 1, 'optim': {'clip': 2}}, data='f')
    assert differing([one, two]) == ('data', 'optim.clip')  # a key without value is none
    assert differing([one, two], besides=('data',)) == ('optim.clip',)
    assert differing([one]) == differing([]) == ()
    assert by_settings([one, two]) == {
        'data , optim.clip 1': [one],
        'data f, optim.clip 2': [two],
    }


def test_a_mean_over_tasks_with_different_settings_is_flagged():
    linear, lora = measured(uneven(), GROUPS)
    assert lora.groups['Many'].mean is not None
    assert lora.groups['Many'].mixed == lora.mean.mixed == ('epochs', 'optim.clip')
    assert lora.mean_of_groups.mixed == lora.seconds.mixed == lora.mean.mixed
    assert lora.groups['Few'].mixed == lora.tasks['c'].mixed == linear.mean.mixed == ()
    assert show(lora.groups['Many']) == '41.00 ± 1.00†'
    tables = {table.name: table for table in make_tables([linear, lora], [], GROUPS)}
    told = '† The tasks of this mean were run with different settings. lora: epochs, optim.clip.'
    assert [told in tables[n].notes for n in ('summary', 'measured_many', 'measured_few')] == [
        *(True, True, False)
    ]
    found = csv.DictReader(io.StringIO(to_csv([lora])))
    notes = {row['name']: row['note'] for row in found}
    assert (notes['Many'], notes['Few']) == ('settings differ: epochs, optim.clip', '')
    assert [p.label for p in make_scatters([linear, lora], GROUPS)[0].points] == [
        *('linear', 'lora †')
    ]


def test_tasks_have_data_of_their_own():
    mine = [make('lora', t, 0, 0.5, data=f'fingerprint of {t}') for t in 'abcde']
    assert measured(mine, GROUPS)[0].mean.mixed == ()
    drawn_anew = [make('lora', 'a', seed, 0.5, data=f'split {seed}') for seed in (0, 1)]
    (hole,) = measured(drawn_anew, GROUPS)[0].tasks['a'].holes
    assert hole == 'a (mixes runs that differ in data (other images or another split))'


def test_a_mixed_cell_names_the_rows_to_move_away(tmp_path, report):
    kept = [make('lora', 'a', s, 0.5, hyperparameters={'epochs': 9}) for s in (0, 1)]
    other = make('lora', 'a', 2, 0.5, hyperparameters={'epochs': 8})
    for row in (*kept, other):
        path = rows.append(tmp_path / 'rows', row)
    said = report.write_report(tmp_path / 'rows', tmp_path / 'out', 'mine', GROUPS)
    mixed = [line for line in said if line.startswith('mixed: lora, a: 1 of 3 runs have epochs 8')]
    assert len(mixed) == 1 and path.name.startswith(
        mixed[0].rsplit(': ', 1)[1].removesuffix('-*.json')
    )
    path.unlink()
    said = report.write_report(tmp_path / 'rows', tmp_path / 'out', 'mine', GROUPS)
    assert not [line for line in said if line.startswith('mixed')]


def test_an_unknown_benchmark_lists_those_of_the_rows(tmp_path, report):
    for row in (make('lora', 'a', 0, 0.5, benchmark='packs'), make('lora', 'x', 0, 0.5)):
        rows.append(tmp_path, row)
    with pytest.raises(ValueError, match=r"benchmark is 'pack'; allowed: .*no benchmark") as error:
        report.write_report(tmp_path, tmp_path / 'out', 'pack')
    assert 'packs (1 rows)' in str(error.value)
    assert '{"packs": ["a"]}' in str(error.value)  # such a groups file works:
    report.write_report(tmp_path, tmp_path / 'out', 'packs', {'packs': ('a',)})
    with pytest.raises(ValueError, match=r'none of a task of vtab.*packs'):
        report.write_report(tmp_path, tmp_path / 'out', 'vtab')


def test_the_command_takes_the_folder_of_a_benchmark_or_its_table(tmp_path, report):
    rows.append(tmp_path / 'all' / 'rows', make('lora', 'a', 0, 0.5, benchmark='packs'))
    groups, out = tmp_path / 'groups.json', tmp_path / 'out'
    groups.write_text('{"packs": ["a"]}')
    rest = ['--benchmark', 'packs', '--groups', str(groups), '--out', str(out)]
    written = []
    for folder in ('all', 'all/rows'):
        main(['--results', str(tmp_path / folder), *rest])
        written.append((out / 'report.csv').read_text())
    assert written[0] == written[1] and ',a,' in written[0]
    assert not list((tmp_path / 'all').glob('*.json'))


def test_runs_of_other_tasks_are_not_collected(tmp_path, report, monkeypatch):
    made = {'one': make('lora', 'a', 0, 0.5), 'two': make('lora', 'x', 0, 0.5)}
    monkeypatch.setattr(report, 'from_workdir', lambda path, benchmark: made[path.name])
    folders = [Path('one'), Path('two')]
    said = report.collect(tmp_path, folders, 'mine', GROUPS)
    assert said == ["left out: two: mine has no task 'x'"]
    assert [row.task for row in rows.read(tmp_path).rows] == ['a']


def test_a_choice_at_the_end_of_a_grid_is_noted():
    asked = {'search': True, 'search_lrs': (0.001, 0.01, 0.1), 'search_weight_decays': (0.0, 0.1)}
    usual = full_set('lora', 0.1, ('a', 'b'), hyperparameters=asked, chosen={'lr': 0.01})
    ended = full_set('lora', 0.1, ('c', 'd', 'e'), hyperparameters=asked, chosen={'lr': 0.1})
    fixed = {**asked, 'search': False}
    alone = full_set('linear', 0.1, hyperparameters=fixed, chosen={'lr': 0.1})
    linear, lora = measured([*usual, *ended, *alone], GROUPS)
    assert lora.edges == {'highest lr': ('c', 'd', 'e')} and linear.edges == {}
    summary = make_tables([linear, lora], [], GROUPS)[0]
    told = 'The search of lora chose the highest lr of its grid on c, d, e: a better value may lie '
    assert f'{told}beyond.' in summary.notes

"""How a report is written: what each form escapes, and the command. Rows are made up."""

import csv
import io
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from small_rows import GROUPS, full_set

from jax_prompt.cli import report
from jax_prompt.report import rows
from jax_prompt.report.page import to_html
from jax_prompt.report.scatter import make_scatters, place_labels, to_svg
from jax_prompt.report.summary import measured
from jax_prompt.report.tables import Table, make_tables, to_csv, to_latex, to_markdown
from jax_prompt.report.write import write_report

ROOT = Path(__file__).resolve().parents[2]
NASTY = '<script>alert(1)</script>&"\'|50%_$#{x}^~\\*'


class Reader(HTMLParser):
    """Collects tags, links and texts."""

    def __init__(self):
        super().__init__()
        self.tags, self.fetched, self.texts, self.open = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(tag)
        self.fetched += [v for k, v in attrs if k in ('src', 'href') and not v.startswith('#')]

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if 'script' not in self.open and 'style' not in self.open:
            self.texts.append(data)


def test_page_escapes_and_fetches_nothing():
    found = [*full_set('full', 0.1), *full_set('linear', 0.2)]
    found += [replace(row, method=NASTY) for row in full_set('lora', 0.3)]
    lines = measured(found, GROUPS)
    page = to_html(NASTY, [NASTY], make_tables(lines, [], GROUPS), make_scatters(lines, GROUPS))
    reader = Reader()
    reader.feed(page)
    assert reader.tags.count('script') == 1  # the page's own
    assert reader.fetched == []
    assert 'url(' not in page and '@import' not in page and 'http' not in page
    assert reader.texts.count(NASTY) > 5
    assert reader.tags.count('svg') == 2
    assert 'prefers-color-scheme: dark' in page and 'name="viewport"' in page


def test_markdown_keeps_its_columns():
    table = Table('t', 'T', ('method', 'x'), ((NASTY, '1'), ('a\nb', '2')))
    lines = [line for line in to_markdown(table).splitlines() if line.startswith('|')]
    assert [len(re.findall(r'(?<!\\)\|', line)) for line in lines] == [3, 3, 3, 3]
    assert '<script>' not in to_markdown(table)


def test_latex_is_escaped_and_in_booktabs():
    text = to_latex(Table('t', '100 %\nT', ('method', 'a_b'), ((NASTY, '1.00 ± 0.10'),)))
    body = [line for line in text.splitlines() if not line.startswith('%')]
    assert [body[1], body[3], body[5]] == [r'\toprule', r'\midrule', r'\bottomrule']
    assert r'\begin{tabular}{@{}lr@{}}' in body
    row = next(line for line in body if 'script' in line)
    assert row.endswith(r' & 1.00 $\pm$ 0.10 \\')
    for mark in '%#_{':
        assert f'\\{mark}' in row
    # What is left after the escapes holds no character that TeX would take as a command.
    plain = re.sub(r'\\text[a-z]+\{\}|\\[&%$#_{}]|\$(<|>|\\pm)\$|\\\\$', '', row)
    assert not set(plain.replace(' & ', ' ', 1)) & set('\\&%$#_{}~^')


def test_csv_holds_every_value_at_full_precision():
    (line,) = measured(full_set('vpt_deep', 1 / 7, seeds=(0, 1)), GROUPS)
    found = {
        (row['quantity'], row['name']): row for row in csv.DictReader(io.StringIO(to_csv([line])))
    }
    assert float(found['accuracy (%)', 'b']['mean']) == line.tasks['b'].mean
    assert float(found['accuracy (%)', 'mean of 5']['sd']) == line.mean.sd
    assert float(found['trained parameters (M)', 'without head']['mean']) == 1.0
    assert len(found) == 5 + 2 + 2 + 2 + 3


def test_plots_show_whole_lines_and_fall_back_to_a_group():
    lines = measured([*full_set('full', 0.1), *full_set('lora', 0.2, ('a', 'b'))], GROUPS)
    whole = make_scatters(lines, GROUPS)
    assert [[p.label for p in s.points] for s in whole] == [['full'], ['full']]
    assert whole[0].y_name == 'accuracy in %, mean of 5 tasks'
    part = make_scatters(measured(full_set('lora', 0.2, ('a', 'b')), GROUPS), GROUPS)
    assert part == []  # the cost is a mean over all tasks, and has a hole
    text = to_svg(whole[0])
    assert text.startswith('<svg') and 'full : 31.00 ± 1.00 % at 1.5' in text


def test_labels_do_not_cover_each_other():
    lines = measured(
        [*full_set('full', 0.1), *full_set('lora', 0.1), *full_set('ssf', 0.1)], GROUPS
    )
    points = make_scatters(lines, GROUPS)[0].points
    spots = place_labels(points, [(300.0, 200.0)] * 3)
    assert len(set(spots)) == 3 and None not in spots


def test_command_writes_all_forms(tmp_path, monkeypatch, capsys):
    for row in [*full_set('full', 0.1), *full_set('lora', 0.2)]:
        rows.append(tmp_path / 'results', row)
    (tmp_path / 'results' / 'torn.jsonl').write_text('{"task"')
    groups = tmp_path / 'groups.json'
    groups.write_text(json.dumps(GROUPS))
    arguments = ['--results', tmp_path / 'results', '--out', tmp_path / 'out']
    arguments += ['--benchmark', 'mine', '--groups', groups]
    monkeypatch.setattr(sys, 'argv', ['report.py', *map(str, arguments)])
    report.main()
    said = capsys.readouterr().out
    assert 'torn.jsonl, line 1: torn' in said and 'report.html' in said
    made = {path.name for path in (tmp_path / 'out').iterdir()}
    assert {'report.html', 'report.md', 'report.tex', 'report.csv'} <= made
    assert not [name for name in made if name.endswith('.part')]
    assert '41.00 ± 1.00' in (tmp_path / 'out' / 'report.md').read_text(encoding='utf-8')
    with pytest.raises(ValueError, match='none of a task of fgvc'):
        write_report(tmp_path / 'results', tmp_path / 'out', 'fgvc')
    with pytest.raises(ValueError, match="benchmark is 'mine'"):
        write_report(tmp_path / 'results', tmp_path / 'out', 'mine')

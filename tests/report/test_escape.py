"""Hostile names in a report: no form of it runs, links or computes them."""

import csv
import io
import re
from dataclasses import replace

import pytest
from small_rows import GROUPS, full_set

from jax_prompt.cli import predict
from jax_prompt.core.printable import printable
from jax_prompt.report import rows, write
from jax_prompt.report.escape import for_csv, for_latex, for_markdown
from jax_prompt.report.summary import measured
from jax_prompt.report.tables import make_tables, to_csv, to_latex

EVIL = '\\input{x}'


@pytest.mark.parametrize(
    ('text', 'shown'),
    [
        ('a\x1b[31mb\x07\x9b', 'a\\x1b[31mb\\x07\\x9b'),
        ('a\r\n\tb\u2028', 'a\\r\\n\\tb\\u2028'),
        ('a\u202egnp.exe', 'a\\u202egnp.exe'),
        ('a\udcfc', 'a\\udcfc'),
        ('ünï ☃ 日本 \u0645\u06cc\u200c\u062e', 'ünï ☃ 日本 \u0645\u06cc\u200c\u062e'),
    ],
)
def test_only_what_a_terminal_obeys_is_escaped(text, shown):
    assert printable(text) == shown
    printable(text).encode('utf-8')


@pytest.mark.parametrize(
    'text',
    ['=1+1', '+1', '-2', '@SUM(A1)', '\t=1', '\r=1', ' =1', '\n=1', '\uff1d1', "=cmd|'x'!A0"],
)
def test_a_spreadsheet_computes_no_text(text):
    cell = for_csv(text)
    assert cell[0] in "'\\"  # an apostrophe, or an escape in place of the tab or line end
    assert cell.lstrip("'") == printable(text)


def test_csv_keeps_numbers_and_harmless_names():
    lines = measured([replace(row, method='=x') for row in full_set('lora', 0.1)], GROUPS)
    found = list(csv.DictReader(io.StringIO(to_csv(lines))))
    assert {row['method'] for row in found} == {"'=x"}
    assert float(found[0]['mean']) == lines[0].tasks['a'].mean
    assert for_csv('a-b=c') == 'a-b=c'


def test_latex_comments_stay_comments():
    weights = {'source': f'w\n{EVIL}\r{EVIL}\x85{EVIL}', 'sha256': '0' * 16}
    lines = measured([replace(row, weights=weights) for row in full_set('lora', 0.1)], GROUPS)
    text = '\n'.join(map(to_latex, make_tables(lines, [], GROUPS)))
    told = [line for line in text.splitlines() if EVIL in line]
    assert told and all(line.startswith('% ') for line in told)


def test_latex_takes_no_name_as_an_option_of_the_row_before():
    assert for_latex('[1cm]') == '{}[1cm]' and for_latex('*x') == '{}*x'


def test_markdown_shows_text_as_it_is():
    assert for_markdown('[x](javascript:y) ~~a~~ $b$ <i> #1\n# c') == (
        '\\[x\\](javascript:y) \\~\\~a\\~\\~ \\$b\\$ &lt;i&gt; \\#1 \\# c'
    )
    assert for_markdown('vit_b16_224 _a_ b_ __c') == r'vit_b16_224 \_a\_ b\_ \_\_c'


def test_the_head_of_a_markdown_report_is_escaped(tmp_path, monkeypatch):
    name = '<script>[x](javascript:y)'
    for row in full_set('lora', 0.1, seeds=(0,), machine={'device': name}, benchmark=name):
        rows.append(tmp_path / 'rows', row)
    monkeypatch.setattr(write, 'draw', lambda scatters, out: None)
    write.write_report(tmp_path / 'rows', tmp_path / 'out', name, GROUPS)
    text = (tmp_path / 'out' / 'report.md').read_text(encoding='utf-8')
    assert '<script>' not in text and not re.search(r'(?<!\\)\]\(', text)
    assert text.startswith('# Report: &lt;script&gt;')


def test_predict_prints_no_control_characters(monkeypatch, capsys):
    row = {'image': 'a\x1b.png', 'predictions': [{'class': 'x\x1b[2J\ny', 'probability': 0.5}]}
    monkeypatch.setattr(predict, 'find_images', lambda paths, passed: [])
    monkeypatch.setattr(predict, 'open_tuned', lambda *_: None)
    monkeypatch.setattr(predict, 'rows', lambda run, images, top: [row])
    monkeypatch.setattr('sys.argv', ['predict.py', '--workdir', 'w', 'a'])
    predict.main()
    assert capsys.readouterr().out == 'a\\x1b.png\tx\\x1b[2J\\ny 50.0 %\n'

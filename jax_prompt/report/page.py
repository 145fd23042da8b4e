"""A report as one HTML page that needs nothing else: tables that sort, and plots."""

from collections.abc import Sequence
from html import escape

from jax_prompt.report.marks import DARK, LIGHT, letter, style
from jax_prompt.report.scatter import Point, Scatter, to_svg
from jax_prompt.report.tables import HOLE, Table

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --dim: #5b6675; --back: #fff; --line: #d9dee5;
  --band: #f3f5f8; --ours: #1766c2; --paper: #b4570b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --dim: #9aa5b4; --back: #14181e;
  --line: #333b46; --band: #1c222a; --ours: #6cb1ff; --paper: #f0a35e; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 16px; color: var(--ink);
  background: var(--back); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 8px 0; } h2 { font-size: 1.1rem; margin: 32px 0 8px; }
p, nav { margin: 6px 0; color: var(--dim); } nav a { margin-right: 12px; white-space: nowrap; }
a { color: var(--ours); }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); background: var(--back); }
tbody tr:last-child td { border-bottom: 0; }
tbody tr:nth-child(even) td { background: var(--band); }
thead th { background: var(--band); vertical-align: bottom; }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid; }
th button::after { content: ' \\2195'; color: var(--dim); font-size: 11px; }
th[aria-sort=ascending] button::after { content: ' \\2191'; }
th[aria-sort=descending] button::after { content: ' \\2193'; }
.word { text-align: left; } th:first-child, td:first-child { position: sticky; left: 0; }
td.hole { color: var(--dim); white-space: normal; min-width: 130px; }
.plots { display: grid; gap: 16px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 500px), 1fr)); }
.plots section { min-width: 0; }
.scatter { display: block; min-width: 480px; width: 100%; height: auto; }
.scatter text { font: 13px system-ui, sans-serif; fill: var(--ink); }
.scatter .tick, .scatter .axis { fill: var(--dim); } .grid { stroke: var(--line); }
.mark.ours { fill: currentColor; stroke: currentColor; stroke-width: 1.5; }
.mark.paper { fill: transparent; stroke: var(--paper); stroke-width: 1.5; }
.scatter .name.ours { fill: currentColor; } .scatter .name.paper { fill: var(--paper); }
.key { margin-right: 16px; white-space: nowrap; } .key.paper { color: var(--paper); }
@media (max-width: 640px) { body { padding: 10px; font-size: 14px; }
  th, td { padding: 5px 7px; }
  td:first-child { max-width: 44vw; white-space: normal; } }
@media print { th button::after { content: ''; } .scroll { overflow: visible; } }
"""

_LIGHT = ' '.join(f'.m{i} {{ color: {colour}; }}' for i, colour in enumerate(LIGHT))
_DARK = ' '.join(f'.m{i} {{ color: {colour}; }}' for i, colour in enumerate(DARK))
_COLOURS = f'{_LIGHT}\n@media (prefers-color-scheme: dark) {{ {_DARK} }}\n'

_SCRIPT = """
for (const table of document.querySelectorAll('table')) {
  const body = table.tBodies[0];
  table.querySelectorAll('th').forEach((head, column) => head.firstChild.onclick = () => {
    const down = head.getAttribute('aria-sort') !== 'descending';
    table.querySelectorAll('th').forEach(other => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const word = head.classList.contains('word');
    const value = row => {
      const text = row.cells[column].textContent;
      return word ? text : parseFloat(text.replaceAll(',', ''));
    };
    const order = (a, b) => word ? b.localeCompare(a) : b - a;
    [...body.rows].map(row => [value(row), row]).sort(([a], [b]) => {
      if (!word && (isNaN(a) || isNaN(b))) return isNaN(a) - isNaN(b);
      return down ? order(a, b) : order(b, a);
    }).forEach(([, row]) => body.append(row));
  });
}
"""

_WORDS = ('method', 'backbone', 'weights', 'paper', 'task')


def to_html(
    title: str, intro: Sequence[str], tables: Sequence[Table], scatters: Sequence[Scatter]
) -> str:
    """Writes a report as a page: styles, script and pictures are inside, nothing is fetched.

    Args:
      title: of the page.
      intro: paragraphs above the tables.
      tables: in their order; plots follow the first.
      scatters: plots.
    """
    links = [(table.name, table.title) for table in tables]
    links[1:1] = [(scatter.name, _title(scatter)) for scatter in scatters]
    sections = [_table(table) for table in tables]
    if scatters:
        sections.insert(1, f'<div class="plots">{"".join(map(_figure, scatters))}</div>')
    return '\n'.join(
        [
            '<!doctype html>',
            '<html lang="en">',
            '<head>',
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<title>{escape(title)}</title>',
            f'<style>{_STYLE}{_COLOURS}</style>',
            '</head>',
            '<body>',
            f'<h1>{escape(title)}</h1>',
            *(f'<p>{escape(text)}</p>' for text in intro),
            '<nav>',
            *(f'<a href="#{escape(name)}">{escape(text)}</a>' for name, text in links),
            '</nav>',
            *sections,
            f'<script>{_SCRIPT}</script>',
            '</body>',
            '</html>',
            '',
        ]
    )


def _title(scatter: Scatter) -> str:
    return 'Accuracy against ' + scatter.x_name.split(',')[0]


def _figure(scatter: Scatter) -> str:
    keys = ''.join(map(_key, scatter.points))
    if any(point.paper for point in scatter.points):
        keys += '<span class="key paper">□ papers</span>'
    heading = f'<h2 id="{escape(scatter.name)}">{escape(_title(scatter))}</h2>'
    picture = f'<div class="scroll">{to_svg(scatter)}</div>'
    return f'<section>{heading}\n<p>{keys}</p>\n{picture}</section>'


def _key(point: Point) -> str:
    if point.paper:
        return ''
    colour, shape = style(point.number)
    return f'<span class="key m{colour}">{letter(shape)} {escape(point.label)}</span>\n'


def _table(table: Table) -> str:
    words = [name in _WORDS for name in table.head]
    head = ''.join(
        f'<th scope="col"{" class=word" if word else ""}><button>{escape(name)}</button></th>'
        for name, word in zip(table.head, words, strict=True)
    )
    rows = []
    for row in table.body:
        cells = []
        for text, word in zip(row, words, strict=True):
            kind = 'word' if word else 'hole' if text.startswith(HOLE) else ''
            broken = escape(text).replace(',', ',<wbr>')  # where a long name may break
            cells.append(f'<td{f" class={kind}" if kind else ""}>{broken}</td>')
        rows.append(f'<tr>{"".join(cells)}</tr>')
    return '\n'.join(
        [
            f'<h2 id="{escape(table.name)}">{escape(table.title)}</h2>',
            *(f'<p>{escape(note)}</p>' for note in table.notes),
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead>',
            f'<tbody>{"".join(rows)}</tbody></table></div>',
        ]
    )

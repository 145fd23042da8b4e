"""What pictures show: marks that can be told apart, axes that say what they are."""

import numpy as np
import pytest
from small_rows import GROUPS, full_set

from jax_prompt.report import curves, inside, plots
from jax_prompt.report.marks import STYLES, side_by_side, style
from jax_prompt.report.page import to_html
from jax_prompt.report.scatter import Point, Scatter, log_ticks, make_scatters, to_svg
from jax_prompt.report.summary import measured


@pytest.fixture(name='kept')
def _kept(monkeypatch):
    """Keeps the figures that a command draws, open and unsaved."""
    plt = pytest.importorskip('matplotlib.pyplot')
    from matplotlib.figure import Figure

    plt.switch_backend('agg')
    figures = []
    monkeypatch.setattr(Figure, 'savefig', lambda self, *a, **k: figures.append(self))
    monkeypatch.setattr(plt, 'close', lambda figure: None)
    yield figures
    monkeypatch.undo()
    plt.close('all')


def test_each_method_has_its_own_colour_and_shape():
    assert len({style(i) for i in range(STYLES)}) == STYLES == 40


def test_marks_that_touch_stand_side_by_side():
    places = [(100.0, 50.0), (102.0, 90.0), (101.0, 50.0), (300.0, 50.0), (100.0, 300.0)]
    placed = side_by_side(places, [0.0, 40.0, 0.0, 0.0, 0.0], 0.0, 400.0)
    assert [y for _, y in placed] == [y for _, y in places]  # accuracies stay
    assert placed[3:] == places[3:]  # these touch none
    xs = sorted(x for x, _ in placed[:3])
    assert np.diff(xs) == pytest.approx([13.0, 13.0]) and np.mean(xs) == pytest.approx(101.0)
    assert min(side_by_side([(1.0, 5.0)] * 2, [0.0, 0.0], 0.0, 99.0)) == (0.0, 5.0)  # inside


@pytest.mark.parametrize(('low', 'high'), [(-2.2, 0.2), (0.0, 0.5), (0.3, 0.7), (2.0, 2.3)])
def test_a_cost_axis_has_three_ticks_or_more(low, high):
    ticks = log_ticks(low, high)
    assert 3 <= len(ticks) <= 10 and 10**low * 0.999 <= ticks[0] and ticks[-1] <= 10**high * 1.001


def test_methods_at_one_place_are_told_apart_in_the_page():
    names = ('vpt_deep', 'spt_deep')
    lines = measured([row for name in names for row in full_set(name, 0.1)], GROUPS)
    (scatter, _) = make_scatters(lines, GROUPS)
    assert [point.number for point in scatter.points] == [0, 1]
    svg = to_svg(scatter)
    assert 'mark ours m0' in svg and 'mark ours m1' in svg and 'stand side by side' in svg
    page = to_html('t', [], [], [scatter])
    assert 'm0">● vpt_deep' in page and 'm1">▲ spt_deep' in page
    alone = Scatter('s', 'x', 'y', (Point(1.0, 2.0, None, 'a', ''),))
    assert 'side by side' not in to_svg(alone) and to_svg(alone).count('tick') >= 6


def test_lines_of_one_method_have_names_of_their_own():
    found = [*full_set('lora', 0.1), *full_set('lora', 0.2, weights={})]
    labels = [p.label for p in make_scatters(measured(found, GROUPS), GROUPS)[0].points]
    assert labels == ['lora, none', 'lora, w.npz 01234567']


def test_the_plotted_report_tells_methods_apart(kept, tmp_path):
    points = tuple(Point(1.0, 50.0 + i / 10, 1.0, f'm{i}', '', i) for i in range(3))
    plots.draw([Scatter('s', 'cost', 'accuracy', points)], tmp_path)
    axes = kept[0].axes[0]
    marks = [bar[0] for bar in axes.containers]
    assert len({(mark.get_color(), mark.get_marker()) for mark in marks}) == 3
    xs = sorted(axes.transData.transform((mark.get_xdata()[0], 50.0))[0] for mark in marks)
    assert np.diff(xs).min() > 10  # pixels
    assert len(axes.get_xticks()) >= 3 and 'side by side' in axes.get_xlabel()
    assert [text.get_text() for text in kept[0].legends[0].get_texts()] == ['m0', 'm1', 'm2']


def run_of(method, epochs, val=True, test=0.5, **more):
    """A run's result.json and its epochs."""
    rows = [
        {'epoch': e, 'train_accuracy': 0.9, 'val_accuracy': 0.6 if val else None}
        for e in range(1, epochs + 1)
    ]
    head = {'data': 'd', 'method': method, 'classes': ['a', 'b'], 'seed': 0}
    return {**head, 'test_accuracy': test, **more}, rows


def test_curves_say_which_accuracy_they_are(kept, tmp_path):
    curves.plot([run_of('a', 2), run_of('b', 1)], tmp_path / 'c.png')
    curves.plot([run_of('a', 2, False), run_of('b', 1, False)], tmp_path / 'c.png')
    curves.plot(
        [run_of('a', 2), run_of('b', 1, False), run_of('c', 0, test=None)], tmp_path / 'c.png'
    )
    val, train, both = (figure.axes[0] for figure in kept)
    assert val.get_ylabel() == 'validation accuracy in %'
    assert train.get_ylabel() == 'training accuracy in %'
    assert both.get_ylabel() == 'accuracy in % (solid: validation, dashed: training)'
    lines = {line.get_label(): line for line in both.get_lines()}
    assert lines['a  50.0 %'].get_linestyle() == '-' and lines['b  50.0 %'].get_linestyle() == '--'
    assert 'c  no test split (no epochs recorded)' in lines
    single = next(line for line in val.get_lines() if line.get_label().startswith('b'))
    assert single.get_marker() not in ('', 'None', None) and list(single.get_ydata()) == [60.0]


def test_runs_of_one_method_have_curves_of_their_own(kept, tmp_path):
    runs = [run_of('a', 2, seed=seed) for seed in (3, 4)]
    curves.plot(runs, tmp_path / 'c.png')
    lines = [line for line in kept[0].axes[0].get_lines() if line.get_label()[0] == 'a']
    assert [line.get_label() for line in lines] == ['a, seed 3  50.0 %', 'a, seed 4  50.0 %']
    assert len({line.get_color() for line in lines}) == 2
    assert curves.labels([runs[0][0]] * 2)[1] == 'a, run 2  50.0 %'
    assert 'no test split' in curves.table([run_of('c', 1, test=None)[0] | TABLE])


TABLE = {'num_trainable': 1, 'num_trainable_head': 1, 'seconds_total': 1.0}


def test_one_epoch_has_an_axis_of_whole_epochs(kept, tmp_path):
    nmi = [[0.1, 0.2]]
    run = {'run': 'r', 'method': 'm', 'epochs': [5], 'nmi': nmi, 'nmi_centred': nmi}
    inside.draw_nmi([run], tmp_path / 'n.png')
    inside.draw_gates([5], np.array([[0.5]]), tmp_path / 'g.png')
    inside.draw_residuals({'p1': np.array([[0.5]])}, 'lion', tmp_path / 'r.png')
    nmi_axes, gates, residuals = kept[0].axes[0], kept[1].axes[0], kept[2].axes[0]
    assert [list(a.get_xticks()) for a in (nmi_axes, gates, residuals)] == [[5], [5], [1]]
    faint = [line for line in nmi_axes.get_lines() if line.get_alpha()]
    assert faint and all(line.get_marker() == '.' for line in faint)


def test_attention_has_a_colour_bar_and_each_map_its_largest_value(kept, tmp_path):
    maps = np.zeros((2, 1, 2, 2), np.float32)
    maps[0, 0, 0, 0] = 0.25  # the other is a map of zeros
    inside.draw_attention(
        np.zeros((1, 4, 4, 3), np.float32), maps, [0, 1], 'class', 'm', tmp_path / 'a.png'
    )
    *panels, bar = kept[0].axes
    assert 'largest' in bar.get_ylabel() and bar.get_ylim() == (0.0, 1.0)
    titles = [panel.get_title() for panel in panels]
    assert titles == ['image', 'block 1\nlargest 25 %', 'block 2\nlargest 0 %']
    assert np.isfinite(np.asarray(panels[2].get_images()[1].get_array())).all()

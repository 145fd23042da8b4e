"""The time that is left covers what follows: the other candidates, the refit."""

from dataclasses import replace

from jax_prompt.runs.config import RunConfig
from jax_prompt.runs.fitting import images_after
from jax_prompt.runs.prune import Prune
from jax_prompt.train import log
from jax_prompt.train.log import Progress


def test_the_time_left_covers_what_follows(monkeypatch, capsys):
    clock = iter([0.0, 0.0, 10.0, 10.0, 20.0, 20.0])
    monkeypatch.setattr(log.time, 'perf_counter', lambda: next(clock))
    progress = Progress('search/lr_1', 100, after=5000)
    progress.start(0)
    progress.update(50)
    progress.note('epoch 1/2')
    assert '5 images/s, 10 s left, 17 min with all that follows' in capsys.readouterr().out


def test_nothing_is_added_where_nothing_follows(monkeypatch, capsys):
    clock = iter([0.0, 0.0, 10.0, 10.0])
    monkeypatch.setattr(log.time, 'perf_counter', lambda: next(clock))
    progress = Progress('train', 100)
    progress.start(20)
    progress.update(40)
    progress.note('epoch 1/2')
    assert capsys.readouterr().out == 'train: epoch 1/2, 4 images/s, 10 s left\n'


def test_what_follows_a_candidate():
    base = {'data': 'digits', 'backbone': 'vit_micro', 'method': 'e2vpt', 'epochs': 4}
    config = RunConfig(search_lrs=(0.1, 0.2, 0.3), search_epochs=2, **base)
    assert [images_after(config, n, 100, 20) for n in (1, 3)] == [2 * 200 + 480, 480]
    tested = RunConfig(search_lrs=(0.1, 0.2), refit=False, **base)
    assert images_after(tested, 2, 100, 20) == 0
    pruned = replace(config, prune=Prune(token_share=0.5))
    assert images_after(pruned, 3, 100, 20) == 960

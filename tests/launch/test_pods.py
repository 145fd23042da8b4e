"""The tables of TPU slices, from rows as they are compiled; and a kernel that is compared."""

import importlib
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.nn.attention import attend

SPEED = Path(__file__).resolve().parents[2] / 'launch' / 'speed'
# An excerpt of a compiled program: a loop of five turns, and an operation outside it.
_TEXT = """HloModule jit_step

%cond (p: (s32[])) -> pred[] {
  %constant.480 = s32[]{:T(128)} constant(5)
}

%body (p: (s32[])) -> (s32[]) {
  %f = bf16[1] fusion(%p), kind=kLoop, backend_config={"estimated_cycles":"30","x":[]}
}

ENTRY %main.1_spmd (p: s32[]) -> s32[] {
  %copy = bf16[1] copy(%p), backend_config={"estimated_cycles":"7"}
  %while.71 = (s32[]{:T(128)}) while(%t), condition=%cond, body=%body
}
"""


@pytest.fixture
def bench(monkeypatch):
    """Returns name -> module of the bench."""
    monkeypatch.syspath_prepend(str(SPEED))
    return importlib.import_module


def test_cycles_count_the_turns_of_loops(bench):
    assert bench('bench_pods').cycles(_TEXT) == 5 * 30 + 7


def test_rows_become_tables(bench, tmp_path, capsys):
    pods, show = bench('bench_pods'), bench('bench_pods_show')
    runs = [next(pods.table()), *pods.scaling()]
    rows, size = {}, {name: chips for chips, name in pods.PODS.items()}  # of 1 and 4: 4
    for run in runs:
        chips = run.chips or size[run.topology]
        sizes = {'weights': 10**9, 'trained': 10**6, 'images': 10**6, 'scratch': chips * 10**6}
        rows[run] = {
            **{**run._asdict(), 'chips': chips, 'chose': 'none', 'cycles': 1, **sizes},
            **{'times': {'all-reduce': 13}, 'sent': 4_032_772.5},
        }
    show.show(rows, None)
    out = capsys.readouterr().out
    first = '| ViT-B/16, VPT-deep | v5e:4x4 | 1 | none | 1 GB | 1 MB | 1 MB |'
    assert first in out and '13 all-reduces | 4.03 MB |' in out
    lines = [line for line in out.splitlines() if line.startswith('| 256 |')]
    assert len(lines) == 1 and lines[0].count('1.26 GB') == 3
    # Four chips have no eight to share a weight.
    four = next(line for line in out.splitlines() if line.startswith('| 4 |'))
    assert four.count('1.01 GB') == 2 and four.endswith('|  |  |')


def test_splash_attention_computes_ours(bench):
    splash = bench('bench_pods_attention').splash
    rng = np.random.default_rng(0)
    q, k, v, g = (
        jnp.asarray(rng.standard_normal((1, 2, count, 16)), jnp.float32) for count in (9, 13, 13, 9)
    )

    def both(form):
        out, back = jax.vjp(form, q, k, v)
        return jax.tree.leaves((out, back(g)))

    for one, other in zip(both(partial(splash, interpret=True)), both(attend), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)

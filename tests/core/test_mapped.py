"""Stretches of files as arrays, and giving back the memory that they take."""

from pathlib import Path

import numpy as np
import pytest

from jax_prompt.core.mapped import map_bytes, release

STATUS = Path('/proc/self/status')
COUNT = 4 * 2**20  # values, 16 MiB

VIEWS = {
    'transposed': lambda x: x.reshape(2, -1).T,
    'strided': lambda x: np.lib.stride_tricks.as_strided(x[3:], (COUNT // 8,), (32,)),
}


def _mapped_mb():
    lines = STATUS.read_text().splitlines()
    # Of files on a disk, and of files that lie in memory (tmpfs).
    sizes = [int(x.split()[1]) for x in lines if x.startswith(('RssFile', 'RssShmem'))]
    return sum(sizes) / 1024


@pytest.mark.skipif(not STATUS.exists(), reason='what is resident is read from /proc')
@pytest.mark.parametrize('view', VIEWS.values(), ids=VIEWS)
def test_released_pages_go_and_come_again(view, tmp_path):
    values = np.arange(COUNT, dtype=np.float32)
    (tmp_path / 'x').write_bytes(b'head' + values.tobytes())
    array = view(map_bytes(tmp_path / 'x', 4, values.nbytes).view(np.float32))
    before = _mapped_mb()
    np.testing.assert_array_equal(array, view(values))
    assert _mapped_mb() - before > 14
    release(array)
    assert _mapped_mb() - before < 2
    np.testing.assert_array_equal(array, view(values))


def test_what_others_mapped_is_left_alone(tmp_path):
    """Pages of a private mapping are nowhere else once they are written to."""
    np.zeros(1024, np.float32).tofile(tmp_path / 'x')
    array = np.memmap(tmp_path / 'x', np.float32, 'c')
    array[:] = 1.0
    release(array)
    release(np.ones(3))
    assert array.min() == 1.0

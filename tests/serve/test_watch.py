"""A folder of packs that changes while it is served."""

import logging
import os
import threading

import pytest
from small_serve import own_logits, packed, tuned

from jax_prompt.packs.file import write_pack
from jax_prompt.serve import Backbone
from jax_prompt.serve.metrics import Metrics
from jax_prompt.serve.watch import Folder


@pytest.fixture
def folder(tmp_path):
    """A folder of packs, its backbone and its counters."""
    (tmp_path / 'packs').mkdir()
    metrics = Metrics()
    backbone = Backbone('vit_micro', max_batch=2, capacity=2)
    yield Folder(tmp_path / 'packs', backbone, metrics), tmp_path / 'packs', backbone, metrics
    metrics.close()


def test_files_come_change_and_go(folder, make_pack, caplog):
    watched, path, backbone, metrics = folder
    good, other = make_pack('linear', 0, 3), make_pack('linear', 1, 3)
    (path / 'good.safetensors').write_bytes(good)
    (path / 'bad.safetensors').write_bytes(other[:-8])
    (path / 'no pack.safetensors').write_bytes(good)
    (path / '.hidden.safetensors').write_bytes(good)
    (path / 'notes.txt').write_text('x')
    assert watched.update() == ['good'] and list(backbone.tasks) == ['good']
    assert metrics.value('bad_packs') == 1
    said = caplog.text
    assert 'bad.safetensors is left out' in said and 'no pack.safetensors names no task' in said
    assert watched.update() == [] and caplog.text == said, 'what is wrong is said once'
    (path / 'bad.safetensors').write_bytes(other)  # the copy is complete now
    (path / 'good.safetensors').write_bytes(other[:-8])  # this one is being replaced
    assert watched.update() == ['bad'] and sorted(backbone.tasks) == ['bad', 'good']
    assert backbone.tasks['good'].sha256 != backbone.tasks['bad'].sha256
    (path / 'new').write_bytes(other)
    os.replace(path / 'new', path / 'good.safetensors')
    assert watched.update() == ['good']
    assert backbone.tasks['good'].sha256 == backbone.tasks['bad'].sha256
    (path / 'bad.safetensors').unlink()
    watched.update()
    assert list(backbone.tasks) == ['good']
    with pytest.raises(ValueError, match='is no folder'):
        Folder(path / 'none', backbone, metrics)


def test_a_pack_that_is_replaced_under_load_is_the_old_or_the_new_one(folder, shown, caplog):
    caplog.set_level(logging.ERROR)
    watched, path, backbone, _ = folder
    ways = [('vpt_deep', 0), ('vpt_deep', 1), ('linear', 1)]
    wanted = {packed(*way).sha256: own_logits(tuned(*way), shown[:2]) for way in ways}
    write_pack(tuned(*ways[0]), path / 't.safetensors')
    watched.update()
    backbone.warm()
    seen, stop, failed = set(), threading.Event(), []

    def load():
        while not stop.is_set():
            for i, answer in enumerate(backbone.answer(shown[:2], [(0, 't'), (1, 't')])):
                seen.add(answer.task.sha256)
                if abs(answer.logits - wanted[answer.task.sha256][i]).max() > 1e-5:
                    failed.append(answer)

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(9):
            write_pack(tuned(*ways[(turn + 1) % 3]), path / 't.safetensors')
            watched.update()
            backbone.predict(shown[:1], 't')
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed and len(seen) >= 2

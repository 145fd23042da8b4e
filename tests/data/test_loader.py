"""Loading a split whole and as a stream; threads end whatever happens."""

import gc
import threading
import time

import numpy as np
import pytest
from small_data import encode, picture, split_of

from jax_prompt.data.decode import decode_image
from jax_prompt.data.loader import Stream, load_images
from jax_prompt.data.source import Split
from jax_prompt.data.transforms import StoredView, prepare_image

PICTURES = [picture(i, 10 + i % 5, 12 + i % 3) for i in range(50)]
VIEW = StoredView(8, 'bilinear', 'centre', 0.9)


def decoders() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(('decode', 'stream'))]


def broken_split(bad: set[int], count: int = 50) -> Split:
    files = [encode(picture(i)) for i in range(count)]
    files = [data[:40] if i in bad else data for i, data in enumerate(files)]
    labels = np.zeros(count, np.int32)
    return Split('train', labels, lambda i: decode_image(files[i], f'{i}.png'), lambda i: f'{i}')


@pytest.mark.parametrize('workers', [0, 1, 3])
def test_load_images(workers):
    split = split_of(PICTURES)
    images = load_images(split, VIEW, workers=workers)
    assert images.shape == (50, 8, 8, 3) and images.dtype == np.uint8
    want = [prepare_image(image, 8, 'bilinear', 'centre', 0.9) for image in PICTURES]
    assert np.array_equal(images, want)
    assert not decoders()


def test_load_images_names_all_corrupt_images():
    with pytest.raises(ValueError, match=r'3 of the 50 .*\n.*3\.png.*\n.*21\.png.*\n.*44\.png'):
        load_images(broken_split({3, 21, 44}), StoredView(8))
    assert not decoders()


def test_other_errors_pass_and_threads_end():
    def read(i):
        raise RuntimeError('disk on fire')

    with pytest.raises(RuntimeError, match='on fire'):
        load_images(Split('train', np.zeros(500, np.int32), read, str), VIEW)
    assert not decoders()


@pytest.mark.parametrize('prefetch', [0, 2, 100])
@pytest.mark.parametrize('workers', [1, 3])
def test_stream_gives_the_bytes_of_load_images(prefetch, workers):
    split = split_of(PICTURES)
    whole = load_images(split, VIEW)
    stream = Stream(split, VIEW, workers=workers, prefetch=prefetch)
    order = np.random.RandomState(0).randint(0, 50, (9, 7))
    batches = list(stream.batches(order))
    assert len(batches) == 9 and len(stream) == 50
    for row, (images, labels) in zip(order, batches, strict=True):
        assert np.array_equal(images, whole[row])
        assert np.array_equal(labels, split.labels[row]) and labels.dtype == np.int32
    for k in (0, 4, 8, 9):  # started again in the middle
        again = list(stream.batches(order[k:]))
        assert len(again) == 9 - k
        for (images, _), (before, _) in zip(again, batches[k:], strict=True):
            assert np.array_equal(images, before)
    assert not decoders()


def test_stream_reads_ahead_but_not_further():
    reads = []
    lock = threading.Lock()

    def read(i):
        with lock:
            reads.append(i)
        return PICTURES[i]

    stream = Stream(Split('train', np.zeros(50, np.int32), read, str), VIEW, prefetch=2)
    batches = stream.batches(np.arange(50).reshape(10, 5))
    time.sleep(0.05)
    assert not reads  # nothing before the first batch is asked for
    next(batches)
    end = time.monotonic() + 5
    while len(reads) < 15 and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.05)
    assert sorted(reads) == list(range(15))  # the batch in use and two ahead
    batches.close()
    assert not decoders()


def test_stream_ends_its_threads_when_dropped_or_failed():
    stream = Stream(split_of(PICTURES), VIEW)
    order = np.arange(50).reshape(10, 5)
    for _ in stream.batches(order):
        break
    gc.collect(1)  # what is young: a worker's heap is large
    assert not decoders()
    with pytest.raises(KeyError):
        for _ in stream.batches(order):
            raise KeyError('from the training loop')
    gc.collect(1)  # what is young: a worker's heap is large
    assert not decoders()


def test_stream_raises_a_corrupt_image_at_its_batch():
    batches = Stream(broken_split({23}), VIEW).batches(np.arange(50).reshape(10, 5))
    for _ in range(4):
        next(batches)
    with pytest.raises(ValueError, match=r'^23\.png: not a readable image'):
        next(batches)
    assert not decoders()


@pytest.mark.parametrize(
    ('order', 'message'),
    [
        (np.arange(5), r'int64 \[5\]; wanted int \[steps, B\]'),
        (np.zeros((2, 2)), 'float64'),
        (np.array([[0, 50]]), r'indices 0\.\.50 leave the 50 examples'),
        (np.array([[-1, 3]]), 'indices -1'),
    ],
)
def test_stream_refuses_a_wrong_order_at_once(order, message):
    with pytest.raises(ValueError, match=message):
        Stream(split_of(PICTURES), VIEW).batches(order)


def test_empty_order():
    assert list(Stream(split_of(PICTURES), VIEW).batches(np.zeros((0, 4), int))) == []

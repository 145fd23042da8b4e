"""Preparing data: tfrecord converted, the same examples in the same order, the preflight."""

import dataclasses
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from small_builders import prepare_small
from small_data import write_class

from jax_prompt.cli.prepare_data import expand, main
from jax_prompt.data import preflight
from jax_prompt.data.convert import convert
from jax_prompt.data.decode import decode_image
from jax_prompt.data.open import open_source
from jax_prompt.data.ruled import open_ruled
from jax_prompt.data.tasks import find_task
from jax_prompt.data.tfrecord import crc32c, read_records

COUNTS = {'train': 31, 'validation': 9, 'test': 5}


@pytest.fixture(scope='module')
def tfds():
    return pytest.importorskip('tensorflow_datasets')


def crc_bit_by_bit(data: bytes) -> int:
    """Returns CRC-32C by its definition."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def frame(record: bytes) -> bytes:
    """Frames a record as TFRecord files do."""

    def masked(data):
        crc = crc_bit_by_bit(data)
        return struct.pack('<I', (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack('<Q', len(record))
    return length + masked(length) + record + masked(record)


def raw(tfds, folder: Path, split: str) -> list[bytes]:
    """Reads the serialized examples of a split by TFDS's own split API."""
    builder = tfds.builder_from_directory(folder)
    as_bytes = tfds.decode.DeserializeMethod.RAW_BYTES
    return list(builder.as_data_source(split, deserialize_method=as_bytes))


@pytest.fixture(scope='module')
def both(tfds, tmp_path_factory) -> tuple[Path, Path]:
    """One set in both formats, three shards a split: (array_record, tfrecord) folders."""
    root = tmp_path_factory.mktemp('prepared')
    first = prepare_small('dtd', COUNTS, root / 'array_record')
    second = root / 'tfrecord' / 'dtd' / first.name
    second.mkdir(parents=True)
    for path in first.iterdir():
        if '.array_record-' not in path.name:
            shutil.copy(path, second)
    info = tfds.builder_from_directory(first).info
    for name, split in info.splits.items():
        records = iter(raw(tfds, first, name))
        for file, count in zip(split.filenames, split.shard_lengths, strict=True):
            shard = b''.join(frame(next(records)) for _ in range(count))
            (second / file.replace('array_record', 'tfrecord')).write_bytes(shard)
    described = second / 'dataset_info.json'
    text = json.loads(described.read_text()) | {'fileFormat': 'tfrecord'}
    described.write_text(json.dumps(text))
    return first, second


@pytest.mark.parametrize('size', [0, 1, 5, 255, 256, 257, 511, 513, 1000, 4096])
def test_checksums(size):
    data = np.random.RandomState(size).bytes(size)
    assert crc32c(data) == crc_bit_by_bit(data)


def test_records_that_tensorflow_wrote(tmp_path):
    # By tf.io.TFRecordWriter of TensorFlow 2.21: an empty record, 'prompt', three times 0..255.
    with np.load(Path(__file__).with_name('tensorflow_golden.npz')) as golden:
        written = golden['tfrecord'].tobytes()
    path = tmp_path / 'golden.tfrecord'
    path.write_bytes(written)
    records = [b'', b'prompt', bytes(range(256)) * 3]
    assert list(read_records(path)) == records
    assert b''.join(map(frame, records)) == written


@pytest.mark.parametrize(
    ('place', 'message'),
    [
        (0, 'record 0 has no valid length'),
        (16 + 12 + 2, 'record 1 is changed'),
        (-2, 'record 2 is'),
    ],
)
def test_changed_and_short_files(tmp_path, place, message):
    whole = b''.join(map(frame, [b'', b'prompt', b'x' * 300]))
    changed = bytearray(whole)
    changed[place] ^= 4
    path = tmp_path / 'x.tfrecord'
    path.write_bytes(bytes(changed))
    with pytest.raises(ValueError, match=message):
        list(read_records(path))
    if place == -2:  # a checksum of data: not compared where not asked for
        assert len(list(read_records(path, check=False))) == 3
    for cut in (5, 16 + 14, len(whole) - 3):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match='cut short'):
            list(read_records(path, check=False))


@pytest.mark.parametrize(
    'split',
    ['train', 'train[:8]+train[20:25]', 'train[90%:]', 'validation[:2]+train[5:17]', 'test[50%:]'],
)
def test_converted_data_has_the_same_examples_in_the_same_order(tfds, both, tmp_path, split):
    first, second = both
    with pytest.raises(ValueError, match=r"(?s)\['tfrecord'\]; only.*prepare-data --convert"):
        open_source('tfds:dtd', data_dir=str(second.parents[1]))
    converted = convert(second, tmp_path)
    assert raw(tfds, converted, split) == raw(tfds, first, split)
    sizes = [tfds.builder_from_directory(one).info.splits['train'].shard_lengths for one in both]
    assert sizes[0] == sizes[1] and len(sizes[0]) == 3
    name = converted.relative_to(tmp_path)
    assert str(name) == f'dtd/{first.name}'
    assert not [path for path in tmp_path.iterdir() if path.name != 'dtd']
    before = {path.name: path.stat().st_mtime_ns for path in converted.iterdir()}
    assert convert(second, tmp_path) == converted  # there already
    assert {path.name: path.stat().st_mtime_ns for path in converted.iterdir()} == before


def test_training_reads_both_alike_and_as_the_split_api(tfds, both, tmp_path):
    first, second = both
    convert(second, tmp_path)
    task = find_task('vtab/dtd')
    parts = {
        name: tuple(dataclasses.replace(one, count=one.count // 100) for one in part)
        for name, part in (('train', task.rule.train), ('val', task.rule.val))
    }
    short = dataclasses.replace(task, rule=dataclasses.replace(task.rule, **parts))
    sources = [open_ruled(short, str(root)) for root in (first.parents[1], tmp_path)]
    assert sources[0].fingerprint == sources[1].fingerprint
    skip = {'image': tfds.decode.SkipDecoding()}
    builder = tfds.builder_from_directory(first)
    for name, which in (('train', 'train[:8]'), ('val', 'validation[:2]'), ('test', 'test')):
        examples = list(builder.as_data_source(which, decoders=skip))
        for source in sources:
            split = source.splits[name]
            assert split.labels.tolist() == [int(one['label']) for one in examples]
            for i, example in enumerate(examples):
                pixels = decode_image(example['image'], 'x')
                assert np.array_equal(split.read(i), pixels)


def test_what_tensorflow_prepares_and_reads(tfds, tmp_path):
    pytest.importorskip('tensorflow', reason='TensorFlow, of the extra "prepare", is not installed')
    prepared = prepare_small('dtd', COUNTS, tmp_path / 'old', file_format='tfrecord')
    builder = tfds.builder_from_directory(prepared)
    converted = tfds.builder_from_directory(convert(prepared, tmp_path))
    skip = {'image': tfds.decode.SkipDecoding()}
    in_order = tfds.ReadConfig(interleave_cycle_length=1)  # one shard after the other
    for split in ('train', 'train[:8]+train[20:25]', 'train[90%:]', 'test[50%:]'):
        data = builder.as_dataset(split, decoders=skip, read_config=in_order)
        want = [(one['image'].numpy(), int(one['label'])) for one in data]
        got = converted.as_data_source(split, decoders=skip)
        assert [(one['image'], int(one['label'])) for one in got] == want


def test_what_does_not_fit_is_refused(tfds, both, tmp_path):
    first, second = both
    with pytest.raises(ValueError, match=r"prepared as \['array_record'\]; only tfrecord"):
        convert(first, tmp_path / 'out')
    with pytest.raises(ValueError, match=r'no dataset_info\.json; name the folder of a version'):
        convert(second.parent, tmp_path / 'out')
    copy = tmp_path / 'in' / 'dtd' / second.name
    shutil.copytree(second, copy)
    shards = sorted(copy.glob('*train*'))
    content = shards[1].read_bytes()
    shards[1].write_bytes(content + frame(b'more'))
    (tmp_path / 'out').mkdir()
    with pytest.raises(ValueError, match=r'has 1\d examples; its description says'):
        convert(copy, tmp_path / 'out')
    shards[1].write_bytes(content[:-10])
    with pytest.raises(ValueError, match='cut short'):
        convert(copy, tmp_path / 'out')
    shards[1].unlink()
    with pytest.raises(ValueError, match='is missing; its folder is not whole'):
        convert(copy, tmp_path / 'out')
    assert not [path for path in (tmp_path / 'out').rglob('*') if path.is_file()]


def test_the_preflight(both, tmp_path, capsys):
    first, second = both
    old, new = str(second.parents[1]), str(tmp_path / 'new')
    find_state = preflight.find_state
    assert find_state('digits', old).state == find_state('fewshot1/digits', old).state == 'ready'
    state = find_state('vtab/dtd', old)
    assert (state.state, state.todo) == (
        'convert',
        (f'jax-prompt prepare-data --convert {second} --data_dir ANOTHER',),
    )
    # A set as small as this one is not what the table says.
    state = find_state('vtab/dtd', str(first.parents[1]))
    assert state.state == 'unfit' and '31 examples; the task takes 800' in state.detail
    prepare_small('eurosat/rgb', {'train': 27000 // 1000}, tmp_path / 'new')
    assert find_state('vtab/eurosat', new).state == 'unfit'
    state = find_state('vtab/resisc45', new)
    assert state.state == 'missing' and len(state.todo) == 2
    assert f'{new}/downloads/manual' in state.todo[0] and '--task vtab/resisc45' in state.todo[1]
    assert find_state('fraction10/fgvc/nabirds', new).todo[0].endswith(f'{new}/nabirds')
    (tmp_path / 'new' / 'nabirds').mkdir()
    state = find_state('fgvc/nabirds', new)
    assert state.state == 'unfit' and "'images.txt'" in state.detail
    capsys.readouterr()
    assert main(['--check', '--task', 'fgvc,digits', '--data_dir', new]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:2] == ['fgvc/cub', 'missing']
    assert 'licence: non-commercial' in printed[2] and printed[-1] == '1 of 6 tasks are ready'
    assert main(['--check', '--task', 'digits', '--data_dir', new]) == 0


def test_folders_that_are_ready(tmp_path):
    for i in range(5):
        write_class(tmp_path / 'flowers5' / f'species{i}', 10, first=20 * i)
    assert preflight.find_state('fewshot1/flowers5', str(tmp_path)).state == 'ready'
    write_class(tmp_path / 'flowers5' / 'weed', 10)
    state = preflight.find_state('flowers5', str(tmp_path))
    assert state.state == 'unfit' and '6 classes; the table says 5' in state.detail


def test_a_set_that_is_ready(tmp_path):
    counts = {'train': 1020, 'validation': 1020, 'test': 6149}
    folder = prepare_small('oxford_flowers102', dict.fromkeys(counts, 1), tmp_path, shards=1)
    # As large as the table says; nothing else than the description is read.
    path = folder / 'dataset_info.json'
    described = json.loads(path.read_text())
    for split in described['splits']:
        split['shardLengths'] = [str(counts[split['name']])]
    path.write_text(json.dumps(described))
    for name in ('vtab/oxford_flowers102', 'fgvc/oxford_flowers', 'fewshot16/oxford_flowers102'):
        assert preflight.find_state(name, str(tmp_path)).state == 'ready'


def test_the_script(both, tmp_path, capsys):
    second = both[1]
    assert main(['--convert', str(second), '--data_dir', str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(tmp_path / 'dtd' / second.name) and len(lines) == 10
    for words, message in (
        ([], 'name a task'),
        (['--task', 'vtab/dtdd'], 'nearest'),
        (['--convert', str(second)], '--convert needs --data_dir'),
        (['--task', 'fgvc/nabirds', '--data_dir', str(tmp_path)], 'no builder of TFDS: register'),
    ):
        with pytest.raises(ValueError, match=message):
            main(words)
    assert len(expand('vtab')) == 19 and expand('fgvc,digits')[-1] == 'digits'


def test_preparing_says_what_is_missing(tfds, tmp_path, monkeypatch):
    built = []

    class Builder:
        data_dir = tmp_path / 'dtd'

        def __init__(self, name, data_dir, file_format):
            built.append((name, file_format))

        def download_and_prepare(self):
            if len(built) == 1:
                raise ImportError("No module named 'tensorflow'")
            if len(built) == 2:
                raise AssertionError('Manual directory does not exist')

    monkeypatch.setattr(tfds, 'builder', Builder)
    with pytest.raises(ValueError, match=r"tensorflow.*pip install 'jax-prompt\[prepare\]'"):
        preflight.prepare('vtab/dtd', str(tmp_path))
    with pytest.raises(ValueError, match='needs a manual download: download NWPU-RESISC45'):
        preflight.prepare('vtab/resisc45', str(tmp_path))
    assert preflight.prepare('fewshot8/cars', str(tmp_path)) == tmp_path / 'dtd'
    assert built == [(n, 'array_record') for n in ('dtd', 'resisc45', 'cars196')]


def test_digits_need_scikit_learn_until_they_are_prepared(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, '_can_import', lambda name: False)
    state = preflight.find_state('digits', str(tmp_path))
    assert state.state == 'missing' and state.todo == ("pip install 'jax-prompt[quickstart]'",)
    assert preflight.find_state('shapes', str(tmp_path)).state == 'ready'
    folder = tmp_path / 'jax_prompt_digits' / '1.0.0'
    folder.mkdir(parents=True)
    (folder / 'dataset_info.json').write_text('{}')
    assert preflight.find_state('digits', str(tmp_path)).state == 'ready'

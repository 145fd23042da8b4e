"""Prepared TFDS folders: checked before TFDS sees them, errors with names, unknown labels."""

import json
import struct
from types import SimpleNamespace

import numpy as np
import pytest
from small_data import encode, picture, split_of, write_pack

from jax_prompt.data import tfds_source
from jax_prompt.data.draws import Draw
from jax_prompt.data.open import open_source
from jax_prompt.data.source import Split
from jax_prompt.data.tfds_files import check_counts, check_empty, check_folder, open_builder
from jax_prompt.data.tfrecord import masked_crc, read_records

OWN = 'tensorflow_datasets.core.features.'
FEATURES = {
    'pythonClassName': f'{OWN}features_dict.FeaturesDict',
    'featuresDict': {
        'features': {
            'type': {'pythonClassName': f'{OWN}class_label_feature.ClassLabel'},
            'label': {'classLabel': {'numClasses': '10'}},
        }
    },
}


def write(folder, info=b'{}', features=FEATURES, labels=b'a\nb\n'):
    folder.mkdir(exist_ok=True)
    (folder / 'dataset_info.json').write_bytes(info)
    (folder / 'features.json').write_text(json.dumps(features))
    (folder / 'label.labels.txt').write_bytes(labels)
    return folder


def test_usual_descriptions_pass(tmp_path):
    check_folder(write(tmp_path))
    old = {'type': f'{OWN}text_feature.Text', 'content': '{}'}
    old['proto_cls'] = 'tensorflow_datasets.TextFeature'
    check_folder(write(tmp_path, features=old))


@pytest.mark.parametrize('name', ['os.system', 'evil_features.X', f'{OWN}x;y.Z', f'x{OWN}a.B'])
@pytest.mark.parametrize('key', ['pythonClassName', 'python_class_name', 'type', 'proto_cls'])
def test_only_classes_of_tfds_are_imported(tmp_path, key, name):
    evil = {'content': {}, key: name}
    nested = {'featuresDict': {'features': {'label': {'sequence': {'feature': evil}}}}}
    for features in (evil, nested, {'list': [evil]}):
        with pytest.raises(ValueError, match=r"features\.json names the class .*TFDS's own"):
            open_builder(write(tmp_path, features=features))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'info': b''}, r'dataset_info\.json: not readable JSON'),
        ({'info': b'\xff\xfe{}'}, r'dataset_info\.json: not UTF-8'),
        ({'info': b'[]'}, r'dataset_info\.json: holds list; wanted a JSON object'),
        ({'features': 3}, r'features\.json: holds int'),
        ({'labels': b'\xff'}, r'label\.labels\.txt: not UTF-8'),
        ({'features': {'numClasses': '999999999999'}}, r'features\.json: numClasses is 9999'),
        ({'features': {'numClasses': -1}}, r'features\.json: numClasses is -1; allowed: 0 to'),
    ],
)
def test_damaged_descriptions_are_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        open_builder(write(tmp_path, **changes))


def test_what_tfds_can_not_read_names_the_folder(tmp_path):
    folder = write(tmp_path / '1.0.0', info=b'{"name": 3, "splits": [{"shardLengths": ["1e3"]}]}')
    with pytest.raises(ValueError, match=r'1\.0\.0: dataset_info\.json and .* not what TFDS reads'):
        open_builder(folder)


def test_shards_have_the_records_that_are_said(tmp_path):
    from array_record.python import array_record_module

    path = tmp_path / 'own-test.array_record-00000-of-00001'
    writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
    for i in range(3):
        writer.write(bytes([i]) * 10)
    writer.close()

    def check(count, path=path):
        stored = SimpleNamespace(filepaths=[path], shard_lengths=[count])
        check_counts(tmp_path, SimpleNamespace(splits={'test': stored}), 'test')

    check(3)
    for count in (2, 4):
        with pytest.raises(ValueError, match=rf'00000-of-00001 has 3 .* says {count}'):
            check(count)
    with pytest.raises(ValueError, match=r'has 3 examples; shardLengths in .* says 0'):
        check_empty(tmp_path, 'test')
    check_empty(tmp_path, 'train')
    with pytest.raises(ValueError, match='outside its folder'):
        check(3, tmp_path / '..' / 'own-test.array_record')
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r'00000-of-00001: not a readable array_record'):
        check(3)


def test_a_test_split_without_labels_is_left_out_and_said(monkeypatch, caplog):
    import tensorflow_datasets as tfds

    features = {'image': tfds.features.Image(), 'label': tfds.features.ClassLabel(names=['a', 'b'])}
    builder = SimpleNamespace(info=SimpleNamespace(features=features))
    labels = {'train': np.array([0, 1] * 5), 'test': np.full(4, -1)}

    def read_split(self, split, span, image, labels):
        one = split_of([picture(i) for i in span], split)
        return Split(split, labels.astype(np.int32), one.read, one.where)

    monkeypatch.setattr(tfds_source.Prepared, 'read_labels', lambda self, split, *_: labels[split])
    monkeypatch.setattr(tfds_source.Prepared, 'read_split', read_split)
    prepared = tfds_source.Prepared(builder, 'own/1.0.0', {'train': 10, 'test': 4})
    source = tfds_source._open(prepared, Draw(0.2, 0.0, 0))
    assert {name: len(split) for name, split in source.splits.items()} == {'train': 8, 'val': 2}
    assert 'own/1.0.0/test: 4 of its 4 examples have the label -1' in caplog.text
    assert 'so there is no test split' in caplog.text
    labels['test'][2] = 1
    test = tfds_source._open(prepared, Draw(0.2, 0.0, 0)).splits['test']
    assert test.labels.tolist() == [1] and test.where(0) == 'test[2]'
    assert '3 of its 4 examples' in caplog.text
    labels['train'][3] = -1
    with pytest.raises(ValueError, match=r"1 labels of split 'train' lie outside.*train\[3\]: -1"):
        tfds_source._open(prepared, Draw(0.2, 0.0, 0))


def test_a_record_that_says_more_than_its_file_has(tmp_path):
    head = struct.pack('<Q', 2**62)
    (tmp_path / 'a').write_bytes(head + struct.pack('<I', masked_crc(head)) + bytes(100))
    with pytest.raises(ValueError, match=r'a: record 0 is cut short'):
        list(read_records(tmp_path / 'a'))


@pytest.mark.parametrize('label', [2**32, 2**32 + 1, 2**63 - 1, 2**64 - 1])
def test_labels_of_a_pack_are_checked_as_they_are_stored(tmp_path, label):
    labels = np.array([0, 1] * 9 + [0, label], np.uint64)
    files = [encode(picture(i)) for i in range(20)]
    path = write_pack(tmp_path / 'a.npz', files, label=labels)
    with pytest.raises(ValueError, match=rf'a\.npz\[19\]: label {label} lies outside'):
        open_source(str(path))

"""Whole files of every kind that is read, and how each kind is read, for `fuzz_files`."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from small_data import encode, picture, write_pack

from jax_prompt.backbones import table
from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core import colour
from jax_prompt.core.tree import flatten, unflatten
from jax_prompt.data.label_cache import read_labels
from jax_prompt.data.open import open_source
from jax_prompt.packs.file import read_pack
from jax_prompt.packs.header import SCHEMA
from jax_prompt.report.collect import from_workdir
from jax_prompt.runs.config import resolve
from jax_prompt.runs.prompts import read_prototypes
from jax_prompt.runs.restore import read_config
from jax_prompt.runs.workdir import open_workdir
from jax_prompt.train.log import read_json, read_metrics
from jax_prompt.train.snapshots import load_snapshot
from jax_prompt.weights.cache import FileRecord, read_record, write_record
from jax_prompt.weights.load import load_weights, save_converted
from jax_prompt.weights.readers import read
from jax_prompt.weights.sealed import write_sealed

GOLDEN = Path(__file__).parent / 'weights' / 'golden'
ARCH = 'vit_fuzz'
WAY_OUT = 'make it again'
CONFIG = {
    'data': 'digits',
    'backbone': 'vit_micro',
    'method': 'vpt_deep',
    'num_prompts': 2,
    'epochs': 2,
    'batch_size': 8,
    'lr': 0.01,
    'search': False,
}
RESULT = {
    'method': 'vpt_deep',
    'backbone': 'vit_micro',
    'seed': 0,
    'trained_on': 'train',
    'num_trainable': 10,
    'num_trainable_head': 5,
    'images_per_second': 100.0,
    'peak_memory_mb': 100.0,
    'versions': {'jax': '0.10.2'},
    'machine': {'platform': 'cpu'},
    'data': 'digits',
    'data_fingerprint': '0123abcd',
    'classes': ['a', 'b'],
    'weights': {'name': 'vit_micro', 'sha256': 'ab'},
    'checkpoint': 'checkpoints',
    'seconds_total': 1.5,
    'test_accuracy': 0.75,
    'test_accuracy_best_val': None,
    'lr': 0.01,
}


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
      name: what the table calls it.
      file: its name in a folder of its own.
      data: a whole one.
      read: reads one; what it returns is compared with what the whole one gives.
    """

    name: str
    file: str
    data: bytes
    read: Callable[[Path], Any]


def kinds(folder: Path) -> list[Kind]:
    """Makes a whole file of every kind.

    Args:
      folder: where files are made on the way.
    """
    return [*_weights(folder), *_packs(folder), *_run_files(folder), *_tuned(folder)]


def _bytes_of(save: Callable[..., None], **arrays: Any) -> bytes:
    stream = io.BytesIO()
    save(stream, **arrays)
    return stream.getvalue()


def _list_backbone() -> None:
    config = ViTConfig(width=16, depth=2, num_heads=2, mlp_dim=64, patch_size=8, image_size=32)
    table.ARCHITECTURES[ARCH] = config
    name = f'{ARCH}.test'
    table.ENTRIES[name] = table.Entry(
        name, config, 'timm', colour.HALF, colour.HALF, 'https://example.org/x.pth', None, 'x.pth'
    )


def _weights(folder: Path) -> list[Kind]:
    _list_backbone()
    golden = {name: (GOLDEN / f'{name}.pth').read_bytes() for name in ('timm_zip', 'timm_legacy')}
    tensors = {k: np.array(v) for k, v in read(GOLDEN / 'timm_zip.pth').tensors.items()}
    tree, report = load_weights(GOLDEN / 'timm_zip.pth', ARCH)
    save_converted(folder / 'converted.safetensors', tree, report.identity)
    whole = {
        'npz': _bytes_of(np.savez, **tensors),
        'npz deflated': _bytes_of(np.savez_compressed, **tensors),
        'safetensors': safetensors.numpy.save(tensors, metadata={'format': 'pt'}),
        'converted': (folder / 'converted.safetensors').read_bytes(),
        'torch zip': golden['timm_zip'],
        'torch legacy': golden['timm_legacy'],
    }

    def load(path: Path) -> dict[str, np.ndarray]:
        return flatten(load_weights(path, ARCH)[0])

    def content(path: Path) -> dict[str, np.ndarray]:
        return read(path).tensors

    made = [Kind(name, 'w.bin', data, load) for name, data in whole.items()]
    for form in ('zip', 'legacy'):
        data = (GOLDEN / f'parts_{form}.pth').read_bytes()
        made.append(Kind(f'torch {form}, parts', 'w.bin', data, content))
    with zipfile.ZipFile(GOLDEN / 'parts_zip.pth') as archive:
        storages = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in storages if name.endswith('data.pkl'))
    made.append(Kind('torch pickle', 'w.bin', storages[pickled], _unpickled(storages, pickled)))
    return made


def _unpickled(storages: dict[str, bytes], pickled: str) -> Callable[[Path], Any]:
    """Reads a pickle as that of an archive that is whole, so that no checksum guards it."""

    def content(path: Path) -> dict[str, np.ndarray]:
        data = path.read_bytes()
        with zipfile.ZipFile(path, 'w') as archive:
            for name, raw in storages.items():
                archive.writestr(name, data if name == pickled else raw)
        return read(path).tensors

    return content


def _packs(folder: Path) -> list[Kind]:
    images = [encode(picture(i)) for i in range(10)]

    def show(path: Path) -> dict[str, np.ndarray]:
        source = open_source(str(path))
        seen = {}
        for name, split in source.splits.items():
            seen[f'{name} labels'] = split.labels
            for i in range(len(split)):
                seen[f'{name} {i}'] = split.read(i)
        return seen

    made = []
    for name, save in (('pack', np.savez), ('pack deflated', np.savez_compressed)):
        path = write_pack(folder / 'p.npz', images, save)
        made.append(Kind(name, 'p.npz', path.read_bytes(), show))
    return made


def _run_files(folder: Path) -> list[Kind]:
    config = resolve(CONFIG)
    text = json.dumps(config.to_dict(), indent=2, sort_keys=True).encode()
    result = json.dumps(RESULT, indent=2, sort_keys=True).encode()
    rows = [{'kind': 'epoch', 'stage': 'train', 'epoch': i, 'loss': 1 / (i + 1)} for i in range(9)]
    metrics = ''.join(json.dumps(row) + '\n' for row in rows).encode()
    rng = np.random.default_rng(0)
    prompts = rng.standard_normal((2, 3, 8)).astype(np.float32)
    like = {'head': {'kernel': prompts[0]}, 'tuner': {'layers': {'prompts': prompts}}}
    write_sealed(folder / 'prompts', 'prompts', {'prompts': prompts}, {'construction': 'mean'})
    write_sealed(folder / 'snapshot', 'snapshot', like, {'epoch': 1})
    labels = _bytes_of(np.savez, labels=np.arange(30, dtype=np.int32))

    def row(path: Path) -> dict[str, Any]:
        (path.parent / 'config.json').write_bytes(text)
        return {'row': from_workdir(path.parent).accuracy}

    def finished(path: Path) -> dict[str, Any]:
        (path.parent / 'config.json').write_bytes(text)
        return {'result': open_workdir(config, path.parent)}

    def settings(path: Path) -> dict[str, Any]:
        return {'config': read_config(path)}

    def taken(path: Path) -> dict[str, Any]:
        return {'result': open_workdir(config, path.parent)}

    def prototypes(path: Path) -> dict[str, Any]:
        made, report = read_prototypes(path, WAY_OUT)
        return {'prompts': made, 'report': report}

    return [
        Kind('config.json', 'config.json', text, settings),
        Kind('config.json, resumed', 'config.json', text, taken),
        Kind('result.json', 'result.json', result, row),
        Kind('result.json, resumed', 'result.json', result, finished),
        Kind('chosen.json', 'chosen.json', result, lambda path: {'chosen': read_json(path)}),
        Kind('metrics.jsonl', 'metrics.jsonl', metrics, lambda path: {'rows': read_metrics(path)}),
        Kind(
            'prototypes',
            'prototypes.safetensors',
            (folder / 'prompts').read_bytes(),
            prototypes,
        ),
        Kind(
            'snapshot',
            'epoch_0001.safetensors',
            (folder / 'snapshot').read_bytes(),
            lambda path: flatten(load_snapshot(path, like)),
        ),
        Kind('labels', 'labels.npz', labels, lambda path: {'labels': read_labels(path)}),
    ]


_HEADER = {
    'schema': SCHEMA,
    'config': CONFIG,
    'content': 'ab' * 32,
    'result': {
        **{name: RESULT[name] for name in ('method', 'backbone', 'seed', 'trained_on', 'classes')},
        **{name: RESULT[name] for name in ('data', 'data_fingerprint', 'versions', 'lr')},
        **{name: RESULT[name] for name in ('num_trainable', 'num_trainable_head', 'machine')},
        **dict.fromkeys(('test_accuracy', 'val_accuracy', 'best_val_accuracy'), 0.75),
        **dict.fromkeys(('test_accuracy_best_val', 'test_loss', 'best_val_epoch')),
        **{'weight_decay': 0.0, 'head_weight_decay': 0.0, 'num_examples': {'train': 8}},
        **{'mean': [0.5] * 3, 'std': [0.5] * 3, 'trained_sha256': 'cd' * 32},
        'weights': {
            **{'name': 'vit_micro', 'source': 'w.bin', 'sha256': 'ab', 'format': 'timm'},
            **{'mean': [0.5] * 3, 'std': [0.5] * 3},
        },
    },
}


def _tuned(folder: Path) -> list[Kind]:
    """A tuned task as a file, and the record of a fetched one."""
    rng = np.random.default_rng(0)
    shapes = {'head/bias': (2,), 'head/kernel': (8, 2), 'tuner/layers/prompts': (2, 3, 8)}
    flat = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    write_sealed(folder / 'pack', 'pack', unflatten(flat), _HEADER)
    write_record(folder / 'w', FileRecord('https://example.org/w', 'ab' * 32, 100, 'publisher'))
    record = (folder / 'w.fetched.json').read_bytes()

    def tuned(path: Path) -> dict[str, Any]:
        made = read_pack(path)
        return flatten(made.tree) | {'header': made.header, 'sum': made.sha256}

    def fetched(path: Path) -> dict[str, Any]:
        return {'record': read_record(path.with_name('w'))}

    return [
        Kind('tuned pack', 'p.safetensors', (folder / 'pack').read_bytes(), tuned),
        Kind('fetched.json', 'w.fetched.json', record, fetched),
    ]

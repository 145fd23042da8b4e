import os
import shutil

import pytest

from jax_prompt.core.renames import check_renames


def test_a_local_disk_renames_and_is_left_as_it_was(tmp_path):
    check_renames(tmp_path / 'new' / 'results')
    assert list((tmp_path / 'new' / 'results').iterdir()) == []


def _refused(old, new):
    raise OSError(24, 'Too many open files', str(old))  # gcsfuse, of a folder with files in it


def _halfway(old, new):
    shutil.copytree(old, new)


def _replaces(old, new):
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(old, new)
    shutil.rmtree(old)


@pytest.mark.parametrize(
    ('rename', 'why'),
    [
        (_refused, r'a folder can not be renamed there \(Too many open files\)'),
        (_halfway, 'is not whole under its new name'),
        (_replaces, 'takes the name of another one'),
    ],
)
def test_other_file_systems_are_refused(tmp_path, monkeypatch, rename, why):
    monkeypatch.setattr(os, 'rename', rename)
    with pytest.raises(ValueError, match=f'{why}.*local disk or on NFS'):
        check_renames(tmp_path)
    assert list(tmp_path.iterdir()) == []

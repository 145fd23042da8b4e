"""What is known before a download: its size, and that nobody answers."""

import urllib.error
import urllib.request
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from jax_prompt.data.download import check_reachable, download_mb

URLS = ('http://a.example/x.zip', 'http://a.example/y.zip', 'https://b.example/z')


def _answers(monkeypatch, answer):
    asked = []

    def urlopen(request, timeout):
        asked.append(request.full_url)
        return answer(request.full_url)

    monkeypatch.setattr(urllib.request, 'urlopen', urlopen)
    return asked


def test_no_network_is_said_in_a_line(monkeypatch):
    def silent(url):
        raise urllib.error.URLError('Name or service not known')

    asked = _answers(monkeypatch, silent)
    with pytest.raises(
        ValueError, match=r'vtab/x needs the network: .*not known.*data_dir'
    ) as error:
        check_reachable('vtab/x', URLS)
    assert '\n' not in str(error.value)
    assert asked == ['http://a.example', 'https://b.example']
    check_reachable('vtab/x', ())


def test_any_answer_will_do(monkeypatch):
    def refused(url):
        if url.startswith('https'):
            raise urllib.error.HTTPError(url, 403, 'Forbidden', None, None)
        raise TimeoutError

    _answers(monkeypatch, refused)
    check_reachable('vtab/x', URLS)
    _answers(monkeypatch, lambda url: nullcontext())
    check_reachable('vtab/x', URLS[:1])


def test_the_size_of_a_download(monkeypatch):
    import tensorflow_datasets as tfds

    infos = {'a': SimpleNamespace(size=1_500_000), 'b': SimpleNamespace(size=500_000)}
    known = {'dtd': SimpleNamespace(url_infos=infos), 'hand': SimpleNamespace(url_infos=None)}
    monkeypatch.setattr(tfds, 'builder_cls', known.__getitem__)
    assert [download_mb(name) for name in ('dtd:3.*.*', 'hand/config', 'other')] == [2.0, 0.0, 0.0]

"""Files fetched from a server: whole, checked, resumed, once; and what is said else."""

import errno
import json
import os
import subprocess
import sys
import threading
from collections import namedtuple
from hashlib import sha256
from pathlib import Path

import pytest
import requests
from file_server import DATA, FileServer

from jax_prompt.backbones.table import TABLE, find_weights, lookup
from jax_prompt.backbones.vit_config import ViTConfig
from jax_prompt.core.tree import flatten
from jax_prompt.runs.paths import absolute
from jax_prompt.weights import transfer as transfers
from jax_prompt.weights.answers import Address, NotFetched
from jax_prompt.weights.cache import cache_folder, cached_file, read_record
from jax_prompt.weights.fetch import address_of, fetch_weights, web_address, weights_file
from jax_prompt.weights.load import load_weights
from jax_prompt.weights.transfer import Patience, transfer

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / 'golden'
SMALL = ViTConfig(width=16, depth=2, num_heads=2, mlp_dim=64, patch_size=8, image_size=32)
QUICK = Patience(connect_seconds=2.0, read_seconds=2.0, pause_seconds=0.0, poll_seconds=0.01)
DIGEST = sha256(DATA).hexdigest()


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server, and a cache of its own; nothing of the environment's network is used."""
    for name in ('HTTP_PROXY', 'http_proxy', 'ALL_PROXY', 'all_proxy', 'HF_TOKEN', 'HF_ENDPOINT'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('NO_PROXY', '127.0.0.1,localhost')
    monkeypatch.setenv('JAX_PROMPT_CACHE', str(tmp_path / 'cache'))
    with FileServer() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.end.set()
        made.shutdown()
        thread.join()


@pytest.fixture
def bring(server, tmp_path):
    """Returns a function that fetches a path of the server, and what it then reads."""

    def run(way, patience=QUICK, **address):
        path = tmp_path / 'got' / 'w.bin'
        transfer(Address(server.url(f'{way}/w.bin'), **address), path, patience, quiet=True)
        # Nothing of a transfer is left beside the file and its record.
        assert sorted(p.name for p in path.parent.iterdir()) == ['w.bin', 'w.bin.fetched.json']
        return path.read_bytes()

    return run


@pytest.mark.parametrize('way', ['file', 'redirect', 'breaks', 'busy'])
def test_a_file_comes_whole_with_its_record(way, bring, server, tmp_path):
    assert bring(way) == DATA
    record = read_record(tmp_path / 'got' / 'w.bin')
    assert (record.sha256, record.size, record.pinned) == (DIGEST, len(DATA), 'first use')
    assert record.url == server.url(f'{way}/w.bin')
    assert len(server.asked) == (1 if way == 'file' else 2)
    assert server.asked[0][1]['Accept-Encoding'] == 'identity'
    if way == 'breaks':  # the second half alone was asked for
        assert server.asked[1][1]['Range'] == f'bytes={len(DATA) // 2}-'


@pytest.mark.parametrize('way', ['breaks', 'stalls'])
def test_a_later_command_goes_on_where_an_earlier_one_stopped(way, bring, server):
    patience = Patience(read_seconds=0.2, tries=1, pause_seconds=0.0)
    with pytest.raises(NotFetched, match=r'broke off|in time'):
        bring(way, patience)
    assert bring(way) == DATA
    assert [asked.get('Range') for _, asked in server.asked] == [None, f'bytes={len(DATA) // 2}-']


def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(bring, server):
    with pytest.raises(NotFetched):
        bring('breaks', Patience(tries=1))
    server.data, server.tag = DATA[::-1] + b'more', '"two"'
    assert bring('breaks') == server.data


@pytest.mark.parametrize(
    ('way', 'text'),
    [
        ('404', r'is not there any more \(404\); pass the file itself'),
        ('401', r'wants a login \(401\): pass the file itself'),
        ('418', 'the server answers 418'),
        ('page', 'gives a web page'),
        ('packed', 'is sent packed'),
        ('slow', 'does not answer in time'),
    ],
)
def test_a_server_that_gives_no_file(way, text, bring, server, tmp_path):
    with pytest.raises(NotFetched, match=text):
        bring(way, Patience(read_seconds=0.1, tries=2, pause_seconds=0.0))
    assert not (tmp_path / 'got' / 'w.bin').exists()
    assert len(server.asked) == (2 if way == 'slow' else 1)


def test_no_server(bring, tmp_path):
    for url in ('http://127.0.0.1:9/w.bin', 'http://nowhere.invalid/w.bin', 'http:///w.bin'):
        with pytest.raises(NotFetched, match=r'was not fetched: '):
            transfer(Address(url), tmp_path / 'w.bin', QUICK, quiet=True)


def test_a_wrong_checksum_is_refused_and_removed(bring, server, tmp_path):
    with pytest.raises(NotFetched, match=f'sha256 {DIGEST}, stated 1234abcd. It was removed'):
        bring('file', sha256='1234abcd')
    with pytest.raises(NotFetched, match=f'stated {"0" * 64}'):  # as Hugging Face states it
        bring('redirect/stated')
    assert not list(tmp_path.glob('got/**/part'))
    assert bring('file', sha256=DIGEST[:8]) == DATA
    assert read_record(tmp_path / 'got' / 'w.bin').pinned == 'publisher'
    assert len(server.asked) == 4


def test_a_full_disk_is_said_and_loses_nothing(bring, server, monkeypatch, tmp_path):
    usage = namedtuple('usage', 'free')
    with monkeypatch.context() as patch:
        patch.setattr(transfers.shutil, 'disk_usage', lambda _: usage(1000))
        with pytest.raises(NotFetched, match=r'has room for 0 MB\. Make room'):
            bring('file')
    whole = requests.Response.iter_content

    def fills_up(answer, size):
        yield next(whole(answer, 1000))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(requests.Response, 'iter_content', fills_up)
        with pytest.raises(OSError, match='No space left') as error:
            bring('file')
    assert error.value.errno == errno.ENOSPC
    assert bring('file') == DATA and server.asked[-1][1]['Range'] == 'bytes=1000-'


def test_threads_fetch_a_file_once(server, tmp_path):
    path, errors = tmp_path / 'w.bin', []

    def work():
        try:
            transfer(Address(server.url('stalls/w.bin')), path, QUICK, quiet=True)
            assert path.read_bytes() == DATA
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert server.stalled.wait(10)
    assert len(server.asked) == 1  # the others wait
    server.end.set()  # the answer ends early; its thread asks again
    for thread in threads:
        thread.join()
    assert not errors and len(server.asked) == 2


def test_a_killed_process_leaves_its_part_to_the_next(server, tmp_path):
    url, path = server.url('stalls/w.bin'), tmp_path / 'w.bin'
    script = (
        'import sys; from pathlib import Path\n'
        'from jax_prompt.weights.transfer import Address, transfer\n'
        'transfer(Address(sys.argv[1]), Path(sys.argv[2]), quiet=True)'
    )
    child = subprocess.Popen([sys.executable, '-c', script, url, path], cwd=ROOT)
    try:
        assert server.stalled.wait(60)
        part = lambda: next(iter(tmp_path.glob('.w.bin.fetching/*/part')), None)  # noqa: E731
        while part() is None or part().stat().st_size == 0:
            assert child.poll() is None
    finally:
        child.kill()
        child.wait()
    have = part().stat().st_size
    server.end.set()
    transfer(Address(url), path, QUICK, quiet=True)
    assert path.read_bytes() == DATA
    assert server.asked[1][1]['Range'] == f'bytes={have}-'


def test_a_proxy_of_the_environment_is_used(server, monkeypatch, tmp_path):
    monkeypatch.setenv('http_proxy', server.url(''))
    transfer(Address('http://weights.invalid/file/w.bin'), tmp_path / 'w.bin', QUICK, quiet=True)
    assert [path for path, _ in server.asked] == ['http://weights.invalid/file/w.bin']


@pytest.fixture
def hub(listed, server, monkeypatch):
    """A backbone of the table whose file lies at the hub, which is the server here."""
    server.data = (GOLDEN / 'timm_zip.pth').read_bytes()
    monkeypatch.setenv('HF_ENDPOINT', server.url('redirect'))
    return listed(SMALL, url='hf://one/two/timm_zip.pth@v1', filename='timm_zip.pth')


def test_auto_fetches_once_and_every_result_says_what(hub, server, capsys):
    tree, report = load_weights('auto', 'vit_test')
    want, _ = load_weights(GOLDEN / 'timm_zip.pth', hub)
    assert {k: v.tobytes() for k, v in flatten(tree).items()} == {
        k: v.tobytes() for k, v in flatten(want).items()
    }
    assert server.asked[0][0] == '/redirect/one/two/resolve/v1/timm_zip.pth'
    digest = sha256(server.data).hexdigest()
    assert report.identity.sha256 == digest and report.identity.asked == hub
    assert f'sha256 {digest}, as at their first use' in report.notes[0]
    path = cached_file(lookup(hub))
    said = capsys.readouterr()
    assert f'fetching {hub} from http://127.0.0.1' in said.err and str(path) in said.err
    assert not said.out  # predict.py writes JSON there
    load_weights('auto', hub)
    assert len(server.asked) == 2  # the redirect and the file
    # What is not what was fetched is refused.
    path.write_bytes(server.data[:-1] + b'x')
    with pytest.raises(ValueError, match=f'recorded are {len(server.data)} and {digest}'):
        weights_file(hub, 'auto')


def test_a_token_goes_to_the_hub_alone_and_nowhere_else(hub, server, monkeypatch, capsys, caplog):
    monkeypatch.setenv('HF_TOKEN', 'hf_secret')
    fetch_weights(hub, QUICK)
    assert server.asked[0][1]['Authorization'] == 'Bearer hf_secret'
    assert 'Authorization' not in server.asked[1][1]  # redirected to another server
    assert address_of(TABLE['vit_b16_224.mae']).token == ''
    address = address_of(lookup(hub))
    assert 'hf_secret' not in repr(address) and address.token == 'hf_secret'
    monkeypatch.setenv('HF_ENDPOINT', server.url('401'))
    cached_file(lookup(hub)).unlink()
    with pytest.raises(NotFetched, match=r'login \(401\).*huggingface.co/one/two.*HF_TOKEN') as e:
        fetch_weights(hub, QUICK)
    said = capsys.readouterr()
    assert 'hf_secret' not in f'{said.out}{said.err}{caplog.text}{e.value}'


def test_without_a_network_it_says_what_to_put_where(hub, monkeypatch):
    monkeypatch.setenv('HF_ENDPOINT', 'http://127.0.0.1:9')
    path = cached_file(lookup(hub))
    text = f'Without a network: download https://huggingface.co/.* and put it at {path}'
    with pytest.raises(NotFetched, match=text):
        fetch_weights(hub, QUICK)
    path.write_bytes((GOLDEN / 'timm_zip.pth').read_bytes())
    _, report = load_weights('auto', hub)
    assert 'put into the cache by hand' in report.notes[0]
    assert read_record(path).pinned == 'first use'
    path.with_name(f'{path.name}.fetched.json').write_text(json.dumps({'url': 3}))
    with pytest.raises(ValueError, match='lacks'):
        weights_file(hub, 'auto')


def test_nothing_is_fetched_unless_it_is_asked_for(hub, server):
    with pytest.raises(FileNotFoundError, match=r'let it be fetched: --config\.weights=auto'):
        weights_file(hub)
    assert (
        weights_file('vit_micro', 'auto') == weights_file('vit_micro') == find_weights('vit_micro')
    )
    assert not server.asked
    assert absolute({'weights': 'auto'}) == {'weights': 'auto'}


def test_a_licence_is_said_before_the_download(listed, server, capsys):
    name = listed(SMALL, tag='mae', url=server.url('404/w.pth'), filename='w.pth')
    with pytest.raises(NotFetched):
        fetch_weights(name, QUICK, quiet=True)
    assert 'the licence CC BY-NC 4.0 forbids commercial use' in capsys.readouterr().err
    assert {e.name.split('.')[1] for e in TABLE.values() if e.licence} == {'mae', 'moco_v3'}


def test_addresses():
    assert (
        web_address('hf://a/b/c/d e.bin') == 'https://huggingface.co/a/b/resolve/main/c/d%20e.bin'
    )
    for wrong in (
        'hf://a/b',
        'hf://a/b/../c',
        'file:///etc/passwd',
        'ftp://a/b/c',
        'w.bin',
        'http:',
    ):
        with pytest.raises(ValueError, match='is no address; allowed'):
            web_address(wrong)
    # torch.hub's file names begin with their checksum's first digits.
    assert lookup('resnet18.torchvision_in1k').sha256_begins == 'f37072fd'
    assert lookup('vit_b16_224.moco_v3').sha256_begins == ''
    assert all(web_address(entry.url) for entry in TABLE.values() if entry.url)


@pytest.mark.parametrize(
    ('platform', 'variable', 'want'),
    [
        ('linux', 'XDG_CACHE_HOME', 'jax_prompt'),
        ('darwin', 'HOME', 'Library/Caches/jax_prompt'),
    ],
)
def test_the_cache_is_the_platforms(platform, variable, want, monkeypatch, tmp_path):
    monkeypatch.delenv('JAX_PROMPT_CACHE', raising=False)
    monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
    monkeypatch.setattr(sys, 'platform', platform)
    monkeypatch.setenv(variable, str(tmp_path))
    assert cache_folder() == tmp_path / want
    monkeypatch.setenv('JAX_PROMPT_CACHE', str(tmp_path / 'own'))
    assert cache_folder() == tmp_path / 'own'

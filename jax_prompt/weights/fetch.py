"""Weights by name: `auto` means the file that the table names, fetched once and kept.

Nothing here touches the network unless it is asked to: weights='auto' is the asking.
"""

import os
import sys
from pathlib import Path
from urllib.parse import quote, urlsplit

from jax_prompt.backbones.table import Entry, find_weights, lookup
from jax_prompt.weights.answers import Address, NotFetched
from jax_prompt.weights.cache import FIRST_USE, cached_file, checked_record, read_record
from jax_prompt.weights.transfer import Patience, transfer

AUTO = 'auto'
_HUB = 'https://huggingface.co'


def weights_file(name: str, weights: str | Path | None = None) -> Path:
    """Returns the file with a backbone's weights.

    Args:
      name: 'arch.tag' or 'arch'.
      weights: the user's file; 'auto' for the published one, from the cache or fetched; '' or None
        for what ships with the package.

    Raises:
      FileNotFoundError: the file is not there; says where it is published and how to pass it.
      NotFetched: 'auto', and the file can't be fetched; says what to do without a network.
      ValueError: the file in the cache is not the published one.
    """
    if weights is None or str(weights) != AUTO or lookup(name).packaged:
        return find_weights(name, None if str(weights) == AUTO else weights or None)
    return fetch_weights(name)


def weights_name(name: str, weights: str | Path | None) -> str:
    """Returns the name of a backbone, with its tag where 'auto' says which file it is."""
    return lookup(name).name if str(weights) == AUTO else name


def fetch_weights(name: str, patience: Patience | None = None, *, quiet: bool = False) -> Path:
    """Returns the file of published weights, from the cache or fetched into it.

    Args:
      name: 'arch.tag', or 'arch' for its first tag.
      patience: how long to wait for the server.
      quiet: True says nothing and shows no progress. A licence that forbids commercial use is said
        anyway.

    Raises:
      NotFetched: it can't be fetched; says what to do without a network.
      ValueError: the file in the cache is not the published one.
    """
    entry = lookup(name)
    if entry.packaged:
        return find_weights(entry.name)
    path = cached_file(entry)
    if not path.exists():
        address = address_of(entry)
        if entry.licence:
            _say(f'{entry.name}: the licence {entry.licence} forbids commercial use')
        if not quiet:
            _say(f'fetching {entry.name} from {address.shown} to {path}')
        try:
            transfer(address, path, patience, quiet=quiet)
        except NotFetched as error:
            raise NotFetched(f'{error}. {_by_hand(entry)}') from error
    checked_record(path, entry.sha256_begins)
    return path


def fetched_note(name: str, weights: str | Path | None) -> tuple[str, ...]:
    """Returns what a result says of weights that `weights_file` fetched; () of others."""
    entry = lookup(name)
    if str(weights) != AUTO or entry.packaged:
        return ()
    record = read_record(cached_file(entry))
    if record is None:
        return ()
    origin = f'fetched from {record.url}' if record.url else 'put into the cache by hand'
    known = 'as at their first use' if record.pinned == FIRST_USE else 'as their publisher states'
    licence = f'; licence {entry.licence}, not for commercial use' if entry.licence else ''
    return (f'{entry.name}: {origin}, sha256 {record.sha256}, {known}{licence}',)


def address_of(entry: Entry) -> Address:
    """Returns where published weights are to be had, with the login of the environment.

    HF_ENDPOINT names another server for what lies at Hugging Face, HF_TOKEN the login there. The
    login is sent to no other server.
    """
    endpoint = (os.environ.get('HF_ENDPOINT') or _HUB).rstrip('/')
    url = web_address(entry.url)
    if not url.startswith(f'{_HUB}/'):
        return Address(url, entry.sha256_begins)
    page = '/'.join(url.split('/')[:5])
    login = (
        f'if it needs one, accept its terms at {page} and set HF_TOKEN to your token; or pass the '
        'file itself'
    )
    token = os.environ.get('HF_TOKEN', '').strip()
    return Address(endpoint + url.removeprefix(_HUB), entry.sha256_begins, token, login)


def web_address(address: str) -> str:
    """Returns the https address of 'hf://OWNER/REPO/FILE[@REVISION]'; another stays as it is.

    Raises:
      ValueError: it is of neither form.

    >>> web_address('hf://timm/vit/model.safetensors@v1')
    'https://huggingface.co/timm/vit/resolve/v1/model.safetensors'
    """
    scheme, _, rest = address.partition('://')
    if scheme in ('http', 'https') and urlsplit(address).netloc:
        return address
    path, _, revision = rest.partition('@')
    parts = path.split('/')
    if scheme != 'hf' or len(parts) < 3 or not all(parts) or {'.', '..'} & set(parts):
        raise ValueError(
            f'{address!r} is no address; allowed: http(s)://..., hf://OWNER/REPO/FILE[@REVISION]'
        )
    owner, repo, *file = map(quote, parts)
    revision = quote(revision or 'main', safe='')
    return f'{_HUB}/{owner}/{repo}/resolve/{revision}/{"/".join(file)}'


def _by_hand(entry: Entry) -> str:
    return (
        f'Without a network: download {web_address(entry.url)} elsewhere and put it at '
        f'{cached_file(entry)}, or pass it as --config.weights=FILE'
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

"""What an HTTP server says to a request for a file: whether it is the file, and which one."""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from jax_prompt.core.printable import printable

_AGAIN = (408, 429, 500, 502, 503, 504)  # statuses that may pass


class NotFetched(OSError):
    """A file was not brought; says why, and what to do."""


class Broken(Exception):
    """The transfer ended early; another try may go on from what is there."""


@dataclass(frozen=True)
class Address:
    """Where a file is to be had.

    Attributes:
      url: its address, http or https.
      sha256: its checksum, or the first digits of it; '': not stated.
      token: sent to this server as a login, and to no other; '': none.
      login: what to do where the server wants one.
    """

    url: str
    sha256: str = ''
    token: str = field(default='', repr=False)
    login: str = 'pass the file itself'

    @property
    def shown(self) -> str:
        """The address without what may be secret in it."""
        parts = urlsplit(self.url)
        return f'{parts.scheme}://{parts.netloc.rpartition("@")[2]}{parts.path}'


class Login:
    """Sends a token; with it no other login (of a .netrc) is looked for.

    Args:
      token: the token; '': none is sent.
    """

    def __init__(self, token: str):
        self._token = token

    def __call__(self, request: Any) -> Any:
        if self._token:
            request.headers['Authorization'] = f'Bearer {self._token}'
        return request


def check_answer(answer: Any, address: Address) -> None:
    """Refuses answers that are not the file.

    Raises:
      NotFetched: another try would get the same.
      Broken: another try may get the file.
    """
    status, where = answer.status_code, address.shown
    ways = [one.url.partition(':')[0] for one in (*answer.history, answer)]
    if ways[0] == 'https' and set(ways) != {'https'}:
        raise NotFetched(f'{where} leads to an address without https; pass the file itself')
    if status in (401, 403):
        raise NotFetched(f'{where} wants a login ({status}): {address.login}')
    if status in (404, 410):
        raise NotFetched(f'{where} is not there any more ({status}); pass the file itself')
    if status in _AGAIN:
        raise Broken(f'the server answers {status}')
    if status not in (200, 206, 416):
        raise NotFetched(f'{where} was not fetched: the server answers {status}')
    kind = answer.headers.get('Content-Type', '').partition(';')[0].strip().lower()
    if status == 200 and kind == 'text/html':
        raise NotFetched(f'{where} gives a web page in place of the file; pass the file itself')
    if answer.headers.get('Content-Encoding', 'identity') != 'identity':
        raise NotFetched(f'{where} is sent packed, which was not asked for; pass the file itself')


def total_size(answer: Any, start: int) -> int:
    """Returns the size of the whole file, 0 where the server does not state it."""
    if answer.status_code == 206:
        span, _, total = answer.headers.get('Content-Range', '').partition('/')
        if not span.startswith(f'bytes {start}-') or not total.isdigit():
            raise NotFetched('the server goes on at another place than it was asked for')
        return int(total)
    length = answer.headers.get('Content-Length', '')
    return int(length) if length.isdigit() else 0


def mark_of(answer: Any) -> str:
    """Returns what tells one state of the server's file from another; '' where nothing does."""
    tag = answer.headers.get('ETag', '')
    return tag if tag and not tag.startswith('W/') else answer.headers.get('Last-Modified', '')


def stated_sha256(answer: Any) -> str:
    """Returns the SHA-256 that Hugging Face states of a large file, '' where none is stated."""
    for one in (*answer.history, answer):
        tag = one.headers.get('X-Linked-ETag', '').strip('"').lower()
        if len(tag) == 64 and not tag.strip('0123456789abcdef'):
            return tag
    return ''


def why_broken(error: BaseException) -> tuple[str, bool]:
    """Says why a connection failed, without an address, which may hold a login.

    Returns:
      The reason, and whether another try may help.
    """
    seen: list[BaseException] = []
    cause: Any = error
    while isinstance(cause, BaseException) and cause not in seen:
        seen.append(cause)
        inner = cause.__cause__ or getattr(cause, 'reason', None) or cause.__context__
        inside = [one for one in cause.args if isinstance(one, BaseException)]
        cause = inner if isinstance(inner, BaseException) else next(iter(inside), None)
    texts = [one.strerror for one in seen if isinstance(one, OSError) and one.strerror]
    kinds = ' '.join(type(one).__name__ for one in seen)
    if 'Timeout' in kinds or 'TimeoutError' in kinds:
        return 'the server does not answer in time', True
    if 'NameResolution' in kinds or 'gaierror' in kinds:
        return 'its server is not found (no network?)', False
    if 'Proxy' in kinds:
        return 'the proxy of the environment does not let it through', False
    if 'SSL' in kinds:
        return 'its certificate is not trusted here', False
    return (printable(texts[-1]) if texts else 'the connection failed'), True

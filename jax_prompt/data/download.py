"""Before a download: how large it is, and whether the places that it comes from can be reached."""

import urllib.error
import urllib.request
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

_SECONDS = 10.0


def download_mb(spec: str) -> float:
    """Returns the size of a TFDS builder's downloads in MB; 0 where TFDS does not know it.

    All of its configurations count; nothing is downloaded to find out.

    Args:
      spec: 'dtd', 'dtd:3.0.1' or 'cifar10/plain'.
    """
    import tensorflow_datasets as tfds

    name = spec.partition(':')[0].partition('/')[0]
    try:
        infos: Any = tfds.builder_cls(name).url_infos or {}
    except (ImportError, LookupError, OSError, ValueError):
        return 0.0
    return sum(int(info.size) for info in infos.values()) / 1e6


def check_reachable(task: str, urls: Collection[str]) -> None:
    """Checks that one of the servers of some addresses answers.

    TFDS would try each address for minutes. A refusal (403, 404) is an answer.

    Raises:
      ValueError: none answers; names them.
    """
    servers = sorted({f'{urlsplit(url).scheme}://{urlsplit(url).netloc}' for url in urls})[:3]
    reasons = [reason for server in servers if (reason := _why_silent(server))]
    if servers and len(reasons) == len(servers):
        raise ValueError(
            f'{task} needs the network: {", ".join(servers)} can not be reached ({reasons[0]}). '
            'Prepare it where there is a network, and give the folder here as --data_dir'
        )


def _why_silent(server: str) -> str:
    """Returns why a server does not answer; '' where it does."""
    request = urllib.request.Request(server, method='HEAD')
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS):
            return ''
    except urllib.error.HTTPError:
        return ''
    except (OSError, ValueError) as error:  # a URLError is an OSError
        return str(getattr(error, 'reason', error))

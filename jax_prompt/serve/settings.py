"""What a server is told: its bounds, each with a unit, and their defaults."""

import re
from dataclasses import dataclass, fields

NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9._-]{0,63}')


@dataclass(frozen=True)
class Settings:
    """The bounds of a server.

    Attributes:
      max_wait_ms: longest wait for further images of a batch, in milliseconds.
      max_queue: most images times tasks that are accepted and not yet answered.
      max_body_mb: largest body of a request, in MB (1e6 bytes).
      max_bodies_mb: most bytes of bodies held at once, in MB.
      max_pack_mb: largest pack that is uploaded, in MB.
      max_images: most images times tasks of a request.
      max_pixels: most pixels of an image, before it is decoded.
      body_timeout_s: longest time that a client may take to send a request, in seconds.
      timeout_s: longest time from then to the answer, in seconds.
      drain_s: longest time to answer what was accepted after SIGTERM, in seconds.
      watch_s: time between two looks at the folder of packs, in seconds; 0: it is read once.
      workers: threads that decode images.
      max_connections: most connections at once.
      allow_upload: whether tasks can be put and deleted, with the token.
    """

    max_wait_ms: float = 5.0
    max_queue: int = 512
    max_body_mb: float = 32.0
    max_bodies_mb: float = 512.0
    max_pack_mb: float = 256.0
    max_images: int = 64
    max_pixels: int = 50_000_000
    body_timeout_s: float = 20.0
    timeout_s: float = 30.0
    drain_s: float = 30.0
    watch_s: float = 2.0
    workers: int = 4
    max_connections: int = 512
    allow_upload: bool = False

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ('watch_s', 'max_wait_ms', 'allow_upload') else None
            if not (value > 0 or value == least):
                raise ValueError(f'{field.name} is {value}; allowed: more than 0')


def is_name(name: str) -> bool:
    """Whether a text can name a task: letters, digits, dot, dash and underscore, 64 at most.

    >>> is_name('flowers-2'), is_name('../x'), is_name('')
    (True, False, False)
    """
    return NAME.fullmatch(name) is not None

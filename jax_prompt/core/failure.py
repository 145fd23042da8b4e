"""How a command ends early for a reason that the user knows, or can read in one message."""

import signal


class Failure(Exception):
    """What the user can mend or has to know: the message says all, a traceback adds nothing."""


class Interrupted(KeyboardInterrupt):
    """A signal ended the work.

    Args:
      text: what was kept, and how to go on.
      number: the signal: SIGINT (Ctrl-C) or SIGTERM.
    """

    def __init__(self, text: str, number: int = signal.SIGINT):
        super().__init__(text)
        self.number = number

"""What a server does not do, as the client is told."""


class Refused(Exception):
    """A request that is not answered.

    Attributes:
      status: of HTTP.
      retry_s: seconds after which the client may try again; None: it need not.
    """

    def __init__(self, status: int, text: str, retry_s: int | None = None):
        super().__init__(text)
        self.status, self.retry_s = status, retry_s


class Unanswered(Exception):
    """One image that is not answered; the text says why. Others of its request are."""

"""What can go wrong: with one image (`FetchError`), or with a whole command (`Fault`).

A FetchError becomes an Outcome; each class knows its reason and whether another attempt may mend it. A Fault ends a
command; it says what happened, why, and what to do.

::

    FetchError
    ├── InvalidUrl         invalid_url       what is written there is no URL that can be fetched
    ├── BlockedAddress     blocked_address   the operator's policy refuses the address
    ├── DnsFailed          dns               the name has no address
    │   └── DnsUnavailable dns               the resolver did not answer          (retried)
    ├── ConnectFailed      connect           nobody listens, or nobody answers    (retried)
    ├── TlsFailed          tls               the certificate or handshake is bad
    │   └── TlsClosedError tls               closed during the handshake          (retried)
    ├── TimedOut           timeout           too slow: one wait or the deadline   (retried)
    ├── HttpRefused        http_4xx          404 and its kind
    │   └── HttpNotYet     http_4xx          408, 425                             (retried)
    ├── HttpFailed         http_5xx          500 and its kind                     (retried)
    │   └── HttpUnable     http_5xx          501, 505
    ├── RateLimited        rate_limited      429, or a longer wait than allowed   (retried)
    │   └── LongWait       rate_limited      a wait for which no slot is held     (retried)
    ├── TooManyRedirects   redirects         more hops than allowed, or a loop
    ├── BadResponse        bad_response      not HTTP, or not an answer to this request
    ├── TooLarge           too_large         more bytes than allowed
    ├── EmptyBody          empty             an answer without a body
    ├── Truncated          truncated         the body ended early                 (retried)
    ├── NotAnImage         not_image         another format, HTML, text, or unknown
    ├── Undecodable        undecodable       says that it is an image, and is broken
    ├── TooManyPixels      too_many_pixels   larger than allowed, before any decoding
    ├── OptedOut           opted_out         its server says that it is not for this
    ├── StorageFailed      storage           the bytes could not be saved
    ├── Lost               lost              given up after its task was lost again and again
    ├── Crashed            crashed           ends the process that fetches it
    ├── Cancelled          cancelled         its run has ended
    └── Internal           internal          a fault of ours

    Fault                  exit status 1     of ours, or of what we run on
    └── UsageFault         exit status 2     of what we were told

    Interrupted            exit status 130   by who has started it

Exceptions of other libraries are translated once, where they enter: ``guard``, ``proxy`` and ``download`` translate
those of the network, ``images`` and ``resize`` those of Pillow, ``storage`` those of the file system.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tasks.model import Reason


class FetchError(Exception):
    """An image that could not be had. Its text is fit to be shown: it holds no secret."""

    reason: ClassVar[Reason]
    #: Whether another attempt may mend it.
    retryable: ClassVar[bool] = False
    #: Whether the fault is this worker's for sure, so that another worker may have the image.
    of_worker: bool = False

    def __init__(self, message: str, *, http_status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.http_status = http_status
        #: Where the image was asked for in the end, masked; None where that is its own URL.
        self.final_url: str | None = None
        #: Seconds that the server asked us to wait, if it did.
        self.retry_after = retry_after


class Fault(Exception):
    """A command that cannot go on: what happened, why, and what to do next, a sentence each."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, why: str, todo: str) -> None:
        super().__init__(f"{what}: {why}")
        self.what, self.why, self.todo = what, why, todo


class Interrupted(Exception):
    """A command that was told to end before it was done: it has finished what was in flight, or dropped it."""

    def __init__(self, cancelled: bool) -> None:
        super().__init__("cancelled" if cancelled else "finished early")
        self.cancelled = cancelled


class UsageFault(Fault):
    """A command that was told something it cannot use."""

    exit_code = 2


def _worth_retrying() -> Iterator[Reason]:
    kinds = list(FetchError.__subclasses__())
    for kind in kinds:
        kinds += kind.__subclasses__()
    # Of what fails for good, some is tried again at once (408, a closed handshake), and most would fail again.
    for_good = (Reason.HTTP_4XX, Reason.TLS)
    yield from (kind.reason for kind in kinds if kind.retryable and kind.reason not in for_good)
    # No other attempt mends them at once, and another day may.
    yield from (Reason.STORAGE, Reason.LOST, Reason.CANCELLED, Reason.INTERNAL)


class InvalidUrl(FetchError):
    """What is written there is no URL that can be fetched."""

    reason = Reason.INVALID_URL


class BlockedAddress(FetchError):
    """The operator's policy refuses the address."""

    reason = Reason.BLOCKED_ADDRESS


class DnsFailed(FetchError):
    """The host's name has no address."""

    reason = Reason.DNS


class DnsUnavailable(DnsFailed):
    """The resolver did not answer; it may do so later."""

    retryable = True


class ConnectFailed(FetchError):
    """Nobody listens there, the connection broke before an answer, or the operator's proxy leads nowhere."""

    reason = Reason.CONNECT
    retryable = True


class TlsFailed(FetchError):
    """The handshake failed, or the certificate is not to be trusted."""

    reason = Reason.TLS
    #: Whether a run that does without verification (``--insecure``) would have got past it.
    avoidable = False


class TlsClosedError(TlsFailed):
    """The server closed the connection during the handshake."""

    retryable = True


class TimedOut(FetchError):
    """One wait took longer than the timeout, or all together longer than the deadline."""

    reason = Reason.TIMEOUT
    retryable = True


class HttpRefused(FetchError):
    """The server says that the request is wrong: 404 and its kind."""

    reason = Reason.HTTP_4XX


class HttpNotYet(HttpRefused):
    """The server was not ready for the request: 408 and 425."""

    retryable = True


class HttpFailed(FetchError):
    """The server says that it failed: 500 and its kind."""

    reason = Reason.HTTP_5XX
    retryable = True


class HttpUnable(HttpFailed):
    """The server will never do what was asked: 501 and 505."""

    retryable = False


class RateLimited(FetchError):
    """The server asks us to slow down: 429, or a wait that is longer than `--max-wait`."""

    reason = Reason.RATE_LIMITED
    retryable = True


class LongWait(RateLimited):
    """A wait of more than `--max-wait` and up to two minutes: the slot is given back meanwhile."""


class TooManyRedirects(FetchError):
    """More hops than allowed, a loop, or a redirect that leads nowhere, or from https to http."""

    reason = Reason.REDIRECTS


class BadResponse(FetchError):
    """What came is not HTTP, or not an answer to this request."""

    reason = Reason.BAD_RESPONSE


class TooLarge(FetchError):
    """The body is larger than allowed."""

    reason = Reason.TOO_LARGE


class EmptyBody(FetchError):
    """The answer has no body."""

    reason = Reason.EMPTY


class Truncated(FetchError):
    """The body ended before its announced end."""

    reason = Reason.TRUNCATED
    retryable = True


class NotAnImage(FetchError):
    """The body is not an image, or is one in a format that is not saved; the message names what it is."""

    reason = Reason.NOT_IMAGE


class Undecodable(FetchError):
    """The body says that it is an image, and is broken."""

    reason = Reason.UNDECODABLE


class TooManyPixels(FetchError):
    """The image says that it is larger than allowed; it was not decoded."""

    reason = Reason.TOO_MANY_PIXELS


class OptedOut(FetchError):
    """The image's server says, by X-Robots-Tag, that it is not for data sets or indexes."""

    reason = Reason.OPTED_OUT


class StorageFailed(FetchError):
    """The bytes could not be saved, or may not be saved there, by any worker that tried."""

    reason = Reason.STORAGE
    of_worker = True


class Lost(FetchError):
    """Its task was lost again and again, and the run goes on without it."""

    reason = Reason.LOST


class Crashed(FetchError):
    """It ended the process that fetched it, time and again, and at last one that did nothing else."""

    reason = Reason.CRASHED


class Cancelled(FetchError):
    """The run that this image belongs to has ended."""

    reason = Reason.CANCELLED


class Internal(FetchError):
    """A fault of ours; the worker's log has its traceback."""

    reason = Reason.INTERNAL


#: The reasons of failures that may be gone when an image is tried again later.
WORTH_RETRYING = tuple(sorted(set(_worth_retrying())))

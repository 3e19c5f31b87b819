"""The errors of one image (`FetchError`) and of a whole command (`CommandError`).

A FetchError becomes an Outcome. Each class has a reason, and says whether another attempt may succeed. A CommandError
ends a command. Its message says what happened, why, and what to do.

::

    FetchError
    ├── InvalidRowError               invalid_row      a row of the list that can't be read
    ├── InvalidUrlError               invalid_url      not a URL that can be fetched
    ├── DuplicateError                duplicate        an earlier row has the same URL or file name
    ├── BlockedAddressError           blocked_address  the operator's policy forbids the address
    ├── DnsError                      dns              the host name has no address
    │   └── DnsUnavailableError       dns              no answer from the resolver               (retried)
    ├── ConnectError                  connect          connection refused or broken              (retried)
    ├── TlsError                      tls              bad certificate or handshake
    │   └── TlsClosedError            tls              closed during the handshake               (retried)
    ├── FetchTimeoutError             timeout          timeout or deadline exceeded              (retried)
    ├── HttpClientError               http_4xx         404 and other 4xx
    │   └── HttpRetryableClientError  http_4xx         408, 425                                  (retried)
    ├── HttpServerError               http_5xx         500 and other 5xx                         (retried)
    │   ├── HttpNotImplementedError   http_5xx         501, 505
    │   └── RobotsUnreachableError    http_5xx         5xx to the request for robots.txt
    ├── RateLimitedError              rate_limited     429, or a wait above the limit            (retried)
    │   └── LongWaitError             rate_limited     a wait that is too long for a slot        (retried)
    ├── HostRestingError              host_resting     the host rested too often; not tried
    ├── RedirectError                 redirects        more redirects than allowed, or a loop
    ├── BadResponseError              bad_response     not HTTP, or not a response to this request
    ├── TooLargeError                 too_large        more bytes than allowed
    ├── EmptyBodyError                empty            a response without a body
    ├── TruncatedError                truncated        the body ended early                      (retried)
    ├── HashMismatchError             hash_mismatch    not the expected bytes
    ├── NotAnImageError               not_image        another format, HTML, text, or unknown
    ├── UndecodableError              undecodable      begins as an image, but is broken
    │   └── AnimationError            undecodable      an animation that can only be saved as downloaded
    ├── TooManyPixelsError            too_many_pixels  more pixels than allowed; not decoded
    ├── FilteredError                 filtered         excluded by a filter of the run
    ├── OptedOutError                 opted_out        the server opts out (X-Robots-Tag)
    ├── RobotsDeniedError             robots_denied    the host's robots.txt forbids the URL
    ├── StorageError                  storage          the bytes could not be saved
    ├── TaskLostError                 lost             the task was lost repeatedly
    ├── CrashedError                  crashed          ends the process that fetches it
    ├── CancelledError                cancelled        the run has ended
    └── InternalError                 internal         an error in imagefleet

    CommandError                      exit status 1    an error in imagefleet or its environment
    └── UsageError                    exit status 2    input that the command can't use

    RunInterruptedError               exit status 130  ended early by the user

Exceptions of other libraries are translated once, in the module that calls the library: ``guard``, ``proxy`` and
``error_mapping`` translate network errors; ``identify``, ``decode`` and ``resize`` translate Pillow's errors; and
``local_store`` translates file system errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tasks.model import Reason
from tasks.throttle_options import Target


class FetchError(Exception):
    """An image can't be fetched. The message contains no secret, so it can be shown."""

    reason: ClassVar[Reason]
    #: Whether another attempt may succeed.
    retryable: ClassVar[bool] = False
    #: Whether this worker is certainly the cause, so that another worker may succeed.
    is_worker_fault: bool = False

    def __init__(self, message: str, *, http_status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.http_status = http_status
        #: The URL of the last request, redacted; None if it is the image's own URL.
        self.final_url: str | None = None
        #: Seconds to wait before the next attempt, if the server asked for a wait.
        self.retry_after = retry_after
        #: Seconds for which the host gets no requests, because of this error.
        self.rest: float | None = None
        #: The host that gave no response; None if there was one.
        self.silent_host: Target | None = None
        #: Whether the request was the probe after a rest of the host.
        self.is_probe = False


class CommandError(Exception):
    """A command can't continue. The message has three sentences: what happened, why, and what to do next."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, why: str, hint: str) -> None:
        super().__init__(f"{what}: {why}")
        self.what, self.why, self.hint = what, why, hint


class RunInterruptedError(Exception):
    """The user ended a command early. The command has finished the images in flight, or cancelled them."""

    def __init__(self, cancelled: bool) -> None:
        super().__init__("cancelled" if cancelled else "finished early")
        self.cancelled = cancelled


class UsageError(CommandError):
    """A command got an unusable option, argument or file."""

    exit_code = 2


def _reasons_worth_retrying() -> Iterator[Reason]:
    kinds = list(FetchError.__subclasses__())
    for kind in kinds:
        kinds += kind.__subclasses__()
    # A few errors with these reasons (408, a closed handshake) are retried at once. But most images that failed with
    # these reasons would fail again in a later retry.
    permanent = (Reason.HTTP_4XX, Reason.TLS)
    yield from (kind.reason for kind in kinds if kind.retryable and kind.reason not in permanent)
    # An immediate retry does not help with these reasons, but a retry on another day may.
    yield from (Reason.HOST_RESTING, Reason.STORAGE, Reason.LOST, Reason.CANCELLED, Reason.INTERNAL)


class InvalidRowError(FetchError):
    """The row of the URL list can't be read; the message gives the line or row number."""

    reason = Reason.INVALID_ROW


class InvalidUrlError(FetchError):
    """The text is not a URL that can be fetched."""

    reason = Reason.INVALID_URL


class DuplicateError(FetchError):
    """An earlier row has the same URL or the same file name; the message gives the key of that row."""

    reason = Reason.DUPLICATE


class BlockedAddressError(FetchError):
    """The operator's policy forbids connections to the address."""

    reason = Reason.BLOCKED_ADDRESS


class DnsError(FetchError):
    """The host name has no address."""

    reason = Reason.DNS


class DnsUnavailableError(DnsError):
    """The resolver did not answer, but may answer later."""

    retryable = True


class ConnectError(FetchError):
    """The connection could not be opened or ended before a response, or the operator's proxy could not connect."""

    reason = Reason.CONNECT
    retryable = True


class TlsError(FetchError):
    """The TLS handshake failed, or the certificate is not trusted."""

    reason = Reason.TLS
    #: Whether a run without verification (``--insecure``) would have avoided the error.
    avoidable = False


class TlsClosedError(TlsError):
    """The server closed the connection during the handshake."""

    retryable = True


class FetchTimeoutError(FetchError):
    """One wait exceeded the timeout, or all attempts together exceeded the deadline."""

    reason = Reason.TIMEOUT
    retryable = True


class HttpClientError(FetchError):
    """The server rejected the request: 404 and other 4xx statuses."""

    reason = Reason.HTTP_4XX


class HttpRetryableClientError(HttpClientError):
    """The server was not ready for the request: 408 or 425."""

    retryable = True


class HttpServerError(FetchError):
    """The server failed: 500 and other 5xx statuses."""

    reason = Reason.HTTP_5XX
    retryable = True


class HttpNotImplementedError(HttpServerError):
    """The server does not support the request: 501 or 505."""

    retryable = False


class RobotsUnreachableError(HttpServerError):
    """The server answered the request for robots.txt with 5xx, so its images are not requested (`--robots obey`)."""

    retryable = False


class RateLimitedError(FetchError):
    """The server responded with status 429, or asked for a wait longer than `--max-retry-after`."""

    reason = Reason.RATE_LIMITED
    retryable = True


class LongWaitError(RateLimitedError):
    """The server asked for a wait above `--max-retry-after`, but not above 120 s. The slot is freed during the wait."""


class HostRestingError(FetchError):
    """The host refused or did not answer so often that its remaining images are not tried."""

    reason = Reason.HOST_RESTING


class RedirectError(FetchError):
    """More redirects than allowed, a loop, a redirect without a usable target, or a redirect from https to http."""

    reason = Reason.REDIRECTS


class BadResponseError(FetchError):
    """The response is not HTTP, or does not belong to this request."""

    reason = Reason.BAD_RESPONSE


class TooLargeError(FetchError):
    """The body is larger than allowed."""

    reason = Reason.TOO_LARGE


class EmptyBodyError(FetchError):
    """The response has no body."""

    reason = Reason.EMPTY


class TruncatedError(FetchError):
    """The body ended before its announced end."""

    reason = Reason.TRUNCATED
    retryable = True


class HashMismatchError(FetchError):
    """The downloaded bytes do not have the hash that the URL list gives for them."""

    reason = Reason.HASH_MISMATCH


class NotAnImageError(FetchError):
    """The body is not an image, or its format is not supported; the message names the format."""

    reason = Reason.NOT_IMAGE


class UndecodableError(FetchError):
    """The body begins as an image, but is broken."""

    reason = Reason.UNDECODABLE


class AnimationError(UndecodableError):
    """An animation can't be decoded, because the decoder would return its last frame."""


class TooManyPixelsError(FetchError):
    """The image's header announces more pixels than allowed; the image was not decoded."""

    reason = Reason.TOO_MANY_PIXELS


class FilteredError(FetchError):
    """The image is excluded by a filter of the run; the message names the filter and the image's value."""

    reason = Reason.FILTERED

    def __init__(self, message: str, size: tuple[int | None, int | None] = (None, None)) -> None:
        super().__init__(message)
        #: The width and height of the downloaded image; None if it has no size.
        self.size = size


class OptedOutError(FetchError):
    """The server opts the image out of data sets or indexes (X-Robots-Tag)."""

    reason = Reason.OPTED_OUT


class RobotsDeniedError(FetchError):
    """The host's robots.txt forbids the URL (`--robots obey`)."""

    reason = Reason.ROBOTS_DENIED


class StorageError(FetchError):
    """Each worker that tried the image could not save it, or had no permission to write to the folder."""

    reason = Reason.STORAGE
    is_worker_fault = True


class TaskLostError(FetchError):
    """The task was lost repeatedly, so the run continued without the image."""

    reason = Reason.LOST


class CrashedError(FetchError):
    """The image repeatedly killed its worker, and finally also a process that fetched only this image."""

    reason = Reason.CRASHED


class CancelledError(FetchError):
    """The image's run has ended."""

    reason = Reason.CANCELLED


class InternalError(FetchError):
    """An internal error; the worker's log has the traceback."""

    reason = Reason.INTERNAL


#: The reasons of failures that may not occur again in a later retry.
WORTH_RETRYING = tuple(sorted(set(_reasons_worth_retrying())))

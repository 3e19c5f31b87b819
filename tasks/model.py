"""The values exchanged by producer and workers: an image's request, its Outcome, and the options of a run.

The values are frozen, and JSON can encode them. This module does no I/O.

To add a reason, add a member to `Reason` here. Add an error class with this reason to ``tasks/errors.py``. In
``producer/demo/faults.py``, add a route that provokes the error. Add a row to ``tests/integration/test_faults.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, Self

from config.limits import MAX_DEADLINE, Bounds
from tasks.image_options import DEFAULT_FORMATS, FilterOptions, ImageFormat, ResizeOptions, known_fields
from tasks.throttle_options import ThrottleOptions

#: Limits of the texts in an `Outcome`, in bytes of JSON. These limits keep an Outcome under 1 KB.
MESSAGE_LIMIT = 200
URL_LIMIT = 240
HEADER_LIMIT = 120


class Status(StrEnum):
    """The result of a request, in img2dataset's terms."""

    SUCCESS = "success"
    FAILED_TO_DOWNLOAD = "failed_to_download"
    FAILED_TO_RESIZE = "failed_to_resize"


class Reason(StrEnum):
    """Why a request failed. No other reasons exist. Free text goes to ``error_message``."""

    INVALID_ROW = "invalid_row"
    INVALID_URL = "invalid_url"
    DUPLICATE = "duplicate"
    BLOCKED_ADDRESS = "blocked_address"
    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"
    HTTP_4XX = "http_4xx"
    HTTP_5XX = "http_5xx"
    RATE_LIMITED = "rate_limited"
    HOST_RESTING = "host_resting"
    REDIRECTS = "redirects"
    BAD_RESPONSE = "bad_response"
    TOO_LARGE = "too_large"
    EMPTY = "empty"
    TRUNCATED = "truncated"
    HASH_MISMATCH = "hash_mismatch"
    OPTED_OUT = "opted_out"
    ROBOTS_DENIED = "robots_denied"
    STORAGE = "storage"
    LOST = "lost"
    CRASHED = "crashed"
    CANCELLED = "cancelled"
    INTERNAL = "internal"
    NOT_IMAGE = "not_image"
    UNDECODABLE = "undecodable"
    TOO_MANY_PIXELS = "too_many_pixels"
    FILTERED = "filtered"

    @property
    def status(self) -> Status:
        """The status of a failure with this reason."""
        if self in _IMAGE_REASONS:
            return Status.FAILED_TO_RESIZE
        return Status.FAILED_TO_DOWNLOAD


_IMAGE_REASONS = frozenset({Reason.NOT_IMAGE, Reason.UNDECODABLE, Reason.TOO_MANY_PIXELS, Reason.FILTERED})


@dataclass(frozen=True, slots=True)
class PreviousImage:
    """A URL's image from a previous run: its file and its origin, as recorded in the previous run's manifest.

    The fields have the same meaning as in an `Outcome`. ``path`` is relative to the previous run's output folder.
    """

    path: str
    #: None for an SVG drawing without a size.
    width: int | None
    height: int | None
    format: str
    bytes: int
    sha256: str
    original_width: int | None = None
    original_height: int | None = None
    exif: str | None = None
    phash: str | None = None
    final_url: str | None = None
    etag: str | None = None
    last_modified: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the value for JSON. Fields with None are left out, to keep the message in Redis short."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Create the value from the output of `to_json`; ignore fields that this version does not know."""
        known = {name: value[name] for name in PREVIOUS_IMAGE_FIELDS if name in value}
        return cls(**{"width": None, "height": None, **known})


PREVIOUS_IMAGE_FIELDS = tuple(item.name for item in fields(PreviousImage))


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a row of a URL list is not fetched.

    The row's request still gets a task and an Outcome, like every other row.
    """

    reason: Reason
    message: str

    @classmethod
    def from_json(cls, value: Mapping[str, str]) -> Self:
        """Return the value from decoded JSON."""
        return cls(Reason(value["reason"]), value["message"])


class ImageRequest(NamedTuple):
    """One row of a URL list: the row's index (from 0), the values of its columns, and facts about its image.

    It is a tuple, because planning a long list creates millions of requests. A frozen dataclass takes four times as
    long to create.
    """

    index: int  # type: ignore[assignment]  # it hides the method `index` of tuples
    url: str
    columns: Mapping[str, Any] = MappingProxyType({})
    #: The previous run's image of this URL.
    previous: PreviousImage | None = None
    #: Why the row is not fetched; None if the row is fetched.
    refused: Refusal | None = None
    #: The name of the image's file in the output folder, without its extension; None for ``{shard}/{key}``. It may
    #: contain `SHA256_FIELD`.
    path: str | None = None
    #: The expected hash of the downloaded bytes, as ``sha256:``, ``sha512:`` or ``md5:`` and hexadecimal digits.
    expected_hash: str | None = None


class Verify(StrEnum):
    """How to check an image that will be saved without changes."""

    #: Read its header.
    HEADER = "header"
    #: Decode it completely.
    DECODE = "decode"


@dataclass(frozen=True, slots=True)
class HeaderOptions:
    """The headers that a run adds to each request."""

    #: The User-Agent; None for imagefleet's own.
    user_agent: str | None = None
    referer: str | None = None
    #: Extra headers, as names and values. Extra headers may be credentials, so they are sent only to the host in the
    #: URL list.
    extra: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """How to fetch each image of a run. Times are in seconds, sizes in bytes."""

    #: Timeout for connecting, and for each wait on the socket.
    timeout: Annotated[float, Bounds(0.001)] = 10.0
    #: Limit for all attempts of one delivery together, including waits, redirects and saving.
    deadline: Annotated[float, Bounds(0.001, MAX_DEADLINE)] = 60.0
    max_bytes: Annotated[int, Bounds(1)] = 64 * 1024 * 1024
    #: Maximum number of attempts after the first, if another attempt may succeed.
    retries: Annotated[int, Bounds(0, 10)] = 2
    #: Wait before the first retry. The wait doubles with each retry, and each wait is shortened at random by up to
    #: half.
    backoff: Annotated[float, Bounds(0)] = 0.5
    #: Longest wait at a server's request during which the image keeps its slot. If a server requests a longer wait, the
    #: image is requeued or fails.
    max_retry_after: Annotated[float, Bounds(0)] = 30.0
    max_redirects: Annotated[int, Bounds(0, 50)] = 5
    #: Whether to follow redirects from https to http.
    allow_downgrade: bool = False
    #: Whether to save an image even if its server opts out of it (X-Robots-Tag).
    ignore_opt_out: bool = False
    #: Whether to download from servers without a valid certificate, or with an old version of TLS. It has an effect
    #: only if the worker's operator permits this.
    insecure: bool = False
    headers: HeaderOptions = HeaderOptions()
    #: Limit for the downloaded image, and for the saved image.
    max_pixels: Annotated[int, Bounds(1)] = 100_000_000
    #: How to check an image that is saved as downloaded: read its header, or decode every frame. This option has no
    #: effect on resized images, because they are decoded anyway.
    verify: Verify = Verify.HEADER
    resize: ResizeOptions = field(default_factory=ResizeOptions)
    filters: FilterOptions = field(default_factory=FilterOptions)
    #: The formats of downloaded images that are saved.
    formats: tuple[ImageFormat, ...] = DEFAULT_FORMATS
    #: Whether to record the downloaded image's EXIF tags.
    extract_exif: bool = False
    #: Whether to record the saved image's perceptual hash, for which the image is decoded.
    phash: bool = False
    #: How many requests each host gets from the whole fleet.
    throttle: ThrottleOptions = field(default_factory=ThrottleOptions)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the options from decoded JSON. Fields unknown to this version are dropped."""
        known = known_fields(cls, value)
        headers = known_fields(HeaderOptions, known["headers"])
        headers["extra"] = tuple((name, text) for name, text in headers["extra"])
        known.update(
            resize=ResizeOptions.from_json(known["resize"]),
            filters=FilterOptions.from_json(known["filters"]),
            headers=HeaderOptions(**headers),
            verify=Verify(known["verify"]),
            formats=tuple(ImageFormat(name) for name in known["formats"]),
            # Runs started by an earlier version have no limits in their run.json.
            throttle=ThrottleOptions.from_json(known.get("throttle", {})),
        )
        return cls(**known)


class OutputFormat(StrEnum):
    """How the images of a shard are saved."""

    #: Each image in a file of its own.
    FILES = "files"
    #: All images of a shard in one tar, as the `webdataset` package reads it.
    WEBDATASET = "webdataset"
    #: All images of a shard in a column of one Parquet file.
    PARQUET = "parquet"


#: The field of a file name that the worker replaces by the SHA-256 of the saved image.
SHA256_FIELD = "{sha256}"


class Sidecar(StrEnum):
    """A file beside each image; the value is the file's extension."""

    #: The image's metadata.
    JSON = "json"
    #: The image's caption.
    TXT = "txt"


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """How to save the images of a run."""

    format: OutputFormat = OutputFormat.FILES
    #: The files beside each image; allowed only if each image has a file of its own.
    sidecars: tuple[Sidecar, ...] = ()
    #: The template of the files' names, or the name of a template, such as ``scrapy``; None for ``{shard}/{key}``. Only
    #: with files.
    path_template: str | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the options from decoded JSON. Fields unknown to this version are dropped."""
        known = known_fields(cls, value)
        if "format" in known:
            known["format"] = OutputFormat(known["format"])
        if "sidecars" in known:
            known["sidecars"] = tuple(map(Sidecar, known["sidecars"]))
        return cls(**known)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """A run's options for its workers: the output folder, the shard size for the keys, and how to fetch and save."""

    out: str
    shard_size: int
    fetch: FetchOptions = FetchOptions()
    output: OutputOptions = OutputOptions()
    #: The run's id; empty for a baseline.
    run_id: str = ""
    #: The run's revision: 0 at first, then 1, 2… for each retry of its failed images.
    revision: int = 0
    #: The folder of the previous run to refresh from; None if this run does not refresh a previous run.
    previous_run: str | None = None
    #: The producer epoch: 0 for the run's first command, then 1, 2… for each command that continues the run.
    epoch: int = 0
    #: Whether the run ends early. If so, workers drop its queued images and finish the images in flight.
    draining: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the options in a form that JSON can encode."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Create the options from the output of `to_json`; ignore fields that this version does not know."""
        return cls(
            out=value["out"],
            shard_size=value["shard_size"],
            fetch=FetchOptions.from_json(value["fetch"]),
            output=OutputOptions.from_json(value.get("output", {})),
            run_id=value["run_id"],
            revision=value["revision"],
            previous_run=value.get("previous_run"),
            epoch=value["epoch"],
            draining=value.get("draining", False),
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """The final record of a request. Every request gets exactly one Outcome.

    An Outcome takes less than 1 KB as JSON. ``finished_at`` is in seconds since the epoch. ``fetch_seconds`` is the
    time of all attempts. ``bytes`` is the size of the saved file, and ``path`` is relative to the run's output folder.
    """

    key: str
    status: Status
    reason: Reason | None = None
    error_message: str | None = None
    path: str | None = None
    width: int | None = None
    height: int | None = None
    original_width: int | None = None
    original_height: int | None = None
    format: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    #: The most useful EXIF tags of the downloaded image, as JSON.
    exif: str | None = None
    #: The perceptual hash of the saved image, as 16 hexadecimal digits.
    phash: str | None = None
    http_status: int | None = None
    final_url: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    attempts: int = 0
    fetch_seconds: float = 0.0
    finished_at: float = 0.0
    worker: str | None = None
    recovered: bool = False
    #: Whether the image, or a redirect to it, came from an unverified server.
    tls_unverified: bool = False
    #: The microseconds that the last delivery spent in each phase, in the order of `tasks.phases.Phase`; 0 if there was
    #: no such phase. None for an image that no worker fetched. In JSON, six names would take more than 100 bytes.
    phases: tuple[int, ...] | None = None

    @property
    def ok(self) -> bool:
        """Whether the image was saved."""
        return self.status is Status.SUCCESS

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with the Outcome's fields. None and False are left out, to save memory in Redis."""
        values = ((name, getattr(self, name)) for name in OUTCOME_FIELDS)
        return {name: value for name, value in values if value is not None and value is not False}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Create the Outcome from the output of `to_json`; ignore fields that this version does not know."""
        known = {name: item for name, item in value.items() if name in _OUTCOME_NAMES}
        known["status"] = Status(known["status"])
        if known.get("reason") is not None:
            known["reason"] = Reason(known["reason"])
        if known.get("phases") is not None:
            known["phases"] = tuple(known["phases"])
        return cls(**known)


OUTCOME_FIELDS = tuple(item.name for item in fields(Outcome))
_OUTCOME_NAMES = frozenset(OUTCOME_FIELDS)


def shortened(text: str, limit: int) -> str:
    """Return as much of a text as fits in ``limit`` bytes of JSON, where one character may take twelve bytes."""
    text = text[:limit]
    while (size := len(json.dumps(text))) > limit:
        text = text[: min(len(text) - 1, len(text) * limit // size)]
    return text


def image_key(index: int, shard_size: int) -> str:
    """Return the key of the image at an index of the URL list: its shard in five digits, then its offset in the shard.

    The offset has as many digits as the largest offset needs, as in img2dataset: with 1,000 images per shard, image 7
    of shard 3 has the key ``00003007``.
    """
    shard, offset = divmod(index, shard_size)
    digits = len(str(max(shard_size - 1, 1)))
    return f"{shard:05d}{offset:0{digits}d}"


def shard_name(shard: int) -> str:
    """Return a shard's name: its number in at least five digits."""
    return f"{shard:05d}"

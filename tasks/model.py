"""The values that travel: an image's request, its outcome, and the options of a run.

All are frozen, hold nothing but JSON's own types, and do no I/O.

To add a reason: a member of `Reason` here, an error class in ``tasks/errors.py`` that carries it, a route in
``producer/demo/faults.py`` that provokes it, and a row in ``tests/integration/test_faults.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, Self

#: The longest texts that an `Outcome` carries, in bytes of JSON: an Outcome stays under 1 KB.
MESSAGE_LIMIT = 200
URL_LIMIT = 240
HEADER_LIMIT = 120


class Status(StrEnum):
    """How a request ended, in the words of img2dataset."""

    SUCCESS = "success"
    FAILED_TO_DOWNLOAD = "failed_to_download"
    FAILED_TO_RESIZE = "failed_to_resize"


class Reason(StrEnum):
    """Why a request failed: a closed list. Free text goes to ``error_message``."""

    INVALID_URL = "invalid_url"
    BLOCKED_ADDRESS = "blocked_address"
    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"
    HTTP_4XX = "http_4xx"
    HTTP_5XX = "http_5xx"
    RATE_LIMITED = "rate_limited"
    REDIRECTS = "redirects"
    BAD_RESPONSE = "bad_response"
    TOO_LARGE = "too_large"
    EMPTY = "empty"
    TRUNCATED = "truncated"
    OPTED_OUT = "opted_out"
    STORAGE = "storage"
    LOST = "lost"
    CRASHED = "crashed"
    CANCELLED = "cancelled"
    INTERNAL = "internal"
    NOT_IMAGE = "not_image"
    UNDECODABLE = "undecodable"
    TOO_MANY_PIXELS = "too_many_pixels"

    @property
    def status(self) -> Status:
        """The status that goes with this reason."""
        if self in _IMAGE_REASONS:
            return Status.FAILED_TO_RESIZE
        return Status.FAILED_TO_DOWNLOAD


_IMAGE_REASONS = frozenset({Reason.NOT_IMAGE, Reason.UNDECODABLE, Reason.TOO_MANY_PIXELS})


@dataclass(frozen=True, slots=True)
class Former:
    """An image that a former run has saved of a URL: what its manifest says of the file, and of where that came from.

    The fields mean what they mean in an `Outcome`; ``path`` is relative to the former run's output folder.
    """

    path: str
    width: int
    height: int
    format: str
    bytes: int
    sha256: str
    original_width: int | None = None
    original_height: int | None = None
    exif: str | None = None
    final_url: str | None = None
    etag: str | None = None
    last_modified: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON's own types, without the fields that say nothing: it crosses Redis."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return what `to_json` wrote; fields that this version does not know are left out."""
        return cls(**{name: value[name] for name in FORMER_FIELDS if name in value})


FORMER_FIELDS = tuple(item.name for item in fields(Former))


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One row of a Source: a URL, its place (from 0), the row's other columns, and its image of a former run."""

    index: int
    url: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    former: Former | None = None


class ResizeMode(StrEnum):
    """What becomes of an image's size, in the words of img2dataset."""

    #: It is saved as it came.
    NO = "no"
    #: Its smaller side gets the size that is wanted, and the other side keeps its ratio to it.
    KEEP_RATIO = "keep_ratio"


class Verify(StrEnum):
    """How an image is looked at before it is saved as it came."""

    #: Its header says what it is.
    HEADER = "header"
    #: All of it is decoded.
    DECODE = "decode"


@dataclass(frozen=True, slots=True)
class ResizeOptions:
    """How an image is made smaller or larger. All but the mode says nothing where the mode is ``no``."""

    mode: ResizeMode = ResizeMode.NO
    #: In pixels.
    image_size: int = 256
    #: Of the JPEG that is saved, from 1 to 100.
    quality: int = 95


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """What a request says besides its URL."""

    #: In place of our own; None for that.
    user_agent: str | None = None
    referer: str | None = None
    #: Further fields, name and value; they may be credentials, and are sent to the host of the list's URL alone.
    fields: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """How one image is fetched: the same for every image of a run. Times in seconds, sizes in bytes."""

    #: For connecting, and for each wait on the socket.
    timeout: float = 10.0
    #: For all attempts of one delivery together: waits, redirects and saving included.
    deadline: float = 60.0
    max_bytes: int = 64 * 1024 * 1024
    #: Attempts after the first, for reasons that another attempt may mend.
    retries: int = 2
    #: The wait before the first retry; it doubles with each, and a random half is taken off.
    backoff: float = 0.5
    #: The longest wait, in seconds, that a server may ask for and gets.
    max_wait: float = 30.0
    max_redirects: int = 5
    #: Whether a redirect from https to http is followed.
    allow_downgrade: bool = False
    #: Whether an image is taken though its server says that it is not for that (X-Robots-Tag).
    ignore_opt_out: bool = False
    #: Whether an image is taken though its server can't be verified, or speaks an old version of TLS. Works on workers
    #: whose operator allows it.
    insecure: bool = False
    head: HeadOptions = HeadOptions()
    #: Of an image as it comes, and as it is saved.
    max_pixels: int = 100_000_000
    #: Says nothing where an image is resized: that decodes it.
    verify: Verify = Verify.HEADER
    resize: ResizeOptions = ResizeOptions()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the options that JSON's own types stand for; fields that this version does not know are left out."""
        known = _known(cls, value)
        resize = _known(ResizeOptions, known["resize"])
        resize["mode"] = ResizeMode(resize["mode"])
        head = _known(HeadOptions, known["head"])
        head["fields"] = tuple((name, text) for name, text in head["fields"])
        known.update(resize=ResizeOptions(**resize), head=HeadOptions(**head), verify=Verify(known["verify"]))
        return cls(**known)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a worker has to know of a run: where it writes, how it fetches, how its keys are counted."""

    out: str
    shard_size: int
    fetch: FetchOptions = FetchOptions()
    #: The run; a baseline has none.
    run_id: str = ""
    #: Which pass of the run it is: 0 for the first, 1… for each retry of what failed.
    revision: int = 0
    #: The folder of the former run that this one refreshes, if it does.
    since: str | None = None
    #: Which command is at it: 0 for the one that began the run, 1… for each that has gone on with it.
    command: int = 0
    #: Whether the run ends early: its queued images are dropped, and those being downloaded are finished.
    draining: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the options as JSON's own types."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the options that `to_json` wrote; fields that this version does not know are left out."""
        return cls(
            out=value["out"],
            shard_size=value["shard_size"],
            fetch=FetchOptions.from_json(value["fetch"]),
            run_id=value["run_id"],
            revision=value["revision"],
            since=value.get("since"),
            command=value["command"],
            draining=value.get("draining", False),
        )


def _known(kind: type[FetchOptions | ResizeOptions | HeadOptions], value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a dataclass that a mapping has."""
    return {name.name: value[name.name] for name in fields(kind) if name.name in value}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The one final record of a request; under 1 KB as JSON.

    ``finished_at`` is in seconds since the epoch, ``fetch_seconds`` is the time of all attempts, ``bytes`` is the
    size of the saved file, and ``path`` is relative to the run's output folder.
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
    exif: str | None = None
    http_status: int | None = None
    final_url: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    attempts: int = 0
    fetch_seconds: float = 0.0
    finished_at: float = 0.0
    worker: str | None = None
    recovered: bool = False
    #: Whether it came over a connection, or by a redirect of one, whose server was not verified.
    tls_unverified: bool = False

    @property
    def ok(self) -> bool:
        """Whether the image was saved."""
        return self.status is Status.SUCCESS

    def to_json(self) -> dict[str, Any]:
        """Return the Outcome as JSON's own types, without the fields that say nothing: it crosses Redis."""
        values = ((name, getattr(self, name)) for name in OUTCOME_FIELDS)
        return {name: value for name, value in values if value is not None and value is not False}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the Outcome that `to_json` wrote; fields that this version does not know are left out."""
        known = {name: item for name, item in value.items() if name in _OUTCOME_NAMES}
        known["status"] = Status(known["status"])
        if known.get("reason") is not None:
            known["reason"] = Reason(known["reason"])
        return cls(**known)


OUTCOME_FIELDS = tuple(item.name for item in fields(Outcome))
_OUTCOME_NAMES = frozenset(OUTCOME_FIELDS)


def shortened(text: str, limit: int) -> str:
    """Return as much of a text as takes at most ``limit`` bytes as JSON, in which a character may take twelve."""
    text = text[:limit]
    while (size := len(json.dumps(text))) > limit:
        text = text[: min(len(text) - 1, len(text) * limit // size)]
    return text


def key_of(shard: int, offset: int, shard_size: int) -> str:
    """Return an image's key: its shard in five digits and its place in the shard.

    The place has as many digits as the largest place needs, as img2dataset writes it: with 1,000 images a shard, image
    7 of shard 3 is ``00003007``.
    """
    digits = len(str(max(shard_size - 1, 1)))
    return f"{shard:05d}{offset:0{digits}d}"


def shard_name(shard: int) -> str:
    """Return a shard's name: its number in five digits, more where it needs more."""
    return f"{shard:05d}"

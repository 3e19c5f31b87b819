"""The groups of options, and their conversion to the options of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import reduce, wraps
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import click
import cloup

from config import limits
from config.limits import bounds_of
from producer.cli import json_log
from producer.cli.image_parameters import IMAGE_OPTIONS, ImageParameters
from producer.cli.json_result import enable_json
from producer.cli.parameter_types import BrokerUrl, Duration, Size, int_range
from producer.cli.throttle_parameters import THROTTLE_OPTIONS, ThrottleParameters
from tasks.download import headers
from tasks.image_options import DEFAULT_FORMATS
from tasks.model import FetchOptions, HeaderOptions, Reason, Verify

if TYPE_CHECKING:
    from producer.output.run_file import RunConfig

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class DownloadParameters:
    """The values of the options for planning and downloading."""

    shard_size: int
    window: int
    timeout: float
    deadline: float
    max_bytes: int
    retries: int
    max_retry_after: float
    max_redirects: int
    allow_downgrade: bool
    ignore_opt_out: bool
    insecure: bool
    user_agent: str | None
    referer: str | None
    headers: tuple[str, ...]
    verify: str
    throttle: ThrottleParameters
    max_parked: int
    images: ImageParameters

    def run_config(self) -> RunConfig:
        """Return the options of a run.

        Raises:
            click.BadParameter: a value is invalid, or conflicts with another one.
        """
        from producer.output.run_file import RunConfig

        if self.deadline > limits.MAX_DEADLINE:
            raise click.BadParameter(
                f"it must be at most {limits.MAX_DEADLINE:g} s, because Redis gives an unfinished task to another "
                f"worker {limits.VISIBILITY_TIMEOUT} s after the first worker took it. That time includes the wait "
                "before the download begins",
                param_hint="--deadline",
            )
        fetch = FetchOptions(
            timeout=self.timeout,
            deadline=self.deadline,
            max_bytes=self.max_bytes,
            retries=self.retries,
            max_retry_after=self.max_retry_after,
            max_redirects=self.max_redirects,
            allow_downgrade=self.allow_downgrade,
            ignore_opt_out=self.ignore_opt_out,
            insecure=self.insecure,
            headers=self._header_options(),
            verify=Verify(self.verify),
            resize=self.images.resize_options(),
            filters=self.images.filter_options(),
            formats=self.images.formats or DEFAULT_FORMATS,
            extract_exif=self.images.extract_exif,
            phash=self.images.phash,
            throttle=self.throttle.throttle_options(),
        )
        return RunConfig(fetch, self.shard_size, self.window, self.max_parked)

    def _header_options(self) -> HeaderOptions:
        given = {"--user-agent": self.user_agent, "--referer": self.referer}
        for name, value in given.items():
            try:
                given[name] = None if value is None else headers.checked_value(value)
            except ValueError as error:
                raise click.BadParameter(str(error), param_hint=name) from error
        try:
            extra = tuple(headers.checked_header(*_split_header(header)) for header in self.headers)
        except ValueError as error:
            # The message must not quote the header, which may be a secret.
            raise click.BadParameter(str(error), param_hint="--header") from error
        return HeaderOptions(given["--user-agent"], given["--referer"], extra)


def _split_header(header: str) -> tuple[str, str]:
    name, colon, value = header.partition(":")
    if not colon:
        raise ValueError("there is no colon between the header's name and value; write it as NAME:VALUE")
    return name, value


@dataclass(frozen=True, slots=True)
class FleetParameters:
    """The values of a local fleet's options. Without ``workers``, the fleet has one worker for each CPU core."""

    workers: int | None
    concurrency: int
    flower: bool = False


def grouped(
    name: str,
    kind: type[Any],
    *options: Callable[[_Function], _Function],
    parts: Mapping[str, type[Any]] = MappingProxyType({}),
) -> Callable[[_Function], Any]:
    """Return a decorator that adds options to a command and passes their values as one argument.

    Args:
        name: the name of the argument.
        kind: the argument's class, a dataclass with a field for each option. Fields that have no option have defaults.
        options: the options, in the order of the help text.
        parts: the fields of the argument that are dataclasses themselves. Each of these dataclasses has a field for
            each of its options.
    """

    def decorate(command: _Function) -> Any:
        @wraps(command)
        def call(**values: Any) -> Any:
            for part, part_kind in {**parts, name: kind}.items():
                names = [field.name for field in fields(part_kind)]
                values[part] = part_kind(**{field: values.pop(field) for field in names if field in values})
            return command(**values)

        return reduce(lambda inner, option: option(inner), reversed(options), call)

    return decorate


_defaults = FetchOptions()
#: Adds the argument ``download``.
download_options = grouped(
    "download",
    DownloadParameters,
    cloup.option_group(
        "Requests",
        click.option(
            "--timeout",
            type=Duration(bounds_of(FetchOptions, "timeout").least),
            default=_defaults.timeout,
            show_default=True,
            help="Timeout for connecting and for each network read or write, in seconds.",
        ),
        click.option(
            "--deadline",
            type=Duration(bounds_of(FetchOptions, "deadline").least),
            default=_defaults.deadline,
            show_default=True,
            help="Time limit for an image, in seconds, including all attempts, waits and saving. "
            f"At most {limits.MAX_DEADLINE:g}.",
        ),
        click.option(
            "--max-bytes",
            type=Size(),
            default="64MiB",
            show_default=True,
            help="Maximum size of an image, as downloaded.",
        ),
        click.option(
            "--retries",
            type=int_range(bounds_of(FetchOptions, "retries")),
            default=_defaults.retries,
            show_default=True,
            help="Maximum number of retries of an image, after errors that may be temporary.",
        ),
        click.option(
            "--max-retry-after",
            type=Duration(bounds_of(FetchOptions, "max_retry_after").least),
            default=_defaults.max_retry_after,
            show_default=True,
            help="Maximum Retry-After, in seconds, for which an image waits in its download slot. For a longer "
            f"Retry-After, up to {limits.MAX_COUNTDOWN:g} s, the image is requeued. After the wait, it is retried "
            "in any free slot.",
        ),
        click.option(
            "--max-redirects",
            type=int_range(bounds_of(FetchOptions, "max_redirects")),
            default=_defaults.max_redirects,
            show_default=True,
            help="Maximum number of redirects to follow per URL.",
        ),
        click.option("--allow-downgrade", is_flag=True, help="Follow redirects from https to http."),
        click.option(
            "--ignore-opt-out",
            is_flag=True,
            help="Also download images if the server opts out by noai, noimageai, noindex or noimageindex in "
            "X-Robots-Tag.",
        ),
        click.option(
            "--insecure",
            is_flag=True,
            help="Also download from https servers with an unverifiable certificate or an old version of TLS. The "
            "workers need IMAGEFLEET_ALLOW_INSECURE_TLS=true. Manifests mark these images in column tls_unverified.",
        ),
        click.option("--user-agent", metavar="TEXT", help="User-Agent header.  [default: imagefleet/VERSION]"),
        click.option("--referer", metavar="URL", help="Referer header."),
        click.option(
            "--header",
            "headers",
            metavar="NAME:VALUE",
            multiple=True,
            help="Extra request header, sent only to the host of the image's URL, not to other hosts after a redirect. "
            "Repeatable.",
        ),
        click.option(
            "--verify",
            type=click.Choice([way.value for way in Verify]),
            default=_defaults.verify.value,
            show_default=True,
            help="header: check an image by its header only. decode: also decode every frame.",
        ),
    ),
    *THROTTLE_OPTIONS,
    *IMAGE_OPTIONS,
    cloup.option_group(
        "Shards",
        click.option(
            "--shard-size",
            type=int_range(limits.SHARD_SIZE),
            default=1000,
            show_default=True,
            help="Number of images in a shard. Each shard is one Celery chord and gets one manifest.",
        ),
        click.option(
            "--window",
            type=int_range(limits.WINDOW),
            default=8,
            show_default=True,
            help="Maximum number of shards in flight.",
        ),
        click.option(
            "--max-parked",
            type=int_range(limits.PARKED_SHARDS),
            default=64,
            show_default=True,
            help="Maximum number of further shards in flight if all their remaining images wait for busy hosts.",
        ),
    ),
    parts={"throttle": ThrottleParameters, "images": ImageParameters},
)
_fleet_size_options = (
    click.option(
        "--workers",
        type=int_range(limits.FLEET_SIZE),
        help="Number of worker processes in a local fleet.  [default: one per CPU core]",
    ),
    click.option(
        "--concurrency",
        type=int_range(limits.FLEET_SIZE),
        default=limits.CONCURRENCY,
        show_default=True,
        help="Number of download slots in each worker process of a local fleet.",
    ),
)
_flower_option = click.option("--flower", is_flag=True, help="Run Flower on 127.0.0.1, to watch a local fleet.")
broker_option = click.option(
    "--broker",
    type=BrokerUrl(),
    metavar="URL",
    help="Use the Redis at this URL and the workers connected to it, instead of a local fleet.  "
    "[default: IMAGEFLEET_BROKER_URL]",
)
#: Adds the argument ``fleet``.
fleet_options = grouped("fleet", FleetParameters, cloup.option_group("Workers", *_fleet_size_options, _flower_option))
#: Adds the argument ``fleet``, without an option for Flower.
fleet_size_options = grouped("fleet", FleetParameters, *_fleet_size_options)
#: Adds the arguments ``fleet`` and ``broker``.
worker_options = grouped(
    "fleet", FleetParameters, cloup.option_group("Workers", *_fleet_size_options, _flower_option, broker_option)
)
json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    # Click handles eager options first. So errors in other options are reported as a JSON object too.
    is_eager=True,
    callback=enable_json,
    help="Print only one JSON object to standard output, no matter how the command ends.",
)


@dataclass(frozen=True, slots=True)
class ConsoleParameters:
    """The values of the options for what a command prints. The option for the log's format takes effect by itself."""

    as_json: bool
    quiet: bool = False

    @property
    def hides_progress(self) -> bool:
        """Whether the command shows no progress and no notes."""
        return self.as_json or self.quiet


#: Adds the argument ``console``.
console_options = grouped(
    "console",
    ConsoleParameters,
    cloup.option_group(
        "Messages",
        json_option,
        click.option(
            "-q",
            "--quiet",
            is_flag=True,
            help="Show no progress and no notes, only warnings, errors and the final report.",
        ),
        click.option(
            "--log-format",
            type=click.Choice([item.value for item in json_log.LogFormat]),
            default=json_log.LogFormat.TEXT.value,
            show_default=True,
            # As for --json.
            is_eager=True,
            expose_value=False,
            callback=json_log.enable,
            help="Format of standard error: text for people, or one JSON object a line for programs.",
        ),
    ),
)
#: The formats of option values, for the end of help texts.
DURATION_HELP = "A DURATION is a number of seconds, or a number with a unit: 10, 300ms, 2m."
REASON_HELP = f"A REASON is one of {', '.join(Reason)}. docs/outcomes.md explains them."
SIZE_HELP = "A SIZE is a number of bytes, or a number with a unit: 500KiB, 64MiB."

"""Check the settings of this environment before a run starts anything."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from config.locations import Location, parse_location
from tasks.errors import UsageError
from tasks.image_options import ImageFormat

if TYPE_CHECKING:
    from producer.output.run_file import RunConfig

# Every call of a command imports this module. Importing the settings takes 0.1 s, so this module imports them only
# when needed.


def find_broker_url(broker: str | None) -> str | None:
    """Return the given URL of a broker, or else the URL in the environment; None for a local fleet."""
    from config.settings import settings

    return broker or settings().broker


def checked_broker_url(broker: str | None) -> str | None:
    """Return the URL of a run's broker, or None for a local fleet. For a local fleet, check the settings.

    Raises:
        SettingsError: a variable is invalid, or would keep the workers of a local fleet from starting.
    """
    url = find_broker_url(broker)
    if url is None:
        check_network_settings()
    return url


def checked_config(options: RunConfig, out: Location, broker_url: str | None) -> RunConfig:
    """Return the options of a new run, with the full location of the run to refresh.

    Args:
        options: the options as they were given.
        out: the output folder.
        broker_url: the URL of the run's broker; None for a local fleet.

    Raises:
        UsageError: a local fleet can't download with these options, or the run to refresh can't be used.
        CommandError: the run.json of the run to refresh is damaged.
    """
    if broker_url is None:
        check_local_options(options)
    if options.previous_run is None:
        return options
    from producer.output.folder import open_output
    from producer.planning.previous_run import PreviousRun

    previous = PreviousRun(parse_location(options.previous_run), open_output(out), options.fetch)
    return replace(options, previous_run=previous.folder)


def check_local_options(options: RunConfig) -> None:
    """Check that a process with this environment and these packages can download with a run's options.

    A local fleet has the same environment and the same packages.

    Raises:
        UsageError: it can't.
    """
    _check_insecure(options)
    _check_extras(options)


def _check_insecure(options: RunConfig) -> None:
    from config.settings import settings

    if options.fetch.insecure and not settings().allow_insecure_tls:
        raise UsageError(
            "--insecure is not allowed here",
            "IMAGEFLEET_ALLOW_INSECURE_TLS is not set, and insecure TLS needs the permission of the workers' operator",
            "Set IMAGEFLEET_ALLOW_INSECURE_TLS=true, or omit --insecure.",
        )


def _check_extras(options: RunConfig) -> None:
    needed = {
        ("--phash", "imagehash", "phash"): options.fetch.phash,
        ("--formats heic", "pillow_heif", "heic"): ImageFormat.HEIC in options.fetch.formats,
        ("--formats jxl", "pillow_jxl", "jxl"): ImageFormat.JXL in options.fetch.formats,
    }
    for (option, module, extra), is_needed in needed.items():
        if is_needed and find_spec(module) is None:
            raise UsageError(
                f"{option} is not available here",
                f"the package {module} is not installed",
                f"Run `pip install 'imagefleet[{extra}]'`, or omit {option}.",
            )


def check_network_settings() -> None:
    """Check the workers' settings in this environment, before workers start.

    Raises:
        SettingsError: a setting would keep workers from starting.
    """
    from config.settings import settings
    from tasks.download import network_settings

    # The broker's settings must be valid too, because every process reads them.
    _ = settings().broker
    for trouble in network_settings.validate():
        raise trouble

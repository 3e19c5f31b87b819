"""The producer: the commands, the library call `download`, the dispatcher behind them, and the local fleet.

The names of the library call are imported when they are first used, because commands and workers do not need these
names.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # The form "import X as X" makes the names public for type checkers.
    from config import SettingsError as SettingsError
    from producer.api import Broker as Broker
    from producer.api import LocalFleet as LocalFleet
    from producer.api import download as download
    from producer.api import resume as resume
    from producer.api import retry as retry
    from producer.dispatch.progress import Progress as Progress
    from producer.output.run_file import RunConfig as RunConfig
    from producer.runs.incremental_mode import IncrementalMode as IncrementalMode
    from producer.runs.result import RunResult as RunResult
    from producer.sources.options import Dedupe as Dedupe
    from producer.sources.options import HashKind as HashKind
    from producer.sources.options import InputFormat as InputFormat
    from producer.sources.options import SourceOptions as SourceOptions
    from tasks.errors import CommandError as CommandError
    from tasks.errors import RunInterruptedError as RunInterruptedError
    from tasks.errors import UsageError as UsageError
    from tasks.image_options import EncodeFormat as EncodeFormat
    from tasks.image_options import FilterOptions as FilterOptions
    from tasks.image_options import ImageFormat as ImageFormat
    from tasks.image_options import Interpolation as Interpolation
    from tasks.image_options import ResizeMode as ResizeMode
    from tasks.image_options import ResizeOptions as ResizeOptions
    from tasks.model import FetchOptions as FetchOptions
    from tasks.model import HeaderOptions as HeaderOptions
    from tasks.model import Outcome as Outcome
    from tasks.model import OutputFormat as OutputFormat
    from tasks.model import OutputOptions as OutputOptions
    from tasks.model import Reason as Reason
    from tasks.model import Sidecar as Sidecar
    from tasks.model import Status as Status
    from tasks.model import Verify as Verify
    from tasks.throttle_options import HostLimit as HostLimit
    from tasks.throttle_options import HostScope as HostScope
    from tasks.throttle_options import RobotsPolicy as RobotsPolicy
    from tasks.throttle_options import ThrottleOptions as ThrottleOptions

#: The names of the library call, by the module that defines them.
_MODULES = {
    "config": ("SettingsError",),
    "producer.api": ("Broker", "LocalFleet", "download", "resume", "retry"),
    "producer.dispatch.progress": ("Progress",),
    "producer.output.run_file": ("RunConfig",),
    "producer.runs.incremental_mode": ("IncrementalMode",),
    "producer.runs.result": ("RunResult",),
    "producer.sources.options": ("Dedupe", "HashKind", "InputFormat", "SourceOptions"),
    "tasks.errors": ("CommandError", "RunInterruptedError", "UsageError"),
    "tasks.image_options": (
        "EncodeFormat",
        "FilterOptions",
        "ImageFormat",
        "Interpolation",
        "ResizeMode",
        "ResizeOptions",
    ),
    "tasks.model": (
        "FetchOptions",
        "HeaderOptions",
        "Outcome",
        "OutputFormat",
        "OutputOptions",
        "Reason",
        "Sidecar",
        "Status",
        "Verify",
    ),
    "tasks.throttle_options": ("HostLimit", "HostScope", "RobotsPolicy", "ThrottleOptions"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a name of the library call."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    """Return the module's names for completion, including the names that are not imported yet."""
    return sorted({*globals(), *_MODULE_OF})

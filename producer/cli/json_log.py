"""The log on standard error as JSON, one object a line, for programs that collect logs (``--log-format json``).

Notes, progress, errors and the messages of Python's logging all become such lines.
"""

from __future__ import annotations

import json
import logging
import time
from enum import StrEnum
from typing import Any

import click

from producer.cli.render import sanitized

#: The logger of the lines that are not messages of Python's logging.
_log = logging.getLogger("producer.cli")
#: The attribute of a log record that holds its further facts.
_FACTS = "imagefleet_facts"


class LogFormat(StrEnum):
    """The format of the log on standard error."""

    TEXT = "text"
    JSON = "json"


class _Handler(logging.Handler):
    """Prints each log record as a JSON object."""

    #: The id of the command's run; None before there is a run.
    run_id: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record. As in all handlers of Python's logging, a failure does not reach the code that logs."""
        try:
            click.echo(json.dumps(self._facts(record)), err=True)
        except Exception:  # noqa: BLE001  # a closed pipe, or a message that does not fit its arguments
            self.handleError(record)

    def _facts(self, record: logging.LogRecord) -> dict[str, Any]:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        facts = {
            "time": f"{at}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": sanitized(record.getMessage()),
            **({} if self.run_id is None else {"run_id": self.run_id}),
            **_sanitized(getattr(record, _FACTS, {})),
        }
        if record.exc_info:
            facts["exception"] = sanitized(logging.Formatter().formatException(record.exc_info))
        return facts


def _sanitized(value: Any) -> Any:
    """Return a JSON value whose texts have no secrets and no control characters."""
    if isinstance(value, str):
        return sanitized(value)
    if isinstance(value, dict):
        return {name: _sanitized(item) for name, item in value.items()}
    return [_sanitized(item) for item in value] if isinstance(value, list | tuple) else value


def turn_on() -> None:
    """Print the log as JSON from now on; idempotent."""
    if not is_on():
        logging.getLogger().addHandler(_Handler())
        logging.captureWarnings(capture=True)
        _log.setLevel(logging.INFO)


def is_on() -> bool:
    """Return whether the log is in JSON."""
    return bool(_handlers())


def set_run(run_id: str) -> None:
    """Add the id of the command's run to all further lines."""
    for handler in _handlers():
        handler.run_id = run_id


def _handlers() -> list[_Handler]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, _Handler)]


def write(level: str, message: str, **facts: Any) -> None:
    """Print a line with a level (``info``, ``warning`` or ``error``), a message and further facts.

    Call this only if the log is in JSON. Secrets and control characters in the texts are replaced.
    """
    _log.log(logging.getLevelNamesMapping()[level.upper()], "%s", message, extra={_FACTS: facts})


def enable(context: click.Context, parameter: click.Parameter, value: str) -> None:
    """Turn the log in JSON on, if ``--log-format`` asks for it. The option calls this."""
    if value == LogFormat.JSON:
        turn_on()

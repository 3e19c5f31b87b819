"""The signals of a command, and the exceptions raised by their handlers."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

#: The signals to end a command.
END_SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: The signal that tells a producer with a local fleet to cancel its run. With a broker, Redis carries the cancellation.
CANCEL_SIGNAL = signal.SIGUSR1
#: Seconds after an interruption during which further signals are ignored. So holding down Ctrl-C does not interrupt the
#: report of the interruption.
_PAUSE_SECONDS = 0.5


class CommandInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM.

    A subclass avoids a trap in Python. A plain KeyboardInterrupt may pass through code run by `exec`, for example the
    creation of a dataclass. Python then ends itself with SIGINT, whatever exit status the program sets.
    """

    #: The time of the last interruption, in seconds of the monotonic clock.
    raised_at: ClassVar[float] = -math.inf


class CommandCancelled(CommandInterrupted):
    """`producer cancel` has sent its signal to this producer, which has a local fleet."""


def set_handler(signals: Iterable[signal.Signals], handler: Callable[..., Any] | signal.Handlers) -> None:
    """Set the handler of signals. Skip signals that were ignored at the start of the process, as under `nohup`."""
    for number in signals:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


@contextmanager
def first_signal_calls(action: Callable[[], object]) -> Iterator[None]:
    """Call ``action`` at the first end signal in the block; later end signals interrupt the command.

    Signals that were ignored at the start of the process stay ignored.
    """

    def call(*_: object) -> None:
        for number in before:
            signal.signal(number, raise_interrupted)
        action()

    handlers = {number: signal.getsignal(number) for number in END_SIGNALS}
    before = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, call)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def raise_interrupted(*_: object) -> None:
    """Handle a signal: end the command with a `CommandInterrupted`."""
    _interrupt(CommandInterrupted)


def raise_cancelled(*_: object) -> None:
    """Handle a signal: end the command with a `CommandCancelled`."""
    _interrupt(CommandCancelled)


def _interrupt(error: type[CommandInterrupted]) -> None:
    """Raise an interruption, unless an interruption was raised just now."""
    if time.monotonic() - CommandInterrupted.raised_at >= _PAUSE_SECONDS:
        CommandInterrupted.raised_at = time.monotonic()
        raise error


def raise_dropped_interrupt(report: Callable[[Any], object], dropped: Any) -> None:
    """Interrupt again, because Python drops an exception raised while an object is being destroyed."""
    if dropped.exc_type in (CommandInterrupted, CommandCancelled):
        CommandInterrupted.raised_at = -math.inf
        # Python would also drop an exception that is raised here. So a timer raises the exception a moment later.
        signal.signal(signal.SIGALRM, raise_cancelled if dropped.exc_type is CommandCancelled else raise_interrupted)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
    else:
        report(dropped)

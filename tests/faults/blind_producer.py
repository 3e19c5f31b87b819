"""A producer that trusts its chords: it never looks whether something was lost, and sends nothing again.

``python -m tests.faults.blind_producer run …``; its ``resume`` takes what an earlier command has sent for under way.
"""

from __future__ import annotations

from typing import Any

from producer import cli
from producer.dispatch import Dispatcher


def _nothing(*_: Any) -> None:
    """Look away."""


if __name__ == "__main__":
    Dispatcher._look_into = _nothing  # type: ignore[assignment, method-assign]
    Dispatcher._adopt = _nothing  # type: ignore[assignment, method-assign]
    cli.main()

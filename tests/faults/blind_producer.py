"""A producer that does not repair its run: it never inspects shards for lost messages, and resends nothing.

Start it with ``python -m tests.faults.blind_producer run …``. The ``resume`` of this producer assumes that the tasks of
an earlier command are still in flight.
"""

from __future__ import annotations

from typing import Any

from producer.cli import main
from producer.dispatch.dispatcher import Dispatcher
from producer.dispatch.recovery import ShardRecovery
from tasks.model import Outcome


def _resend_nothing(*_: Any) -> None:
    """Replace the check of shards in flight."""


def _adopt_nothing(*_: Any) -> list[Outcome]:
    """Replace the check of a shard of a resumed run: no task is sent, and no finished image is known."""
    return []


if __name__ == "__main__":
    Dispatcher._resend_lost = _resend_nothing  # type: ignore[assignment, method-assign]
    ShardRecovery.adopt = _adopt_nothing  # type: ignore[assignment, method-assign]
    main.main()

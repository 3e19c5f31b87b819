"""Python's search for cycles among a process's objects, held back: most of what it goes through here is never garbage.

It costs a worker a tenth of its time, the import of Celery and Arrow a seventh, and each process an eighth of a second
at its end, where nothing that it finds is worth having.
"""

from __future__ import annotations

import atexit
import gc

#: New objects after which Python looks for cycles among them; usually 700.
_OFTEN = 20_000


def look_rarely() -> None:
    """Look for cycles less often from now on, and not at all among what is there when the process ends."""
    gc.set_threshold(_OFTEN)
    atexit.register(gc.freeze)

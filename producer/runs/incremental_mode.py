"""The choices for a new run in a folder that holds a run already."""

from __future__ import annotations

from enum import StrEnum


class IncrementalMode(StrEnum):
    """What to do if the output folder of a new run holds a run already."""

    #: Continue that run, which must have the same list and the same options.
    SKIP = "skip"
    #: Remove that run, and begin a new one.
    OVERWRITE = "overwrite"
    #: Add the rows of the list to that run, as new shards.
    EXTEND = "extend"

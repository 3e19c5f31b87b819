"""Check the names of image files before anything is written, because a name may come from a URL list or a message.

A valid name stays in the output folder on every system, and is not the name of one of the run's own files. No I/O.
"""

from __future__ import annotations

import re

#: The maximum size of a part of a name in bytes. This is the limit of most file systems, minus the longest extension
#: with its dot, and minus what `LocalStore` adds for a claim.
MAX_PART_BYTES = 255 - len(".jpeg2000") - len("..claim")
#: The maximum size of a name in bytes. The output folder and the name together must fit into the 4,096 bytes of a path.
MAX_NAME_BYTES = 1024
#: Names that Windows reserves for devices, with any extension.
_DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(?:\..*)?", re.IGNORECASE)
#: The first part of a name must not look like a file of the run: ``run.json``, a manifest, a shard's folder.
_RUN_FILES = re.compile(r"run\.json|[0-9]{5,}(?:\.parquet|\.tar|_stats\.json|_images\.parquet)?", re.IGNORECASE)
#: Names of the run's own files, without their extension. A sidecar adds ``.json``, and would then have the same name as
#: a file of the run.
_RUN_STEMS = re.compile(r"run|[0-9]{5,}_stats", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\\ud800-\udfff]')


def check_name(name: str) -> str:
    """Check and return a file's name, which is relative to the output folder and has no extension.

    Raises:
        ValueError: the name could leave the folder, can't be written on every system, or belongs to the run itself.
    """
    if found := _FORBIDDEN.search(name):
        raise ValueError(f"it contains the character {found[0]!r}")
    parts = name.split("/")
    for part in parts:
        if not part.strip("."):
            raise ValueError("it begins or ends with a slash, or a part of it is empty, . or ..")
        if part[-1] in ". " or part[0] == " ":
            raise ValueError(f"its part {part!r} begins with a space, or ends with a space or a dot")
        if _DEVICES.fullmatch(part):
            raise ValueError(f"Windows reserves {part!r} for a device")
        if len(part.encode()) > MAX_PART_BYTES:
            raise ValueError(f"a part of it is longer than {MAX_PART_BYTES} bytes")
    # A name of only digits is allowed, because the file's extension makes it differ from the name of a shard's folder.
    if parts[0].startswith(".") or (_RUN_FILES.fullmatch(parts[0]) and not name.isdecimal()):
        raise ValueError(f"{parts[0]!r} is the name of a hidden file, or of a file or folder of the run")
    if len(parts) == 1 and _RUN_STEMS.fullmatch(name):
        raise ValueError(f"the metadata file of {name!r} could have the same name as a file of the run")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"it is longer than {MAX_NAME_BYTES:,} bytes")
    return name

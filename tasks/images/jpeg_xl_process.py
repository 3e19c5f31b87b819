"""Decode one JPEG XL codestream in a process with limited memory and CPU time.

A frame may be much larger than the image, and only the decoder can find that out. The decoder has no limit of its own.

The program reads the codestream from stdin. It writes a line of JSON with the size and Pillow's mode, then the colour
profile, then the pixels. `tasks.images.jpeg_xl` runs it as a script, so it imports nothing of the project.
"""

from __future__ import annotations

import json
import resource
import sys
from contextlib import suppress


def main() -> None:
    """Decode the codestream on stdin. The arguments are the limits, in bytes and in seconds."""
    for kind, limit in zip((resource.RLIMIT_AS, resource.RLIMIT_CPU), map(int, sys.argv[1:]), strict=True):
        # A system may lack a limit, or have a lower one.
        with suppress(OSError, ValueError):
            resource.setrlimit(kind, (limit, limit))
    from pillow_jxl import Decoder

    # One thread: the other cores are for the other images.
    decoder = Decoder(num_threads=0)
    try:
        _, info, pixels, profile, *_ = decoder(sys.stdin.buffer.read())
    except BaseException as error:  # noqa: BLE001  # a panic is no `Exception`
        sys.exit(f"{type(error).__name__}: {error}")
    facts = {"mode": info.mode, "width": info.width, "height": info.height, "profile": len(profile)}
    for part in (json.dumps(facts).encode() + b"\n", profile, pixels):
        sys.stdout.buffer.write(part)


if __name__ == "__main__":
    main()

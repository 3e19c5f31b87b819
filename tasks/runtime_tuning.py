"""Settings of a whole process: Python's garbage collector, the C library's heap, and Pillow.

Workers, isolated fetches and commands call these functions when they start. No module calls them at import, so a
program that imports imagefleet keeps its own settings.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import logging
import warnings

#: The number of new objects after which Python searches for reference cycles; Python's default is 700.
_GC_THRESHOLD = 20_000
#: The numbers of two parameters of glibc's ``mallopt``.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: A block of at least this size, in bytes, comes directly from the system. Smaller blocks come from a heap, because
#: the system clears the pages of each new block. For an image of 1024 x 768 pixels, which takes 3 MiB, this would take
#: as long as decoding it.
_LARGE_BLOCK_BYTES = 4 * 1024 * 1024
#: The end of a heap is returned to the system when at least this many bytes of it are free.
_SPARE_BYTES = 8 * 1024 * 1024
#: Maximum inflated size of a PNG's text, and of its colour profile, in bytes. Larger profiles are not used anyway
#: (`tasks.images.metadata.limits`). Pillow refuses a larger text or profile, and the image is read again without it.
_MAX_PNG_TEXT_BYTES = 4 * 1024 * 1024


def reduce_garbage_collection() -> None:
    """Make Python search for reference cycles less often, and skip the search when the process ends.

    Most of the searched objects are never garbage. With Python's default, the search takes a tenth of a worker's time.
    During the import of Celery and Arrow, it takes a seventh of the time. When a process ends, the search takes an
    eighth of a second and is useless.
    """
    gc.set_threshold(_GC_THRESHOLD)
    atexit.register(gc.freeze)


def return_large_blocks() -> None:
    """When a large block (such as one for a very large image) is freed, return its memory to the system.

    The C library glibc keeps a heap for each thread. After a large block is freed, glibc takes later blocks of that
    size from the heap and keeps the memory. In a test, 16 threads ran one after the other, and each decoded an image of
    49 million pixels. Afterwards, the process kept 2.9 GB without this setting, and 0.1 GB with it. Memory for images
    of the usual size still comes from the heaps, without a page fault.

    This function does nothing if the C library is not glibc, because other C libraries return large blocks to the
    system by default.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)
        mallopt(_TRIM_THRESHOLD, _SPARE_BYTES)


def configure_pillow() -> None:
    """Silence Pillow's log and warnings, and replace its limits. Pillow would report huge images as undecodable."""
    # Imported here, because the import takes time and most commands need no Pillow.
    from PIL import Image, PngImagePlugin

    # Pillow logs a line for each tag of an image, and Python remembers each different text. A hostile image could fill
    # the worker's log and memory. Pillow raises exceptions for the errors that matter.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    # A run's `max_pixels` is the limit instead (`tasks.images.identify.check_pixels`).
    Image.MAX_IMAGE_PIXELS = None
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = _MAX_PNG_TEXT_BYTES

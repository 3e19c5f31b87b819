"""Judge an image by the size in its header, before it is decoded. No I/O."""

from __future__ import annotations

from tasks.errors import FilteredError
from tasks.image_options import NO_FILTER, FilterOptions


def check_filters(width: int | None, height: int | None, filters: FilterOptions) -> None:
    """Check an image's width and height against the filters of a run. The orientation makes no difference.

    Raises:
        FilteredError: a filter excludes the image. The message names the filter and both values. If there is a filter,
            an image without a size is excluded.
    """
    if filters == NO_FILTER:
        return
    why = _why_excluded(width, height, filters)
    if why is not None:
        raise FilteredError(why, (width, height))


def _why_excluded(width: int | None, height: int | None, filters: FilterOptions) -> str | None:
    """Return why the filters exclude an image of this size; None if they keep it."""
    if width is None or height is None:
        return (
            "the image gives no size in pixels, so the filters (--min-size, --max-area, --max-aspect-ratio) exclude it"
        )
    least, largest = min(width, height), max(width, height)
    if filters.min_size is not None and least < filters.min_size:
        return f"the smaller side has {least:,} pixels, fewer than {filters.min_size:,} (--min-size)"
    if filters.max_area is not None and least * largest > filters.max_area:
        area = f"{width:,}x{height:,} = {least * largest:,}"
        return f"the area has {area} pixels, more than {filters.max_area:,} (--max-area)"
    if filters.max_aspect_ratio is not None and largest / least > filters.max_aspect_ratio:
        ratio = f"{largest / least:.2f} ({width:,}x{height:,})"
        return f"the aspect ratio is {ratio}, more than {filters.max_aspect_ratio:g} (--max-aspect-ratio)"
    return None

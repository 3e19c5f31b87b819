"""Render the gallery's pages. Every text is redacted and escaped, because URLs and messages may hold markup. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from producer.formatting import format_size, pluralized
from producer.gallery.gallery import PAGE_SIZE, Gallery, ImageRow, Page, Progress
from producer.gallery.image_filter import CHOICES, ImageFilter
from tasks.model import shard_name
from tasks.redaction import redacted

#: The maximum number of characters of a value on the page of an image.
_MAX_VALUE = 20_000
#: The maximum number of damaged manifests that a page names.
_MAX_DAMAGED = 3


@dataclass(frozen=True, slots=True)
class FilterForm:
    """The filter of a page, the texts of its form, and the numbers of images with each value."""

    chosen: ImageFilter
    #: The texts that the user entered, by the names of the fields.
    texts: Mapping[str, str]
    #: The numbers of images by property and value; None while they are unknown.
    counts: Mapping[str, Mapping[str, int]] | None
    #: What is wrong with a text; None if nothing is.
    error: str | None = None

    def options(self) -> dict[str, list[tuple[str, str]]]:
        """Return the values and the labels of the filters with a choice.

        As soon as the counts are known, only values that the run has are offered.
        """
        return {name: list(self._labels(name)) for name in CHOICES}

    def hosts(self) -> list[str]:
        """Return the hosts to suggest, the most frequent first."""
        return list((self.counts or {}).get("host", ()))

    def _labels(self, name: str) -> Sequence[tuple[str, str]]:
        if self.counts is None:
            return [(value, value) for value in map(str, CHOICES[name])]
        counts = self.counts[name]
        selected = self.texts[name]
        missing = [(selected, f"{selected} (0)")] if selected and selected not in counts else []
        return [(value, f"{value} ({count:,})") for value, count in counts.items()] + missing


def render_page(gallery: Gallery, page: Page, form: FilterForm) -> str:
    """Return the page of a run's images."""
    is_open = not (page.progress.is_complete and form.counts is not None)
    return _template("page.html").render(
        run=_run_facts(gallery),
        page=page,
        form=form.texts,
        options=form.options(),
        hosts=form.hosts(),
        filtered=not form.chosen.is_empty or form.error is not None,
        error=form.error,
        damage=_describe_damage(gallery.damage),
        range=_range(page),
        progress=progress_text(page.progress),
        follow=f"progress?{form.chosen.query(page=page.number)}" if is_open else None,
        query=form.chosen.query,
        shown=redacted,
        facts=_facts,
    )


def render_image(gallery: Gallery, image: ImageRow, chosen: ImageFilter) -> str:
    """Return the page of one image with its manifest row."""
    tile = image.tile
    values = tile.values
    reason = redacted(values["reason"] or values["status"])
    known = max(image.progress.found, image.progress.total or 0)
    return _template("image.html").render(
        run=_run_facts(gallery),
        tile=tile,
        key=redacted(str(values["key"])),
        facts=[
            redacted(values["format"] or "unknown format") if tile.is_saved else reason,
            *_facts(values),
            f"row {tile.row:,} of shard {shard_name(tile.shard)}",
        ],
        problem=None if image.problem is None else redacted(image.problem),
        is_readable=image.is_readable,
        reason=reason,
        message=redacted(values["error_message"] or ""),
        columns=[(redacted(name), _shown(value)) for name, value in values.items()],
        page=tile.position // PAGE_SIZE + 1,
        before=tile.position - 1 if tile.position else None,
        after=tile.position + 1 if tile.position + 1 < known else None,
        query=chosen.query,
    )


def render_refusal(title: str, text: str, inside: bool) -> str:
    """Return a page that explains why there is no other page.

    Args:
        title: what happened.
        text: why, and what to do.
        inside: whether the page may link to the images. It may not if the request had no token.
    """
    return _template("refused.html").render(title=title, text=redacted(text), inside=inside)


def progress_text(progress: Progress) -> str:
    """Return how many images were found, and how far the search is."""
    if progress.total is not None:
        return f"{progress.total:,}" if progress.total else "0 images"
    return f"{progress.found:,} found so far, in {progress.searched:,} of {pluralized(progress.shards, 'shard')}"


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _template(name: str) -> jinja2.Template:
    return _environment().get_template(name)


def _range(page: Page) -> str:
    """Return the positions of the images on a page."""
    start = (page.number - 1) * PAGE_SIZE
    return f"Images {start + 1:,} to {start + len(page.tiles):,} of" if page.tiles else ""


def _run_facts(gallery: Gallery) -> dict[str, Any]:
    record = gallery.record
    totals = record.totals or {}
    facts = ["standard input" if record.source == "-" else redacted(record.source), str(record.state)]
    if "success" in totals:
        facts += [f"{totals['success']:,} saved", f"{totals['failed']:,} failed"]
    return {"name": redacted(gallery.location.rpartition("/")[2] or gallery.location), "facts": facts}


def _facts(values: Mapping[str, Any]) -> list[str]:
    """Return the size in pixels and the size in bytes of a saved image."""
    if values["bytes"] is None:
        return []
    pixels = [f"{values['width']} × {values['height']}"] if values["width"] and values["height"] else []  # noqa: RUF001
    return [*pixels, format_size(values["bytes"])]


def _describe_damage(damage: Mapping[int, str]) -> list[str]:
    shown = [redacted(text) for _, text in sorted(damage.items())[:_MAX_DAMAGED]]
    more = len(damage) - len(shown)
    return shown + ([f"{pluralized(more, 'further manifest')} can't be read."] if more else [])


def _shown(value: Any) -> str | None:
    """Return a value of a manifest as text."""
    if value is None:
        return None
    if isinstance(value, datetime):
        return value.isoformat(" ", "milliseconds")
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    text = redacted(str(value))
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}… ({len(text):,} characters)"

"""Give each request the name of its image's file, if the run does not use the default names.

A name comes from the run's template, or from the list itself. A row with an invalid name is refused as ``invalid_row``.
A row is refused as ``duplicate`` if an earlier row has the same name. So no image overwrites another one. Names count
as equal if some file system treats them as equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace

from producer.output.run_file import RunConfig
from producer.planning.path_template import PathTemplate, checked_path, collision_key, output_conflict
from producer.planning.seen_urls import SeenUrls
from producer.sources.request_stream import RequestStream, closing_source, schema_of
from tasks.errors import UsageError
from tasks.images import identify
from tasks.model import SHA256_FIELD, ImageRequest, OutputFormat, Reason, Refusal, image_key
from tasks.storage.store import Store

#: The extension of an image's format at the end of a name.
_EXTENSION = re.compile(rf"\.(?:jpeg|tif|{'|'.join(identify.FILE_EXTENSIONS)})\Z", re.IGNORECASE)
#: The scratch folder for the names while the list is planned.
_SEEN = "file_paths"


def name_files(requests: Iterable[ImageRequest], options: RunConfig, out: Store) -> RequestStream:
    """Return all requests of a list, each with the name of its file.

    The first request raises a `UsageError` if the template names a column that the list does not pass on.
    """
    if not options.has_own_names:
        # Default names add no work when a long list is planned.
        return RequestStream(lambda: (schema_of(requests), iter(requests)))
    return RequestStream(lambda: (schema_of(requests), _name(requests, options, out)))


def _name(requests: Iterable[ImageRequest], options: RunConfig, out: Store) -> Iterator[ImageRequest]:
    template = _parse(options.output.path_template)
    schema = schema_of(requests)
    if template is not None and schema is not None and (missing := template.columns - set(schema.names)):
        names = ", ".join(sorted(missing))
        raise UsageError(
            f"The path template has unknown fields: {names}",
            "they are neither fields of imagefleet nor columns of the manifests",
            "Correct the template, or add the columns of the list to the manifests with --columns.",
        )
    with ExitStack() as stack:
        source = stack.enter_context(closing_source(requests))
        folder = stack.enter_context(out.scratch_folder(_SEEN))
        namer = _Namer(template, options.shard_size, lambda: stack.enter_context(SeenUrls(folder)))
        for request in source:
            yield namer.name(request)


def _parse(text: str | None) -> PathTemplate | None:
    try:
        return None if text is None else PathTemplate(text)
    except ValueError as error:
        raise UsageError(
            f"The path template {text} is not valid", str(error), "Correct it, or omit --path-template."
        ) from error


class _Namer:
    """Names the files of a list, in the order of the list's rows."""

    def __init__(self, template: PathTemplate | None, shard_size: int, open_seen: Callable[[], SeenUrls]) -> None:
        self._template, self._shard_size, self._open_seen = template, shard_size, open_seen
        #: The names of earlier requests; None until the first name that another request could have too.
        self._seen: SeenUrls | None = None

    def name(self, request: ImageRequest) -> ImageRequest:
        """Return the request with the name of its file, or with the reason why it is refused.

        Raises:
            StorageError: the names of earlier requests can't be stored.
        """
        if request.refused is not None:
            # The name from the list is unchecked, and may belong to another row.
            return request if request.path is None else replace(request, path=None)
        if self._template is None and request.path is None:
            return request
        try:
            path = self._path(request)
        except ValueError as error:
            refusal = Refusal(Reason.INVALID_ROW, f"its file name is not valid: {error}")
            return replace(request, path=None, refused=refusal)
        first = request.index if path is None or self._is_unique(request) else self._first_row(path, request.index)
        if first == request.index:
            return replace(request, path=path)
        refusal = Refusal(Reason.DUPLICATE, f"the same file name as {image_key(first, self._shard_size)}")
        return replace(request, path=None, refused=refusal)

    def _path(self, request: ImageRequest) -> str | None:
        """Return the name of a request's file; None if the URL is invalid, so that the worker reports it.

        Raises:
            ValueError: the name is not valid.
        """
        if request.path is None:
            assert self._template is not None
            return self._template.render(request, self._shard_size)
        if SHA256_FIELD in request.path:
            raise ValueError(f"it contains {SHA256_FIELD}")
        # The file gets the extension of its real format.
        return checked_path(_EXTENSION.sub("", request.path))

    def _is_unique(self, request: ImageRequest) -> bool:
        return request.path is None and self._template is not None and self._template.is_unique

    def _first_row(self, path: str, row: int) -> int:
        if self._seen is None:
            self._seen = self._open_seen()
        return self._seen.first_row(collision_key(path), row)


def check_names(out: Store, options: RunConfig) -> None:
    """If a new run gives its images custom names, check that this is possible.

    Raises:
        UsageError: another option excludes custom names, or the output folder holds other files.
        StorageError: the output folder can't be listed.
    """
    if conflict := output_conflict(options.output):
        option, why = conflict
        raise UsageError(f"{option} can't be used", why, "Omit one of the two options.")
    if not options.has_own_names:
        return
    template, column = options.output.path_template, options.source.path_col
    option = "--path-template" if column is None else "--path-col"
    if column is not None and (template is not None or options.output.format is not OutputFormat.FILES):
        other_option = "--path-template" if template is not None else f"--output-format {options.output.format}"
        raise UsageError(
            f"{option} and {other_option} can't be used together",
            "both decide how the images are named",
            "Omit one of them.",
        )
    other = next((name for name in out.list_entries() if not name.startswith(".")), None)
    if other is not None:
        raise UsageError(
            f"{out.location} is not empty",
            f"it contains {other}; with {option}, an image could get the same name as a file in the folder",
            "Choose an empty or new folder.",
        )

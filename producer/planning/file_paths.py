"""Give each request the name of its image's file, if the run does not use the default names.

A name comes from the run's template, or from the list itself. A row with an invalid name is refused as ``invalid_row``.
A row is refused as ``duplicate`` if an earlier row has the same name. So no image overwrites another one. Names count
as equal if some file system treats them as equal.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa

from producer.output.run_file import RunConfig
from producer.planning.path_template import PathTemplate, checked_path, collision_key, output_conflict
from producer.planning.seen_urls import SeenUrls
from tasks.download import urls
from tasks.errors import InvalidUrlError, UsageError
from tasks.images import identify
from tasks.model import SHA256_FIELD, ImageRequest, OutputFormat, Reason, Refusal, image_key
from tasks.storage.store import Store

#: The extension of an image's format at the end of a name.
_EXTENSION = re.compile(rf"\.(?:jpeg|tif|{'|'.join(identify.FILE_EXTENSIONS)})\Z", re.IGNORECASE)


class FileNamer:
    """Names the files of a list, in the order of the list's rows. A context manager that removes its files."""

    def __init__(self, options: RunConfig, schema: pa.Schema | None, folder: Path) -> None:
        """Check the template of a run with custom names.

        Args:
            options: the run's options.
            schema: the columns that the list passes on; None if they are unknown.
            folder: a folder for temporary files, which may not exist yet.

        Raises:
            UsageError: the template is invalid, or names a column that the list does not pass on.
        """
        self._template = _parse(options.output.path_template)
        if self._template is not None and schema is not None:
            _check_columns(self._template, schema)
        self._shard_size, self._folder, self._stack = options.shard_size, folder, ExitStack()
        #: The names of earlier requests; None until the first name that another request could have too.
        self._seen: SeenUrls | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def name(self, request: ImageRequest) -> ImageRequest:
        """Return the request with the name of its file, or with the reason why it is refused.

        Raises:
            StorageError: the names of earlier requests can't be stored.
        """
        if request.refused is not None:
            # The name from the list is unchecked, and may belong to another row.
            return request if request.path is None else request._replace(path=None)
        if self._template is None and request.path is None:
            return request
        try:
            path = self._path(request)
        except ValueError as error:
            refusal = Refusal(Reason.INVALID_ROW, f"its file name is not valid: {error}")
            return request._replace(path=None, refused=refusal)
        if path is None or self._is_unique(request):
            return request._replace(path=path)
        if not _is_valid_url(request.url):
            # The worker reports the invalid URL. No file is saved, so another row can get the name.
            return request._replace(path=None)
        first = self._first_row(path, request.index)
        if first == request.index:
            return request._replace(path=path)
        refusal = Refusal(Reason.DUPLICATE, f"the same file name as {image_key(first, self._shard_size)}")
        return request._replace(path=None, refused=refusal)

    def _path(self, request: ImageRequest) -> str | None:
        """Return the name of a request's file; None if the template needs the URL, and the URL is invalid.

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
            self._seen = self._stack.enter_context(SeenUrls(self._folder))
        return self._seen.first_row(collision_key(path), row)


def _is_valid_url(url: str) -> bool:
    try:
        urls.parse(url)
    except InvalidUrlError:
        return False
    return True


def _parse(text: str | None) -> PathTemplate | None:
    try:
        return None if text is None else PathTemplate(text)
    except ValueError as error:
        raise UsageError(
            f"The path template {text} is not valid", str(error), "Correct it, or omit --path-template."
        ) from error


def _check_columns(template: PathTemplate, schema: pa.Schema) -> None:
    if missing := template.columns - set(schema.names):
        raise UsageError(
            f"The path template has unknown fields: {', '.join(sorted(missing))}",
            "they are neither fields of imagefleet nor columns of the manifests",
            "Correct the template, or add the columns of the list to the manifests with --columns.",
        )


def check_name_options(options: RunConfig) -> None:
    """Check that the options for the names of files can be used together.

    Raises:
        UsageError: an option excludes another option.
    """
    if conflict := output_conflict(options.output):
        option, why = conflict
        raise UsageError(f"{option} can't be used", why, "Omit one of the two options.")
    template, column = options.output.path_template, options.source.path_col
    if column is not None and (template is not None or options.output.format is not OutputFormat.FILES):
        other_option = "--path-template" if template is not None else f"--output-format {options.output.format}"
        raise UsageError(
            f"--path-col and {other_option} can't be used together",
            "both decide how the images are named",
            "Omit one of them.",
        )


def check_names(out: Store, options: RunConfig) -> None:
    """If a new run gives its images custom names, check that this is possible.

    Raises:
        UsageError: another option excludes custom names, or the output folder holds other files.
        StorageError: the output folder can't be listed.
    """
    check_name_options(options)
    if not options.has_own_names:
        return
    option = "--path-template" if options.source.path_col is None else "--path-col"
    other = next((name for name in out.list_entries() if not name.startswith(".")), None)
    if other is not None:
        raise UsageError(
            f"{out.location} is not empty",
            f"it contains {other}; with {option}, an image could get the same name as a file in the folder",
            "Choose an empty or new folder.",
        )

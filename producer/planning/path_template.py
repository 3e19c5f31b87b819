"""Render the names of image files from a template, such as ``full/{url_sha1}``. No I/O.

The rules of `tasks.storage.file_names` apply to a rendered name, so it stays in the output folder on every system.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Sequence
from itertools import zip_longest

from tasks.download import urls
from tasks.errors import InvalidUrlError
from tasks.images import identify
from tasks.model import SHA256_FIELD, ImageRequest, OutputFormat, OutputOptions, Sidecar, image_key, shard_name
from tasks.storage.file_names import check_name

#: Names for usual templates. The value None stands for img2dataset's names, ``{shard}/{key}``.
PRESETS: dict[str, str | None] = {"img2dataset": None, "scrapy": "full/{url_sha1}", "flat": "image-{index}"}
#: Templates of img2dataset's names. Without a template, messages need neither an index nor a name for these names.
DEFAULT_TEMPLATES = frozenset({"{shard}/{key}", "{shard}/{key}.{ext}"})
#: The fields that don't come from a column, except the hash and the extension.
_FIELDS: dict[str, Callable[[ImageRequest, int], str]] = {
    "shard": lambda request, shard_size: shard_name(request.index // shard_size),
    "key": lambda request, shard_size: image_key(request.index, shard_size),
    "index": lambda request, shard_size: str(request.index),
    "url_sha1": lambda request, shard_size: hashlib.sha1(
        request.url.encode("utf-8", "surrogatepass"), usedforsecurity=False
    ).hexdigest(),
    "host": lambda request, shard_size: urls.parse(request.url).host,
}
#: Example values of the fields whose value could equal the name of a shard's folder.
_SAMPLES = {"shard": "00000", "key": "00000000", "index": "10000000"}
_HASH_FIELD = SHA256_FIELD.strip("{}")
#: Fields whose value differs for each image.
_UNIQUE_FIELDS = frozenset({"key", "index"})
_EXTENSION_FIELD, _EXTENSION_END = "ext", ".{ext}"
_FIELD = re.compile(r"\{([^{}]*)\}")
#: A hash of the length that the worker fills in.
_SAMPLE_HASH = "f" * 64
#: Endings of the names of files that a run writes. A folder with such an ending could have the name of such a file.
_FILE_ENDS = tuple(f".{extension}" for extension in {*identify.EXTENSIONS.values(), *Sidecar})


class PathTemplate:
    """A template of names. A rendered name has no extension, because the extension depends on the image's format."""

    def __init__(self, text: str) -> None:
        """Parse a template.

        Raises:
            ValueError: the text is not a template, or all its names would be equal or invalid.
        """
        self._body = text.removesuffix(_EXTENSION_END)
        self._fields: list[str] = _FIELD.findall(self._body)
        #: The texts before, between and after the fields.
        self._texts = _FIELD.split(self._body)[::2]
        if any(brace in piece for piece in self._texts for brace in "{}"):
            raise ValueError("it has an opening brace without a closing brace, or the reverse")
        if _EXTENSION_FIELD in self._fields:
            raise ValueError("{ext} can only be at the end, after a dot")
        if not self._fields:
            raise ValueError(
                "it has no field, such as {key}, so all images would have the same name; "
                f"use a field, or one of the named templates {', '.join(PRESETS)}"
            )
        self._join([_SAMPLES.get(field, "x") for field in self._fields])

    @property
    def columns(self) -> set[str]:
        """The fields of the template that are columns of the URL list."""
        return set(self._fields) - _FIELDS.keys() - {_HASH_FIELD}

    @property
    def is_unique(self) -> bool:
        """Whether two images with different content always have different names.

        Names always differ if the last part of the name has a single field whose value differs for each image.
        Fields of earlier parts don't matter. Two fields in one part could give equal names: the values 1 and 11 give
        ``111``, and the values 11 and 1 give ``111`` too.
        """
        if _HASH_FIELD in self._fields:
            return True
        fields = _FIELD.findall(self._body.rpartition("/")[2])
        return len(fields) == 1 and fields[0] in _UNIQUE_FIELDS

    def render(self, request: ImageRequest, shard_size: int) -> str | None:
        """Return the name of an image's file; None if the image's URL is invalid.

        The name still contains the field for the SHA-256 of the image.

        Raises:
            ValueError: a column has no usable value, or the name is not valid.
        """
        try:
            values = [self._value(field, request, shard_size) for field in self._fields]
        except InvalidUrlError:
            # The worker reports it.
            return None
        return self._join(values)

    def _join(self, values: Sequence[str]) -> str:
        """Return the name with these values of the fields, if it is valid."""
        pairs = zip_longest(self._texts, values, fillvalue="")
        return checked_path("".join(text + value for text, value in pairs))

    def _value(self, field: str, request: ImageRequest, shard_size: int) -> str:
        if field == _HASH_FIELD:
            return SHA256_FIELD
        if field in _FIELDS:
            return _FIELDS[field](request, shard_size)
        value = request.columns.get(field)
        if value is None or isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(f"the column {field!r} holds neither text nor a number in this row")
        if SHA256_FIELD in str(value):
            raise ValueError(f"the column {field!r} contains {SHA256_FIELD}")
        return str(value)


def parse_template(text: str) -> str | None:
    """Return the template for a preset's name or a template that a user gave; None for the default names.

    Raises:
        ValueError: the text is neither a preset nor a template.
    """
    template = PRESETS.get(text, text)
    if template is None or template in DEFAULT_TEMPLATES:
        return None
    PathTemplate(template)
    return template


def checked_path(name: str) -> str:
    """Return a name in Unicode's composed form (NFC), if it is valid for an image's file.

    Raises:
        ValueError: the name is not valid.
    """
    name = unicodedata.normalize("NFC", name)
    check_name(name.replace(SHA256_FIELD, _SAMPLE_HASH))
    for folder in name.lower().split("/")[:-1]:
        if folder.endswith(_FILE_ENDS):
            raise ValueError(f"its folder {folder!r} could have the name of a file")
    return name


def collision_key(name: str) -> str:
    """Return a text for comparing names.

    The text is the same for two names that some file system treats as equal.

    Some file systems ignore case, the form of composed characters, or invisible characters.
    """
    folded = unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
    return "".join(character for character in folded if unicodedata.category(character) != "Cf")


def output_conflict(output: OutputOptions) -> tuple[str, str] | None:
    """Return the option that conflicts with another option, and the reason; None if there is no conflict."""
    if output.format is not OutputFormat.FILES and output.sidecars:
        return (
            "--sidecar",
            f"--output-format {output.format} saves no files beside which they could be; a packed shard contains "
            "metadata and captions",
        )
    if output.format is not OutputFormat.FILES and output.path_template is not None:
        return "--path-template", f"--output-format {output.format} saves no files to name"
    if output.sidecars and output.path_template is not None and SHA256_FIELD in output.path_template:
        return "--sidecar", f"with {SHA256_FIELD} in --path-template, equal images share a file, but not their metadata"
    return None

"""The options that say how to read a URL list, and their conversion to the options of a run."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

import click

from producer.cli.parameters import grouped
from producer.sources.options import Dedupe, InputFormat, SourceOptions


@dataclass(frozen=True, slots=True)
class SourceParameters:
    """The values of the options for reading a list."""

    input_format: str | None
    url_col: str | None
    caption_col: str | None
    columns: tuple[str, ...]
    no_header: bool
    encoding: str | None
    dedupe: str | None

    def options(self) -> SourceOptions:
        """Return the options of a list.

        Raises:
            click.BadParameter: a value is invalid.
        """
        if self.encoding is not None:
            try:
                # The text is read by Python's own decoders, which need an encoding from bytes to text.
                is_text = codecs.lookup(self.encoding)._is_text_encoding
            except LookupError:
                is_text = False
            if not is_text:
                raise click.BadParameter(
                    f"{self.encoding!r} is not an encoding that Python knows, such as utf-8, latin-1 or cp1252",
                    param_hint="--encoding",
                )
        columns = [name.strip() for group in self.columns for name in group.split(",")]
        return SourceOptions(
            input_format=None if self.input_format is None else InputFormat(self.input_format),
            url_col=self.url_col,
            caption_col=self.caption_col,
            columns=tuple(dict.fromkeys(name for name in columns if name)),
            encoding=self.encoding,
            header=not self.no_header,
            dedupe=None if self.dedupe is None else Dedupe(self.dedupe),
        )


#: Adds the argument ``reading``.
source_options = grouped(
    "reading",
    SourceParameters,
    click.option(
        "--input-format",
        type=click.Choice([known.value for known in InputFormat]),
        help="Format of SOURCE, which may be compressed (gzip, bzip2, xz, Zstandard).  [default: by name and content]",
    ),
    click.option(
        "--url-col",
        metavar="COLUMN",
        help="Column with the URLs.  [default: the only column with a usual name, such as url or image_url]",
    ),
    click.option("--caption-col", metavar="COLUMN", help="Column with the captions, which the manifests name caption."),
    click.option(
        "--columns",
        metavar="COLUMNS",
        multiple=True,
        help="Further columns to copy into the manifests, separated by commas. Repeatable.",
    ),
    click.option(
        "--no-header", is_flag=True, help="The first row of a table is data. Columns are given by number, from 1."
    ),
    click.option(
        "--encoding",
        metavar="NAME",
        help="Encoding of SOURCE, such as latin-1.  [default: by byte order mark, or UTF-8]",
    ),
    click.option(
        "--dedupe",
        type=click.Choice([known.value for known in Dedupe]),
        help="url: download each URL once. Later rows with the same URL fail as duplicate, without a request.",
    ),
)
#: The meaning of a column's name, for the end of help texts.
COLUMN_HELP = "A COLUMN is a name, or a number from 1 with --no-header."

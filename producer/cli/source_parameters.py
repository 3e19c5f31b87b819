"""The options that say how to read a URL list, and their conversion to the options of a run."""

from __future__ import annotations

from dataclasses import dataclass

import click
import cloup

from config.limits import bounds_of
from producer.cli.parameter_types import int_range
from producer.cli.parameters import grouped
from producer.sources.encoding import check_encoding
from producer.sources.options import Dedupe, HashKind, InputFormat, SourceOptions
from tasks.errors import InvalidUrlError


@dataclass(frozen=True, slots=True)
class SourceParameters:
    """The values of the options for reading a list."""

    input_format: str | None
    url_col: str | None
    caption_col: str | None
    columns: tuple[str, ...]
    no_header: bool
    encoding: str | None
    base_url: str | None
    offset: int
    limit: int | None
    sample: int | None
    seed: int | None
    hash_col: str | None
    path_col: str | None
    verify_hash: str | None
    dedupe: str | None

    def options(self) -> SourceOptions:
        """Return the options of a list.

        Raises:
            click.BadParameter: a value is invalid.
        """
        self._check_encoding()
        self._check_base_url()
        if (self.hash_col is None) != (self.verify_hash is None):
            raise click.UsageError("--hash-col and --verify-hash need each other")
        if self.seed is not None and self.sample is None:
            raise click.UsageError("--seed has an effect only with --sample")
        columns = [name.strip() for group in self.columns for name in group.split(",")]
        return SourceOptions(
            input_format=None if self.input_format is None else InputFormat(self.input_format),
            url_col=self.url_col,
            caption_col=self.caption_col,
            columns=tuple(dict.fromkeys(name for name in columns if name)),
            encoding=self.encoding,
            header=not self.no_header,
            base_url=self.base_url,
            offset=self.offset,
            limit=self.limit,
            sample=self.sample,
            seed=self.seed or 0,
            hash_col=self.hash_col,
            path_col=self.path_col,
            verify_hash=None if self.verify_hash is None else HashKind(self.verify_hash),
            dedupe=None if self.dedupe is None else Dedupe(self.dedupe),
        )

    def _check_encoding(self) -> None:
        if self.encoding is not None:
            try:
                check_encoding(self.encoding)
            except ValueError as error:
                raise click.BadParameter(str(error), param_hint="--encoding") from error

    def _check_base_url(self) -> None:
        from producer.sources.requests import url_completer

        if self.base_url is not None:
            try:
                url_completer(self.base_url)
            except InvalidUrlError as error:
                raise click.BadParameter(str(error), param_hint="--base-url") from error


#: Adds the argument ``reading``.
source_options = grouped(
    "reading",
    SourceParameters,
    cloup.option_group(
        "Reading the list",
        click.option(
            "--input-format",
            type=click.Choice([known.value for known in InputFormat]),
            help="Format of SOURCE, which may be compressed (gzip, bzip2, xz, Zstandard).  "
            "[default: by name and content]",
        ),
        click.option(
            "--url-col",
            metavar="COLUMN",
            help="Column with the URLs.  [default: the only column with a usual name, such as url or image_url]",
        ),
        click.option("--caption-col", metavar="COLUMN", help="Column with the captions. Manifests call it caption."),
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
            "--base-url",
            metavar="URL",
            help="URL to put before URLs without a scheme: https:// if they begin with a host, or the URL of a page if "
            "they are paths.",
        ),
    ),
    cloup.option_group(
        "Choosing rows",
        click.option(
            "--offset",
            type=int_range(bounds_of(SourceOptions, "offset")),
            default=0,
            show_default=True,
            help="Number of rows to skip at the start.",
        ),
        click.option(
            "--limit",
            type=int_range(bounds_of(SourceOptions, "limit")),
            help="Maximum number of rows to take.  [default: all]",
        ),
        click.option(
            "--sample",
            type=int_range(bounds_of(SourceOptions, "sample")),
            help="Number of rows to choose at random. SOURCE is read twice.",
        ),
        click.option("--seed", type=int, help="Number that decides which rows --sample chooses.  [default: 0]"),
        click.option(
            "--dedupe",
            type=click.Choice([known.value for known in Dedupe]),
            help="url: download each URL once. Later rows with the same URL fail as duplicate, without a request.",
        ),
    ),
    cloup.option_group(
        "Names and hashes from the list",
        click.option(
            "--path-col",
            metavar="COLUMN",
            help="Column with a file name for each image. The extension is replaced by that of the image's real "
            "format.",
        ),
        click.option(
            "--hash-col", metavar="COLUMN", help="Column with the hashes of the images, in hexadecimal digits."
        ),
        click.option(
            "--verify-hash",
            type=click.Choice([kind.value for kind in HashKind]),
            help="Kind of the hashes in --hash-col. An image with other bytes fails as hash_mismatch.",
        ),
    ),
)
#: The meaning of a column's name, for the end of help texts.
COLUMN_HELP = "A COLUMN is a name, or a number from 1 with --no-header."

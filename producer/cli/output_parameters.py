"""The options for the output of a run, and their conversion to the options of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click
import cloup

from producer.cli.parameters import grouped
from tasks.model import OutputFormat, OutputOptions, Sidecar


class Sidecars(click.ParamType[tuple[Sidecar, ...]]):
    """Kinds of sidecars, separated by commas."""

    name = "sidecars"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Sidecar, ...]:
        """Return the converted value, or fail with a usage error."""
        if isinstance(value, tuple):
            return value
        names = [name.strip() for name in str(value).split(",")]
        for name in names:
            if name not in list(Sidecar):
                self.fail(f"{name!r} is not one of {', '.join(Sidecar)}", param, ctx)
        return tuple(kind for kind in Sidecar if kind in names)


@dataclass(frozen=True, slots=True)
class OutputParameters:
    """The values of the options for the output."""

    output_format: str
    sidecars: tuple[Sidecar, ...]
    path_template: str

    def output_options(self) -> OutputOptions:
        """Return the output options of a run.

        Raises:
            click.BadParameter: a value conflicts with another one.
        """
        from producer.planning.path_template import output_conflict

        options = OutputOptions(OutputFormat(self.output_format), self.sidecars, self._template())
        if conflict := output_conflict(options):
            option, why = conflict
            raise click.BadParameter(why, param_hint=option)
        return options

    def _template(self) -> str | None:
        """Return the template; None for the default names."""
        from producer.planning.path_template import parse_template

        try:
            return parse_template(self.path_template)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--path-template") from error


#: Adds the argument ``output``.
output_options = grouped(
    "output",
    OutputParameters,
    cloup.option_group(
        "Saved files",
        click.option(
            "--output-format",
            type=click.Choice([kind.value for kind in OutputFormat]),
            default=OutputFormat.FILES.value,
            show_default=True,
            help="files: save each image as a file. webdataset: save each shard as a tar, with images, metadata and "
            "captions. parquet: save each shard as a Parquet file, with the images in a column.",
        ),
        click.option(
            "--sidecar",
            "sidecars",
            type=Sidecars(),
            default=(),
            metavar="json,txt",
            help="Save files beside each image: its metadata as JSON, its caption as text, or both.",
        ),
        click.option(
            "--path-template",
            metavar="TEXT",
            default="img2dataset",
            show_default=True,
            help="Names of the images in OUT: img2dataset ({shard}/{key}), scrapy (full/{url_sha1}), flat "
            "(image-{index}), or a text with fields. The fields are {shard}, {key}, {index}, {url_sha1}, {sha256}, "
            "{host} and the columns of the manifests.",
        ),
    ),
)

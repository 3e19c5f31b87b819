"""The types of options and arguments: folders, lists, brokers, sizes, durations and bounded numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from config.limits import Bounds
from config.locations import SCHEMES, Location, StoreUrl, check_folder_name, url_scheme


class Folder(click.Path):
    """A folder on this machine."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, file_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the converted value, or fail with a usage error."""
        try:
            check_folder_name(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return super().convert(value, param, ctx)

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str:
        """Return what to write, for the error about a missing folder."""
        return _missing_folder(param, ctx)


def _missing_folder(param: click.Parameter, ctx: click.Context | None) -> str:
    if isinstance(param, click.Option):
        return f"Give a folder for the images, for example: {param.opts[0]} images"
    command = "" if ctx is None else f", for example: {ctx.command_path} images"
    return f"Give the folder of the run, which was its --out{command}"


class OutputLocation(click.ParamType[Location]):
    """A folder on this machine, or the URL of a folder in an object store."""

    name = "location"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Location:
        """Return the converted value, or fail with a usage error."""
        if url_scheme(str(value)) not in SCHEMES:
            folder: Path = Folder().convert(value, param, ctx)
            return folder
        try:
            return StoreUrl.parse(str(value))
        except ValueError as error:
            self.fail(f"{value!r} is not the URL of a folder in an object store: {error}", param, ctx)

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str:
        """Return what to write, for the error about a missing folder."""
        return _missing_folder(param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        """Let the shell complete the name of a folder."""
        return [CompletionItem(incomplete, type="dir")]


class UrlList(click.ParamType[str]):
    """A SOURCE: the path of a file on this machine, the URL of a list on a server, or ``-`` for standard input."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the converted value, or fail with a usage error."""
        from producer.sources.remote import REMOTE_SCHEMES

        scheme = url_scheme(str(value))
        if scheme is not None and scheme not in REMOTE_SCHEMES:
            other = "copy the list to this machine, or pipe it into the command with - as SOURCE"
            hint = "give the path without file://" if scheme == "file" else other
            schemes = ", ".join(f"{name}://" for name in REMOTE_SCHEMES)
            self.fail(
                f"{scheme}:// is not supported; a list can be a file, - (standard input) "
                f"or a URL with {schemes}; {hint}",
                param,
                ctx,
            )
        return str(value)

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str:
        """Return what to write, for the error about a missing list."""
        command = "" if ctx is None else f", for example: {ctx.command_path} urls.txt --out images"
        return f"Give a list of URLs: a file, a URL, or - for standard input{command}"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        """Let the shell complete the name of a file."""
        return [CompletionItem(incomplete, type="file")]


class BrokerUrl(click.ParamType[str]):
    """The URL of a broker. An empty URL is refused, because it may come from an unset shell variable."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the converted value, or fail with a usage error."""
        if value == "":
            self.fail("the URL is empty", param, ctx)
        return str(value)


class Size(click.ParamType[int]):
    """A number of bytes, optionally with a unit."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the converted value, or fail with a usage error."""
        from pydantic import ByteSize, TypeAdapter, ValidationError

        try:
            count = int(TypeAdapter(ByteSize).validate_python(value))
        except ValidationError:
            self.fail(f"{value!r} is not a size, such as 500KiB or 64MiB", param, ctx)
        if count < 1:
            self.fail("a size must be at least one byte", param, ctx)
        return count


def int_range(bounds: Bounds) -> click.IntRange:
    """Return the type of an option that is a whole number with these bounds."""
    return click.IntRange(int(bounds.least), None if bounds.greatest is None else int(bounds.greatest))


class Duration(click.ParamType[float]):
    """A number of seconds, optionally with a unit."""

    name = "duration"

    def __init__(self, least: float = 0.001) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the converted value, or fail with a usage error."""
        text = str(value).strip().lower()
        units = {"ms": 0.001, "s": 1.0, "m": 60.0}
        unit = next((unit for unit in units if text.endswith(unit)), "")
        try:
            seconds = float(text.removesuffix(unit)) * units.get(unit, 1.0)
        except ValueError:
            self.fail(f"{value!r} is not a duration, such as 300ms, 10 or 2m", param, ctx)
        if not self._least <= seconds < float("inf"):
            self.fail(f"it must be at least {self._least:g} s", param, ctx)
        return seconds

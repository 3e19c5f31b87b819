"""The group of all commands. Its usage errors say what to type instead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import cloup

from config.locations import url_scheme
from producer.cli.img2dataset_options import Translation, is_translated, translate
from tasks.redaction import redacted

#: The key of the whole command line in a context.
_ARGUMENTS = "producer.arguments"


class CommandGroup(cloup.Group):
    """A group of commands whose usage errors say what to type instead."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options before the command."""
        ctx.meta[_ARGUMENTS] = tuple(args)
        with _explained(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Parse the arguments of the command, and run it."""
        with _explained(ctx):
            return super().invoke(ctx)


@contextmanager
def _explained(ctx: click.Context) -> Iterator[None]:
    """Replace an error about an unknown option or command by an error that says what to type instead, if we know it."""
    try:
        yield
    except click.NoSuchOption as error:
        context = error.ctx or ctx
        known = {name for param in context.command.params for name in param.opts}
        if not is_translated(error.option_name):
            message = f"{error.message}{_other_commands(ctx, error.option_name, context)}"
            raise click.NoSuchOption(error.option_name, message, error.possibilities, error.ctx) from error
        translations = list(translate(ctx.meta[_ARGUMENTS], known))
        raise click.UsageError(_translated(translations, context), context) from error
    except click.NoSuchCommand as error:
        name = error.command_name
        # A path, or a URL: the command itself was forgotten.
        if url_scheme(name) is None and not Path(name).exists():
            raise
        message = f"There is no command {redacted(name)!r}. To download a list, run: producer run SOURCE --out FOLDER"
        raise click.UsageError(message, error.ctx) from error


def _other_commands(group: click.Context, option: str, context: click.Context) -> str:
    """Return what to know about the commands that have an option, which this context lacks; empty if there are none."""
    commands = group.command.commands if isinstance(group.command, click.Group) else {}
    names = [name for name, command in commands.items() if any(option in param.opts for param in command.params)]
    if not names:
        return ""
    text = f" It is an option of: {', '.join(f'producer {name}' for name in names)}."
    if "run" in names and context.command.name in ("resume", "retry"):
        text += f" {context.command_path} uses the options with which the run was started."
    return text


def _translated(translations: list[Translation], context: click.Context) -> str:
    """Return a message with the equivalents of options of img2dataset."""
    formatter = context.make_formatter()
    with formatter.indentation():
        formatter.write_dl([(str(found.option), found.answer) for found in translations])
    rows = formatter.getvalue().rstrip()
    what = "This is an option" if len(translations) == 1 else "These are options"
    return (
        f"{what} of img2dataset. What to use instead:\n{rows}\n"
        "docs/from-img2dataset.md translates all options, and typical commands."
    )

"""The command that prints the completion script of a shell."""

from __future__ import annotations

import click
import cloup
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from producer.cli.examples import epilog

_SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
#: Click looks for the shell's request in this variable. Its name comes from the name of the program.
_VARIABLE = "_PRODUCER_COMPLETE"


@cloup.command(
    short_help="Print a script that lets your shell complete commands.",
    epilog=epilog(
        {
            "Complete in bash": "producer completion bash > ~/.local/share/bash-completion/completions/producer",
            "Complete in zsh": 'producer completion zsh > "${fpath[1]}/_producer"',
            "Complete in fish": "producer completion fish > ~/.config/fish/completions/producer.fish",
        },
        "Start a new shell afterwards.",
    ),
)
@click.argument("shell", type=click.Choice(list(_SHELLS)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that lets a shell complete the commands, options, values and files of producer."""
    click.echo(_SHELLS[shell](context.find_root().command, {}, "producer", _VARIABLE).source())

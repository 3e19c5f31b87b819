"""The command that prints the completion script of a shell."""

from __future__ import annotations

import click
import cloup
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from producer.cli.examples import epilog

_SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
#: Click looks for the shell's request in this variable. Its name comes from the name of the program.
_VARIABLE = "_PRODUCER_COMPLETE"
#: The end of the call of the program in each script.
_CALL_ENDS = {"bash": "=bash_complete $1", "zsh": "=zsh_complete producer", "fish": "(commandline -t) producer"}


@cloup.command(
    short_help="Print a script that lets your shell complete commands.",
    epilog=epilog(
        {
            "Complete in bash": "producer completion bash >> ~/.bashrc",
            "Complete in zsh, below the line with compinit": "producer completion zsh >> ~/.zshrc",
            "Complete in fish": "producer completion fish > ~/.config/fish/completions/producer.fish",
        },
        "Start a new shell afterwards.",
    ),
)
@click.argument("shell", type=click.Choice(list(_SHELLS)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that lets a shell complete the commands, options, values and files of producer."""
    script = _SHELLS[shell](context.find_root().command, {}, "producer", _VARIABLE).source()
    # If the program's environment is not activated, an error would be printed into the command line.
    call = _CALL_ENDS[shell]
    click.echo(script.replace(call, f"{call} 2>/dev/null"))

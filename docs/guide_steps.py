"""Read the commands of the tutorial and of a how-to guide from its page.

A step is a block of commands: a fence with the language ``sh``. The title of the fence names the terminal or the
machine where a reader runs the block. A comment before the fence says what else happens, for example::

    <!-- run: in the background until "Serving" is printed -->
    ```sh title="Terminal 1"
    producer serve
    ```

A fence with the language ``text`` directly after a block of commands is its output. ``…`` stands for any text, and
lines may be missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

DEFAULT_TERMINAL = "Terminal"


class Action(Enum):
    """What happens with a block of commands. A value is the text in a page's comment, where ``X`` is the argument."""

    RUN = ""
    #: The commands are started, and may run until the end of the page.
    BACKGROUND = "in the background until X"
    INTERRUPT = "press Ctrl-C when X"
    #: All processes of the commands are killed at once.
    CUT_POWER = "cut the power when X"
    #: The commands end with an exit status other than 0.
    FAIL = "these commands fail"
    #: The commands need something that a single machine lacks. The argument is the reason.
    SKIP = "not here, because X"


class GuideError(Exception):
    """A page has a comment or a block that can't be understood, or commands that don't do what the page says."""


@dataclass(frozen=True, slots=True)
class Step:
    """A block of commands.

    Args:
        line: the line of the page, from 1.
        terminal: the name of the terminal. Each terminal has its own variables and its own folder.
        commands: the lines of the block.
        action: what happens with the block.
        argument: for `Action.SKIP` the reason, and otherwise the event for which the action waits: ``"TEXT" is
            printed``, or ``FILE exists``, where FILE may be a pattern.
        output: lines of the output, in their order.
    """

    line: int
    terminal: str
    commands: str
    action: Action = Action.RUN
    argument: str = ""
    output: tuple[str, ...] = ()


def read_steps(page: Path) -> list[Step]:
    """Return all blocks of commands of a page, in their order.

    Raises:
        GuideError: a comment is not understood, or does not stand directly before a block of commands.
    """
    tokens = MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8"))
    return list(_steps([token for token in tokens if token.level == 0 or token.type == "fence"], page.name))


def _steps(tokens: list[Token], page: str) -> Iterator[Step]:
    action, argument = Action.RUN, ""
    step: Step | None = None
    for token in tokens:
        language, _, title = token.info.partition(" ")
        if step is not None:
            is_output = token.type == "fence" and language == "text"
            yield replace(step, output=tuple(token.content.splitlines())) if is_output else step
            step = None
        if token.type == "fence" and language == "sh":
            named = re.fullmatch(r'title="([^"]+)"', title.strip())
            assert token.map is not None
            step = Step(token.map[0] + 1, named[1] if named else DEFAULT_TERMINAL, token.content, action, argument)
        elif action is not Action.RUN:
            raise GuideError(f"{page}: a comment with `run:` does not stand before a block of commands")
        action, argument = _instruction(token, page)
    if step is not None:
        yield step


def _instruction(token: Token, page: str) -> tuple[Action, str]:
    found = re.search(r"<!-- run: (.*?) -->", token.content, re.DOTALL) if token.type == "html_block" else None
    if found is None:
        return Action.RUN, ""
    text = " ".join(found[1].split())
    for action in Action:
        before, variable, _ = action.value.partition("X")
        if action is not Action.RUN and text.startswith(before) and (variable or text == before):
            return action, text.removeprefix(before)
    raise GuideError(f"{page}: unknown instruction: {text}")

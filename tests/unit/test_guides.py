"""The blocks of commands of the guides are understood, and guides do not call a page right that is wrong."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from docs.guide_runner import run_page
from docs.guide_steps import Action, GuideError, Step, read_steps
from docs.produce import ROOT

_PAGES = [ROOT / "docs" / "tutorial.md", *sorted((ROOT / "docs" / "how-to").glob("*.md"))]


def page_with(folder: Path, text: str) -> Path:
    """Return a page with a text, in which ``'''`` stands for a fence."""
    page = folder / "page.md"
    page.write_text(text.replace("'''", "```"), encoding="utf-8")
    return page


def walk(folder: Path, text: str) -> list[str]:
    """Run a page with a text, and return the sentences about its blocks."""
    place = folder / "place"
    place.mkdir()
    return list(run_page(page_with(folder, text), place))


def test_steps_are_read(tmp_path: Path) -> None:
    """A block has its line, its terminal, its commands, its instruction and its output."""
    text = """
# Title

<!-- run: in the background until "ready" is printed -->
'''sh title="Server"
serve
'''

Text.

'''sh
ls
'''

'''text
a …
b
'''
"""
    assert read_steps(page_with(tmp_path, text)) == [
        Step(5, "Server", "serve\n", Action.BACKGROUND, '"ready" is printed'),
        Step(11, "Terminal", "ls\n", output=("a …", "b")),
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<!-- run: sometimes -->\n'''sh\nls\n'''\n", "unknown instruction: sometimes"),
        ("<!-- run: these commands fail -->\n\nText.\n", "does not stand before a block"),
    ],
)
def test_unclear_comment_is_refused(tmp_path: Path, text: str, why: str) -> None:
    """An instruction that is unknown or out of place is an error, and not silently ignored."""
    with pytest.raises(GuideError, match=why):
        read_steps(page_with(tmp_path, text))


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.stem)
def test_blocks_are_valid(page: Path) -> None:
    """Each block of a guide is valid bash, and each page that is run has at least two blocks that run."""
    steps = read_steps(page)
    for step in steps:
        checked = subprocess.run(["bash", "-n"], input=step.commands, capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, ""), step
    assert sum(step.action is not Action.SKIP for step in steps) >= 2


def test_variables_and_folder_stay_in_their_terminal(tmp_path: Path) -> None:
    """A block sees the variables and the folder of the last block in the same terminal, and not those of another."""
    text = """
'''sh title="One"
mkdir sub && cd sub
export COLOUR=red
'''
'''sh title="One"
echo "$COLOUR in $(basename "$PWD")"
'''
'''text
red in sub
'''
'''sh title="Two"
echo "${COLOUR-none} in $(basename "$PWD")"
'''
'''text
none in home
'''
"""
    assert [re.sub(r"[\d.]+ s", "1 s", line) for line in walk(tmp_path, text)] == [
        "line 2: mkdir sub && cd sub (1 s)",
        'line 6: echo "$COLOUR in $(basename "$PWD")" (1 s)',
        'line 12: echo "${COLOUR-none} in $(basename "$PWD")" (1 s)',
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("'''sh\nfalse\ntrue\n'''\n", "line 1: exit status 1"),
        ("<!-- run: these commands fail -->\n'''sh\ntrue\n'''\n", "line 2: exit status 0"),
        ("'''sh\necho b a\n'''\n'''text\na … b\n'''\n", "the output lacks a documented line"),
        ("'''sh\nprintf 'a\\nb\\n'\n'''\n'''text\nb\na\n'''\n", "the output lacks a documented line"),
        ("<!-- run: in the background until made exists -->\n'''sh\ntrue\n'''\n", "the commands ended before this"),
        ("<!-- run: in the background until Monday -->\n'''sh\ntrue\n'''\n", "unknown event: Monday"),
    ],
)
def test_wrong_page_is_detected(tmp_path: Path, text: str, why: str) -> None:
    """A page whose commands fail, print something else, or lack an event does not pass."""
    with pytest.raises(GuideError, match=why):
        walk(tmp_path, text)


def test_commands_are_interrupted_and_killed(tmp_path: Path) -> None:
    """Ctrl-C lets commands end in their own way, a power cut kills them at once, and nothing runs on after the page."""
    wait = 'python3 -c "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(1000)"'
    text = f"""
<!-- run: press Ctrl-C when one exists -->
'''sh
trap 'echo interrupted; exit 130' INT
{wait} one
'''
'''text
interrupted
'''
<!-- run: cut the power when two exists -->
'''sh
trap 'echo interrupted; exit 130' INT
{wait} two & {wait} three
'''
<!-- run: in the background until four exists -->
'''sh title="Other"
{wait} four
'''
<!-- run: not here, because it needs a second machine -->
'''sh
false
'''
"""
    assert walk(tmp_path, text)[-1] == "line 20: false (not run: it needs a second machine)"
    assert "interrupted" not in (tmp_path / "place" / "terminal-0" / "2.log").read_text()

"""The produced parts of the documentation are what would be produced now."""

from __future__ import annotations

import re

import pytest

from benchmarks import plots, records, report
from docs.produce import PAGES, PARTS, ROOT, produced


@pytest.mark.parametrize("name", PAGES)
def test_page_is_up_to_date(name: str) -> None:
    """A help text, a setting, a reason or a measured number that changed is changed in the documentation too."""
    text = (ROOT / name).read_text()
    assert text == produced(text), "run `make docs`"


def test_results_are_up_to_date() -> None:
    """The page of the benchmarks says what their JSON does."""
    assert report.PAGE.read_text() == report.page(records.all_kept()), "run `make docs`"


def test_plots_are_up_to_date() -> None:
    """The plots show the numbers of the benchmarks' JSON; another matplotlib may draw the same a little differently."""
    for name, themes in plots.drawn(records.all_kept()).items():
        for theme, svg in themes.items():
            assert texts(plots.file(name, theme).read_text()) == texts(svg), "run `make docs`"


def texts(svg: str) -> list[str]:
    """What is written in a plot."""
    return re.findall("<text[^>]*>([^<]*)</text>", svg)


def test_every_part_stands_somewhere() -> None:
    """Nothing is produced that no page shows."""
    shown = {name for page in PAGES for name in re.findall("<!-- produced: (.+?) -->", (ROOT / page).read_text())}
    assert shown == set(PARTS)


def test_links_lead_to_files() -> None:
    """Every relative link of the pages leads to a file."""
    pages = [*PAGES, "CONTRIBUTING.md", "docs/design.md", "benchmarks/RESULTS.md"]
    for page in pages:
        for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text()):
            assert ((ROOT / page).parent / link).exists(), f"{page} links to {link}"


def test_readme_has_two_set_up_commands() -> None:
    """The README's commands, one that ends in the demo and one in the tests, are lines of their own."""
    lines = re.findall(r"^python3 -m venv .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert [line.split("/")[-1] for line in lines] == ["producer demo", "pytest"]


def test_promises_name_tests_that_exist() -> None:
    """Each test that the page on security names is one of its file's."""
    file = ""
    named = 0
    for path, name in re.findall(r"`(?:(tests/[\w/]+\.py)::)?(test_\w+)`", (ROOT / "docs/security.md").read_text()):
        file = path or file
        assert f"\ndef {name}(" in (ROOT / file).read_text(), (file, name)
        named += 1
    assert named > 30

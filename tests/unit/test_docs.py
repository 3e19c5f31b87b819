"""The generated parts of the documentation are up to date."""

from __future__ import annotations

import re

import pytest

from benchmarks import plots, records, report
from docs.produce import PAGES, PARTS, ROOT, produced


@pytest.mark.parametrize("name", PAGES)
def test_page_is_up_to_date(name: str) -> None:
    """After a change of a help text, a setting, a reason or a measurement, the pages must be generated again."""
    text = (ROOT / name).read_text()
    assert text == produced(text), "run `make docs`"


def test_results_are_up_to_date() -> None:
    """The benchmark page matches the stored JSON."""
    assert report.PAGE.read_text() == report.page(records.load_all()), "run `make docs`"


def test_plots_are_up_to_date() -> None:
    """The plots match the benchmarks' JSON; only texts are compared, because matplotlib versions draw differently."""
    for name, themes in plots.draw(records.load_all()).items():
        for theme, svg in themes.items():
            assert texts(plots.file(name, theme).read_text()) == texts(svg), "run `make docs`"


def texts(svg: str) -> list[str]:
    """Return the texts in a plot."""
    return re.findall("<text[^>]*>([^<]*)</text>", svg)


def test_every_generated_part_is_on_a_page() -> None:
    """Every generated part is shown on some page."""
    shown = {name for page in PAGES for name in re.findall("<!-- produced: (.+?) -->", (ROOT / page).read_text())}
    assert shown == set(PARTS)


def test_links_lead_to_files() -> None:
    """Every relative link leads to an existing file."""
    pages = [*PAGES, "CONTRIBUTING.md", "docs/design.md", "benchmarks/RESULTS.md"]
    for page in pages:
        for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text()):
            assert ((ROOT / page).parent / link).exists(), f"{page} links to {link}"


def test_readme_has_two_set_up_commands() -> None:
    """The README has two set-up commands, each on one line: one ends in the demo, the other in the tests."""
    lines = re.findall(r"^python3 -m venv .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert [line.split("/")[-1] for line in lines] == ["producer demo", "pytest"]


def test_promises_name_tests_that_exist() -> None:
    """Each test named on the security page exists in its file."""
    file = ""
    named = 0
    for path, name in re.findall(r"`(?:(tests/[\w/]+\.py)::)?(test_\w+)`", (ROOT / "docs/security.md").read_text()):
        file = path or file
        assert f"\ndef {name}(" in (ROOT / file).read_text(), (file, name)
        named += 1
    assert named > 30

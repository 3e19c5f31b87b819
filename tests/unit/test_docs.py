"""The generated parts of the documentation are up to date."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

import pytest

from benchmarks import plots, records, report
from docs import build_site
from docs.produce import PAGES, PARTS, ROOT, produced
from producer.output.run_file import RunConfig


@pytest.mark.parametrize("name", PAGES)
def test_page_is_up_to_date(name: str) -> None:
    """After a change of a help text, a setting, a reason or a measurement, the pages must be generated again."""
    text = (ROOT / name).read_text()
    assert text == produced(text), "run `make docs`"


def test_results_are_up_to_date() -> None:
    """The benchmark page matches the stored JSON."""
    assert report.PAGE.read_text() == report.page(records.load_all()), "run `make docs`"


def test_plots_are_up_to_date() -> None:
    """The plots match the benchmarks' JSON. Only texts are compared, because matplotlib versions draw differently."""
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


def test_library_page_lists_every_option() -> None:
    """The guide of the library has a section for each class in a RunConfig, with all fields of the class."""
    kinds: list[Any] = [RunConfig]
    for kind in kinds:
        hints = [part for hint in get_type_hints(kind).values() for part in (hint, *get_args(hint))]
        kinds += [hint for hint in hints if is_dataclass(hint) and hint not in kinds]
    text = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    assert len(kinds) == 9
    for kind in kinds:
        section = text.partition(f"### {kind.__name__}\n")[2].partition("###")[0]
        named = re.findall(r"^\| `(\w+)`.*\| [^|]+\.", section, re.MULTILINE)
        assert named == [field.name for field in fields(kind)], kind


def test_links_lead_to_files() -> None:
    """Every relative link leads to an existing file. If a link has an anchor, the file has this heading."""
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/RESULTS.md")]
    for page in [*pages, *(ROOT / "docs").rglob("*.md")]:
        for link, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)", page.read_text()):
            target = page.parent / link if link else page
            assert target.exists(), f"{page.name} links to {link}"
            assert not anchor or anchor in anchors(target.read_text()), f"{page.name} links to {link}#{anchor}"


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    return {
        re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
        for title in re.findall("^#+ (.*)$", text, re.M)
    }


def test_index_lists_every_page() -> None:
    """The index of the documentation links to every page of the documentation."""
    docs = ROOT / "docs"
    links = set(re.findall(r"\]\(((?:how-to/)?[\w-]+\.md)\)", (docs / "README.md").read_text()))
    assert links == {page.relative_to(docs).as_posix() for page in docs.rglob("*.md")} - {"README.md"}


def test_site_has_every_page() -> None:
    """The navigation of the site lists every page of the documentation once."""
    listed = list(build_site.pages())
    assert len(listed) == len(set(listed))
    assert {f"docs/{page.relative_to(ROOT / 'docs').as_posix()}" for page in (ROOT / "docs").rglob("*.md")} <= set(
        listed
    )
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/RESULTS.md"} <= set(listed)


def sections_of_the_index() -> dict[str, str]:
    """Return the section of each page in the index of the documentation."""
    found, section = {}, ""
    for line in (ROOT / "docs" / "README.md").read_text().splitlines():
        section = line.removeprefix("## ") if line.startswith("## ") else section
        found.update(dict.fromkeys(re.findall(r"^- \[[^]]+\]\(([\w/-]+\.md)\)", line), section))
    return found


def sections_of_the_site() -> dict[str, str]:
    """Return the section of each page in the navigation of the site."""
    navigation = tomllib.loads(build_site.CONFIG.read_text())["project"]["nav"]
    sections = {title: pages for entry in navigation for title, pages in entry.items()}
    return {
        page.removeprefix("docs/"): title
        for title, pages in sections.items()
        for page in build_site.pages(pages)
        if page.startswith("docs/") and page != "docs/README.md"
    }


def test_pages_are_in_the_section_that_they_name() -> None:
    """A page that calls itself a guide, a how-to or a reference is in this section, in the index and on the site."""
    sections = sections_of_the_index()
    assert sections == sections_of_the_site()
    kinds = {"how-to": "How-to guides", "guide": "How-to guides", "reference": "Reference"}
    for page, section in sections.items():
        first = (ROOT / "docs" / page).read_text().split("\n\n")[1]
        for kind in re.findall(r"\bThis (how-to|guide|reference)\b", first):
            assert kinds[kind] == section, page


def test_readme_is_short() -> None:
    """The README has at most 180 lines, so that a newcomer reads it. Everything else is in the documentation."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 180


def test_readme_has_two_set_up_commands() -> None:
    """The README has two set-up commands of one line each.

    One command ends with the demo, and the other command ends with the tests.
    """
    lines = re.findall(r"^python3 -m venv .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert [line.split("/")[-1] for line in lines] == ["producer demo", "pytest"]


def test_promises_name_tests_that_exist() -> None:
    """Each test that the security page names exists in its file."""
    file = ""
    named = 0
    for path, name in re.findall(r"`(?:(tests/[\w/]+\.py)::)?(test_\w+)`", (ROOT / "docs/security.md").read_text()):
        file = path or file
        assert f"\ndef {name}(" in (ROOT / file).read_text(), (file, name)
        named += 1
    assert named > 30


def test_each_row_of_a_table_has_the_columns_of_its_header() -> None:
    """No edit has joined two rows of a table, or split one."""
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        expected = None
        for number, line in enumerate(page.read_text().splitlines(), 1):
            if not line.startswith("|"):
                expected = None
                continue
            # A pipe in code is escaped.
            columns = len(re.findall(r"(?<!\\)\|", line))
            expected = expected or columns
            assert columns == expected, f"{page.name}, line {number}"

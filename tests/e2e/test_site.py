"""The site of the documentation, in a browser without a network."""

from __future__ import annotations

import functools
import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from markdown_it import MarkdownIt

from docs import build_site
from tests.conftest import lacking
from tests.e2e.axe import serious_faults

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_PAGES = [
    "index.html",
    "docs/tutorial.html",
    "docs/how-to/add-a-second-machine.html",
    "docs/commands.html",
    "docs/outcomes.html",
    "docs/design.html",
    "docs/index.html",
]
_WIDTHS = (390, 1440)
_SCHEMES = ("light", "dark")


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serve files without a log."""

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site, which checks its links, and return the folder with its HTML."""
    if find_spec("zensical") is None:
        lacking("zensical is not installed: pip install -e '.[dev]'")
    return build_site.build(tmp_path_factory.mktemp("site") / "site")


@pytest.fixture(scope="module")
def address(html: Path) -> Iterator[str]:
    """Serve the site."""
    handler = functools.partial(_Handler, directory=str(html))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def opened(browser: Browser, address: str, width: int = 1440, scheme: str = "light") -> Iterator[Page]:
    """Open an empty page. Fail if the site logs an error or a warning, or contacts another host."""
    problems: list[str] = []
    with browser.new_context(
        base_url=address,
        viewport={"width": width, "height": 900},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    ) as context:
        page = context.new_page()
        page.on("console", lambda told: problems.append(told.text) if told.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda sent: None if sent.url.startswith(f"{address}/") else problems.append(sent.url))
        yield page
        assert problems == []


@pytest.mark.parametrize("scheme", _SCHEMES)
@pytest.mark.parametrize("width", _WIDTHS)
def test_pages_are_readable(browser: Browser, address: str, width: int, scheme: str) -> None:
    """Pages of each kind fit the window, have no serious fault of accessibility, and follow the system's colours."""
    with opened(browser, address, width, scheme) as page:
        for name in _PAGES:
            page.goto(f"/{name}")
            page.locator("article h1").wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            assert page.evaluate("document.body.dataset.mdColorScheme") == {"light": "default", "dark": "slate"}[scheme]
            assert serious_faults(page) == [], name


def test_search_finds_a_page(browser: Browser, address: str) -> None:
    """A search for words of a guide leads to the guide."""
    from playwright.sync_api import expect

    with opened(browser, address) as page:
        page.goto("/index.html", wait_until="networkidle")
        page.keyboard.press("/")
        box = page.get_by_role("combobox", name="Search")
        expect(box).to_be_focused()
        box.fill("power cut")
        result = page.get_by_role("option", name="Resume after a power cut").first
        expect(result).to_be_visible()
        result.click()
        expect(page.locator("article h1")).to_contain_text("Resume after a power cut")


def test_kinds_are_the_navigation(browser: Browser, address: str) -> None:
    """A reader gets from the first page to a guide through the navigation, also on a small screen."""
    from playwright.sync_api import expect

    with opened(browser, address) as page:
        page.goto("/index.html")
        kinds = page.locator(".md-tabs__link").all_inner_texts()
        assert [text.strip() for text in kinds][1:5] == ["Tutorial", "How-to guides", "Reference", "Explanation"]
        page.locator(".md-tabs__link", has_text="How-to guides").click()
        expect(page.locator("article h1")).to_contain_text("tar shards")


@pytest.mark.parametrize("name", list(build_site.pages()))
def test_page_has_the_same_parts_as_on_github(html: Path, name: str) -> None:
    """A page has as many lists, rows, headings and blocks of code on the site as in CommonMark, which GitHub shows."""
    source = MarkdownIt().enable("table").parse((build_site.ROOT / name).read_text(encoding="utf-8"))
    parts = [token for token in source if token.nesting == 1 or token.type == "fence"]
    tags = ["pre" if token.type == "fence" else token.tag for token in parts]
    shown = (html / name).with_suffix(".html")
    if shown.stem == "README":
        shown = shown.with_name("index.html")
    found = re.search(r"<article.*?</article>", shown.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    for tag in ("h1", "h2", "h3", "li", "tr", "pre"):
        assert len(re.findall(rf"<{tag}[ >]", found[0])) == tags.count(tag), tag

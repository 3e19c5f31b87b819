"""The gallery in a browser, as a user sees it: a real run's images, its failures, filters, and the manifest row."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from producer.local_fleet.demo_process import DemoProcess
from tasks.model import Reason
from tasks.storage.local_store import LocalStore
from tests.e2e.axe import serious_faults
from tests.flower import RunningFleet
from tests.gallery_runs import Picture, make_gallery_run, served
from tests.integration import processes
from tests.unit.conftest import image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Page, Request

_SAVED, _MARKUP = 80, "http://127.0.0.1/<img src=x onerror=alert(1)>"
_SIZES = {"phone": (390, 844), "desktop": (1440, 900)}


@pytest.fixture(scope="module")
def url(demo: DemoProcess, fleet: RunningFleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a list with failures, serve its gallery, and yield the address."""
    kinds = ("jpg", "png", "webp", "gif")
    urls = [f"{demo.url}/images/{number}.{kinds[number % 4]}" for number in range(_SAVED)]
    urls[3:3] = [f"{demo.url}/fault/not-found", f"{demo.url}/fault/html", _MARKUP]
    numbers = fleet.run("gallery", urls)
    assert (numbers["success"], numbers["failed"]) == (_SAVED, 3)
    folder = tmp_path_factory.mktemp("gallery")
    argv = processes.command(["gallery", fleet.root / "gallery"])
    with processes.started("gallery", argv, folder) as command:
        yield command.first_line().rpartition(" ")[2]


@dataclass(frozen=True)
class Visit:
    """An open page, and Playwright's `expect`."""

    page: Page
    expect: Callable[..., Any]


@pytest.fixture(params=[(size, scheme) for size in _SIZES for scheme in ("light", "dark")], ids="-".join)
def visit(request: pytest.FixtureRequest, browser: Browser, url: str) -> Iterator[Visit]:
    """Open the gallery at each size and colour scheme.

    Fail if the page logs an error, contacts another server, or executes markup.
    """
    from playwright.sync_api import expect

    size, scheme = request.param
    width, height = _SIZES[size]
    problems: list[str] = []

    def dismiss(dialog: Dialog) -> None:
        problems.append(dialog.message)
        dialog.dismiss()

    def check(sent: Request) -> None:
        if not sent.url.startswith(url):
            problems.append(sent.url)

    with browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme) as context:
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", dismiss)
        page.on("request", check)
        page.goto(url)
        yield Visit(page, expect)
        assert problems == []


def is_wider_than_its_window(page: Page) -> bool:
    """Return whether a page scrolls sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))


def test_pages_are_accessible(visit: Visit) -> None:
    """All images of the first page load. The page and an image's page have no serious fault, and don't scroll sideways.

    A click on an image shows its manifest row, and the arrow keys show the next image.
    """
    page, expect = visit.page, visit.expect
    expect(page.locator(".tile")).to_have_count(60)
    page.locator(".tile img").last.scroll_into_view_if_needed()
    expect(page.locator(".tile img").last).to_have_js_property("naturalWidth", 400)
    assert serious_faults(page) == []
    assert not is_wider_than_its_window(page)
    page.locator(".tile").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Image 00000000")
    expect(page.get_by_role("row", name=re.compile("^format jpeg"))).to_be_visible()
    expect(page.locator("figure img")).to_have_js_property("naturalWidth", 400)
    assert serious_faults(page) == []
    assert not is_wider_than_its_window(page)
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("heading", level=1)).to_have_text("Image 00000001")
    page.get_by_role("link", name="All images").click()
    page.get_by_role("link", name="Next").click()
    expect(page.locator(".tile")).to_have_count(23)
    expect(page.locator(".count")).to_have_text(re.compile(r"Images 61 to 83 of\s+83"))


def test_filters_choose_images(visit: Visit) -> None:
    """The form chooses by reason, format and size, and its options have the numbers of images."""
    page, expect = visit.page, visit.expect
    page.get_by_label("Reason").select_option("http_4xx (1)")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.locator(".tile")).to_have_count(1)
    expect(page.locator(".tile")).to_contain_text("HTTP 404")
    page.get_by_role("link", name="Show all").click()
    page.get_by_label("Format").select_option("webp (20)")
    page.get_by_label("File size from").fill("1KiB")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.locator(".tile")).to_have_count(20)
    page.get_by_label("Width and height (px) from").fill("401")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.locator(".empty")).to_contain_text("No image matches.")
    page.get_by_label("File size to").fill("large")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("is not a size")
    assert serious_faults(page) == []


def test_markup_is_shown_as_text(visit: Visit) -> None:
    """The URL with markup is text on the page of its image."""
    page, expect = visit.page, visit.expect
    page.get_by_label("Reason").select_option("blocked_address (1)")
    page.get_by_role("button", name="Show", exact=True).click()
    page.locator(".tile").click()
    expect(page.get_by_role("row", name=re.compile("^url"))).to_contain_text(_MARKUP)
    assert serious_faults(page) == []


def test_missing_file_is_explained(browser: Browser, url: str, fleet: RunningFleet) -> None:
    """If an image's file was removed, its tile says so."""
    from playwright.sync_api import expect

    file = fleet.root / "gallery" / "00000" / "00000000.jpg"
    body = file.read_bytes()
    file.unlink()
    try:
        with browser.new_context() as context:
            page = context.new_page()
            page.goto(url)
            expect(page.locator(".tile").first).to_contain_text("00000000.jpg is not in the output folder.")
    finally:
        file.write_bytes(body)


def test_page_fills_while_the_search_goes_on(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a search takes long, the page first shows the progress, and then its images and the numbers of all images."""
    from playwright.sync_api import expect

    pictures = [Picture("http://a.example/1", reason=Reason.DNS)] * 399 + [Picture("http://b.example/2", image())]
    make_gallery_run(LocalStore(tmp_path), pictures, 10)
    monkeypatch.setattr("producer.gallery.gallery.SEARCH_SECONDS", 0.004)
    monkeypatch.setattr("producer.gallery.application.SEARCH_SECONDS", 0.004)
    monkeypatch.setattr("producer.gallery.application._FIRST_COUNT_SECONDS", 0.0)
    with served(LocalStore(tmp_path)) as server, browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{server.url}?status=success")
        expect(page.locator(".empty")).to_have_text("Searching …")
        expect(page.locator(".tile")).to_have_count(1)
        expect(page.locator("select[name=reason] option")).to_have_text(["Any reason", "dns (399)"])
        assert page.locator("#hosts option").evaluate_all("all => all.map(one => one.value)") == [
            "a.example",
            "b.example",
        ]


def test_drawing_runs_no_script(browser: Browser, tmp_path: Path) -> None:
    """The script in an SVG runs neither on a page nor when the drawing is opened by itself."""
    drawing = (
        b'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30" onload="alert(1)">'
        b"<script>alert(2)</script><rect width='40' height='30' fill='teal'/></svg>"
    )
    make_gallery_run(LocalStore(tmp_path), [Picture("http://a.example/1", drawing, "svg")])
    dialogs: list[str] = []
    with served(LocalStore(tmp_path)) as server, browser.new_context() as context:
        page = context.new_page()
        page.on("dialog", lambda dialog: dialogs.append(dialog.message))
        for path in ("", "image?at=0", "file/0/0"):
            page.goto(server.url + path, wait_until="networkidle")
        assert page.locator("rect").count() == 1
        assert dialogs == []


def test_screenshot_command_works(browser: Browser, tmp_path: Path) -> None:
    """The screenshot command works, and the screenshot in the docs has the same size as a new screenshot."""
    new = tmp_path / "gallery.png"
    argv = [sys.executable, "-m", "docs.gallery_screenshot", str(new)]
    subprocess.run(argv, cwd=processes.ROOT, check=True, timeout=100)
    for path in (new, processes.ROOT / "docs" / "gallery.png"):
        with Image.open(path) as picture, Image.open(new) as other:
            assert picture.size == other.size
        assert path.stat().st_size < 200_000

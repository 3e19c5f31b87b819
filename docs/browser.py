"""Start headless Chromium, for the screenshot in the docs and for tests of web pages."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, sync_playwright

#: The name of Debian's Chromium. The Chromium that Playwright can download is not used.
PROGRAM = "chromium"
_QUIET = (
    *("--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@contextmanager
def chromium(program: str) -> Iterator[Browser]:
    """Yield a Chromium that uses a temporary profile."""
    with sync_playwright() as playwright:
        # Chromium's sandbox does not start as root. As root, Chromium runs without a sandbox, because it opens only our
        # own pages.
        browser = playwright.chromium.launch(
            executable_path=program, chromium_sandbox=os.geteuid() != 0, args=list(_QUIET)
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def flower_page(browser: Browser, url: str, password: str, size: tuple[int, int] = (1600, 900)) -> Iterator[Page]:
    """Yield an empty page of the given size in pixels. The page is logged in to the Flower at the given URL."""
    width, height = size
    with browser.new_context(
        base_url=url,
        http_credentials={"username": "imagefleet", "password": password},
        viewport={"width": width, "height": height},
    ) as context:
        yield context.new_page()

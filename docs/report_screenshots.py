"""Take the screenshots of a report in the docs, from a real run of a local fleet (``make screenshot``)."""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser

from docs.browser import PROGRAM, chromium
from docs.report_pages import make_report, with_neutral_host

_IMAGES = 3000
#: Each picture's name, its width in pixels, its colours, and the sections that it shows.
_PICTURES: tuple[tuple[str, int, Literal["light", "dark"], tuple[str, ...]], ...] = (
    ("report-top", 1120, "light", ("header", "#speed")),
    ("report-phases", 1120, "dark", ("#phases",)),
    ("report-sheet", 1120, "light", ("#workers", "#sheet")),
    ("report-phone", 390, "dark", ("header", "#speed")),
)
#: The maximum height of a picture in pixels.
_MAX_HEIGHT = 1150


def main() -> None:
    """Make a report, and take the pictures; with a folder as the argument, save them there."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    program = shutil.which(PROGRAM)
    if program is None:
        sys.exit(f"{PROGRAM} is not installed on this machine")
    with tempfile.TemporaryDirectory() as place:
        page = with_neutral_host(make_report(Path(place), _IMAGES))
        with chromium(program) as browser:
            for name, width, colours, sections in _PICTURES:
                picture = _take(browser, page, width, colours, sections)
                # The picture gets a palette, which shrinks the file. A report has few colours apart from its images.
                picture.quantize(256).save(folder / f"{name}.png", optimize=True)


def _take(
    browser: Browser, page: Path, width: int, colours: Literal["light", "dark"], sections: tuple[str, ...]
) -> Image.Image:
    """Return a picture of some adjacent sections of a page."""
    with browser.new_context(viewport={"width": width, "height": 900}, color_scheme=colours, offline=True) as context:
        opened = context.new_page()
        opened.goto(page.as_uri())
        boxes = [box for section in sections if (box := opened.locator(section).first.bounding_box())]
        top, bottom = boxes[0]["y"], boxes[-1]["y"] + boxes[-1]["height"] + 24
        clip = {"x": 0.0, "y": top, "width": float(width), "height": min(bottom - top, _MAX_HEIGHT)}
        return Image.open(io.BytesIO(opened.screenshot(full_page=True, clip=clip))).convert("RGB")  # type: ignore[arg-type]


if __name__ == "__main__":
    main()

"""Take the screenshot of the gallery in the docs, from a real run of a local fleet (``make screenshot``)."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from PIL import Image

from docs.browser import PROGRAM, chromium
from producer.gallery.gallery import Gallery
from producer.gallery.server import GalleryServer
from producer.local_fleet.demo_process import DemoProcess
from tasks.storage.local_store import LocalStore

PICTURE = Path(__file__).with_name("gallery.png")
_IMAGES = 200
_SIZE = (1440, 900)


def main() -> None:
    """Run a list with a few bad URLs, and take the screenshot of its gallery."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    with tempfile.TemporaryDirectory() as place, DemoProcess() as server:
        kinds = ("jpg", "png", "webp", "gif")
        urls = [f"{server.url}/images/{index}.{kinds[index % 4]}" for index in range(_IMAGES)]
        urls[4], urls[9], urls[17] = (f"{server.url}/fault/{name}" for name in ("not-found", "html", "truncated"))
        argv = [sys.executable, "-m", "producer", "run", "-", "--out", f"{place}/images", "--retries", "0", "--json"]
        env = {"IMAGEFLEET_ALLOW_NETWORKS": server.address}
        _run(argv, "\n".join(urls), env)
        _take(Path(place) / "images", path)


def _run(argv: list[str], urls: str, env: dict[str, str]) -> None:
    subprocess.run(
        argv, env={**os.environ, **env}, input=urls, stdout=subprocess.DEVNULL, text=True, check=True, encoding="utf-8"
    )


def _take(out: Path, path: Path) -> None:
    program = shutil.which(PROGRAM)
    if program is None:
        sys.exit(f"{PROGRAM} is not installed on this machine")
    server = GalleryServer(Gallery(LocalStore(out)), 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        width, height = _SIZE
        with chromium(program) as browser, browser.new_page(viewport={"width": width, "height": height}) as page:
            page.goto(server.url, wait_until="networkidle")
            picture = Image.open(io.BytesIO(page.screenshot()))
    finally:
        server.stop()
        thread.join()
    # A palette shrinks the file to a third of its size.
    picture.quantize(256).save(path, optimize=True)


if __name__ == "__main__":
    main()

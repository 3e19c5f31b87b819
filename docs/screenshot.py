"""Take the screenshot of Flower in the docs, from a real run of a local fleet (``make screenshot``)."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Route

from docs.browser import PROGRAM, chromium, flower_page
from producer.local_fleet.demo_process import DemoProcess
from producer.local_fleet.fleet import Fleet, FleetSize, FlowerAccess

PICTURE = Path(__file__).with_name("flower.png")
_IMAGES = 13
_SIZE = (1560, 900)


def main() -> None:
    """Run a list with a few bad URLs, and take the screenshot."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    with tempfile.TemporaryDirectory() as place, DemoProcess(latency=0.08) as server:
        urls = [f"{server.url}/images/{index}.jpg" for index in range(_IMAGES)]
        urls[4], urls[9] = f"{server.url}/fault/not-found", f"{server.url}/fault/html"
        with Fleet(FleetSize(workers=2, concurrency=4), [Path(place)], [server.address], flower=True) as fleet:
            argv = [sys.executable, "-m", "producer", "run", "-", "--out", f"{place}/images", "--json"]
            env = {**os.environ, "IMAGEFLEET_BROKER_URL": fleet.broker_url}
            subprocess.run(
                argv, env=env, input="\n".join(urls), stdout=subprocess.DEVNULL, text=True, check=True, encoding="utf-8"
            )
            assert fleet.flower is not None
            _take(fleet.flower, path)


def _take(flower: FlowerAccess, path: Path) -> None:
    program = shutil.which(PROGRAM)
    if program is None:
        sys.exit(f"{PROGRAM} is not installed on this machine")
    url = f"http://127.0.0.1:{flower.port}"
    with chromium(program) as browser, flower_page(browser, url, flower.password, _SIZE) as page:
        page.route("**/tasks/datatable", _neutral)
        page.goto("/tasks")
        # Wait until the page lists the tasks of all images and of the shard, and all these tasks have ended.
        page.wait_for_function(
            "count => { const all = [...document.querySelectorAll('tbody .badge')].map(one => one.textContent);"
            " return all.length == count && !all.includes('STARTED') && !all.includes('RECEIVED') }",
            arg=_IMAGES + 1,
        )
        picture = Image.open(io.BytesIO(page.screenshot()))
    # The picture gets a palette, which shrinks the file to a third of its size. A web page has few colours.
    picture.quantize(256).save(path, optimize=True)


def _neutral(route: Route) -> None:
    # Replace this machine's name in the picture by "host".
    answer = route.fetch()
    route.fulfill(response=answer, body=answer.text().replace(f"@{socket.gethostname()}", "@host"))


if __name__ == "__main__":
    main()

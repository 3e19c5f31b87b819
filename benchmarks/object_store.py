"""Measure saving to an S3 endpoint by imagefleet, by img2dataset with s3fs, and by the clients obstore and s3fs alone.

``python -m benchmarks.object_store`` needs nginx, moto (extra ``dev``) and s3fs. The environment of img2dataset needs
s3fs too. The endpoint is moto's server on this machine. It is a Python program, and takes most of the CPU. So the rates
show how well each program uses a slow endpoint. They don't show how fast a program is with a fast store.
"""

from __future__ import annotations

import argparse
import http.client
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import processes, records, turns, web
from benchmarks.pictures import SMALL, Gallery, create_gallery
from benchmarks.programs import IMG2DATASET
from benchmarks.records import spread
from benchmarks.ways import THREADS
from config.locations import StoreUrl
from tasks.storage.object_store import ObjectStore

_BUCKET = "benchmark"
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
_STARTUP_SECONDS = 20.0
#: The client of img2dataset, and the sizes to measure for this client.
PEER_THREADS = (16, 32)
_OBJECTS, _OBJECT_BYTES = 3_000, 15_000


@contextmanager
def endpoint(folder: Path) -> Iterator[dict[str, str]]:
    """Run moto's server with an empty bucket; yield the environment variables for a process that uses the server."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    argv = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "moto.log").open("wb") as log, subprocess.Popen(argv, stdout=log, stderr=log) as server:
        try:
            _create_bucket(port)
            yield {**_CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        finally:
            server.terminate()


def _create_bucket(port: int) -> None:
    scope = "AWS4-HMAC-SHA256 Credential=id/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x"
    ends = time.monotonic() + _STARTUP_SECONDS
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_STARTUP_SECONDS)
            connection.request("PUT", f"/{_BUCKET}", headers={"Authorization": scope})
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
            raise RuntimeError("moto did not create the bucket")
        except ConnectionError:
            if time.monotonic() > ends:
                raise RuntimeError("moto did not start; install the extra `dev`") from None
            time.sleep(0.1)


def measure_runs(repeat: int, images: int, folder: Path) -> dict[str, Any]:
    """Measure imagefleet and img2dataset in turns on one list, from the command's start to its exit."""
    gallery = create_gallery(SMALL, images, folder / "pictures")
    rates: dict[str, list[float]] = {}
    with web.serve(gallery.folder, folder / "nginx", tls=False) as site:
        source = folder / "urls.txt"
        source.write_text("".join(f"{site.url}/{number}.jpg\n" for number in range(images)), encoding="utf-8")
        for turn in range(repeat):
            for name, argv in _ways(source).items():
                place = folder / f"moto-{turn}-{name.replace(' ', '-')}"
                place.mkdir()
                # Each measurement has a new endpoint, because moto keeps all objects in memory.
                with endpoint(place) as env:
                    out = f"s3://{_BUCKET}/out"
                    access = {"IMAGEFLEET_ALLOW_NETWORKS": site.address, "NO_ALBUMENTATIONS_UPDATE": "1"}
                    seconds = processes.measure([*argv, out], {**env, **access}).seconds
                    _check_saved(env, out, gallery)
                rates.setdefault(name, []).append(images / seconds)
                print(f"{name}: {images / seconds:.0f} images/s", file=sys.stderr, flush=True)
    return {name: spread(values) for name, values in rates.items()}


def _ways(source: Path) -> dict[str, list[str]]:
    """Return the commands by name; the output folder is the last argument."""
    run = [sys.executable, "-m", "producer", "run", str(source), "--json", "--out"]
    peers = {
        f"img2dataset, {threads} threads": [
            str(IMG2DATASET),
            *("--url_list", str(source), "--input_format", "txt", "--output_format", "files"),
            *("--number_sample_per_shard", "1000", "--processes_count", "2", "--thread_count", str(threads)),
            *("--enable_wandb", "False", "--resize_mode", "no", "--disable_all_reencoding", "True"),
            "--output_folder",
        ]
        for threads in PEER_THREADS
    }
    return {"imagefleet": run, **peers}


def _check_saved(env: dict[str, str], out: str, gallery: Gallery) -> None:
    """Check that all images are in the endpoint.

    Raises:
        RuntimeError: images are missing.
    """
    with _environment(env):
        store = ObjectStore(StoreUrl.parse(out))
        folders = [name for name in store.list_entries() if name.isdecimal()]
        saved = sum(name.endswith(".jpg") for folder in folders for name in store.list_files(folder))
    if saved != len(gallery.digests):
        raise RuntimeError(f"{saved} of {len(gallery.digests)} images were saved")


def measure_clients(repeat: int, folder: Path) -> dict[str, Any]:
    """Measure, for each client, how fast threads of one process write small objects."""
    rates: dict[str, list[float]] = {}
    for turn in range(repeat):
        for name, create in {"obstore": _obstore, "s3fs": _s3fs}.items():
            place = folder / f"client-{turn}-{name}"
            place.mkdir()
            with endpoint(place) as env, _environment(env):
                write = create()
                started, cpu = time.monotonic(), time.process_time()
                with ThreadPoolExecutor(THREADS) as pool:
                    list(pool.map(write, range(_OBJECTS)))
                seconds, spent = time.monotonic() - started, time.process_time() - cpu
            rates.setdefault(f"{name}, objects/s", []).append(_OBJECTS / seconds)
            rates.setdefault(f"{name}, CPU ms per object", []).append(1000 * spent / _OBJECTS)
    return {name: spread(values) for name, values in rates.items()}


def _obstore() -> Callable[[int], object]:
    store = ObjectStore(StoreUrl.parse(f"s3://{_BUCKET}/client"))
    body = secrets.token_bytes(_OBJECT_BYTES)
    return lambda number: store.create(str(number), body)


def _s3fs() -> Callable[[int], object]:
    import s3fs

    files = s3fs.S3FileSystem(skip_instance_cache=True)
    body = secrets.token_bytes(_OBJECT_BYTES)
    return lambda number: files.pipe_file(f"{_BUCKET}/client/{number}", body, mode="create")


@contextmanager
def _environment(env: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(env)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def main() -> None:
    """Measure, print and save the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.object_store", description=__doc__)
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--repeat", type=int, default=3, help="turns per way")
    parser.add_argument("--results", type=Path, default=records.FOLDER, help="folder for the JSON")
    arguments = parser.parse_args()
    with turns.scratch() as folder:
        clients = measure_clients(arguments.repeat, folder)
        runs = measure_runs(arguments.repeat, arguments.images, folder)
    for name, rate in {**clients, **runs}.items():
        print(f"{name:40} {rate['median']:10.2f}  ({rate['least']:.2f} to {rate['most']:.2f})")
    result = {"images": arguments.images, "repeat": arguments.repeat, "clients": clients, "images_per_second": runs}
    print(f"written to {records.save('object-store', result, arguments.results)}")


if __name__ == "__main__":
    main()

"""The three clients. Each client fetches the URLs of a case from a server on loopback."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import requests

from tasks.download.adapters import Sessions
from tasks.download.downloader import Downloader
from tasks.download.guard import Guard
from tasks.download.proxy import Proxy
from tasks.fetch import FetchRequest, fetch
from tasks.image_options import ResizeMode
from tasks.model import RunOptions
from tasks.storage.local_store import LocalStore
from tests.answers.case import CLIENTS, OTHER_BYTES, SAVED, Case, ReceivedRequest
from tests.conftest import required
from tests.unit.conftest import Canned

_SECONDS = 2.0


@contextmanager
def serving(case: Case) -> Iterator[Canned]:
    """Serve a case until the block ends."""

    def answered(request: bytes) -> Iterable[bytes]:
        received = ReceivedRequest(request.decode("latin-1"), len(server.requests) - 1, server.url)
        sent = case.answer if isinstance(case.answer, bytes) else case.answer(received)
        yield from (sent,) if isinstance(sent, bytes) else sent
        if case.closes:
            raise ConnectionAbortedError

    with Canned(answered) as server:
        yield server


def imagefleet(case: Case, certificates: Path | None = None) -> str:
    """Return imagefleet's result of a case. The result comes from the function that imagefleet's workers call.

    Args:
        case: the row.
        certificates: a CA bundle to trust; a small bundle loads quickly.
    """
    with serving(case) as server, tempfile.TemporaryDirectory() as folder:
        proxy = Proxy.parse(server.url) if case.proxied else None
        sessions = Sessions(Guard(["127.0.0.1"]), certificates, proxy=proxy)
        downloader, store = Downloader(sessions), LocalStore(Path(folder))
        run = RunOptions(folder, 1000, case.options)
        with closing(sessions.adapter()):
            for index, url in enumerate(_urls(case, server)):
                outcome = fetch(FetchRequest(url, index), run, store, downloader)
        if not outcome.ok:
            return _refused(server, f"`{outcome.reason}`: {outcome.error_message}")
        assert outcome.path is not None
        as_it_came = case.options.resize.mode is ResizeMode.NO
        return SAVED if not as_it_came or store.read(outcome.path) == case.image else OTHER_BYTES


def curl(case: Case) -> str:
    """Return curl's result of a case. The command has the usual options of a downloader."""
    with serving(case) as server, tempfile.TemporaryDirectory() as folder:
        command = [required("curl"), "--disable", "--silent", "--show-error", "--fail", "--location", "--compressed"]
        command += ["--cookie", "", "--max-time", f"{_SECONDS:g}"]
        command += ["--proxy", server.url] if case.proxied else ["--noproxy", "*"]
        for url in _urls(case, server):
            saved = Path(folder, str(len(command)))
            command += ["--output", str(saved), url]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            message = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            return _refused(server, message.removeprefix("curl: "))
        return SAVED if saved.exists() and saved.read_bytes() == case.image else OTHER_BYTES


def by_requests(case: Case) -> str:
    """Return the result of a case for the library ``requests``, with a session and ``raise_for_status``."""
    with serving(case) as server, requests.Session() as session:
        session.trust_env = False
        session.proxies = {"http": server.url} if case.proxied else {}
        try:
            for url in _urls(case, server):
                response = session.get(url, timeout=_SECONDS)
            response.raise_for_status()
        except Exception as error:  # noqa: BLE001  # any exception is a result
            return _refused(server, f"`{type(error).__name__}`")
        return SAVED if response.content == case.image else OTHER_BYTES


def by_all(case: Case) -> dict[str, str]:
    """Return each client's result of a case."""
    return {name: client(case) for name, client in zip(CLIENTS, (imagefleet, curl, by_requests), strict=True)}


def _urls(case: Case, server: Canned) -> list[str]:
    return [url.replace("{server}", server.url) for url in case.urls]


def _refused(server: Canned, message: str) -> str:
    """Return a message without the parts that vary between runs: the server's port, sizes and times."""
    message = message.replace(f"{server.address}", "127.0.0.1").replace(f"port {server.port}", "port N")
    message = re.sub(r"\b\d+ (milliseconds|bytes)\b", r"N \1", message)
    # The size of the image depends on the version of its encoder.
    message = re.sub(r"bytes \d+-\d+/(\d+|\*)", r"bytes …", message)
    message = re.sub(r"values: \d+, \d+", "values: …", message)
    return "refused: " + " ".join(message.split())

"""Real workers run a list with every kind of faulty image. Each faulty image is beside a good image."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import urlopen

import pytest

from producer.demo import ROUTES
from producer.demo.drawing import draw_image
from tasks.model import Reason, Status
from tests.integration import processes

#: The expected failure reason of each line, or None for a success. The words DEMO and CLOSED stand for addresses.
FAULTS: dict[str, str | None] = {
    "DEMO/fault/not-found": "http_4xx",
    "DEMO/fault/forbidden": "http_4xx",
    "DEMO/fault/gone": "http_4xx",
    "DEMO/fault/rate-limited": "rate_limited",
    "DEMO/fault/rate-limited?after=100000": "rate_limited",
    "DEMO/fault/rate-limited-once": None,
    "DEMO/fault/server-error": "http_5xx",
    "DEMO/fault/server-error-once": None,
    "DEMO/fault/no-content": "empty",
    "DEMO/fault/not-modified": "bad_response",
    "DEMO/fault/partial": "bad_response",
    "DEMO/fault/request-timeout": "http_4xx",
    "DEMO/fault/not-implemented": "http_5xx",
    "DEMO/fault/opted-out": "opted_out",
    "DEMO/fault/opted-out?tag=nofollow": None,
    "DEMO/fault/robots-denied": "robots_denied",
    "DEMO/fault/drop": "connect",
    "DEMO/fault/drop-once": None,
    "DEMO/fault/silent": "timeout",
    "DEMO/fault/stall": "timeout",
    "DEMO/fault/drip": "timeout",
    "DEMO/fault/slow-header": "timeout",
    "DEMO/fault/truncated": "truncated",
    "DEMO/fault/wrong-length": None,
    "DEMO/fault/wrong-length?conflicting": "bad_response",
    "DEMO/fault/bad-chunk": "truncated",
    "DEMO/fault/huge-header": "bad_response",
    "DEMO/fault/gzip": None,
    "DEMO/fault/html": "not_image",
    "DEMO/fault/json": "not_image",
    "DEMO/fault/empty": "empty",
    "DEMO/fault/big-pixels": "too_many_pixels",
    "DEMO/fault/broken-image": "undecodable",
    "DEMO/fault/broken-image/1.png": "undecodable",
    "DEMO/fault/huge": "too_large",
    "DEMO/fault/huge?declared=no": "too_large",
    "DEMO/fault/gzip-bomb": "too_large",
    "DEMO/fault/br-bomb": "too_large",
    "DEMO/fault/zstd-bomb": "too_large",
    "DEMO/fault/redirect": None,
    "DEMO/fault/redirect-loop": "redirects",
    "DEMO/fault/redirect-chain?hops=5": None,
    "DEMO/fault/redirect-chain?hops=6": "redirects",
    "DEMO/fault/redirect-to?url=http://10.0.0.1/": "blocked_address",
    "DEMO/fault/redirect-to?url=http://169.254.169.254/latest/meta-data/": "blocked_address",
    "DEMO/fault/redirect-to?url=file:///etc/hostname": "redirects",
    "DEMO/no-such-route": "http_4xx",
    "TLS/images/1.jpg": "tls",
    "CLOSED/1.jpg": "connect",
    "http://no-such-host.invalid/1.jpg": "dns",
    "http://10.0.0.1/": "blocked_address",
    "http://169.254.169.254/latest/meta-data/": "blocked_address",
    "http://2130706434/": "blocked_address",
    "http://0.0.0.0/": "blocked_address",
    "http://[::1]/": "blocked_address",
    "http://[::ffff:10.0.0.1]/": "blocked_address",
    "http://user:word-of-mine@10.0.0.1/?token=word-of-mine": "blocked_address",
    "not a url": "invalid_url",
    "ftp://127.0.0.1/1.jpg": "invalid_url",
    "file:///etc/hostname": "invalid_url",
    "data:image/png;base64,AAAA": "invalid_url",
    "http://": "invalid_url",
    "http://127.0.0.1:99999/1.jpg": "invalid_url",
    "DEMO/" + "x" * 100_000: "invalid_url",
    "DEMO/images/\udcff\udcfe.jpg": "invalid_url",
    # The path is escaped as in browsers, and no route of the server has such a name.
    "DEMO/images/\x01.jpg": "http_4xx",
    "DEMO/images/\x00.jpg": "http_4xx",
    "DEMO/images/77.jpg#unsavable": "storage",
}
#: The reasons that a line of a list can't cause. Their causes are an early end of the run, an internal error, or a dead
#: worker.
ELSEWHERE = {
    *(Reason.CANCELLED, Reason.INTERNAL, Reason.LOST, Reason.CRASHED),
    # The following reasons need a table, a filter or other options.
    *(Reason.INVALID_ROW, Reason.DUPLICATE, Reason.HASH_MISMATCH, Reason.FILTERED, Reason.HOST_RESTING),
}


@dataclass(frozen=True)
class Mixed:
    """The run of all faults. Good and faulty images take turns, and the first and the last image are good."""

    out: Path
    ended: processes.Completed
    rows: list[dict[str, Any]]
    lines: list[bytes]
    #: The number of requests to each path of the demo server, which other tests of the session use, too.
    requests: Counter[str]

    def row(self, fault: str) -> dict[str, Any]:
        """Return the row of a fault."""
        return self.rows[2 * list(FAULTS).index(fault) + 1]


@pytest.fixture(scope="module")
def mixed(fleet: str, demo_url: str, store_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    """Run the list of all faults once, with short timeouts."""
    tls = f"https://{urlsplit(demo_url).netloc}"
    closed = f"http://127.0.0.1:{processes.free_port()}"
    lines = [good(0, demo_url)]
    for number, fault in enumerate(FAULTS, 1):
        line = fault.replace("DEMO", demo_url).replace("TLS", tls).replace("CLOSED", closed)
        lines += [line.encode(errors="surrogateescape"), good(number, demo_url)]
    source = tmp_path_factory.mktemp("faults") / "list.txt"
    source.write_bytes(b"\n".join(lines))
    out = store_root / "of-faults"
    # A dangling symlink has the name of one image's file. The symlink can't be overwritten, and is not mistaken for the
    # image.
    unsavable = next(at for at, line in enumerate(lines) if line.endswith(b"#unsavable"))
    (out / "00000").mkdir(parents=True)
    (out / f"00000/00000{unsavable:03d}.jpg").symlink_to(out / "nowhere")
    # Fetch robots.txt with the default deadline. With the short deadline below, a busy worker would not wait for the
    # other one, and would fetch the file itself.
    before = requests(demo_url)
    first = processes.producer(
        *("run", "-", "--out", store_root / "of-robots", "--broker", fleet, "--json", "--robots", "obey"),
        stdin=b"\n".join(good(number, demo_url) for number in range(40)),
    )
    assert first.json()["success"] == 40
    ended = processes.producer(
        *("run", source, "--out", out, "--broker", fleet, "--json"),
        *("--timeout", "1s", "--deadline", "4s", "--retries", "1", "--max-bytes", "1MiB", "--robots", "obey"),
        # All images are from one host. If the host rested after its refusals, faults would affect other images.
        "--no-adaptive",
    )
    return Mixed(out, ended, processes.rows(out), lines, requests(demo_url) - before)


def requests(demo_url: str) -> Counter[str]:
    """Return the number of requests to each path of the demo server since its start."""
    with urlopen(f"{demo_url}/stats") as answer:
        return Counter(json.load(answer))


def good(number: int, demo_url: str) -> bytes:
    """Return the list's line of a good image."""
    return f"{demo_url}/images/{number + 1000}.jpg".encode()


def test_every_fault_route_and_reason_is_covered() -> None:
    """The table above has each fault route of the demo server and each failure reason that a list's line can cause."""
    routes = {route for route in ROUTES if route.startswith("/fault/")}
    covered = {
        urlsplit(fault.removeprefix("DEMO")).path.removesuffix("/1.png") for fault in FAULTS if "/fault/" in fault
    }
    assert routes == covered
    assert {Reason(reason) for reason in FAULTS.values() if reason} == set(Reason) - ELSEWHERE


def test_run_completes_despite_its_faults(mixed: Mixed) -> None:
    """Even if many images fail, the run completes with exit status 0 and exact counts."""
    facts = mixed.ended.json()
    failed = sum(reason is not None for reason in FAULTS.values())
    assert (facts["total"], facts["failed"]) == (2 * len(FAULTS) + 1, failed)
    assert facts["success"] == facts["total"] - failed
    assert facts["reasons"] == {
        reason: list(FAULTS.values()).count(reason) for reason in set(FAULTS.values()) if reason is not None
    }
    assert json.loads((mixed.out / "run.json").read_text())["state"] == "complete"


@pytest.mark.parametrize(
    ("fault", "reason"), FAULTS.items(), ids=[quote(fault.encode(errors="surrogateescape"))[:60] for fault in FAULTS]
)
def test_fault_has_its_exact_outcome(mixed: Mixed, fault: str, reason: str | None) -> None:
    """Each faulty image has the expected status and reason. A file is saved only if the image succeeds."""
    row = mixed.row(fault)
    assert row["status"] == (Status.SUCCESS if reason is None else Reason(reason).status)
    assert row["reason"] == reason
    if reason is None:
        assert (mixed.out / row["path"]).stat().st_size == row["bytes"] > 0
        assert row["error_message"] is None
    else:
        assert (row["path"], row["bytes"], row["sha256"], row["format"]) == (None, None, None, None)
        assert 0 < len(row["error_message"]) <= 200
        assert row["error_message"].isprintable()
    assert row["fetch_seconds"] < 6


def test_good_neighbours_are_saved(mixed: Mixed) -> None:
    """The good images between the faults are saved byte for byte, and only successful images have files."""
    for number, row in enumerate(mixed.rows[::2]):
        assert row["status"] == "success", row
        assert (mixed.out / row["path"]).read_bytes() == draw_image(number + 1000, 80, 40)
    assert processes.image_files(mixed.out) == {row["path"] for row in mixed.rows if row["path"]}


def test_urls_are_kept_as_given(mixed: Mixed) -> None:
    """The URL in a manifest's row is the line of the list, so the rows can be joined with the list."""
    assert [row["url"] for row in mixed.rows] == [line.decode(errors="replace") for line in mixed.lines]


def test_secrets_of_urls_are_not_shown(mixed: Mixed) -> None:
    """A password or token in a URL appears only in the manifest's column of URLs."""
    for row in mixed.rows:
        assert "word-of-mine" not in json.dumps({**row, "url": ""}, default=str)
    assert "word-of-mine" not in mixed.ended.out + mixed.ended.err


@pytest.mark.parametrize(
    ("fault", "attempts"),
    {
        "DEMO/fault/not-found": 1,
        "DEMO/fault/server-error": 2,
        "DEMO/fault/server-error-once": 2,
        "DEMO/fault/rate-limited": 2,
        "DEMO/fault/rate-limited?after=100000": 1,
        "DEMO/fault/request-timeout": 2,
        "DEMO/fault/not-implemented": 1,
        "DEMO/fault/opted-out": 1,
        "DEMO/fault/robots-denied": 1,
        # The route drop-once is left out, because its request on a reused connection is resent without counting as an
        # attempt.
        "DEMO/fault/drop": 2,
        "CLOSED/1.jpg": 2,
        "DEMO/fault/html": 1,
        "http://10.0.0.1/": 1,
    }.items(),
)
def test_retries_only_temporary_failures(mixed: Mixed, fault: str, attempts: int) -> None:
    """Only temporary failures are retried, and only within the deadline."""
    assert mixed.row(fault)["attempts"] == attempts


def test_redirected_image_has_its_final_url(mixed: Mixed) -> None:
    """The row of a redirected image has the URL to which the last redirect led."""
    final = mixed.row("DEMO/fault/redirect")["final_url"]
    assert urlsplit(final).path == "/images/0.jpg"


def test_workers_fetch_robots_txt_once(mixed: Mixed) -> None:
    """The two workers together fetch the server's robots.txt once, and no forbidden image."""
    assert mixed.requests["/robots.txt"] == 1
    assert "/fault/robots-denied" not in mixed.requests


def test_foreign_folder_among_the_images_is_tolerated(fleet: str, demo_url: str, out: Path) -> None:
    """If someone else has created a folder in a shard's folder, the run does not stop."""
    (out / "00000/thumbnails").mkdir(parents=True)
    url = f"{demo_url}/images/1.jpg".encode()
    ended = processes.producer("run", "-", "--out", out, "--broker", fleet, "--json", stdin=url)
    assert ended.json()["success"] == 1

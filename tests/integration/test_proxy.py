"""A local fleet fetches through its configured proxy, and never shows the proxy's password."""

from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import urlsplit

from tests.forward_proxy import ForwardProxy
from tests.integration import processes


def test_run_through_a_proxy(demo_url: str, tmp_path: Path) -> None:
    """Images are fetched from hosts whose names only the proxy knows. A private address is still refused."""
    credentials = "Basic " + base64.b64encode(b"user:word-of-mine").decode()
    urls = [f"http://images.example/images/{number}.jpg" for number in range(3)]
    refused = ["http://10.0.0.1/1.jpg", "http://images.example:25/1.jpg"]
    file = tmp_path / "password"
    file.write_text("word-of-mine\n")
    with ForwardProxy({"images.example:80": urlsplit(demo_url).port or 80}, credentials) as proxy:
        env = {
            "IMAGEFLEET_PROXY": f"http://user@127.0.0.1:{proxy.port}",
            "IMAGEFLEET_PROXY_PASSWORD_FILE": str(file),
            "TMPDIR": str(tmp_path),
        }
        out = tmp_path / "out"
        list_of_all = "\n".join([*urls, *refused]).encode()
        ended = processes.producer("run", "-", "--out", out, "--workers", "1", "--json", env=env, stdin=list_of_all)
    facts = ended.json()
    assert (facts["success"], facts["reasons"]) == (3, {"blocked_address": 2})
    assert sorted(request.split(b" ")[1].decode() for request in proxy.requests) == urls
    assert "word-of-mine" not in ended.out + ended.err
    assert all(b"word-of-mine" not in path.read_bytes() for path in out.rglob("*") if path.is_file())

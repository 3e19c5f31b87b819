"""The web server with the images: nginx on this machine, over http or https."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import certifi

from benchmarks.programs import NGINX, OPENSSL

_HOST = "127.0.0.1"
#: nginx flushes its access log after at most this many seconds.
_FLUSH = 1.0
_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


@dataclass
class Site:
    """A served folder.

    ``certificates`` is a PEM file of trusted certificates: the usual certificates and the benchmark's own CA. Some
    programs read the file for each image. It contains the usual certificates, so that these programs read as many
    certificates as in normal use. The file exists even if the folder is served without TLS.
    """

    url: str
    certificates: Path
    _log: Path
    _read: int = field(default=0, init=False)

    @property
    def address(self) -> str:
        """Its address and port."""
        return urlsplit(self.url).netloc

    def new_requests(self) -> Counter[str]:
        """Return, for each path, the number of requests that got a full response (200) since the last call."""
        time.sleep(_FLUSH * 1.2)
        with self._log.open(encoding="utf-8") as log:
            log.seek(self._read)
            lines = log.read().splitlines()
            self._read = log.tell()
        return Counter(path for status, _, path in (line.partition(" ") for line in lines) if status == "200")


@contextmanager
def serve(folder: Path, scratch: Path, tls: bool) -> Iterator[Site]:
    """Serve a folder on a free loopback port; ``scratch`` is for the server's own files.

    Raises:
        RuntimeError: nginx or openssl is not installed, or fails.
    """
    program = NGINX.required()
    scratch.mkdir(parents=True)
    with socket.create_server((_HOST, 0)) as probe:
        port = probe.getsockname()[1]
    # If started by root, nginx would run its worker as another user without access to our folders.
    user = "user root;" if os.geteuid() == 0 else ""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    (scratch / "nginx.conf").write_text(
        f"""
daemon off; {user} worker_processes 1; pid {scratch}/nginx.pid; error_log {scratch}/error.log;
events {{ worker_connections 4096; }}
http {{
    sendfile on; tcp_nopush on; keepalive_requests 1000000; types {{ image/jpeg jpg; }}
    log_format asked '$status $uri'; access_log {scratch}/asked.log asked buffer=64k flush={_FLUSH:.0f}s;
    {" ".join(f"{kind}_temp_path {scratch}/{kind};" for kind in kinds)}
    server {{ listen {_HOST}:{port} {"ssl" if tls else ""}; root {folder}; {_tls(scratch) if tls else ""} }}
}}
""",
        encoding="utf-8",
    )
    server = subprocess.Popen([program, "-c", f"{scratch}/nginx.conf", "-p", scratch, "-e", f"{scratch}/error.log"])
    try:
        _wait_for_port(port, server)
        certificates = scratch / "trusted.pem"
        own = (scratch / "ca.pem").read_text(encoding="utf-8") if tls else ""
        certificates.write_text(Path(certifi.where()).read_text(encoding="utf-8") + own, encoding="utf-8")
        yield Site(f"{'https' if tls else 'http'}://{_HOST}:{port}", certificates, scratch / "asked.log")
    finally:
        server.terminate()
        server.wait()


def _tls(folder: Path) -> str:
    """Create a CA, and a certificate that the CA signs. Return the nginx directives for the certificate."""
    names = folder / "names"
    names.write_text(f"subjectAltName=IP:{_HOST}\nauthorityKeyIdentifier=keyid\n", encoding="utf-8")
    for command in (
        ["req", "-x509", *_CURVE, "-subj", "/CN=imagefleet benchmarks", "-keyout", "ca-key.pem", "-out", "ca.pem"],
        ["req", *_CURVE[:-2], "-subj", f"/CN={_HOST}", "-keyout", "key.pem", "-out", "request.pem"],
        [
            *("x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial"),
            *("-days", "2", "-extfile", names.name, "-out", "certificate.pem"),
        ],
    ):
        done = subprocess.run(
            [OPENSSL.required(), *command], cwd=folder, capture_output=True, text=True, check=False, encoding="utf-8"
        )
        if done.returncode != 0:
            raise RuntimeError(f"openssl {command[0]} failed:\n{done.stderr}")
    return (
        f"ssl_certificate {folder}/certificate.pem; ssl_certificate_key {folder}/key.pem; "
        "ssl_session_cache shared:tls:10m;"
    )


def _wait_for_port(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection((_HOST, port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("nginx did not start")

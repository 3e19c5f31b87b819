"""``python -m tests.file_server FILES LOGS PORT``: serve a folder on loopback where nginx is not installed.

Like nginx, the server sends an ETag and a Last-Modified, answers 304 to conditional requests, and keeps connections
open. It logs each request into three files (see `tests.integration.processes.file_server`).
"""

from __future__ import annotations

import mimetypes
import sys
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOGS = ("hits.log", "requests.log", "answers.log")


class Server(ThreadingHTTPServer):
    """A server that serves one folder."""

    request_queue_size = 1024

    def __init__(self, files: Path, logs: Path, port: int) -> None:
        """Listen at a port of loopback, and create the logs."""
        super().__init__(("127.0.0.1", port), Handler)
        self.files = files
        self._logs = [logs / name for name in LOGS]
        for log in self._logs:
            log.touch()

    def log(self, *lines: str) -> None:
        """Append one line to each log."""
        for log, line in zip(self._logs, lines, strict=True):
            with log.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")


class Handler(BaseHTTPRequestHandler):
    """Answers a GET request with a file, or with status 304 or 404."""

    server: Server
    protocol_version = "HTTP/1.1"
    # The headers and the body leave in one packet.
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Send the file, unless it is missing or the client already has it."""
        path = unquote(urlsplit(self.path).path)
        status, headers, body = self._answer(self.server.files / path.lstrip("/"))
        # The server logs a request before it answers, so that the request is in the logs when its client gets the
        # answer.
        self.server.log(path, self.path, f"{path} {status} {len(body)}")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answer(self, file: Path) -> tuple[int, dict[str, str], bytes]:
        try:
            modified, body = file.stat().st_mtime, file.read_bytes()
        except OSError:
            return 404, {}, b"not found\n"
        headers = {"ETag": f'"{int(modified):x}-{len(body):x}"', "Last-Modified": formatdate(modified, usegmt=True)}
        # An If-None-Match takes precedence over an If-Modified-Since (RFC 9110, section 13.2.2).
        condition = "If-None-Match" if "If-None-Match" in self.headers else "If-Modified-Since"
        if self.headers.get(condition) in headers.values():
            return 304, headers, b""
        kind, _ = mimetypes.guess_type(file.name)
        return 200, {**headers, "Content-Type": kind or "application/octet-stream"}, body

    def log_message(self, *_: object) -> None:
        """Log nothing else."""


if __name__ == "__main__":
    Server(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])).serve_forever()

"""A small S3 server in this process.

The server has conditional writes, and verifies no signature. A test can make it fail.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

from tests.loopback_server import LoopbackHandler, LoopbackServer

#: The credentials for the server, as an operator sets them in the environment.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test-id", "AWS_SECRET_ACCESS_KEY": "test-secret", "AWS_REGION": "us-east-1"}
_PAGE = 1000


class ObjectServer(LoopbackServer):
    """The server; ``buckets`` maps each bucket to its objects. At first, there is an empty bucket ``bucket``."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.buckets: dict[str, dict[str, bytes]] = {"bucket": {}}
        #: The parts of unfinished uploads.
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.lock = threading.Lock()
        #: The method and path of each request.
        self.requests: list[tuple[str, str]] = []
        #: Whether `If-None-Match` and `If-Match` are ignored.
        self.ignores: frozenset[str] = frozenset()
        #: Called with the method and path of each request. Returns a status with which the request fails, "lost" to
        #: execute the request and break the connection, or None to answer the request.
        self.fault: Callable[[str, str], int | str | None] = lambda _method, _path: None

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables for a process that uses this server."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.url}


class _Handler(LoopbackHandler):
    server: ObjectServer

    def do_GET(self) -> None:  # noqa: N802  # the base class finds it by this name
        self._handle()

    do_PUT = do_HEAD = do_POST = do_DELETE = do_GET  # noqa: N815  # as the last

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.command, parts.path))
        fault = self.server.fault(self.command, parts.path)
        if isinstance(fault, int):
            self._error(fault, {503: "SlowDown", 403: "AccessDenied"}.get(fault, "Fault"))
            return
        bucket, _, key = unquote(parts.path).removeprefix("/").partition("/")
        objects = self.server.buckets.get(bucket)
        with self.server.lock:
            answer = (404, "NoSuchBucket", {}) if objects is None else self._answer(objects, key, parts.query, body)
        if fault == "lost":
            self.close_connection = True
            return
        status, content, headers = answer
        if isinstance(content, str):
            self._error(status, content)
        else:
            self._send(status, content, headers)

    def _answer(
        self, objects: dict[str, bytes], key: str, query: str, body: bytes
    ) -> tuple[int, bytes | str, dict[str, str]]:
        """Return the status, the body (or the code of an error) and the headers of the response."""
        found = objects.get(key)
        if "uploadId" in query or "uploads" in query:
            return self._upload(objects, key, parse_qs(query), body)
        if self.command == "PUT":
            if "If-None-Match" not in self.server.ignores and self.headers.get("If-None-Match") and found is not None:
                return 412, "PreconditionFailed", {}
            expected = None if "If-Match" in self.server.ignores else self.headers.get("If-Match")
            if expected is not None and (found is None or _tag(found) != expected):
                return (404, "NoSuchKey", {}) if found is None else (412, "PreconditionFailed", {})
            objects[key] = body
            return 200, b"", {"ETag": _tag(body)}
        if self.command == "POST":
            # The client removes objects only by a request that lists their names.
            for removed in re.findall(r"<Key>(.*?)</Key>", body.decode()):
                objects.pop(unescape(removed), None)
            return 200, b"<DeleteResult><Deleted><Key>any</Key></Deleted></DeleteResult>", {}
        if not key:
            return 200, _listing(objects, {name: values[0] for name, values in parse_qs(query).items()}), {}
        if found is None:
            return 404, "NoSuchKey", {}
        if self.headers.get("If-Match") not in (None, _tag(found)):
            return 412, "PreconditionFailed", {}
        headers = {"ETag": _tag(found), "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if part is None:
            return 200, found, headers
        start, end = int(part[1]), min(int(part[2]) + 1, len(found))
        return 206, found[start:end], {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(found)}"}

    def _upload(
        self, objects: dict[str, bytes], key: str, query: dict[str, list[str]], body: bytes
    ) -> tuple[int, bytes | str, dict[str, str]]:
        """Start, continue, complete or abort an upload in several parts."""
        if "uploadId" not in query:
            upload = str(len(self.server.uploads) + 1)
            self.server.uploads[upload] = {}
            text = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            return 200, text.encode(), {}
        upload = query["uploadId"][0]
        if self.command == "PUT":
            self.server.uploads[upload][int(query["partNumber"][0])] = body
            return 200, b"", {"ETag": _tag(body)}
        parts = self.server.uploads[upload]
        self.server.uploads[upload] = {}
        if self.command == "DELETE":
            return 204, b"", {}
        objects[key] = b"".join(parts[number] for number in sorted(parts))
        text = f"<CompleteMultipartUploadResult><ETag>{_tag(objects[key])}</ETag></CompleteMultipartUploadResult>"
        return 200, text.encode(), {}

    def _error(self, status: int, code: str) -> None:
        self._send(status, f"<Error><Code>{code}</Code><AWSAccessKeyId>test-id</AWSAccessKeyId></Error>".encode(), {})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _tag(body: bytes) -> str:
    return f'"{hashlib.md5(body).hexdigest()}"'


def _listing(objects: dict[str, bytes], query: dict[str, str]) -> bytes:
    """Return a page of ListObjectsV2."""
    prefix, delimiter, after = (query.get(name, "") for name in ("prefix", "delimiter", "continuation-token"))
    entries: dict[str, str] = {}
    for key in sorted(objects):
        if key.startswith(prefix):
            rest = key.removeprefix(prefix)
            folder, found, _ = rest.partition(delimiter) if delimiter else (rest, "", "")
            if found:
                text = escape(f"{prefix}{folder}/")
                entries[text] = f"<CommonPrefixes><Prefix>{text}</Prefix></CommonPrefixes>"
            else:
                entries[key] = (
                    f"<Contents><Key>{escape(key)}</Key><Size>{len(objects[key])}</Size><ETag>{_tag(objects[key])}"
                    "</ETag><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
                )
    names = sorted(name for name in entries if name > after)
    page = names[:_PAGE]
    more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if len(names) > _PAGE else ""
    shown = "".join(entries[name] for name in page)
    return (
        f"<ListBucketResult><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount>"
        f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{more}{shown}</ListBucketResult>"
    ).encode()

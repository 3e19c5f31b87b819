"""Our adapters and connections use internals of requests, urllib3 and http.client. These internals are unchanged.

Most changes of these internals would go unnoticed. If urllib3 stopped calling `_new_conn`, connections would bypass the
guard. If urllib3 set `verify_mode` differently, servers would not be verified. Therefore ``pyproject.toml`` bounds both
libraries. To allow a new version, read how it changed the parts below. Then update the digests and the bounds.

http.client comes with Python and differs between Python's versions. Therefore the tests below check the behaviour of
http.client.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import pkgutil
import re
import socket
import tomllib
from collections.abc import Iterator
from contextlib import closing
from importlib import import_module
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import urllib3
from packaging.requirements import Requirement
from requests import adapters, models
from urllib3 import connection as urllib3_connection
from urllib3 import connectionpool, poolmanager, response
from urllib3.util import connection as connection_util
from urllib3.util import ssl_

import producer
import tasks
from tasks.download.connection import GuardedConnection, Response
from tasks.download.sockets import PlainSocket

#: The parts that we override or call, and their callers. Each part has the first digits of its source's SHA-256.
_SOURCES = {
    # requests calls the methods that our adapter overrides, and our pool's `urlopen`.
    "adapters.HTTPAdapter.__init__": "fd3e5e9d250e",
    "adapters.HTTPAdapter.init_poolmanager": "dcc10b3b4da2",
    "adapters.HTTPAdapter.get_connection_with_tls_context": "cf749a3be9e2",
    "adapters.HTTPAdapter.cert_verify": "d5b2e7394e8c",
    "adapters.HTTPAdapter.request_url": "fdf34500937f",
    "adapters.HTTPAdapter.add_headers": "60c2b86788e2",
    "adapters.HTTPAdapter.build_response": "e10fa3a87ef2",
    "adapters.HTTPAdapter.send": "a8b4a1d8c114",
    # Our requests and responses are built without `prepare` and without the adapter's `build_response`.
    "models.PreparedRequest.__init__": "0a83e25cbace",
    "models.Response.__init__": "41c2735de3e0",
    "models.Response.close": "4290628346f4",
    # Builds our pools. A pool's class names the class of its connections.
    "poolmanager.PoolManager.__init__": "f16e97614e30",
    "poolmanager.PoolManager._new_pool": "6b5c00b2084b",
    "poolmanager.PoolManager.connection_from_host": "d101301d4108",
    "poolmanager.PoolManager.connection_from_context": "8f3204a9cc60",
    "poolmanager.PoolManager.connection_from_pool_key": "3d772c8ce703",
    # The pool keeps one idle connection for each host, and checks the connection's `is_connected`.
    "connectionpool.HTTPConnectionPool.__init__": "780d831d36f4",
    "connectionpool.HTTPConnectionPool._new_conn": "243b34ca0fe6",
    "connectionpool.HTTPConnectionPool._get_conn": "78fb22fdf2f9",
    "connectionpool.HTTPConnectionPool._put_conn": "f4b8abb8b956",
    "connectionpool.HTTPConnectionPool.close": "1c988baeaf4c",
    "connectionpool.HTTPSConnectionPool.__init__": "9bf46386368a",
    "connectionpool.HTTPSConnectionPool._new_conn": "a41f4433fded",
    "connectionpool._normalize_host": "e189498fe783",
    "connectionpool._close_pool_connections": "b3129a509e21",
    "connection_util.is_connection_dropped": "f9c8ca574e54",
    # The connection gets its socket from our `_new_conn`, which asks the guard. Then the connection verifies the
    # server.
    "urllib3_connection.HTTPConnection.__init__": "e043b0d7c163",
    "urllib3_connection.HTTPConnection.connect": "b70c63e73088",
    "urllib3_connection.HTTPConnection.is_connected": "2a727e90f341",
    "urllib3_connection.HTTPConnection.close": "8fe19deb36fa",
    "urllib3_connection.HTTPSConnection.__init__": "dc955b4b9620",
    "urllib3_connection.HTTPSConnection.connect": "2a2e1795406d",
    "urllib3_connection._ssl_wrap_socket_and_match_hostname": "01a26f2dc659",
    "ssl_.ssl_wrap_socket": "82ac38231463",
    "ssl_._ssl_wrap_socket_impl": "8d5f943b8e72",
    "ssl_.resolve_cert_reqs": "ece0935c5bda",
    # The response reads the body by `read1`. It then either returns `_connection` to `_pool` or closes `_connection`.
    "response.BaseHTTPResponse.__init__": "91bd5d87a262",
    "response.HTTPResponse.__init__": "f4c8dc77d1a5",
    "response.HTTPResponse._init_length": "477b2301d126",
    "response.HTTPResponse._error_catcher": "ba7c38a98eed",
    "response.HTTPResponse._fp_read": "07133b7310d5",
    "response.HTTPResponse._raw_read": "169d4783d85b",
    "response.HTTPResponse.read1": "276878dd9e5a",
    "response.HTTPResponse.release_conn": "a9b5a37d13ea",
    "response.HTTPResponse.close": "9184444afb6e",
}
_MODULES = {
    "adapters": adapters,
    "models": models,
    "poolmanager": poolmanager,
    "connectionpool": connectionpool,
    "connection_util": connection_util,
    "urllib3_connection": urllib3_connection,
    "ssl_": ssl_,
    "response": response,
}
#: The private names that our code calls, sets or overrides. Each name has the part or the test that covers it.
_PRIVATE = {
    "_new_conn": "urllib3_connection.HTTPConnection.connect",
    "_get_conn": "connectionpool.HTTPConnectionPool._get_conn",
    "_put_conn": "connectionpool.HTTPConnectionPool._put_conn",
    "_connection": "response.HTTPResponse.release_conn",
    "_pool": "response.HTTPResponse.release_conn",
    "_get_chunk_left": "test_chunks_are_read_by_our_method",
    "_check_close": "test_detects_whether_the_server_closes",
    "_close_conn": "test_closing_the_response_leaves_no_file",
    "_read_and_discard_trailer": "test_trailer_is_read_to_its_end",
}
_LIBRARIES = {"requests", "urllib3", "http", "ssl", "socket"}


@pytest.mark.parametrize(("name", "digest"), _SOURCES.items(), ids=_SOURCES)
def test_source_is_unchanged(name: str, digest: str) -> None:
    """The source of each part is still the source that our code was written for."""
    module, _, attribute = name.partition(".")
    part: Any = attrgetter(attribute)(_MODULES[module])
    source = inspect.getsource(getattr(part, "fget", part))
    found = hashlib.sha256(source.encode()).hexdigest()[:12]
    assert found == digest, (
        f"requests {version('requests')} or urllib3 {version('urllib3')} has changed {name}, on which our code relies: "
        f"read the changes, adapt the adapters and connections, then put {found} here, and the version "
        "into the bounds in pyproject.toml"
    )


@pytest.mark.parametrize("library", ["requests", "urllib3"])
def test_next_minor_version_is_not_installed(library: str) -> None:
    """The bounds in pyproject.toml allow the version with these digests. The bounds allow no later minor version."""
    text = (Path(tasks.__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    bounds = [Requirement(item) for item in tomllib.loads(text)["project"]["dependencies"]]
    allowed = next(item.specifier for item in bounds if item.name == library)
    major, minor, *_ = version(library).split(".")
    assert allowed.contains(version(library))
    assert not allowed.contains(f"{major}.{int(minor) + 1}")
    assert not allowed.contains(f"{int(major) + 1}.0")


def _modules() -> Iterator[ModuleType]:
    """Return our modules that import the libraries, or `ssl`."""
    for package in (tasks, producer):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            spec = found.module_finder.find_spec(found.name, None)
            assert spec is not None
            assert spec.origin is not None
            source = Path(spec.origin).read_text(encoding="utf-8")
            if re.search(r"^(?:import|from) (?:requests|urllib3|http\.client|ssl)\b", source, re.MULTILINE):
                yield import_module(found.name)


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _defined(tree: ast.AST) -> set[str]:
    """Return the names of functions, variables and class attributes, and of attributes set on ``self``."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node, ast.Name):
                found.add(node.id)
            elif isinstance(node.value, ast.Name) and node.value.id == "self":
                found.add(node.attr)
    return found


def _used(tree: ast.AST) -> tuple[set[str], set[str]]:
    """Return the private names used on any object, and the private names used on ``super()``."""
    found: set[str] = set()
    of_super: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr):
            owner = node.value
            is_super = isinstance(owner, ast.Call) and getattr(owner.func, "id", "") == "super"
            (of_super if is_super else found).add(node.attr)
    return found, of_super


def _inherited(module: ModuleType) -> set[str]:
    """Return the private names that the module's classes inherit from the libraries' classes."""
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__]
    bases = {base for kind in kinds for base in kind.__mro__ if base.__module__.partition(".")[0] in _LIBRARIES}
    return {name for base in bases for name in dir(base) if _is_private(name)}


def test_no_other_private_name_is_used() -> None:
    """Each private name of these libraries that our code uses is covered by a digest or a test in this file."""
    modules = list(_modules())
    trees = [ast.parse(inspect.getsource(module)) for module in modules]
    own = {name for tree in trees for name in _defined(tree)}
    found: set[str] = set()
    for module, tree in zip(modules, trees, strict=True):
        used, of_super = _used(tree)
        overridden = _defined(tree) & _inherited(module)
        found |= (used - own) | of_super | overridden
    assert found == set(_PRIVATE)
    covers = {*_SOURCES, *(name for name in globals() if name.startswith("test_"))}
    assert set(_PRIVATE.values()) <= covers


# http.client


class _CountingResponse(Response):
    """Count the calls of the method that reads a chunk's size."""

    calls = 0

    def _get_chunk_left(self) -> int | None:
        self.calls += 1
        return super()._get_chunk_left()


def _socket(sent: bytes) -> PlainSocket:
    """Return one of our sockets, connected to a server that has sent these bytes and closed."""
    ours, theirs = socket.socketpair()
    theirs.sendall(sent)
    theirs.close()
    return PlainSocket(fileno=ours.detach())


def _response(sent: bytes) -> _CountingResponse:
    """Return a response with these bytes. The response's headers have been read."""
    with closing(_socket(sent)) as connection:
        found = _CountingResponse(connection, method="GET")
    found.begin()
    return found


def test_body_is_read_through_our_socket() -> None:
    """http.client reads through the socket's `makefile` and `recv_into`, which keep the deadline."""
    with closing(_socket(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage")) as connection:
        found = _CountingResponse(connection, method="GET")
        found.begin()
        assert connection.has_received
        assert (found.read1(100), found.length) == (b"image", 0)
        found.close()
        assert found.isclosed()


@pytest.mark.parametrize("read", ["read", "read1", "readinto"])
def test_chunks_are_read_by_our_method(read: str) -> None:
    """In all ways to read a body, http.client asks `_get_chunk_left` for the size of each chunk."""
    found = _response(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n 3 ;name=1\r\nima\r\n2\r\nge\r\n0\r\n\r\n")
    body = b""
    while True:
        if read == "readinto":
            buffer = bytearray(100)
            piece = bytes(buffer[: found.readinto(buffer)])
        else:
            piece = getattr(found, read)(100)
        body += piece
        if not piece:
            break
    assert body == b"image"
    assert found.calls >= 3
    assert found.isclosed()


def test_trailer_is_read_to_its_end() -> None:
    """Fields after the last chunk are skipped up to the empty line, so the connection can be used again."""
    with closing(
        _socket(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\nC: d\r\n\r\nnext")
    ) as connection:
        found = Response(connection, method="GET")
        found.begin()
        file = found.fp
        # This override keeps the file open for the next read.
        file.close = lambda: None  # type: ignore[method-assign]
        assert found.read1(100) == b""
        assert file.read(4) == b"next"


def test_closing_the_response_leaves_no_file() -> None:
    """`_close_conn` closes the file and the response, and urllib3 then releases the connection."""
    found = _response(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage")
    file = found.fp
    found._close_conn()  # type: ignore[attr-defined]
    assert file.closed
    assert found.isclosed()


@pytest.mark.parametrize(
    ("head", "closes"),
    [
        ("HTTP/1.1 200 OK\r\n", False),
        ("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n", False),
        ("HTTP/1.1 200 OK\r\nConnection: Close\r\n", True),
        ("HTTP/1.1 200 OK\r\nConnection: Upgrade, close\r\n", True),
        ("HTTP/1.0 200 OK\r\n", True),
        ("HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n", False),
        ("HTTP/1.0 200 OK\r\nKeep-Alive: timeout=5\r\n", False),
    ],
)
def test_detects_whether_the_server_closes(head: str, closes: bool) -> None:
    """`_check_close` reads the version and the headers set by our own parser."""
    found = _response(f"{head}Content-Length: 0\r\n\r\n".encode())
    assert bool(found._check_close()) is closes  # type: ignore[attr-defined]
    assert found.will_close is closes


def test_sending_opens_the_connection() -> None:
    """http.client connects when the first bytes are sent, and urllib3 takes the socket from `_new_conn`."""
    ours, theirs = socket.socketpair()

    class Connection(urllib3_connection.HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return ours

    with closing(theirs), closing(Connection("a.example", 80)) as connection:
        connection.send(b"GET")
        assert connection.sock is ours
        assert theirs.recv(3) == b"GET"


def test_pool_passes_the_host_on_as_given() -> None:
    """A connection gets the host with its trailing dot. An IPv6 address has no brackets."""
    pool = type("Pool", (urllib3.HTTPConnectionPool,), {"ConnectionCls": GuardedConnection})
    assert pool("a.example.", 80)._get_conn().full_host == "a.example."
    assert pool("::1", 80)._get_conn().full_host == "::1"

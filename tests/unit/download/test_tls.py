"""The error for an unverified server gives the reason.

The server's images are accepted only if the operator permits it.
"""

from __future__ import annotations

import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tasks.deadline import Deadline
from tasks.download import tls
from tasks.download.adapters import Sessions
from tasks.download.downloader import _INSECURE_NOT_ALLOWED_HINT, Download, Downloader
from tasks.download.guard import Guard
from tasks.download.proxy import Proxy
from tasks.errors import FetchError, TlsClosedError, TlsError
from tasks.fetch import FetchRequest, fetch
from tasks.model import MESSAGE_LIMIT, RunOptions
from tasks.storage.local_store import LocalStore
from tests.certificates import RSA, SHORT_RSA, Authority
from tests.forward_proxy import ForwardProxy
from tests.unit.conftest import ONCE, Canned, always, image, response

PAST, _FUTURE = ("20200101000000Z", "20210101000000Z"), ("20990101000000Z", "20991231000000Z")
_INSECURE = replace(ONCE, insecure=True)


def server_context(
    certificate: Path, ciphers: str | None = None, newest: ssl.TLSVersion | None = None
) -> ssl.SSLContext:
    """Return a server's TLS context with these versions and ciphers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(ciphers or "DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        if newest is not None:
            context.maximum_version = newest
    context.load_cert_chain(certificate)
    return context


@dataclass(frozen=True)
class ServerContexts:
    """A trusted authority, an intermediate authority, and server contexts. The contexts are keyed by their fault."""

    trusted: Path
    middle: Path
    contexts: dict[str, ssl.SSLContext]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> ServerContexts:
    """Return servers, one for each fault of a certificate or a handshake."""
    folder = tmp_path_factory.mktemp("authorities")
    root, stranger = Authority(folder / "root", "Root"), Authority(folder / "stranger", "Stranger")
    middle = Authority(folder / "middle", "Middle", root)
    good, rsa = root.issue("good"), root.issue("rsa", key=RSA)
    certificates = {
        "good": good,
        "expired": root.issue("expired", dates=PAST),
        "not yet valid": root.issue("future", dates=_FUTURE),
        "self-signed in the chain": stranger.issue("stranger", chain=[stranger]),
        "unknown issuer": stranger.issue("unknown"),
        "incomplete chain": middle.issue("incomplete"),
        "complete chain": middle.issue("complete", chain=[middle]),
        "other host": root.issue("other", "DNS:a.example,DNS:*.a.example"),
        "other host and expired": root.issue("other-expired", "DNS:a.example", dates=PAST),
        "many other hosts": root.issue("many", ",".join(f"DNS:host-{number}.example" for number in range(50))),
        "short key": root.issue("short", key=SHORT_RSA),
        "weak signature": root.issue("sha1", digest="sha1"),
        "not for TLS servers": root.issue("client", usage="clientAuth"),
    }
    contexts = {name: server_context(certificate) for name, certificate in certificates.items()}
    alone = folder / "alone.pem"
    alone.write_bytes((folder / "stranger" / "ca.key").read_bytes() + stranger.certificate.read_bytes())
    contexts["self-signed"] = server_context(alone)
    contexts["TLS 1.0"] = server_context(good, newest=ssl.TLSVersion.TLSv1)
    contexts["TLS 1.1"] = server_context(good, newest=ssl.TLSVersion.TLSv1_1)
    contexts["no common cipher"] = server_context(rsa, "AES128-SHA256:@SECLEVEL=0", ssl.TLSVersion.TLSv1_2)
    return ServerContexts(root.certificate, middle.certificate, contexts)


def sessions(servers: ServerContexts, allow_insecure: bool = False, proxy: Proxy | None = None) -> Sessions:
    """Return sessions that trust the authority and may reach loopback."""
    return Sessions(Guard(["127.0.0.1", "::1"]), servers.trusted, None, proxy, allow_insecure)


def get(url: str, at: Sessions, insecure: bool = False) -> Download:
    """Return the result for a URL, fetched in one attempt."""
    options = _INSECURE if insecure else ONCE
    return Downloader(at).download(url, options, Deadline(options.timeout, options.deadline), lambda _: None)


def failure(url: str, at: Sessions, insecure: bool = False) -> FetchError:
    """Return the error of a download."""
    with pytest.raises(FetchError) as caught:
        get(url, at, insecure)
    return caught.value


_UNKNOWN = (
    "the issuer of its certificate is unknown: a missing intermediate, or a private CA "
    "(use --insecure to download it anyway)"
)
_REASONS = {
    "expired": "its certificate has expired (use --insecure to download it anyway)",
    "not yet valid": "its certificate is not valid yet (use --insecure to download it anyway)",
    "self-signed": "its certificate is self-signed (use --insecure to download it anyway)",
    "self-signed in the chain": "its certificate chain ends in an untrusted self-signed certificate (",
    "unknown issuer": _UNKNOWN,
    "incomplete chain": _UNKNOWN,
    "other host": "its certificate is for another host (a.example, *.a.example) (use --insecure to download it anyway)",
    "other host and expired": "its certificate is for another host (use --insecure to download it anyway)",
    "many other hosts": "its certificate is for another host (host-0.example, host-1.example, host-2.example and",
    "short key": "the key of its certificate is too short (use --insecure to download it anyway)",
    "weak signature": (
        "a certificate in its chain is signed with a weak algorithm (use --insecure to download it anyway)"
    ),
    "not for TLS servers": "its certificate is not for servers (use --insecure to download it anyway)",
    "TLS 1.0": "it supports only TLS versions before 1.2 (use --insecure to download it anyway)",
    "TLS 1.1": "it supports only TLS versions before 1.2 (use --insecure to download it anyway)",
    "no common cipher": (
        "it has no cipher in common with imagefleet (handshake failure) (use --insecure to download it anyway)"
    ),
}
if any(cipher["name"] == "AES128-SHA256" for cipher in ssl.create_default_context().get_ciphers()):
    # This Python uses the system's list of ciphers, which includes the server's cipher.
    del _REASONS["no common cipher"]


@pytest.mark.parametrize("kind", _REASONS)
def test_message_gives_the_reason(servers: ServerContexts, kind: str) -> None:
    """The message gives the problem and a remedy, and the server has received no request."""
    with Canned(always(response()), servers.contexts[kind]) as server:
        error = failure(server.url, sessions(servers))
    assert type(error) is TlsError
    assert str(error).startswith(f"127.0.0.1 port {server.port}: {_REASONS[kind]}")
    assert len(str(error)) < MESSAGE_LIMIT
    assert server.requests == []


@pytest.mark.parametrize("kind", _REASONS)
def test_insecure_run_accepts_the_image(servers: ServerContexts, kind: str) -> None:
    """If the operator allows it, a run with --insecure accepts the image and marks it as unverified."""
    with Canned(always(response()), servers.contexts[kind]) as server:
        at = sessions(servers, allow_insecure=True)
        found = [get(server.url, at, insecure=True) for _ in range(2)]
        at.adapter(insecure=True).close()
    assert [(each.body, each.tls_unverified) for each in found] == [(b"body", True)] * 2
    # There are two connections: one for the failed handshake, and one for the two images.
    assert (len(server.requests), server.connections) == (2, 2)


@pytest.mark.parametrize("kind", ["good", "complete chain"])
def test_insecure_run_still_verifies(servers: ServerContexts, kind: str) -> None:
    """A server with a valid certificate is verified in every run, and its image is not marked."""
    with Canned(always(response()), servers.contexts[kind]) as server:
        at = sessions(servers, allow_insecure=True)
        assert not get(server.url, at, insecure=True).tls_unverified
        at.adapter(insecure=True).close()
        assert server.connections == 1


def test_bundle_may_have_the_missing_intermediate(servers: ServerContexts, tmp_path: Path) -> None:
    """A server that omits its intermediate certificate is verified if the operator's bundle contains it."""
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(servers.trusted.read_bytes() + servers.middle.read_bytes())
    with Canned(always(response()), servers.contexts["incomplete chain"]) as server:
        at = Sessions(Guard(["127.0.0.1"]), bundle)
        assert not get(server.url, at).tls_unverified
        at.adapter().close()


@pytest.mark.parametrize("kind", ["expired", "TLS 1.0"])
def test_insecure_needs_the_operators_permission(servers: ServerContexts, kind: str) -> None:
    """Without the operator's permission, a run with --insecure gets no image. The message names the setting."""
    with Canned(always(response()), servers.contexts[kind]) as server:
        error = failure(server.url, sessions(servers), insecure=True)
    assert str(error).endswith("(--insecure requires IMAGEFLEET_ALLOW_INSECURE_TLS on this worker)")
    assert server.requests == []


def test_permission_does_not_affect_other_runs(servers: ServerContexts) -> None:
    """If the operator allows --insecure, a run without the option still verifies servers."""
    with Canned(always(response()), servers.contexts["expired"]) as server:
        assert type(failure(server.url, sessions(servers, allow_insecure=True))) is TlsError


def test_verifying_run_does_not_reuse_an_unverified_connection(servers: ServerContexts) -> None:
    """An insecure run leaves a connection open. The next run verifies servers, so it does not use the connection."""
    with Canned(always(response()), servers.contexts["expired"]) as server:
        at = sessions(servers, allow_insecure=True)
        get(server.url, at, insecure=True)
        assert type(failure(server.url, at)) is TlsError
        assert get(server.url, at, insecure=True).tls_unverified
        at.adapter(insecure=True).close()
    assert len(server.requests) == 2


def test_remembers_an_unverifiable_server(servers: ServerContexts) -> None:
    """In an insecure run, the next connection to an unverified server skips the verification, which would fail."""
    with Canned(always(response(b"body", "200 OK", "Connection: close")), servers.contexts["expired"]) as server:
        at = sessions(servers, allow_insecure=True)
        for _ in range(3):
            assert get(server.url, at, insecure=True).tls_unverified
    assert server.connections == 4


def test_redirect_over_an_unverified_connection_marks_the_image(servers: ServerContexts) -> None:
    """An image stays marked after a redirect to a verified server.

    The mark is needed because an unverified server can redirect anywhere.
    """
    with Canned(always(response()), servers.contexts["good"]) as good:
        moved = response(b"", "302 Found", f"Location: {good.url}/")
        with Canned(always(moved), servers.contexts["expired"]) as bad:
            at = sessions(servers, allow_insecure=True)
            assert get(bad.url, at, insecure=True).tls_unverified
            assert not get(good.url, at, insecure=True).tls_unverified
            at.adapter(insecure=True).close()


def test_insecure_run_through_a_proxy(servers: ServerContexts) -> None:
    """Inside a tunnel of the operator's proxy, images of unverified servers are marked too."""
    with (
        Canned(always(response()), servers.contexts["expired"]) as server,
        ForwardProxy({server.address: server.port}) as proxy,
    ):
        at = sessions(servers, True, Proxy("127.0.0.1", proxy.port))
        assert "has expired" in str(failure(server.url, at))
        assert get(server.url, at, insecure=True).tls_unverified
        at.adapter(insecure=True).close()


def test_reads_a_wrong_certificate_once(servers: ServerContexts) -> None:
    """Reading the names in a certificate costs one connection per server, and not one per image."""
    with Canned(always(response()), servers.contexts["other host"]) as server:
        at = sessions(servers)
        messages = {str(failure(server.url, at)) for _ in range(3)}
    assert len(messages) == 1
    assert server.connections == 4


@contextmanager
def raw_server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Return the URL of a server that calls this function to answer each connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(65536)
                answer(client)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join()


def test_retries_a_connection_closed_in_the_handshake(servers: ServerContexts) -> None:
    """A server that closes the connection may answer the next time, so the download is retried."""
    with raw_server(lambda _: None) as url:
        error = failure(url, sessions(servers))
    assert type(error) is TlsClosedError
    assert error.retryable
    assert str(error).endswith(": it closed the connection during the TLS handshake")


@pytest.mark.parametrize("insecure", [False, True])
def test_server_without_tls(servers: ServerContexts, insecure: bool) -> None:
    """The error says that the server at an https URL has no TLS. The option --insecure does not help."""
    with raw_server(lambda client: client.sendall(response(b"", "400 Bad Request"))) as url:
        error = failure(url, sessions(servers, allow_insecure=True), insecure)
    assert str(error).endswith(": it answers without TLS, like an http:// server")


@pytest.mark.parametrize(
    ("alert", "expected"),
    [
        (
            b"\x28",
            "it has no cipher in common with imagefleet (handshake failure) (use --insecure to download it anyway)",
        ),
        (b"\x46", "it supports only TLS versions before 1.2 (use --insecure to download it anyway)"),
        (
            b"\x47",
            "it has no cipher in common with imagefleet (handshake failure) (use --insecure to download it anyway)",
        ),
        (b"\x50", "it reports an internal error, often because it does not know the host name"),
        (b"\x70", "it does not know this host name"),
        (b"\x74", "it requires a client certificate"),
        (b"\x31", "TLS failed: tlsv1 alert access denied"),
    ],
)
def test_explains_tls_alerts(servers: ServerContexts, alert: bytes, expected: str) -> None:
    """A TLS alert (RFC 8446, 6.2) is explained in our words, or quoted from OpenSSL if we have none."""
    with raw_server(lambda client: client.sendall(b"\x15\x03\x03\x00\x02\x02" + alert)) as url:
        error = failure(url, sessions(servers))
    assert str(error).partition(": ")[2] == expected


def test_explanations_fit_a_message() -> None:
    """Even the longest reason leaves space for an ordinary host and the longest hint."""
    for text in {*tls._CERTIFICATE_MESSAGES.values(), *tls._HANDSHAKE_MESSAGES.values()}:
        assert len(f"{'h' * 40} port 443: {text} ({_INSECURE_NOT_ALLOWED_HINT})") < MESSAGE_LIMIT


def test_marks_a_recovered_image_of_an_insecure_run(servers: ServerContexts, store: LocalStore) -> None:
    """In an insecure run, an image that another delivery saved may come from an unverified server."""
    run = RunOptions(str(store.root), 10, replace(_INSECURE, max_pixels=100))
    replies = iter([response(image(colour=colour)) for colour in ("red", "blue", "blue")])
    with Canned(lambda _: [next(replies)], servers.contexts["good"]) as server:
        at = sessions(servers, allow_insecure=True)
        # The third delivery finds an image file. The file does not show whether its server was verified.
        found = [
            fetch(FetchRequest(server.url, 0, recover=recover), run, store, Downloader(at))
            for recover in (False, False, True)
        ]
        at.adapter(insecure=True).close()
    assert [(each.recovered, each.tls_unverified) for each in found] == [(False, False), (True, True), (True, True)]


def test_marks_other_responses_too(servers: ServerContexts, store: LocalStore) -> None:
    """Any response of an unverified server is marked, even if it is not an image."""
    run = RunOptions(str(store.root), 10, _INSECURE)
    with Canned(always(response(b"<html>")), servers.contexts["expired"]) as server:
        at = sessions(servers, allow_insecure=True)
        outcome = fetch(FetchRequest(server.url, 0), run, store, Downloader(at))
        at.adapter(insecure=True).close()
    assert (outcome.ok, outcome.tls_unverified) == (False, True)

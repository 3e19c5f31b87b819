"""TLS with image servers: the SSL contexts, and clear messages for failures. Uses no sockets.

Servers are verified. If the worker's operator allows it (``IMAGEFLEET_ALLOW_INSECURE_TLS``), there is a second context
for runs with ``--insecure``. This second context verifies nothing and accepts old versions of TLS. A connection uses
the second context only after verification has failed.
"""

from __future__ import annotations

import re
import ssl
import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import certifi

from tasks.download.recent_hosts import RecentMap

#: Seconds until an unverifiable server is verified again.
_MEMORY_SECONDS = 600.0
#: The maximum number of remembered servers.
_MEMORY_HOSTS = 10_000
#: The maximum length of a certificate's names in a message, in characters.
_NAMES_LIMIT = 60

#: OpenSSL's error codes, `X509_V_ERR_…` in ``x509_vfy.h``.
WRONG_HOST = frozenset({62, 64})
#: In most cases, an intermediate certificate is missing. The page docs/security.md has advice.
_ISSUER = "the issuer of its certificate is unknown: a missing intermediate, or a private CA"
_CERTIFICATE_MESSAGES = {
    2: _ISSUER,
    9: "its certificate is not valid yet",
    10: "its certificate has expired",
    18: "its certificate is self-signed",
    19: "its certificate chain ends in an untrusted self-signed certificate",
    20: _ISSUER,
    21: _ISSUER,
    22: "its certificate chain is too long",
    23: "its certificate was revoked",
    24: "its certificate was issued by a certificate that is not a CA",
    26: "its certificate is not for servers",
    62: "its certificate is for another host",
    64: "its certificate is for another host",
    66: "the key of its certificate is too short",
    67: "the key of a certificate in its chain is too short",
    68: "a certificate in its chain is signed with a weak algorithm",
    79: "its certificate was issued by a certificate that is not a CA",
}
_NO_TLS = "it answers without TLS, like an http:// server"
_TOO_OLD = "it supports only TLS versions before 1.2"
_NO_COMMON_CIPHER = "it has no cipher in common with imagefleet (handshake failure)"
_WEAK_KEY = "its key is too short"
_WEAK_SIGNATURE = "it signs with a weak algorithm"
_CLIENT_CERTIFICATE = "it requires a client certificate"
#: The messages, by OpenSSL's name for the reason.
_HANDSHAKE_MESSAGES = {
    "HTTP_REQUEST": _NO_TLS,
    "PACKET_LENGTH_TOO_LONG": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
    "UNKNOWN_PROTOCOL": _NO_TLS,
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "TLSV1_ALERT_PROTOCOL_VERSION": _TOO_OLD,
    "UNSUPPORTED_PROTOCOL": _TOO_OLD,
    "VERSION_TOO_LOW": _TOO_OLD,
    "WRONG_SSL_VERSION": _TOO_OLD,
    "INSUFFICIENT_SECURITY": _NO_COMMON_CIPHER,
    "NO_SHARED_CIPHER": _NO_COMMON_CIPHER,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": _NO_COMMON_CIPHER,
    "TLSV1_ALERT_INSUFFICIENT_SECURITY": _NO_COMMON_CIPHER,
    "WRONG_CIPHER_RETURNED": _NO_COMMON_CIPHER,
    "DH_KEY_TOO_SMALL": _WEAK_KEY,
    "EE_KEY_TOO_SMALL": _WEAK_KEY,
    "KEY_TOO_SMALL": _WEAK_KEY,
    "MODULUS_TOO_SMALL": _WEAK_KEY,
    "CA_MD_TOO_WEAK": _WEAK_SIGNATURE,
    "LEGACY_SIGALG_DISALLOWED_OR_UNSUPPORTED": _WEAK_SIGNATURE,
    "NO_SUITABLE_SIGNATURE_ALGORITHM": _WEAK_SIGNATURE,
    "WRONG_SIGNATURE_TYPE": _WEAK_SIGNATURE,
    "UNSAFE_LEGACY_RENEGOTIATION_DISABLED": "it supports only unsafe renegotiation",
    "TLSV1_UNRECOGNIZED_NAME": "it does not know this host name",
    "TLSV1_ALERT_UNRECOGNIZED_NAME": "it does not know this host name",
    "TLSV1_ALERT_INTERNAL_ERROR": "it reports an internal error, often because it does not know the host name",
    "SSLV3_ALERT_BAD_CERTIFICATE": _CLIENT_CERTIFICATE,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": _CLIENT_CERTIFICATE,
}
#: Failures that a lenient handshake avoids, because it verifies nothing and accepts old versions and weak algorithms.
_AVOIDABLE = frozenset({_TOO_OLD, _NO_COMMON_CIPHER, _WEAK_KEY, _WEAK_SIGNATURE}) | {
    _HANDSHAKE_MESSAGES["UNSAFE_LEGACY_RENEGOTIATION_DISABLED"]
}


class Tls:
    """The SSL contexts of a process, and cached facts about servers."""

    def __init__(self, ca_bundle: Path | None, allow_insecure: bool, socket_class: type[ssl.SSLSocket]) -> None:
        """Create the contexts.

        Args:
            ca_bundle: a PEM file of CA certificates to trust instead of the default ones.
            allow_insecure: whether runs may skip verification.
            socket_class: the class of the contexts' sockets.

        Raises:
            OSError: the certificates can't be read.
        """
        self._ca_bundle, self._socket_class = ca_bundle, socket_class
        self.context = self._verifying_context()
        self.unverified = _unverified_context(socket_class) if allow_insecure else None
        #: Servers that could not be verified, by host and port.
        self.unverifiable: RecentMap[tuple[str, int], bool] = RecentMap(_MEMORY_SECONDS, _MEMORY_HOSTS)
        #: The names in certificates that were issued for another host, by the host and port of the server.
        self.certified_names: RecentMap[tuple[str, int], str] = RecentMap(_MEMORY_SECONDS, _MEMORY_HOSTS)

    @cached_property
    def any_name(self) -> ssl.SSLContext:
        """A context that verifies certificates. It does not check whether a certificate is for the requested host."""
        context = self._verifying_context()
        context.check_hostname = False
        return context

    def _verifying_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self._ca_bundle or certifi.where()))
        # Set explicitly, because in some distributions Python's default depends on the system's configuration.
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.sslsocket_class = self._socket_class
        return context


def _unverified_context(socket_class: type[ssl.SSLSocket]) -> ssl.SSLContext:
    """Return a context that skips verification. It allows old TLS versions and weak algorithms."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    # Python 3.11 has no name for this option.
    context.options |= getattr(ssl, "OP_LEGACY_SERVER_CONNECT", 0x4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
    context.sslsocket_class = socket_class
    return context


def explain(error: ssl.SSLError) -> str:
    """Return a clear message for a TLS error, or OpenSSL's text for an unknown error."""
    if isinstance(error, ssl.SSLCertVerificationError):
        text = _CERTIFICATE_MESSAGES.get(error.verify_code) or f"its certificate was refused: {error.verify_message}"
        names = getattr(error, "certified_names", None)
        return f"{text} ({names})" if names else text
    if is_closed(error):
        return "it closed the connection during the TLS handshake"
    reason = error.reason or str(error)
    return _HANDSHAKE_MESSAGES.get(reason) or f"TLS failed: {reason.replace('_', ' ').lower()}"


def is_closed(error: ssl.SSLError) -> bool:
    """Tell whether the failure is only a closed connection, after which a retry may succeed."""
    return isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)


def is_avoidable(error: ssl.SSLError) -> bool:
    """Tell whether a connection without verification would avoid the failure."""
    return isinstance(error, ssl.SSLCertVerificationError) or explain(error) in _AVOIDABLE


def certificate_names(certificate: Mapping[str, object]) -> str:
    """Return the names in a certificate, shortened to fit into a message.

    Args:
        certificate: as returned by `ssl.SSLSocket.getpeercert`.
    """
    pairs = certificate.get("subjectAltName", ())
    names = [value for _, value in pairs] if isinstance(pairs, tuple) else []
    shown = [re.sub(r"[^\w.:*-]", "?", name, flags=re.ASCII) for name in names]
    text = ""
    for number, name in enumerate(shown):
        longer = f"{text}, {name}" if text else name
        if len(longer) > _NAMES_LIMIT:
            return f"{text} and {len(shown) - number} more" if text else f"{name[:_NAMES_LIMIT]}…"
        text = longer
    return text

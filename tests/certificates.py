"""Valid and invalid server certificates, made with openssl."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import required

HOST = "IP:127.0.0.1,DNS:localhost"
_EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
RSA = ("-newkey", "rsa:2048")
SHORT_RSA = ("-newkey", "rsa:1024")
_CONFIGURATION = """
[ca]
default_ca = own
[own]
dir = {folder}
database = $dir/index.txt
serial = $dir/serial
new_certs_dir = $dir
policy = any
unique_subject = no
[any]
commonName = supplied
"""


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path, name: str, parent: Authority | None = None) -> None:
        """Make the authority's key and certificate. Without a parent, the certificate is self-signed."""
        folder.mkdir()
        self._folder, self.name = folder, name
        (folder / "index.txt").touch()
        (folder / "serial").write_text("01\n")
        (folder / "ca.cnf").write_text(_CONFIGURATION.format(folder=folder))
        self._key = folder / "ca.key"
        #: The authority's certificate, in a PEM file.
        self.certificate = folder / "ca.pem"
        subject = ("-nodes", "-subj", f"/CN={name}", *_EC, "-keyout", str(self._key))
        if parent is None:
            _openssl("req", "-x509", "-days", "2", *subject, "-out", str(self.certificate))
        else:
            request = folder / "ca.csr"
            _openssl("req", *subject, "-out", str(request))
            parent._sign(request, self.certificate, "basicConstraints=critical,CA:TRUE", (), "sha256")

    def issue(
        self,
        name: str,
        names: str = HOST,
        *,
        key: Sequence[str] = _EC,
        dates: Sequence[str] = (),
        digest: str = "sha256",
        usage: str = "serverAuth",
        chain: Sequence[Authority] = (),
    ) -> Path:
        """Return a PEM file with a server's key and certificate.

        Args:
            name: the name of the file.
            names: the host names and addresses that the certificate is for.
            key: openssl's options for the key.
            dates: start and end of the certificate's validity, in openssl's format.
            digest: the hash function of the signature.
            usage: the permitted use of the certificate.
            chain: the authorities whose certificates the server sends after its own certificate.
        """
        request, made, private = (self._folder / f"{name}.{kind}" for kind in ("csr", "pem", "key"))
        _openssl("req", "-nodes", "-subj", f"/CN={name}", *key, "-keyout", str(private), "-out", str(request))
        self._sign(request, made, f"subjectAltName={names}\nextendedKeyUsage={usage}", dates, digest)
        both = self._folder / f"{name}-both.pem"
        parts = [private, made, *(authority.certificate for authority in chain)]
        both.write_bytes(b"".join(part.read_bytes() for part in parts))
        return both

    def _sign(self, request: Path, made: Path, extensions: str, dates: Sequence[str], digest: str) -> None:
        file = request.with_suffix(".ext")
        file.write_text(extensions + "\n")
        validity = ("-startdate", dates[0], "-enddate", dates[1]) if dates else ("-days", "2")
        _openssl(
            *("ca", "-batch", "-notext", "-config", str(self._folder / "ca.cnf")),
            *("-keyfile", str(self._key), "-cert", str(self.certificate), "-md", digest),
            *("-in", str(request), "-out", str(made), "-extfile", str(file), *validity),
        )


def _openssl(*arguments: str) -> None:
    subprocess.run([required("openssl"), *arguments], check=True, capture_output=True)

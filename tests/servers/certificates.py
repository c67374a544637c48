"""Certificates for tests of TLS: an authority, and what it signs for a server on this machine and for a client."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """An authority and its files.

    Attributes
    ----------
    folder
        Where its files go.
    name
        What it is called.
    """

    folder: Path
    name: str
    _key: ec.EllipticCurvePrivateKey

    @classmethod
    def new(cls, folder: Path, name: str = "authority") -> Authority:
        """Make an authority and write its certificate."""
        authority = cls(folder, name, ec.generate_private_key(ec.SECP256R1()))
        authority._write(name, authority._key)
        return authority

    @property
    def file(self) -> Path:
        """The authority's certificate."""
        return self.folder / f"{self.name}.pem"

    def sign(self, name: str) -> tuple[Path, Path]:
        """Return the files of a new certificate, for 127.0.0.1 and localhost, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        self._write(name, key)
        file = self.folder / f"{name}.key"
        form = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        file.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
        return self.folder / f"{name}.pem", file

    def server_context(self) -> ssl.SSLContext:
        """Return what a server takes that asks its clients for a certificate of this authority's."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.file))
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(*map(str, self.sign("server")))
        return context

    def _write(self, name: str, key: ec.EllipticCurvePrivateKey) -> None:
        now = dt.datetime.now(dt.UTC)
        hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(_named(self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + _DAY)
            .add_extension(x509.BasicConstraints(ca=name == self.name, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        (self.folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

"""Certificates for tests: authorities, and what they sign; knows no server."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """A CA of a test."""

    folder: Path
    name: str
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls, folder: Path, name: str) -> Authority:
        """A new one; its certificate is FOLDER/ca.pem."""
        folder.mkdir(parents=True, exist_ok=True)
        made = cls(folder, name, ec.generate_private_key(ec.SECP256R1()))
        written = _certificate(name, made.key, made, days=(-1, 2), authority=True)
        (folder / "ca.pem").write_bytes(written)
        return made

    def files(self, name: str, *, days: tuple[float, float] = (-1, 2)) -> tuple[str, str, str]:
        """Paths of CA, a new certificate and its key; valid between so many days from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        cert_path, key_path = self.folder / f"{name}.pem", self.folder / f"{name}-key.pem"
        cert_path.write_bytes(_certificate(name, key, self, days=days, authority=False))
        key_path.write_bytes(plain(key))
        return str(self.folder / "ca.pem"), str(cert_path), str(key_path)


def plain(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    """A private key in PEM format."""
    hidden = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, signer: Authority, *, days: tuple[float, float], authority: bool
) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(_called(name))
        .issuer_name(_called(signer.name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + days[0] * DAY)
        .not_valid_after(NOW + days[1] * DAY)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    )
    return builder.sign(signer.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _called(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

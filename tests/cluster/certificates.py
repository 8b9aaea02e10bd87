"""A certificate authority and what it signs, for tests; knows no program that shows a certificate."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Identity:
    """Files of one who takes part: whom it trusts, its certificate and its key."""

    ca: Path
    cert: Path
    key: Path


def make_identity(folder: Path, *names: str) -> dict[str, Identity]:
    """An authority of its own and a certificate for each name, as PEM files in a folder."""
    folder.mkdir(parents=True)
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority of {folder.name}")])
    (folder / "ca.pem").write_bytes(_pem(_signed(issuer, authority, issuer, authority, is_authority=True)))
    made = {}
    for name in names:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        one = Identity(folder / "ca.pem", folder / f"{name}.pem", folder / f"{name}.key")
        one.cert.write_bytes(_pem(_signed(subject, key, issuer, authority, is_authority=False)))
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        one.key.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
        one.key.chmod(0o600)
        made[name] = one
    return made


def _signed(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    authority: ec.EllipticCurvePrivateKey,
    *,
    is_authority: bool,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - timedelta(minutes=5),
        not_valid_after=now + timedelta(days=2),
    )
    constraint = x509.BasicConstraints(ca=is_authority, path_length=None)
    return builder.add_extension(constraint, critical=True).sign(authority, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)

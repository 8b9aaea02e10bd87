"""Which certificates a connection to a Dask cluster takes, and whether they fit each other and its address; knows no Dask.

Every process of a cluster shows a certificate and asks for one: whoever holds a certificate of the cluster's CA may run code on it.
Names in certificates are not compared with hosts, since workers are reached by addresses that nobody knows beforehand.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, Self
from urllib.parse import urlsplit

from store_schema.errors import UsageError

OPTIONS = ("--tls-ca", "--tls-cert", "--tls-key")
VARIABLES = ("ENGRAM_TLS_CA", "ENGRAM_TLS_CERT", "ENGRAM_TLS_KEY")
Role = Literal["client", "worker"]
DASK_TLS = "distributed.comm.tls"
"""Where Dask's own settings of TLS lie."""
Setting = Callable[[str, None], Any]
"""Gives a setting by its whole name, or None, as `dask.config.get` does: names set by variables are written with underscores."""


@dataclass(frozen=True)
class TlsFiles:
    """Files in PEM format by which a process shows who it is, and knows the others."""

    ca: str
    """Certificate of the CA that signed those of all processes."""
    cert: str
    """Certificate of this process."""
    key: str
    """Its private key, without a passphrase."""

    @classmethod
    def of(cls, ca: str | None, cert: str | None, key: str | None) -> Self | None:
        """The three files as they were given; None where none was.

        Raises
        ------
        UsageError
            If only one or two of them were.
        """
        given = dict(zip(OPTIONS, (ca, cert, key), strict=True))
        missing = [f"{name} ({variable})" for name, variable in zip(OPTIONS, VARIABLES, strict=True) if not given[name]]
        if len(missing) == len(OPTIONS):
            return None
        if not ca or not cert or not key:
            raise UsageError(f"TLS takes three files, and {', '.join(missing)} is missing: give all three or none")
        return cls(ca, cert, key)

    def context(self) -> ssl.SSLContext:
        """Settings of a connection that shows this certificate and believes this CA alone.

        Raises
        ------
        UsageError
            If a file is missing or is not what it should be, or the key is not that of the certificate.
        """
        for name, path in zip(OPTIONS, (self.ca, self.cert, self.key), strict=True):
            _readable(name, path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        try:
            context.load_verify_locations(cafile=self.ca)
        except ssl.SSLError as error:
            raise UsageError(f"{OPTIONS[0]} {self.ca} holds no certificate in PEM format ({error.reason})") from error
        try:
            # OpenSSL would ask a terminal for the passphrase
            context.load_cert_chain(self.cert, self.key, password=self._refuse_passphrase)
        except ssl.SSLError as error:
            raise UsageError(self._mismatch(error)) from error
        return context

    def _refuse_passphrase(self) -> NoReturn:
        raise UsageError(
            f"{OPTIONS[2]} {self.key} is encrypted, and processes of a cluster cannot ask for a passphrase: write it without one "
            "(`openssl pkey -in KEY -out PLAIN`), readable by you alone"
        )

    def _mismatch(self, error: ssl.SSLError) -> str:
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"{OPTIONS[2]} {self.key} is not the key of the certificate {OPTIONS[1]} {self.cert}: give the pair"
        return (
            f"{OPTIONS[1]} {self.cert} and {OPTIONS[2]} {self.key} are not a certificate and its private key in PEM format "
            f"({error.reason})"
        )


def files_for(address: str, given: TlsFiles | None, configured: Setting, *, role: Role) -> TlsFiles | None:
    """Files with which a process reaches a scheduler, looked at; None where it does so without TLS.

    Parameters
    ----------
    address
        Of the scheduler, such as ``tls://head:8786``.
    given
        What the command line or the environment names.
    configured
        Gives a setting of Dask's by its name, taken where nothing is given.
    role
        Whose certificate is taken from Dask's settings.

    Raises
    ------
    UsageError
        If files and address do not go together, or the files are not usable.
    """
    tls = scheme_of(address) == "tls"
    if given is not None and not tls:
        raise UsageError(
            f"{', '.join(OPTIONS)} (or {', '.join(VARIABLES)}) ask for TLS, and {address} is an address without it: write "
            "tls://HOST:PORT where the scheduler was started with certificates, else give no files"
        )
    if not tls:
        return None
    files = given or _configured(configured, role)
    if files is None:
        raise UsageError(
            f"{address} is reached by TLS alone, and no certificate was given: add {', '.join(OPTIONS)} (or set "
            f"{', '.join(VARIABLES)}), signed by the CA of the scheduler's own"
        )
    files.context()
    return files


def _configured(setting: Setting, role: Role) -> TlsFiles | None:
    ca, cert, key = (setting(f"{DASK_TLS}.{name}", None) for name in ("ca-file", f"{role}.cert", f"{role}.key"))
    # Dask lets a certificate's file hold the key too
    return TlsFiles(ca, cert, key or cert) if ca and cert else None


def scheme_of(address: str) -> str:
    """Protocol of a scheduler's address; Dask takes ``tcp`` where none is written."""
    return address.partition("://")[0].lower() if "://" in address else "tcp"


def place_of(address: str) -> tuple[str, int] | None:
    """Host and port of a scheduler's address; None where it names none."""
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    try:
        port = parts.port
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname and port else None


def unguarded(address: str) -> str | None:
    """What is dangerous about an address; None where it is encrypted or of this machine alone."""
    place = place_of(address)
    if scheme_of(address) in ("tls", "wss", "inproc") or place is None or _loopback(place[0]):
        return None
    return (
        f"{address} is neither encrypted nor guarded: whoever reaches this scheduler or its workers runs code there as you. Use "
        f"tls:// with {', '.join(OPTIONS)} wherever others share the network"
    )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _readable(name: str, path: str) -> None:
    try:
        with Path(path).open("rb"):
            return
    except FileNotFoundError as error:
        raise UsageError(f"{name} names {path}, and there is no such file") from error
    except OSError as error:
        raise UsageError(f"{name} names {path}, which cannot be read: {error.strerror}") from error

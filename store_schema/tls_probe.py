"""Asks a scheduler's port how it wants to be spoken to, so that a refusal can be told in words; knows no Dask.

A client that Dask turns away learns at best that a connection was closed, and often after a minute of trying.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any

from store_schema.errors import UsageError
from store_schema.tls import OPTIONS, TlsFiles, place_of, scheme_of

ASK_S = 5.0
"""How long a port may take to answer each question."""
GREETING_S = 2.0
"""How long a scheduler without TLS, which speaks first, may take to say anything."""
SAME_CA_OTHER_KEY = "a CA of the same name with another key"


def check_server(address: str, files: TlsFiles | None) -> None:
    """Refuse a scheduler that speaks TLS where the client does not, or the other way, or whose certificates do not fit.

    A port where nothing answers, or not in time, is not judged: it may come.

    Parameters
    ----------
    address
        Of the scheduler.
    files
        Those of the client; None where it speaks no TLS.

    Raises
    ------
    UsageError
        If client and scheduler cannot understand each other, with the reason.
    """
    place = place_of(address)
    if place is None:
        return
    try:
        if files is not None:
            _check_tls(address, place, files)
        elif scheme_of(address) == "tcp" and _wants_tls(place):
            raise UsageError(
                f"the scheduler at {address} speaks TLS: call it tls://… and give {', '.join(OPTIONS)}, signed by its CA"
            )
    except OSError:
        # nobody there yet, or something that Dask tells when it connects
        return


def _check_tls(address: str, place: tuple[str, int], files: TlsFiles) -> None:
    context = files.context()
    try:
        with _connected(place, context) as channel:
            # in TLS 1.3 a server that refuses the client's certificate says so after the handshake
            channel.recv(1)
    except ssl.SSLCertVerificationError as error:
        raise UsageError(_stranger(address, place, files, context, error)) from error
    except ssl.SSLError as error:
        reason = error.reason or ""
        if reason == "WRONG_VERSION_NUMBER":
            raise UsageError(
                f"what answers at {address} does not speak TLS: call it tcp://… without {', '.join(OPTIONS)}, or start it with "
                "`dask scheduler --tls-ca-file … --tls-cert … --tls-key …`"
            ) from error
        if "ALERT" in reason:
            raise UsageError(
                f"the scheduler at {address} refuses the certificate {files.cert} ({_words(reason)}): it wants one that is valid "
                "and signed by the CA of its own --tls-ca-file"
            ) from error
        raise


def _wants_tls(place: tuple[str, int]) -> bool:
    """Whether a port that says nothing by itself answers a greeting in TLS."""
    with socket.create_connection(place, timeout=GREETING_S) as plain:
        try:
            if plain.recv(1):
                return False
        except TimeoutError:
            pass
    with _connected(place, _believing_all()):
        return True


def _connected(place: tuple[str, int], context: ssl.SSLContext) -> ssl.SSLSocket:
    plain = socket.create_connection(place, timeout=ASK_S)
    try:
        return context.wrap_socket(plain)
    except BaseException:
        plain.close()
        raise


def _believing_all() -> ssl.SSLContext:
    """For questions alone: nothing is sent to whoever answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _stranger(
    address: str,
    place: tuple[str, int],
    files: TlsFiles,
    context: ssl.SSLContext,
    error: ssl.SSLCertVerificationError,
) -> str:
    """Why a server's certificate is not believed: by whom it is signed, and by whom it should be."""
    believed = [_name(one["subject"]) for one in context.get_ca_certs()]
    signer = _signer(place)
    if signer is None:
        return f"the certificate of the scheduler at {address} is refused: {error.verify_message}"
    who = SAME_CA_OTHER_KEY if signer in believed else f"“{signer}”"
    return (
        f"the certificate of the scheduler at {address} is signed by {who}, and {OPTIONS[0]} {files.ca} holds "
        f"{' and '.join(f'“{one}”' for one in believed)} ({error.verify_message}): take the CA, certificate and key of this cluster"
    )


def _signer(place: tuple[str, int]) -> str | None:
    """Name of whoever signed a server's certificate; None where it cannot be learned."""
    try:
        with _connected(place, _believing_all()) as channel:
            shown = channel.getpeercert(binary_form=True)
        if shown is None:
            return None
        # Python tells the names in a certificate only where it is believed: this one, by itself
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=shown)
        with _connected(place, context) as channel:
            return _name((channel.getpeercert() or {}).get("issuer", ()))
    except OSError:
        return None


def _name(parts: Any) -> str:
    """Common name of a certificate's subject or issuer, else the whole of it."""
    flat = [pair for part in parts for pair in part]
    common = [value for key, value in flat if key == "commonName"]
    return common[-1] if common else ", ".join(f"{key}={value}" for key, value in flat)


def _words(reason: str) -> str:
    return reason.lower().replace("_", " ")

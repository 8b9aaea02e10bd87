"""The options of commands that reach a Dask cluster by TLS, so that all programs tell them alike; connects to nothing."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

import click

from store_schema.tls import OPTIONS, VARIABLES, TlsFiles

_NAMES = ("tls_ca", "tls_cert", "tls_key")
_TOLD = (
    "Certificate (PEM) of the CA that signed those of scheduler, workers and clients: for a scheduler at tls://….",
    "Certificate (PEM) of this process, signed by that CA.",
    "Private key (PEM, no passphrase) of that certificate.",
)


def tls_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with the three options of TLS, which may also come from the environment."""
    for option, variable, told in reversed(list(zip(OPTIONS, VARIABLES, _TOLD, strict=True))):
        command = click.option(option, metavar="FILE", envvar=variable, show_envvar=True, help=told)(command)
    return command


def taken_tls(options: MutableMapping[str, Any]) -> TlsFiles | None:
    """The files among a command's options, which are taken out of them; None where none is given.

    Raises
    ------
    UsageError
        If only some are given.
    """
    ca, cert, key = (options.pop(name) for name in _NAMES)
    return TlsFiles.of(ca, cert, key)

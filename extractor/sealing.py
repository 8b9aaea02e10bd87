"""Seals what travels between the processes of an extraction whose patients have pseudonyms; knows no process, cluster or study.

A study's paths, and what is said of them, may name its patient. Sealed, they are of use only to a process that holds the secret
which the pseudonyms come from; each takes it from its own environment, and it never travels.
"""

from __future__ import annotations

import base64
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.fernet import Fernet, InvalidToken

from store_schema.errors import UsageError
from store_schema.pseudonyms import KEY_VARIABLE, Pseudonyms

PURPOSE = b"engram sealed task 1"
"""Of the key that seals: none that serves another purpose opens what it closed."""


class Envelope:
    """Carries things as they are: for patients that are called by their own ids."""

    def close(self, thing: object) -> bytes:
        """What travels."""
        return pickle.dumps(thing)

    def open(self, data: bytes) -> Any:
        """What was closed."""
        return pickle.loads(data)  # noqa: S301 - from a process of ours; whoever reaches a scheduler runs code anyway


@dataclass(frozen=True)
class Sealed(Envelope):
    """Carries things encrypted and authenticated (Fernet: AES-128-CBC and HMAC-SHA256)."""

    key: bytes = field(repr=False)
    """32 bytes."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("the key of an envelope does not travel: each process makes its own from its environment")

    def close(self, thing: object) -> bytes:
        """See `Envelope`."""
        return self._fernet.encrypt(super().close(thing))

    def open(self, data: bytes) -> Any:
        """See `Envelope`.

        Raises
        ------
        UsageError
            If it was closed with another key, or altered on its way.
        """
        try:
            content = self._fernet.decrypt(data)
        except InvalidToken:
            raise UsageError(
                f"what was sent cannot be opened: it was sealed with another secret than {KEY_VARIABLE} holds here, or altered on "
                f"its way. Set {KEY_VARIABLE} to the same value in every process of the run."
            ) from None
        return super().open(content)

    @property
    def _fernet(self) -> Fernet:
        return Fernet(base64.urlsafe_b64encode(self.key))


def envelope(fingerprint: str | None, environment: Mapping[str, str] = os.environ) -> Envelope:
    """What carries studies from and to this process.

    Parameters
    ----------
    fingerprint
        Of the pseudonym key of the run; None where patients are called by their own ids.

    Raises
    ------
    UsageError
        If this process holds no such key.
    """
    if fingerprint is None:
        return Envelope()
    if (lack := key_lack(key_here(environment), fingerprint)) is not None:
        raise UsageError(f"this process {lack}")
    return Sealed(Pseudonyms.from_environment(environment).derived_key(PURPOSE))


def key_here(environment: Mapping[str, str] = os.environ) -> str | None:
    """Fingerprint of the pseudonym key that this process holds; None where it holds none, or one that is too short."""
    try:
        return Pseudonyms.from_environment(environment).rule.key_fingerprint
    except UsageError:
        return None


def key_lack(there: str | None, fingerprint: str | None) -> str | None:
    """What a process with the key of fingerprint `there` lacks in a run with that of `fingerprint`; None where it lacks nothing."""
    if fingerprint in {None, there}:
        return None
    has = "no secret" if there is None else f"another secret (fingerprint {there})"
    return (
        f"has {has} in {KEY_VARIABLE}, and cannot open studies that --pseudonymise sealed (fingerprint {fingerprint}): set "
        f"{KEY_VARIABLE} in its environment to the value that the run has, and start it again"
    )

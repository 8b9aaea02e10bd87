"""API keys: how one is drawn, shown once, kept as a digest, and recognised; knows no database.

A key is `engram_ID_SECRET`: the id finds its row, the secret of 32 random bytes proves it. Its sha256 is kept: a secret that no
dictionary holds needs no slow hash.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Literal, get_args

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""Each includes those before it."""
KEY_PATTERN = re.compile(r"engram_([0-9a-f]{12})_([A-Za-z0-9_-]{43})", re.ASCII)


@dataclass(frozen=True)
class NewKey:
    """A key that was just drawn; its text exists nowhere else."""

    key_id: str
    """12 hex digits; no secret."""
    text: str = field(repr=False)
    """The whole key, to be shown once."""
    secret_sha256: str = field(repr=False)
    """What is kept."""


def draw_key() -> NewKey:
    """A new random key."""
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    return NewKey(key_id, f"engram_{key_id}_{secret}", digest(secret))


def digest(secret: str) -> str:
    """What is kept of a secret, in 64 hex digits."""
    return hashlib.sha256(secret.encode()).hexdigest()


def split_key(text: str) -> tuple[str, str] | None:
    """Id and secret of a key; None where the text is no key."""
    match = KEY_PATTERN.fullmatch(text)
    return None if match is None else (match[1], match[2])


def proves(secret: str, kept: str) -> bool:
    """Whether a secret is the one that was kept, in a time that tells nothing."""
    return hmac.compare_digest(digest(secret), kept)


def includes(scope: Scope, needed: Scope) -> bool:
    """Whether a scope allows what needs another."""
    return SCOPES.index(scope) >= SCOPES.index(needed)

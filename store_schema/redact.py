"""Takes secrets out of text that is printed, logged or raised; knows no backend."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import quote

HIDDEN = "***"
SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_MASTER_KEY",
    "AZURE_STORAGE_TOKEN",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_SAS_KEY",
    "AZURE_STORAGE_CLIENT_SECRET",
    "AZURE_CLIENT_SECRET",
    "AZURE_STORAGE_CONNECTION_STRING",
    "GOOGLE_BEARER_TOKEN",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "PGPASSWORD",
    "ENGRAM_API_KEY",
    "ENGRAM_PSEUDONYM_KEY",
)
"""Environment variables whose values never leave this process."""
SHORTEST = 6
"""A shorter value is no secret worth the name, and taking it out would garble words."""

# The second form holds a password with slashes that should have been encoded.
_USERINFO = re.compile(r"(?<=://)(?:[^/\s@'\"]+|[^/:\s@'\"]*:[^\s@'\"]+)@")
# Servers repeat an address in XML, where & is &amp;.
_QUERY = re.compile(r"(?:(?<=[?&])|(?<=&amp;)|(?<=&#38;))([A-Za-z0-9_.%-]+)=([^&\s'\"<>#)]+)")
_API_KEY = re.compile(r"\bengram_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
"""A key of the feature-store service; its id is no secret, and tells which key it was."""
_BEARER = re.compile(r"(?i)\b(bearer|basic|apikey|api-key|x-api-key)([ :=]+)[A-Za-z0-9._~+/=-]{6,}")


def redact(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """The text without credentials in addresses, values of query parameters, bearer tokens, and secrets of the environment."""
    for name in SECRET_VARIABLES:
        value = environment.get(name, "")
        if len(value) >= SHORTEST:
            text = text.replace(value, HIDDEN).replace(quote(value, safe=""), HIDDEN)
    text = _API_KEY.sub(rf"engram_\1_{HIDDEN}", text)
    text = _USERINFO.sub(f"{HIDDEN}@", text)
    text = _QUERY.sub(rf"\1={HIDDEN}", text)
    return _BEARER.sub(rf"\1\2{HIDDEN}", text)

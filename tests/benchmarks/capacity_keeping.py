"""Puts measured values in the place of constants, with the date, the machine and how it was done; measures nothing."""

from __future__ import annotations

import datetime as dt
import platform
from collections.abc import Mapping
from pathlib import Path

from capacity_costs import Constants

DIGITS = 4


def kept(constants: Constants, values: Mapping[str, float], *, how: str, command: str, device: str = "") -> Constants:
    """Constants with these values; units stay.

    Raises
    ------
    KeyError
        If a name is not among the constants, which say its unit.
    """
    entries = {name: dict(entry) for name, entry in constants.entries.items()}
    for name, value in values.items():
        entries[name] = {
            "value": float(f"{value:.{DIGITS}g}"),
            "unit": entries[name]["unit"],
            "how": how,
            "command": command,
            "date": dt.datetime.now(dt.UTC).date().isoformat(),
            "device": device or processor(),
        }
    return Constants(entries)


def processor() -> str:
    """What computes here, and what else was at work."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    load = Path("/proc/loadavg").read_text().split()[0]
    kind = names[0].split(":", 1)[1].strip() if names else platform.processor()
    return f"{len(names)} × {kind}, load average {load}"

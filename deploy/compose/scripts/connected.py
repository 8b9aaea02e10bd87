"""Whether a process here speaks with a port of another machine; exit status 1 where none does. Usage: connected.py PORT.

Reads the kernel's tables of connections: a worker that has a scheduler holds a connection to it all the time.
"""

import sys
from pathlib import Path

ESTABLISHED = "01"


def connected(tables: list[str], port: int) -> bool:
    """Whether an established connection leads to a port, in tables as in /proc/net/tcp."""
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    return any(state == ESTABLISHED and int(remote.rpartition(":")[2], 16) == port for _, _, remote, state, *_ in rows)


if __name__ == "__main__":
    present = [path.read_text() for path in map(Path, ("/proc/net/tcp", "/proc/net/tcp6")) if path.exists()]
    sys.exit(0 if connected(present, int(sys.argv[1])) else 1)
